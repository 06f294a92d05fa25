//! Builds the demo's world in its directory: doubles, certificates, keys, tokens, configuration, and the gateway in front.
//!
//! The only file of the demo that touches the rest of the program.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::Context as _;
use aws_lc_rs::rand;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tower_service::Service as _;

use crate::app::{self, Running};
use crate::audit::reader::Reader;
use crate::model::{Clock as _, SystemClock};
use crate::net::{
    Alpn, Authority, ClientIdentityFiles, ClientTls, ConnectTimes, Connector, Origin, Reach, Subject,
};
use crate::policy::embedded;

use super::cluster::Cluster;
use super::datasets;
use super::double::{self, Answer, Double, Pieces, Seen};
use super::files::{self, Addresses, Files};
use super::issuer::{Issuer, Kind};
use super::signature::SigningKey;
use super::store::Store;
use super::tour::{Border, Stream};

/// The ports that are taken if they are free: data, admin, `eu`, `us`, `lake`, `status`.
const PORTS: [u16; 6] = [8443, 9443, 8480, 8481, 8482, 8483];

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    files: Files,
    addresses: Addresses,
    doubles: BTreeMap<&'static str, Double>,
    tokens: BTreeMap<&'static str, String>,
    policies_edited: bool,
    gateway: Running,
}

impl World {
    /// Writes the directory, starts the doubles, then the gateway.
    ///
    /// # Errors
    /// Something cannot be written or started; the error says what.
    pub(crate) async fn build(dir: &Path) -> anyhow::Result<Self> {
        let files = Files::create(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
        let issuer = Issuer::new()?;
        let tokens = tokens(&issuer)?;
        let store = SigningKey {
            access_key_id: "TIDEGATEDEMO".to_owned(),
            secret: random_text()?,
            region: "eu-demo-1".to_owned(),
        };
        let (eu_key, us_key) = (random_text()?, random_text()?);
        write_files(
            &files,
            &issuer,
            &tokens,
            [
                ("keys/cluster-eu.key", &eu_key),
                ("keys/cluster-us.key", &us_key),
                ("keys/lake.key", &store.secret),
            ],
        )
        .with_context(|| format!("cannot write into `{}`", dir.display()))?;
        certificates(&files).context("cannot make the development certificates")?;
        let policies_edited = policies(&files).context("cannot write the policies")?;

        let [data, admin, eu, us, lake, status] = PORTS;
        let eu = Cluster::new("eu", &eu_key, &["tide-small", "tide-large", "tide-embed"]).start(eu).await?;
        let us = Cluster::new("us", &us_key, &["tide-small", "tide-embed"]).start(us).await?;
        let lake = Double::start(lake, Store::new(files.at("store"), store.clone())).await?;
        let status = Double::start(status, Status).await?;
        let addresses = Addresses {
            data: free(data).await?,
            admin: free(admin).await?,
            eu: eu.address(),
            us: us.address(),
            lake: lake.address(),
            status: status.address(),
        };
        files
            .write("tidegate.toml", &files::config(&addresses, &store))
            .context("cannot write `tidegate.toml`")?;
        let gateway = app::start(&files.at("tidegate.toml")).await?;
        let doubles = BTreeMap::from([("eu", eu), ("us", us), ("lake", lake), ("status", status)]);
        Ok(Self { files, addresses, doubles, tokens, policies_edited, gateway })
    }

    /// The directory.
    pub(crate) const fn files(&self) -> &Files {
        &self.files
    }

    /// Who listens where.
    pub(crate) const fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// Whether a policy file of an earlier run differs from the shipped one, so that the tour may find other decisions.
    pub(crate) const fn policies_edited(&self) -> bool {
        self.policies_edited
    }

    /// Stops the gateway in order, then the doubles.
    pub(crate) async fn end(self) {
        self.gateway.shutdown().await;
    }
}

impl Border for World {
    fn host(&self) -> String {
        format!("localhost:{}", self.addresses.data.port())
    }

    async fn connect(&self, certificate: bool) -> anyhow::Result<Box<dyn Stream>> {
        let identity = ClientIdentityFiles {
            certificate: self.files.at("certs/trainer.pem"),
            key: self.files.at("keys/trainer.key"),
        };
        let identity = certificate.then_some(&identity);
        let tls = ClientTls::load(&self.files.at("certs/ca.pem"), identity, Alpn::Http1)?;
        let uri: Uri = format!("https://{}", self.addresses.data).parse()?;
        let origin = Origin::of(&uri)?;
        let times = ConnectTimes::default();
        let mut connector = Connector::secure(origin, &tls, Some("localhost"), Reach::default(), times)?;
        Ok(Box::new(TokioIo::new(connector.call(uri).await?)))
    }

    fn token(&self, name: &str) -> Option<&str> {
        self.tokens.get(name).map(String::as_str)
    }

    fn arrivals(&self) -> Vec<(&'static str, Seen)> {
        let of = |(name, double): (&&'static str, &Double)| {
            let name = *name;
            double.log().take().into_iter().map(move |seen| (name, seen))
        };
        self.doubles.iter().flat_map(of).collect()
    }

    fn records(&self) -> anyhow::Result<Vec<Value>> {
        records(&self.files.at("journal"))
    }
}

/// A plain HTTP service that is none: a test double with one page.
struct Status;

impl Answer for Status {
    fn answer(&self, _: &Request<Bytes>) -> Response<Pieces> {
        double::text(StatusCode::OK, "text/plain", "the tide is coming in\n")
    }
}

/// The tokens of everybody in the tour, by the name of their file.
fn tokens(issuer: &Issuer) -> anyhow::Result<BTreeMap<&'static str, String>> {
    let people = [
        ("research", "ada", "research", None, Kind::Good),
        ("marketing", "mia", "marketing", None, Kind::Good),
        ("clinical", "cleo", "clinical", None, Kind::Good),
        ("agent", "ada", "research", Some("helper"), Kind::Good),
        ("forged", "ada", "research", None, Kind::Forged),
        ("expired", "ada", "research", None, Kind::Expired),
    ];
    people
        .into_iter()
        .map(|(name, subject, team, agent, kind)| Ok((name, issuer.token(subject, team, agent, kind)?)))
        .collect()
}

fn write_files(
    files: &Files,
    issuer: &Issuer,
    tokens: &BTreeMap<&'static str, String>,
    secrets: [(&str, &String); 3],
) -> std::io::Result<()> {
    files.write("keys/issuer.jwks.json", &issuer.jwks().to_string())?;
    for (name, token) in tokens {
        files.write_secret(&format!("tokens/{name}.jwt"), token)?;
    }
    for (name, secret) in secrets {
        files.write_secret(name, secret)?;
    }
    datasets::seed(&files.at("store"))
}

/// 160 random bits in hexadecimal.
fn random_text() -> anyhow::Result<String> {
    let mut bytes = [0; 20];
    rand::fill(&mut bytes).ok().context("the system's random source failed")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// An address for a listener of the gateway, which binds it itself a moment later.
async fn free(port: u16) -> std::io::Result<SocketAddr> {
    double::listen(port).await?.local_addr()
}

impl Cluster {
    async fn start(self, port: u16) -> std::io::Result<Double> {
        Double::start(port, self).await
    }
}

/// A fresh CA, the gateway's certificate and the training job's.
fn certificates(files: &Files) -> anyhow::Result<()> {
    let authority = Authority::new("Tidegate demo CA", SystemClock.now())?;
    let server = authority.issue(Subject::Server(&["localhost", "127.0.0.1", "::1"]))?;
    let trainer = authority.issue(Subject::Client(files::TRAINER))?;
    files.write("certs/ca.pem", &authority.issued().certificate)?;
    for (name, issued) in [("server", server), ("trainer", trainer)] {
        files.write(&format!("certs/{name}.pem"), &issued.certificate)?;
        let key = issued.key.expose_text().context("a key is not text")?;
        files.write_secret(&format!("keys/{name}.key"), key)?;
    }
    Ok(())
}

/// Adds the shipped policies that are missing; true if one that is there differs from the shipped one.
fn policies(files: &Files) -> std::io::Result<bool> {
    let dir = files.at("policies");
    embedded::write_to(&dir)?;
    for (name, shipped) in embedded::FILES {
        if std::fs::read(dir.join(name))? != shipped.as_bytes() {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Every record of the journal, oldest first.
fn records(journal: &Path) -> anyhow::Result<Vec<Value>> {
    let mut reader = Reader::open(journal, None)?;
    let mut found = Vec::new();
    while let Some(stored) = reader.read_next()? {
        found.push(serde_json::from_slice(stored.payload)?);
    }
    Ok(found)
}
