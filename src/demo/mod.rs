//! The demo: everything embedded in one process, a guided tour through the real gateway, then a gateway to play with.
//!
//! The gateway is the product, started from a configuration file like any other. What stands behind and beside it (the
//! clusters, the store, the service, the issuer) are test doubles on loopback, and each says so. Start with [`run`], then `steps`.

mod cluster;
mod datasets;
mod double;
mod far;
mod files;
mod guide;
mod issuer;
mod job;
mod setup;
mod signature;
mod steps;
mod store;
mod table;
mod tour;
mod wiretap;

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

pub use table::Format;

use crate::audit::verify::Report;

/// What the user wants of the demo.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept.
    pub dir: PathBuf,
    /// End after the tour.
    pub once: bool,
    /// How the tour's rows are printed.
    pub format: Format,
}

/// Runs the tour, prints its rows to `out`, and unless `once` is set serves until SIGINT or SIGTERM. `notes` is for people.
/// True if every row was as expected.
///
/// # Errors
/// The demo could not be set up, the gateway did not answer, or the output could not be written.
pub async fn run(options: &Options, out: &mut dyn Write, notes: &mut dyn Write) -> anyhow::Result<bool> {
    // From the beginning, so that an impatient Ctrl-C during the tour ends it in order as well.
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let world = setup::World::build(&options.dir).await?;
    let toured = tokio::select! {
        rows = tour::run(&world, steps::all()) => Some(rows),
        _ = interrupt.recv() => None,
        _ = terminate.recv() => None,
    };
    let as_expected = match toured {
        Some(Ok(rows)) => {
            let evidence = world.verified().await;
            evidence.and_then(|evidence| show(options, &world, &rows, &evidence, out, notes))
        }
        Some(Err(error)) => Err(error),
        None => {
            world.end().await;
            anyhow::bail!("interrupted during the tour");
        }
    };
    if as_expected.is_ok() && !options.once {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
    world.end().await;
    as_expected
}

fn show(
    options: &Options,
    world: &setup::World,
    rows: &[tour::Row],
    evidence: &Report,
    out: &mut dyn Write,
    notes: &mut dyn Write,
) -> anyhow::Result<bool> {
    table::write(out, rows, options.format)?;
    let proved = evidence.is_good() && evidence.unsigned == 0;
    match options.format {
        Format::Table { .. } => guide::evidence(out, world.files(), evidence)?,
        Format::Json => guide::evidence(notes, world.files(), evidence)?,
    }
    let as_expected = proved && rows.iter().all(|row| row.problems.is_empty());
    if !as_expected && world.policies_edited() {
        writeln!(
            notes,
            "The policies in `{}` are not the shipped ones; delete the directory to get those back.",
            world.files().at("policies").display()
        )?;
    }
    if !options.once {
        match options.format {
            Format::Table { .. } => guide::write(out, world.files(), world.addresses())?,
            // Standard output is for the program that reads the JSON.
            Format::Json => guide::write(notes, world.files(), world.addresses())?,
        }
    }
    out.flush()?;
    Ok(as_expected)
}
