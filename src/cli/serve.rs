//! `tidegate serve`.

use std::io::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};

use crate::app::{self, StartError};
use crate::config;
use crate::model::RouteName;

use super::Answer;

/// Run the gateway
///
/// Each listener prints one JSON line on standard output when it is ready. On SIGTERM
/// or SIGINT it stops accepting, gives streams the time of `listen.drain` to end, and
/// exits with 0. On SIGHUP it compares the policies with their files at once.
///
/// Exit code 1 if the configuration has problems; they are printed as by `tidegate check`.
#[derive(Debug, clap::Args)]
#[command(verbatim_doc_comment, after_help = "Example:\n  tidegate serve --config tidegate.toml")]
pub(super) struct Args {
    /// Configuration file (TOML); paths in it are relative to its folder
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// The instance's name instead of `gateway.name`: for instances that share one configuration
    #[arg(long, value_name = "NAME")]
    name: Option<RouteName>,
}

pub(super) fn run(args: &Args) -> anyhow::Result<Answer> {
    let mut config = match config::load(&args.config) {
        Ok(config) => config,
        Err(problems) => {
            // The file's own mistakes shall not hide those of what it names.
            let all = app::check_file(&args.config).err().unwrap_or(problems);
            return super::check::refuse(&all.into_vec());
        }
    };
    if let Some(name) = &args.name {
        config.file.gateway.name = name.clone();
    }
    app::runtime(&config)?.block_on(serve(config))
}

async fn serve(config: config::Config) -> anyhow::Result<Answer> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let running = match app::start_with(config).await {
        Ok(running) => running,
        Err(StartError::Invalid(problems)) => {
            return super::check::refuse(&problems.into_vec());
        }
        Err(StartError::Failed(error)) => return Err(error),
    };
    announce("data", running.data_address())?;
    announce("admin", running.admin_address())?;
    loop {
        tokio::select! {
            _ = hangup.recv() => running.reload(),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    tracing::info!("stopping: no new connections, streams may end");
    running.shutdown().await;
    Ok(Answer::Yes)
}

fn announce(listener: &str, address: std::net::SocketAddr) -> anyhow::Result<()> {
    let line = serde_json::json!({ "event": "listening", "listener": listener, "address": address });
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).context("failed to write to standard output")
}
