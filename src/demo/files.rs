//! The demo's directory: where everything lies, and how it is written.
//!
//! Written anew at each start: `tidegate.toml`, `certs/`, `keys/`, `tokens/`. Kept from run to run: `journal/`, what is in
//! `store/`, and every policy file that is there, edited or not; only missing ones are added.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::datasets::DATASETS;
use super::issuer::{AUDIENCE, ISSUER, TENANT};
use super::signature::SigningKey;

/// The workload that the demo's client certificate names.
pub(crate) const TRAINER: &str = "spiffe://tidegate.demo/job/trainer";

/// The workload that opens what it reads.
pub(crate) const SCANNER: &str = "spiffe://tidegate.demo/job/scanner";

/// The directories that a run needs.
pub(crate) const DIRECTORIES: [&str; 6] = ["policies", "certs", "keys", "tokens", "journal", "store"];

/// The addresses that the configuration names.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Addresses {
    /// The gateway's data listener.
    pub(crate) data: SocketAddr,
    /// The gateway's admin listener.
    pub(crate) admin: SocketAddr,
    /// The double of cluster `eu`.
    pub(crate) eu: SocketAddr,
    /// The double of cluster `us`.
    pub(crate) us: SocketAddr,
    /// The double of store `lake`.
    pub(crate) lake: SocketAddr,
    /// The double of service `status`.
    pub(crate) status: SocketAddr,
    /// The wiretap before the gateway of cluster `haven`.
    pub(crate) haven: SocketAddr,
}

/// The directory.
#[derive(Debug, Clone)]
pub(crate) struct Files(PathBuf);

impl Files {
    /// Makes the directory and those inside it, as far as they are missing.
    ///
    /// # Errors
    /// One of them cannot be made.
    pub(crate) fn create(dir: &Path, names: &[&str]) -> io::Result<Self> {
        for name in names {
            fs::create_dir_all(dir.join(name))?;
        }
        Ok(Self(dir.to_owned()))
    }

    /// A path inside, for example `certs/ca.pem`.
    pub(crate) fn at(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that anybody may read.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write(&self, name: &str, text: &str) -> io::Result<()> {
        self.replace(name, text.as_bytes(), 0o644)
    }

    /// Writes a file that only its owner may read.
    ///
    /// # Errors
    /// It cannot be written.
    pub(crate) fn write_secret(&self, name: &str, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.replace(name, bytes.as_ref(), 0o600)
    }

    /// Written beside and renamed: no reader sees half a file, and the mode is right from the first byte.
    fn replace(&self, name: &str, bytes: &[u8], mode: u32) -> io::Result<()> {
        let (file, beside) = (self.at(name), self.at(&format!("{name}.tmp~")));
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut new = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
        new.write_all(bytes)?;
        fs::rename(beside, file)
    }
}

/// The text of `tidegate.toml`; its paths are relative to the file.
pub(crate) fn config(addresses: &Addresses, store: &SigningKey) -> String {
    let Addresses { data, admin, eu, us, lake, status, haven } = addresses;
    let mut text = format!(
        r#"# Written by `tidegate demo` at each start: copy it before you change it.
# `tidegate serve --config` accepts it; the clusters, the store and the service answer only while the demo runs.

[gateway]
name = "demo"

[listen]
address = "{data}"

[listen.tls]
certificate = "certs/server.pem"
key = "keys/server.key"
client_auth = "optional"
client_ca = "certs/ca.pem"

[admin]
address = "{admin}"

[[identity.issuers]]
issuer = "{ISSUER}"
audiences = ["{AUDIENCE}"]
algorithms = ["ES256"]
jwks_file = "keys/issuer.jwks.json"
tenant_claim = "tenant"
teams_claim = "groups"

[[identity.mtls.trust_domains]]
name = "tidegate.demo"
tenant = "{TENANT}"

[[identity.mtls.trust_domains.workloads]]
id = "{TRAINER}"
teams = ["research"]
cluster = "eu"

# On the cluster `haven`: what it reads of restricted data is sealed for a key of its own.
[[identity.mtls.trust_domains.workloads]]
id = "{SCANNER}"
cluster = "haven"
can_open = "scanner"

[policy]
directory = "policies"

[audit]
directory = "journal"

[clusters.eu]
endpoints = ["http://{eu}"]
models = ["tide-small", "tide-large", "tide-embed"]
credential_file = "keys/cluster-eu.key"

[clusters.us]
endpoints = ["http://{us}"]
models = ["tide-small", "tide-embed"]
credential_file = "keys/cluster-us.key"

# Behind a gateway of its own, far/tidegate.toml, which opens what is sealed for it.
[clusters.haven]
endpoints = ["http://{haven}"]
models = ["tide-small"]
can_open = "haven"
http2 = "never"

[services.status]
endpoints = ["http://{status}"]

[stores.lake]
endpoints = ["http://{lake}"]
region = "{}"
access_key_id = "{}"
secret_key_file = "keys/lake.key"
"#,
        store.region, store.access_key_id
    );
    for dataset in &DATASETS {
        text.push_str(&format!(
            r#"
[[stores.lake.datasets]]
id = "{}"
bucket = "{}"
prefix = "{}"
level = "{}"
residency = {:?}
"#,
            dataset.id, dataset.bucket, dataset.prefix, dataset.level, dataset.residency
        ));
    }
    text.push_str(SEALING);
    text.push_str(ROUTES);
    text
}

/// Who opens what is sealed. Each recipient has a root key of its own, so that neither opens what is for the other.
const SEALING: &str = r#"
[keys]
directory = "keys/branch"

[keys.roots.haven]
file = "keys/haven.root"

[keys.roots.scanner]
file = "keys/scanner.root"

[recipients.haven]
root = "haven"

[recipients.scanner]
root = "scanner"
"#;

/// A level and a residency are floors: a caller can only raise the one and narrow the other.
const ROUTES: &str = r#"
[[routes]]
name = "chat"
path = "/v1/chat/completions"
infer = { clusters = ["eu", "us"] }
level = "internal"
residency = ["EU", "US"]

[[routes]]
name = "embeddings"
path = "/v1/embeddings"
embed = { clusters = ["eu", "us"] }
level = "internal"
residency = ["EU", "US"]

[[routes]]
name = "chat-us"
path = "/us/v1/chat/completions"
infer = { clusters = ["us"] }
level = "internal"
residency = ["EU", "US"]

[[routes]]
name = "chat-confidential"
path = "/confidential/v1/chat/completions"
infer = { clusters = ["eu"] }
level = "confidential"
residency = ["EU"]

[[routes]]
name = "chat-restricted"
path = "/restricted/v1/chat/completions"
infer = { clusters = ["eu", "haven"] }
level = "restricted"
residency = ["EU"]

[[routes]]
name = "lake"
path = "/lake/*"
store = "lake"

[[routes]]
name = "status"
path = "/status"
service = "status"
identity = "none"
level = "public"
residency = ["EU", "US"]
"#;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn secrets_are_closed_and_a_second_run_replaces_them() {
        let dir = tempfile::tempdir().unwrap();
        for text in ["one", "two"] {
            let files = Files::create(dir.path(), &DIRECTORIES).unwrap();
            files.write_secret("keys/x", text).unwrap();
            assert_eq!(fs::read_to_string(files.at("keys/x")).unwrap(), text);
            assert_eq!(fs::metadata(files.at("keys/x")).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn the_configuration_parses_as_one_of_the_gateway() {
        let any: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let addresses =
            Addresses { data: any, admin: any, eu: any, us: any, lake: any, status: any, haven: any };
        let dir = tempfile::tempdir().unwrap();
        let files = Files::create(dir.path(), &DIRECTORIES).unwrap();
        files.write("tidegate.toml", &config(&addresses, &crate::demo::signature::tests::key())).unwrap();
        crate::config::load(&files.at("tidegate.toml")).unwrap();
    }

    #[test]
    fn the_configuration_is_toml_and_names_every_dataset() {
        let any: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let addresses =
            Addresses { data: any, admin: any, eu: any, us: any, lake: any, status: any, haven: any };
        let text = config(&addresses, &crate::demo::signature::tests::key());
        let value: toml::Table = text.parse().unwrap();
        let datasets = value["stores"]["lake"]["datasets"].as_array().unwrap();
        let ids: Vec<&str> = datasets.iter().map(|dataset| dataset["id"].as_str().unwrap()).collect();
        assert_eq!(ids, ["handbook", "trials", "patients"]);
        assert_eq!(value["routes"].as_array().unwrap().len(), 7);
    }
}
