//! `tidegate demo`.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueEnum};

use crate::demo::{self, Format, Options};

use super::Answer;

/// Show the gateway at work: a guided tour, nothing to set up
///
/// Sends about twenty requests through a real gateway and prints who asked what,
/// what was decided and why. Then it goes on serving, for you to try your own.
/// The clusters and the store behind it are test doubles. Everything is kept in
/// one directory, with a configuration that `tidegate serve` accepts.
///
/// Exit code 1 if a request did not end as expected.
#[derive(Debug, ClapArgs)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate demo\n  tidegate demo --once --dir /tmp/tidegate-demo --output json"
)]
pub(super) struct Args {
    /// End after the tour instead of serving until Ctrl-C
    #[arg(long)]
    once: bool,
    /// Directory for certificates, keys, policies, journal and store; made if it is missing
    #[arg(long, value_name = "DIR", default_value = "./tidegate-demo")]
    dir: PathBuf,
    /// How to print the tour
    #[arg(long, value_enum, default_value_t = Output::Table, value_name = "FORMAT")]
    output: Output,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Output {
    /// A table for people
    Table,
    /// An array of objects for programs; how to go on is printed to standard error
    Json,
}

/// Runs the command.
///
/// # Errors
/// The demo could not be set up or its output could not be written.
pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(tour(args))
}

async fn tour(args: &Args) -> anyhow::Result<Answer> {
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let format = match args.output {
        Output::Table => Format::Table { terminal: io::stdout().is_terminal(), colour: !no_colour },
        Output::Json => Format::Json,
    };
    let options = Options { dir: args.dir.clone(), once: args.once, format };
    let as_expected = demo::run(&options, &mut io::stdout(), &mut io::stderr()).await?;
    Ok(if as_expected { Answer::Yes } else { Answer::No })
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn defaults_and_options() {
        let parse = |words: &[&str]| Cli::try_parse_from(words).map(|cli| cli.args);
        let plain = parse(&["demo"]).unwrap();
        assert_eq!((plain.once, plain.dir, plain.output), (false, "./tidegate-demo".into(), Output::Table));
        let all = parse(&["demo", "--once", "--dir", "x", "--output", "json"]).unwrap();
        assert_eq!((all.once, all.dir, all.output), (true, "x".into(), Output::Json));
        assert!(parse(&["demo", "--output", "xml"]).is_err());
    }
}
