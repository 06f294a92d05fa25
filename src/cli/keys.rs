//! `tidegate keys`: makes, lists, rotates, wraps anew, retires and hands out branch keys. The work is done in `protect::keys`.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use comfy_table::{Table, presets};
use serde_json::json;

use super::{Answer, Output};
use crate::audit::notes;
use crate::audit::record::Event;
use crate::config::{self, Config};
use crate::model::{Clock as _, RecipientName, SystemClock, TenantName};
use crate::protect::keys::{Direction, KeyFile, KeyName, KeyState, Keys, Limits, Scope, make_root_files};

/// Make, list, rotate and retire the keys that payloads are sealed with
#[derive(Debug, Args)]
#[command(disable_help_subcommand = true)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Make the branch keys that are missing, and a root key file if there is none
    ///
    /// For each tenant that the configuration names (or --tenant), each recipient
    /// with a root key, and each direction. Keys that are there stay.
    #[command(
        verbatim_doc_comment,
        after_help = "Example:\n  tidegate keys init --config tidegate.toml --tenant acme"
    )]
    Init(Select),
    /// List the branch keys: which wrap, which only open, which are due
    #[command(after_help = "Example:\n  tidegate keys list --config tidegate.toml")]
    List(Select),
    /// Make a new version of each selected branch key; older versions open only
    #[command(after_help = "Example:\n  tidegate keys rotate --config tidegate.toml --recipient haven")]
    Rotate(Select),
    /// Wrap the selected branch keys anew under the newest version of their root key
    #[command(after_help = "Example:\n  tidegate keys rewrap --config tidegate.toml")]
    Rewrap(Select),
    RewrapMessage(super::seal::RewrapArgs),
    /// Let old versions open no more; --destroy shreds them for good
    #[command(
        after_help = "Example:\n  tidegate keys retire --config tidegate.toml --recipient lake --version 1 --destroy --yes"
    )]
    Retire(Retire),
    /// Write one branch key in the clear, for a job that has no Tidegate
    #[command(
        after_help = "Example:\n  tidegate keys export --config tidegate.toml --tenant acme --recipient job-7 --direction answer -o job-7.key"
    )]
    Export(Export),
}

/// Which keys.
#[derive(Debug, Args)]
struct Select {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "tidegate.toml")]
    config: PathBuf,
    /// Only keys of this tenant
    #[arg(long, value_name = "NAME")]
    tenant: Option<TenantName>,
    /// Only keys of this recipient
    #[arg(long, value_name = "NAME")]
    recipient: Option<RecipientName>,
    /// Only keys of this direction
    #[arg(long, value_enum, value_name = "WAY")]
    direction: Option<Direction>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

#[derive(Debug, Args)]
struct Retire {
    #[command(flatten)]
    select: Select,
    /// The version to retire; without it all that are not active
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// Destroy the wrapped key too: what was sealed under it opens nowhere again
    #[arg(long, requires = "yes")]
    destroy: bool,
    /// Yes, destroy
    #[arg(long)]
    yes: bool,
}

#[derive(Debug, Args)]
struct Export {
    /// Configuration file
    #[arg(long, value_name = "FILE", default_value = "tidegate.toml")]
    config: PathBuf,
    /// Whose data
    #[arg(long, value_name = "NAME")]
    tenant: TenantName,
    /// Who opens
    #[arg(long, value_name = "NAME")]
    recipient: RecipientName,
    /// Which way
    #[arg(long, value_enum, value_name = "WAY", default_value_t = Direction::Answer)]
    direction: Direction,
    /// The version; without it the active one
    #[arg(long, value_name = "N")]
    version: Option<u32>,
    /// File to write the 32 bytes to, mode 0600; must not exist
    #[arg(short, long, value_name = "FILE")]
    out: PathBuf,
}

/// Runs the command.
pub(crate) fn run(args: &KeysArgs, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        match &args.action {
            Action::Init(select) => init(select, out).await,
            Action::List(select) => list(select, out),
            Action::Rotate(select) => rotate(select, out).await,
            Action::Rewrap(select) => rewrap(select, out).await,
            Action::RewrapMessage(args) => super::seal::rewrap(args).await,
            Action::Retire(retire) => self::retire(retire, out),
            Action::Export(export) => self::export(export, out).await,
        }
    })
}

/// The configuration and its keys.
pub(crate) fn load(path: &std::path::Path) -> anyhow::Result<(Config, Keys)> {
    let config = config::load(path).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let Some(settings) = &config.file.keys else {
        bail!("`{}` has no `[keys]`: add it with a directory and a root key", path.display());
    };
    let (recipients, clock) = (&config.file.recipients, Arc::new(SystemClock));
    let keys = Keys::with_limits(settings, recipients, &config.name, clock, Limits::COMMAND);
    let keys = keys.map_err(|problems| anyhow::anyhow!("{problems}"))?;
    Ok((config, keys))
}

async fn init(select: &Select, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (config, keys) = load(&select.config)?;
    let tenants = tenants(&config, select.tenant.as_ref());
    if tenants.is_empty() {
        bail!("the configuration names no tenant (they come from a claim): say --tenant NAME");
    }
    if let Some(settings) = &config.file.keys {
        make_root_files(settings)?;
    }
    let made = keys.make_missing(&tenants, |scope| select.wants(scope)).await?;
    made.iter().for_each(|name| tell(&config, "make", name));
    print_names(select, "made", &made, keys.store().directory(), out)?;
    Ok(Answer::Yes)
}

/// The tenants that the configuration itself names.
fn tenants(config: &Config, chosen: Option<&TenantName>) -> BTreeSet<TenantName> {
    if let Some(chosen) = chosen {
        return BTreeSet::from([chosen.clone()]);
    }
    let identity = &config.file.identity;
    let issuers = identity.issuers.iter().filter_map(|issuer| issuer.tenant.clone());
    issuers.chain(identity.mtls.trust_domains.iter().map(|domain| domain.tenant.clone())).collect()
}

fn list(select: &Select, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (_, keys) = load(&select.config)?;
    let now = SystemClock.now();
    let found: Vec<(KeyName, KeyFile)> =
        keys.store().list()?.into_iter().filter(|(name, _)| select.wants(&name.scope)).collect();
    match select.output {
        Output::Json => {
            let rows = found.iter().map(|(name, file)| {
                json!({
                    "name": name.to_string(), "tenant": name.scope.tenant, "recipient": name.scope.recipient,
                    "direction": name.scope.direction.name(), "version": name.version, "state": file.state,
                    "root": file.root, "created": file.created, "wraps": file.wraps, "due": keys.is_due(file, now),
                })
            });
            writeln!(out, "{}", serde_json::Value::Array(rows.collect()))?;
        }
        Output::Table => {
            let mut table = Table::new();
            table.load_style(presets::UTF8_FULL_CONDENSED).force_no_tty();
            table.set_header(["key", "state", "root", "created", "wraps set aside", ""]);
            for (name, file) in &found {
                let due = if keys.is_due(file, now) { "due: tidegate keys rotate" } else { "" };
                table.add_row([
                    name.to_string(),
                    file.state.name().to_owned(),
                    file.root.to_string(),
                    file.created.strftime("%Y-%m-%d %H:%M").to_string(),
                    file.wraps.to_string(),
                    due.to_owned(),
                ]);
            }
            writeln!(out, "{}", table.trim_fmt())?;
        }
    }
    Ok(if found.is_empty() { Answer::No } else { Answer::Yes })
}

async fn rotate(select: &Select, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (config, keys) = load(&select.config)?;
    let scopes: BTreeSet<Scope> = keys.store().list()?.into_iter().map(|(name, _)| name.scope).collect();
    let mut made = Vec::new();
    for scope in scopes.iter().filter(|scope| select.wants(scope) && keys.knows(&scope.recipient)) {
        let name = keys.make(scope).await?;
        tell(&config, "rotate", &name);
        made.push(name);
    }
    print_names(select, "made", &made, keys.store().directory(), out)?;
    Ok(if made.is_empty() { Answer::No } else { Answer::Yes })
}

/// Leaves a note of a key that was changed, at once: what comes after it may fail.
fn tell(config: &Config, change: &str, name: &KeyName) {
    if let Err(error) = leave(config, change, name) {
        let _ = writeln!(
            std::io::stderr(),
            "tidegate: that {name} was changed ({change}) is not recorded: {error}"
        );
    }
}

/// Leaves a note to the journal, if there is one; the gateway records it.
fn leave(config: &Config, change: &str, name: &KeyName) -> std::io::Result<()> {
    let journal = &config.file.audit.directory;
    if !journal.exists() {
        return Ok(());
    }
    let event = Event::SealingKey {
        change: change.into(),
        key: name.to_string().into(),
        actor: notes::actor().into(),
        at: jiff::Timestamp::now(),
    };
    notes::leave(journal, &event)
}

async fn rewrap(select: &Select, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (config, keys) = load(&select.config)?;
    let mut done = Vec::new();
    for (name, file) in keys.store().list()? {
        if file.state != KeyState::Destroyed && select.wants(&name.scope) && keys.knows(&name.scope.recipient)
        {
            keys.rewrap(&name).await?;
            tell(&config, "rewrap", &name);
            done.push(name);
        }
    }
    print_names(select, "wrapped anew", &done, keys.store().directory(), out)?;
    Ok(if done.is_empty() { Answer::No } else { Answer::Yes })
}

fn retire(args: &Retire, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (config, keys) = load(&args.select.config)?;
    let store = keys.store();
    let lock = store.lock()?;
    let mut done = Vec::new();
    for (name, file) in store.list()? {
        let chosen = match args.version {
            Some(version) => version == name.version,
            None => file.state != KeyState::Active,
        };
        if !(chosen && file.state != KeyState::Destroyed && args.select.wants(&name.scope)) {
            continue;
        }
        if args.destroy {
            store.destroy(&lock, &name)?;
        } else {
            store.write(&lock, &name, &KeyFile { state: KeyState::Retired, ..file })?;
        }
        tell(&config, if args.destroy { "destroy" } else { "retire" }, &name);
        done.push(name);
    }
    let verb = if args.destroy { "destroyed" } else { "retired" };
    print_names(&args.select, verb, &done, store.directory(), out)?;
    Ok(if done.is_empty() { Answer::No } else { Answer::Yes })
}

async fn export(args: &Export, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let (config, keys) = load(&args.config)?;
    let scope =
        Scope { tenant: args.tenant.clone(), recipient: args.recipient.clone(), direction: args.direction };
    let name = match args.version {
        Some(version) => KeyName { scope, version },
        None => match keys.store().active(&scope)? {
            Some((name, _)) => name,
            None => bail!("there is no branch key `{scope}`: run `tidegate keys init`"),
        },
    };
    let key = keys.export(&name).await?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&args.out);
    let mut file = file.with_context(|| format!("cannot make `{}`", args.out.display()))?;
    // Before the key is outside: one that left without a word would be worse than one that did not leave.
    leave(&config, "export", &name)
        .inspect_err(|_| drop(std::fs::remove_file(&args.out)))
        .context("the key was not written, for that it leaves cannot be recorded")?;
    file.write_all(&*key).and_then(|()| file.sync_all())?;
    writeln!(out, "{name}")?;
    Ok(Answer::Yes)
}

fn print_names(
    select: &Select,
    verb: &str,
    names: &[KeyName],
    directory: &std::path::Path,
    out: &mut dyn Write,
) -> anyhow::Result<()> {
    match select.output {
        Output::Json => {
            let names: Vec<String> = names.iter().map(ToString::to_string).collect();
            writeln!(out, "{}", json!({ "keys": names }))?;
        }
        Output::Table => {
            for name in names {
                writeln!(out, "{verb} {name}")?;
            }
            writeln!(out, "{} keys {verb} in {}", names.len(), directory.display())?;
        }
    }
    Ok(())
}

impl Select {
    fn wants(&self, scope: &Scope) -> bool {
        self.tenant.as_ref().is_none_or(|tenant| *tenant == scope.tenant)
            && self.recipient.as_ref().is_none_or(|recipient| *recipient == scope.recipient)
            && self.direction.is_none_or(|direction| direction == scope.direction)
    }
}
