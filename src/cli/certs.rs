//! `tidegate certs`: a development authority with one server and one client certificate. The work is done in `net`.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand, ValueEnum};

use crate::model::Clock;
use crate::net::{Authority, Subject};

/// Make certificates for development
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub struct Certs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make a development CA, a server certificate and a client certificate
    ///
    /// Writes ca, server and client, each as .pem and .key (mode 0600). No file is
    /// replaced. The CA is valid for five years, the certificates for one.
    #[command(
        verbatim_doc_comment,
        after_help = "Example:\n  tidegate certs init certs --server-name gateway.internal --server-name localhost"
    )]
    Init(Init),
}

#[derive(Debug, Args)]
struct Init {
    /// Directory for the six files; made if it is missing
    dir: PathBuf,
    /// Name or address that the server certificate is for; may be repeated
    #[arg(long = "server-name", value_name = "NAME", default_values_t = ["localhost", "127.0.0.1", "::1"].map(String::from))]
    server_names: Vec<String>,
    /// SPIFFE ID that the client certificate is for
    #[arg(long, value_name = "ID", default_value = "spiffe://tidegate.test/app")]
    client_id: String,
    /// How to print what was made
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t)]
    output: Output,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Output {
    /// The files, and how to use them
    #[default]
    Text,
    /// The files' paths for programs
    Json,
}

/// Runs the command and prints what it made.
///
/// # Errors
/// A file exists already or cannot be written, or a name is malformed.
pub fn run(args: &Certs, clock: &dyn Clock, out: &mut dyn Write) -> anyhow::Result<()> {
    let Action::Init(init) = &args.action;
    let files = make(init, clock)?;
    match init.output {
        Output::Json => {
            let pairs =
                files.iter().map(|(name, path)| ((*name).to_owned(), path.display().to_string().into()));
            writeln!(out, "{}", serde_json::Value::Object(pairs.collect()))?;
        }
        Output::Text => explain(&init.dir, &files, out)?,
    }
    Ok(())
}

type Files = Vec<(&'static str, PathBuf)>;

fn make(init: &Init, clock: &dyn Clock) -> anyhow::Result<Files> {
    fs::create_dir_all(&init.dir)
        .with_context(|| format!("cannot make directory `{}`", init.dir.display()))?;
    for stem in ["ca", "server", "client"] {
        for kind in ["pem", "key"] {
            let path = init.dir.join(format!("{stem}.{kind}"));
            if path.symlink_metadata().is_ok() {
                bail!("file `{}` exists and is not replaced: name another directory", path.display());
            }
        }
    }
    let names: Vec<&str> = init.server_names.iter().map(String::as_str).collect();
    // Everything is made before anything is written, so a malformed name leaves no files behind.
    let authority = Authority::new("Tidegate development CA", clock.now())?;
    let server = authority.issue(Subject::Server(&names)).context("cannot make the server certificate")?;
    let client =
        authority.issue(Subject::Client(&init.client_id)).context("cannot make the client certificate")?;
    let (ca_certificate, ca_key) = authority.issued().write(&init.dir, "ca")?;
    let (server_certificate, server_key) = server.write(&init.dir, "server")?;
    let (client_certificate, client_key) = client.write(&init.dir, "client")?;
    Ok(vec![
        ("ca_certificate", ca_certificate),
        ("ca_key", ca_key),
        ("server_certificate", server_certificate),
        ("server_key", server_key),
        ("client_certificate", client_certificate),
        ("client_key", client_key),
    ])
}

fn explain(dir: &Path, files: &Files, out: &mut dyn Write) -> anyhow::Result<()> {
    writeln!(out, "Made a development authority (5 years) and two certificates from it (1 year):\n")?;
    for (name, path) in files {
        writeln!(out, "  {:<19} {}", name.replace('_', " "), path.display())?;
    }
    let dir = dir.display();
    writeln!(
        out,
        "
The listener, in the configuration file:

  [listen.tls]
  certificate = \"{dir}/server.pem\"
  key = \"{dir}/server.key\"
  client_auth = \"optional\"
  client_ca = \"{dir}/ca.pem\"

A client:

  curl --cacert {dir}/ca.pem --cert {dir}/client.pem --key {dir}/client.key https://localhost:8443/

These are for development: whoever has {dir}/ca.key can be anybody."
    )?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::model::SystemClock;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        certs: Certs,
    }

    fn certs(args: &[&str]) -> anyhow::Result<String> {
        let cli = Cli::try_parse_from([&["certs", "init"], args].concat())?;
        let mut out = Vec::new();
        run(&cli.certs, &SystemClock, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn it_makes_six_files_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("made");
        let text = certs(&[path.to_str().unwrap()]).unwrap();
        assert!(text.contains("server.key") && text.contains("client_ca"));
        assert_eq!(fs::read_dir(&path).unwrap().count(), 6);
        let error = certs(&[path.to_str().unwrap()]).unwrap_err();
        assert!(error.to_string().contains("exists and is not replaced"), "{error}");
    }

    #[test]
    fn a_malformed_name_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap();
        assert!(certs(&[path, "--client-id", "app"]).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        let json = certs(&[path, "--output", "json"]).unwrap();
        let json: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert!(json["ca_key"].as_str().unwrap().ends_with("ca.key"));
    }
}
