//! The far side: a second gateway, before the cluster `haven`, that opens what the border sealed for it.
//!
//! It has a directory of its own inside the demo's, with its own policies, journal, certificate and keys: of the border's keys
//! only those that are for it.

use std::fs;
use std::net::SocketAddr;

use zeroize::Zeroizing;

use super::files::Files;
use super::issuer::TENANT;
use crate::policy::embedded;
use crate::protect::keys::Keys;

/// The recipient, and the cluster before which it stands.
const HAVEN: &str = "haven";

/// The workload that the border's own certificate names.
pub(crate) const BORDER: &str = "spiffe://tidegate.demo/gateway/border";

/// The directories that it needs.
const DIRECTORIES: [&str; 4] = ["policies", "certs", "keys", "journal"];

/// Makes its directory, with the shipped policies of a far side as far as they are missing.
///
/// # Errors
/// It cannot be written.
pub(crate) fn create(demo: &Files) -> std::io::Result<Files> {
    let files = Files::create(&demo.at("far"), &DIRECTORIES)?;
    embedded::write(embedded::FAR_SIDE, &files.at("policies"))?;
    Ok(files)
}

/// Hands it the root key that is for it.
///
/// # Errors
/// It cannot be read or written.
pub(crate) fn hand_root(border: &Files, far: &Files) -> std::io::Result<()> {
    let root = Zeroizing::new(fs::read(border.at("keys/haven.root"))?);
    far.write_secret("keys/haven.root", &*root)
}

/// Hands it the branch keys that are for it, as they lie, wrapped. One that is there stays: replaced, it would lose its count.
///
/// # Errors
/// They cannot be read or written.
pub(crate) fn hand_keys(border: &Keys, far: &Keys) -> anyhow::Result<()> {
    let lock = far.store().lock()?;
    for (name, file) in border.store().list()? {
        if name.scope.recipient.as_str() == HAVEN && far.store().read(&name)?.is_none() {
            far.store().write(&lock, &name, &file)?;
        }
    }
    Ok(())
}

/// The text of its `tidegate.toml`.
pub(crate) fn config(data: SocketAddr, admin: SocketAddr, cluster: SocketAddr) -> String {
    format!(
        r#"# Written by `tidegate demo` at each start: the gateway before the cluster `haven`.

[gateway]
name = "haven"

[listen]
address = "{data}"

[listen.tls]
certificate = "certs/server.pem"
key = "keys/server.key"
client_auth = "required"
client_ca = "certs/ca.pem"

[admin]
address = "{admin}"

[[identity.mtls.trust_domains]]
name = "tidegate.demo"
tenant = "{TENANT}"

[[identity.mtls.trust_domains.workloads]]
id = "{BORDER}"
teams = ["borders"]
peer = true

[policy]
directory = "policies"

[audit]
directory = "journal"

[keys]
directory = "keys/branch"

[keys.roots.haven]
file = "keys/haven.root"

[recipients.haven]
root = "haven"

[clusters.private]
endpoints = ["http://{cluster}"]
models = ["tide-small"]
credential_file = "keys/cluster.key"

[[routes]]
name = "chat"
path = "/restricted/v1/chat/completions"
infer = {{ clusters = ["private"] }}
opens = true
level = "internal"
residency = ["EU"]
"#
    )
}
