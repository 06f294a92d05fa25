//! `tidegate policy bundle`: a release of policies, signed.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::json;

use super::super::{Answer, Output};
use crate::audit::tree::key;
use crate::model::note::{Signer, is_name};
use crate::model::{Clock as _, Duration, SystemClock};
use crate::policy::Bundle;
use crate::policy::prove::{Finding, Verdict};
use crate::policy::release::{Attestation, Attested, FILE, Manifest, pack, unpack};

/// Make a release of policies: a manifest with serial and expiry, signed, and packed
///
/// With --out one `.tar.gz` is written, which `[policy.remote]` fetches; without it
/// `bundle.manifest` is written into DIR, and the folder is what is signed. A
/// gateway takes a release only if one of `policy.keys` signed it, and never goes back
/// to a lower serial. --proof adds what `tidegate policy prove --output json` has
/// proved; a gateway with `policy.attestation = "required"` wants it. --override is
/// break-glass: the reason stands in the manifest, and in the journal of each gateway.
#[derive(Debug, clap::Args)]
#[command(
    verbatim_doc_comment,
    after_help = "Examples:\n  openssl genpkey -algorithm ed25519 -out policy.pem && chmod 600 policy.pem\n  tidegate policy prove policies --output json > proof.json\n  tidegate policy bundle policies --key policy.pem --serial 7 --expires 30d --proof proof.json --out bundle.tar.gz\n  tidegate policy bundle policies --key policy.pem --serial 8 --override \"outage 4711, see ticket\" --out bundle.tar.gz"
)]
pub(crate) struct Args {
    /// Directory of the policies
    #[arg(value_name = "DIR", default_value = "policies")]
    directory: PathBuf,
    /// The number of this release, higher than all before
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    serial: u64,
    /// When it ends: how long from now (`12h`, `30d`) or a time (`2026-12-31T00:00:00Z`); without it never
    #[arg(long, value_name = "TIME", value_parser = end)]
    expires: Option<Timestamp>,
    /// The key that signs: Ed25519, PKCS#8 in PEM, mode 0600; without it nothing is signed
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
    /// The name of the key, as gateways know it
    #[arg(long, value_name = "NAME", default_value = "tidegate-policies", value_parser = key_name)]
    name: String,
    /// What `tidegate policy prove --output json` printed for these policies
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// Break-glass: why this is to be served without a proof
    #[arg(long, value_name = "REASON", conflicts_with = "proof", requires = "key")]
    r#override: Option<String>,
    /// The archive to write
    #[arg(long, short, value_name = "FILE")]
    out: Option<PathBuf>,
    /// How to print
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = Output::Table)]
    output: Output,
}

/// A report of proofs, as far as it is attested.
#[derive(Deserialize)]
struct Proof {
    bundle: String,
    solver: String,
    claims: Vec<Finding>,
}

/// Runs the command.
pub(super) fn run(args: &Args, out: &mut dyn Write) -> anyhow::Result<Answer> {
    let bundle = match Bundle::load(&args.directory) {
        Ok(bundle) => bundle,
        Err(problems) => return super::super::check::refuse(&problems.into_vec()),
    };
    let signer = args.key.as_deref().map(|path| signer(path, &args.name)).transpose()?;
    let manifest = Manifest {
        serial: args.serial,
        created: SystemClock.now(),
        expires: args.expires,
        bundle: bundle.hash().to_owned(),
        attestation: args.proof.as_deref().map(|path| attested(path, bundle.hash())).transpose()?,
        override_reason: args.r#override.clone(),
    };
    let text = manifest.file(signer.as_ref()).context("no manifest can be made")?;
    let file = match &args.out {
        None => args.directory.join(FILE),
        Some(file) => file.clone(),
    };
    let bytes = match &args.out {
        None => text.into_bytes(),
        Some(_) => packed(&text, &bundle)?,
    };
    put(&file, &bytes).with_context(|| format!("cannot write `{}`", file.display()))?;
    let vkey = signer.as_ref().map(|signer| signer.verifier().to_string());
    match args.output {
        Output::Json => {
            let made = json!({
                "file": file,
                "bundle": bundle.hash(),
                "serial": args.serial,
                "expires": args.expires,
                "attested": manifest.attestation.map_or(0, |attestation| attestation.claims.len()),
                "override": args.r#override,
                "key": vkey,
            });
            writeln!(out, "{made:#}")?;
        }
        Output::Table => print(&file, &manifest, vkey.as_deref(), out)?,
    }
    Ok(Answer::Yes)
}

fn print(file: &Path, manifest: &Manifest, vkey: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "{}: serial {}, bundle {}", file.display(), manifest.serial, manifest.bundle)?;
    match manifest.expires {
        Some(expires) => writeln!(out, "expires   {}", expires.strftime("%Y-%m-%dT%H:%M:%SZ"))?,
        None => writeln!(out, "expires   never")?,
    }
    match (&manifest.attestation, &manifest.override_reason) {
        (Some(attestation), _) => {
            let ids: Vec<&str> = attestation.claims.iter().map(|claim| claim.id.as_str()).collect();
            writeln!(out, "proved    {}", ids.join(", "))?;
        }
        (None, Some(reason)) => writeln!(out, "override  {reason}")?,
        (None, None) => writeln!(out, "proved    nothing is attested")?,
    }
    match vkey {
        Some(vkey) => writeln!(out, "signed; gateways want this in `[policy]`:\n  keys = [\"{vkey}\"]"),
        None => writeln!(out, "not signed: a gateway with `policy.keys` refuses it"),
    }
}

fn signer(path: &Path, name: &str) -> anyhow::Result<Signer> {
    let pair = key::read(path).context(
        "the key cannot be used (`openssl genpkey -algorithm ed25519 -out KEY && chmod 600 KEY` makes one)",
    )?;
    Ok(Signer::new(name, pair.into()))
}

/// What a report says was proved of this bundle.
fn attested(path: &Path, hash: &str) -> anyhow::Result<Attestation> {
    let shown = path.display();
    let text = fs::read(path).with_context(|| format!("cannot read `{shown}`"))?;
    ensure!(!text.is_empty(), "`{shown}` is empty: `tidegate policy prove` said why on the terminal");
    let proof: Proof = serde_json::from_slice(&text)
        .with_context(|| format!("`{shown}` is not what `tidegate policy prove --output json` prints"))?;
    ensure!(
        proof.bundle == hash,
        "`{shown}` is about bundle {}, and these policies are {hash}: prove them again",
        proof.bundle
    );
    if let Some(open) = proof.claims.iter().find(|claim| !matches!(claim.verdict, Verdict::Proved)) {
        bail!("`{shown}`: `{}` is not proved; mend the policies, or see `--override`", open.id);
    }
    let claims = proof.claims.into_iter().map(|claim| Attested {
        id: claim.id,
        says: claim.says,
        sha256: claim.sha256,
    });
    Ok(Attestation { solver: proof.solver, claims: claims.collect() })
}

/// The archive, read back before it leaves.
fn packed(manifest: &str, bundle: &Bundle) -> anyhow::Result<Vec<u8>> {
    let bytes = pack(manifest, bundle.files()).context("the files cannot be packed")?;
    unpack(&bytes).context("a gateway would not take this archive")?;
    Ok(bytes)
}

/// The file appears whole.
fn put(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    fs::write(&partial, bytes)?;
    fs::rename(partial, path)
}

fn end(text: &str) -> Result<Timestamp, String> {
    let now = SystemClock.now();
    let wrong = || {
        format!("`{text}` is neither a time like `2026-12-31T00:00:00Z` nor how long from now, like `30d`")
    };
    let end = match text.parse::<Duration>() {
        Ok(long) => {
            let long = SignedDuration::try_from(long.get()).map_err(|_| wrong())?;
            now.checked_add(long).map_err(|_| wrong())?
        }
        Err(_) => text.parse().map_err(|_| wrong())?,
    };
    if end > now { Ok(end) } else { Err(format!("`{text}` is over already")) }
}

fn key_name(text: &str) -> Result<String, String> {
    if is_name(text) { Ok(text.to_owned()) } else { Err("a key's name has no spaces and no plus".to_owned()) }
}
