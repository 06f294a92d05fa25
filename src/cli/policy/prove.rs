//! `tidegate policy prove`: what can never be allowed, shown for every request.

use std::path::PathBuf;

use super::super::Output;
use super::Answer;
use crate::model::Duration;

/// Prove that no request at all can get past the invariants
///
/// Invariants are policies in DIR/invariants/*.bad.cedar that describe what must
/// never be allowed. A solver (cvc5) looks for a request that is allowed all the
/// same, of every kind (principal type x action x resource type), over all entities
/// that fit the schema. Two claims hold for every bundle: no policy ever has an
/// error, and protection never costs a permission. What cannot be proved in time
/// counts as not proved. Exit code 1 unless everything is proved.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  tidegate policy prove policies\n  tidegate policy prove policies --timeout 5m --no-cache --output json > proof.json\n\nThe solver is the program that CVC5 names, or cvc5 on the PATH (Debian: apt-get install cvc5)."
)]
pub(crate) struct Args {
    /// Directory of the policies
    #[arg(value_name = "DIR", default_value = "policies")]
    pub(crate) directory: PathBuf,
    /// How long one question to the solver may take
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub(crate) timeout: Duration,
    /// Solvers that run at once; without it one a core
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=256))]
    pub(crate) jobs: Option<u16>,
    /// Ask everything again, and remember nothing
    #[arg(long)]
    pub(crate) no_cache: bool,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// Runs the command.
#[cfg(not(feature = "prove"))]
pub(super) fn run(_: &Args, _: &mut dyn std::io::Write) -> anyhow::Result<Answer> {
    anyhow::bail!(
        "this tidegate was built without proofs: build it with `cargo build --release --features prove` \
         (the checks of `tidegate policy check` and `tidegate policy test` need no solver)"
    )
}

#[cfg(feature = "prove")]
pub(super) use with_solver::{Bar, run};

#[cfg(feature = "prove")]
mod with_solver {
    use std::io::{self, IsTerminal as _, Write};
    use std::sync::OnceLock;
    use std::time::Instant;

    use anyhow::Context as _;
    use comfy_table::{CellAlignment, Table, presets};
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
    use serde_json::json;

    use super::super::Paint;
    use super::{Answer, Args, Output};
    use crate::model::Problems;
    use crate::policy::Bundle;
    use crate::policy::prove::{
        self, Cache, Counterexample, Finding, Invariants, Kind, Options, Report, Solver, Verdict,
    };

    /// What takes less needs no progress bar.
    const PATIENCE: std::time::Duration = std::time::Duration::from_secs(1);
    /// The most kinds of request that are listed for a claim.
    const MAX_LISTED: usize = 6;

    /// Runs the command.
    pub(in super::super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let mut problems = Problems::new();
        let (bundle, _) = Bundle::examine(&args.directory, &mut problems);
        let invariants = Invariants::load(&args.directory, bundle.as_ref(), &mut problems);
        let bundle = match bundle {
            Some(bundle) if problems.is_empty() => bundle,
            _ => return refuse(problems, args.output, out),
        };
        let solver = Solver::find()?;
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let options = Options {
            jobs: args.jobs.map_or(cores, usize::from),
            limit: args.timeout.get(),
            cache: if args.no_cache { None } else { Cache::of_user() },
        };
        let bar = Bar::new("proving");
        let report =
            prove::run(&bundle, &invariants, &solver, &options, &|done, total| bar.draw((done, total)))
                .context("nothing is proved (`--no-cache` proves without remembering)")?;
        bar.finish();
        match args.output {
            Output::Json => writeln!(out, "{:#}", as_json(&report, began)?)?,
            Output::Table => print(&report, invariants.all.is_empty(), began, out)?,
        }
        Ok(if report.all_proved() { Answer::Yes } else { Answer::No })
    }

    /// How many kinds of request are done, drawn on a terminal once it takes longer than a second.
    #[derive(Debug)]
    pub(in super::super) struct Bar {
        doing: &'static str,
        began: Instant,
        drawn: OnceLock<ProgressBar>,
    }

    impl Bar {
        /// `doing` is the word before it.
        pub(in super::super) fn new(doing: &'static str) -> Self {
            Self { doing, began: Instant::now(), drawn: OnceLock::new() }
        }

        pub(in super::super) fn draw(&self, (done, total): (usize, usize)) {
            if !io::stderr().is_terminal() || self.began.elapsed() < PATIENCE {
                return;
            }
            let bar = self.drawn.get_or_init(|| {
                let total = u64::try_from(total).unwrap_or(u64::MAX);
                let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
                let style = format!("{} {{wide_bar}} {{pos}}/{{len}} kinds of request", self.doing);
                bar.set_style(
                    ProgressStyle::with_template(&style).unwrap_or_else(|_| ProgressStyle::default_bar()),
                );
                bar
            });
            bar.set_position(u64::try_from(done).unwrap_or(u64::MAX));
        }

        pub(in super::super) fn finish(&self) {
            if let Some(bar) = self.drawn.get() {
                bar.finish_and_clear();
            }
        }
    }

    fn refuse(problems: Problems, output: Output, out: &mut dyn Write) -> anyhow::Result<Answer> {
        let problems = problems.into_vec();
        match output {
            Output::Json => writeln!(out, "{:#}", json!({ "problems": problems }))?,
            Output::Table => {
                for problem in &problems {
                    writeln!(out, "{problem}")?;
                }
                let plural = if problems.len() == 1 { "" } else { "s" };
                writeln!(out, "{} problem{plural}: nothing was proved", problems.len())?;
            }
        }
        Ok(Answer::No)
    }

    fn as_json(report: &Report, began: Instant) -> anyhow::Result<serde_json::Value> {
        let mut value = serde_json::to_value(report)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("proved".to_owned(), report.all_proved().into());
            members.insert("milliseconds".to_owned(), u64::try_from(began.elapsed().as_millis())?.into());
        }
        Ok(value)
    }

    fn print(report: &Report, no_invariants: bool, began: Instant, out: &mut dyn Write) -> io::Result<()> {
        let Paint { red, green, yellow, plain, .. } = Paint::of_terminal();
        writeln!(out, "{}", table(&report.claims).trim_fmt())?;
        for finding in &report.claims {
            tell(finding, out)?;
        }
        if no_invariants {
            writeln!(out, "There are no invariants: write some in `invariants/*.bad.cedar`.")?;
        }
        if !report.all_proved() {
            writeln!(out)?;
        }
        let all = report.claims.len();
        let proved = report.claims.iter().filter(|finding| finding.verdict.is_proved()).count();
        let colour = match proved == all {
            true => green,
            false if report.claims.iter().any(|f| matches!(f.verdict, Verdict::Disproved { .. })) => red,
            false => yellow,
        };
        let remembered = match report.claims.iter().filter(|finding| finding.cached).count() {
            0 => String::new(),
            count if count == all => ", all remembered".to_owned(),
            count => format!(", {count} remembered"),
        };
        let time = began.elapsed().as_millis();
        writeln!(out, "{colour}{proved} of {all} claims proved{plain}{remembered}, {time} ms")
    }

    fn table(claims: &[Finding]) -> Table {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
        table.set_header(["id", "claim", "kinds of request", "result", "time"]);
        for finding in claims {
            let result = match &finding.verdict {
                Verdict::Proved => "proved".to_owned(),
                Verdict::Disproved { fails_for, .. } => format!("disproved for {}", fails_for.len()),
                Verdict::NotProved { open_for, .. } => format!("not proved for {}", open_for.len()),
            };
            let time =
                if finding.cached { "remembered".to_owned() } else { format!("{} ms", finding.milliseconds) };
            let says = match finding.kind {
                Kind::Invariant => finding.says.clone(),
                Kind::BuiltIn => format!("{} (built in)", finding.says),
            };
            table.add_row([finding.id.clone(), says, finding.environments.to_string(), result, time]);
        }
        for column in [2, 4] {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        table
    }

    /// What is to say of a claim that is not proved.
    fn tell(finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
        let Paint { red, yellow, dim, plain, .. } = Paint::of_terminal();
        match &finding.verdict {
            Verdict::Proved => Ok(()),
            Verdict::Disproved { fails_for, counterexample } => {
                writeln!(out, "\n{red}✗ {}{plain}", finding.says)?;
                if !finding.place.is_empty() {
                    writeln!(out, "  {dim}{}{plain}", finding.place)?;
                }
                writeln!(out, "  does not hold for {}; one request:", listed(fails_for))?;
                request(counterexample, out)
            }
            Verdict::NotProved { open_for, why } => {
                writeln!(out, "\n{yellow}? {}{plain}", finding.says)?;
                writeln!(out, "  not proved for {}: {why}", listed(open_for))
            }
        }
    }

    fn request(request: &Counterexample, out: &mut dyn Write) -> io::Result<()> {
        for (name, value) in request.facts() {
            writeln!(out, "    {name:<13}{value}")?;
        }
        let policies = match request.policies.as_slice() {
            [] => String::new(),
            policies => format!(" by {}", policies.join(", ")),
        };
        writeln!(out, "    {:<13}{}{policies}", "Cedar", request.answer)
    }

    fn listed(names: &[String]) -> String {
        let shown: Vec<&str> = names.iter().take(MAX_LISTED).map(String::as_str).collect();
        let more = names.len().saturating_sub(shown.len());
        if more == 0 { shown.join(", ") } else { format!("{} and {more} more", shown.join(", ")) }
    }
}
