//! Builds the demo's world in its directory: doubles, certificates, keys, tokens, configuration, and the gateway in front.
//!
//! With `far`, `job` and `wiretap` the only file of the demo that touches the rest of the program.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use aws_lc_rs::rand;
use bytes::Bytes;
use http::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tower_service::Service as _;
use zeroize::Zeroizing;

use crate::app::{self, Running};
use crate::audit::reader::Reader;
use crate::audit::tree::note::VerifierKey;
use crate::audit::verify::{Report, whole};
use crate::config;
use crate::model::{Clock as _, SystemClock};
use crate::net::{
    Alpn, Authority, ClientIdentityFiles, ClientTls, ConnectTimes, Connector, Origin, Reach, Subject,
};
use crate::policy::embedded;
use crate::protect::keys::{Direction, Keys, Limits, Scope, make_root_files};

use super::cluster::Cluster;
use super::datasets;
use super::double::{self, Answer, Double, Pieces, Seen};
use super::far;
use super::files::{self, Addresses, Files};
use super::issuer::{Issuer, Kind, TENANT};
use super::job;
use super::signature::SigningKey;
use super::store::Store;
use super::tour::{Border, Stream};
use super::wiretap::{Passed, Wiretap};

/// The ports that are taken if they are free. Of the gateways: data and admin; of the others the one that they have.
mod port {
    pub(super) const BORDER: [u16; 2] = [8443, 9443];
    pub(super) const FAR: [u16; 2] = [8444, 9444];
    pub(super) const EU: u16 = 8480;
    pub(super) const US: u16 = 8481;
    pub(super) const LAKE: u16 = 8482;
    pub(super) const STATUS: u16 = 8483;
    pub(super) const WIRETAP: u16 = 8484;
    pub(super) const HAVEN: u16 = 8485;
}

/// The branch key that the scan job has, as a file.
const JOB_KEY: &str = "keys/scanner-answer.key";

/// The longest wait for the checkpoint that covers the tour; the gateway signs within a second.
const SIGNED_WITHIN: Duration = Duration::from_secs(3);

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct World {
    files: Files,
    addresses: Addresses,
    doubles: BTreeMap<&'static str, Double>,
    wiretap: Wiretap,
    tokens: BTreeMap<&'static str, String>,
    policies_edited: bool,
    far: Running,
    gateway: Running,
}

impl World {
    /// Writes the directory, starts the doubles, then the gateways.
    ///
    /// # Errors
    /// Something cannot be written or started; the error says what.
    pub(crate) async fn build(dir: &Path) -> anyhow::Result<Self> {
        let files = Files::create(dir, &files::DIRECTORIES);
        let files = files.with_context(|| format!("cannot make `{}`", dir.display()))?;
        let far_files = far::create(&files).context("cannot make the far side's directory")?;
        let issuer = Issuer::new()?;
        let tokens = tokens(&issuer)?;
        let secrets = Secrets::new()?;
        write_files(&files, &issuer, &tokens, &secrets)
            .and_then(|()| far_files.write_secret("keys/cluster.key", &secrets.haven))
            .with_context(|| format!("cannot write into `{}`", dir.display()))?;
        certificates(&files, &far_files).context("cannot make the development certificates")?;
        let policies_edited = policies(&files).context("cannot write the policies")?;

        let doubles = doubles(&files, &secrets).await?;
        let far = [free(port::FAR[0]).await?, free(port::FAR[1]).await?];
        let wiretap = wiretap(&files, far[0]).await?;
        let addresses = addresses(&doubles, &wiretap).await?;
        let text = files::config(&addresses, &secrets.lake);
        files.write("tidegate.toml", &text).context("cannot write `tidegate.toml`")?;
        let keys = branch_keys(&files).await.context("cannot make the keys that seal")?;
        let far = far_side(&far_files, far, address(&doubles, "haven"), &keys, &files).await;
        let far = far.context("the gateway before `haven` does not start")?;
        let gateway = app::start(&files.at("tidegate.toml")).await?;
        Ok(Self { files, addresses, doubles, wiretap, tokens, policies_edited, far, gateway })
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

    /// Checks the journal as `tidegate audit verify` does, when all of it is signed or three seconds are over.
    ///
    /// # Errors
    /// The journal or its key cannot be read.
    pub(crate) async fn verified(&self) -> anyhow::Result<Report> {
        let journal = self.files.at("journal");
        let key: VerifierKey = std::fs::read_to_string(journal.join("tree/vkey"))?.parse()?;
        let deadline = Instant::now() + SIGNED_WITHIN;
        loop {
            let report = whole::check(&journal, Some(&key), None, &AtomicU64::new(0))?;
            if report.unsigned == 0 || !report.is_good() || Instant::now() > deadline {
                return Ok(report);
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Stops the gateways in order, then the doubles.
    pub(crate) async fn end(self) {
        self.gateway.shutdown().await;
        self.far.shutdown().await;
    }
}

impl Border for World {
    fn host(&self) -> String {
        format!("localhost:{}", self.addresses.data.port())
    }

    async fn connect(&self, certificate: Option<&str>) -> anyhow::Result<Box<dyn Stream>> {
        let identity = certificate.map(|name| identity(&self.files, name));
        let tls = ClientTls::load(&self.files.at("certs/ca.pem"), identity.as_ref(), Alpn::Http1)?;
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

    fn passed(&self) -> Passed {
        self.wiretap.passed()
    }

    fn open_as_job(&self, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let key = Zeroizing::new(std::fs::read(self.files.at(JOB_KEY))?);
        job::open(key.as_slice().try_into()?, sealed)
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

/// What the gateways prove themselves with to what stands behind them.
struct Secrets {
    eu: String,
    us: String,
    haven: String,
    lake: SigningKey,
}

impl Secrets {
    fn new() -> anyhow::Result<Self> {
        let lake = SigningKey {
            access_key_id: "TIDEGATEDEMO".to_owned(),
            secret: random_text()?,
            region: "eu-demo-1".to_owned(),
        };
        Ok(Self { eu: random_text()?, us: random_text()?, haven: random_text()?, lake })
    }
}

fn write_files(
    files: &Files,
    issuer: &Issuer,
    tokens: &BTreeMap<&'static str, String>,
    secrets: &Secrets,
) -> std::io::Result<()> {
    files.write("keys/issuer.jwks.json", &issuer.jwks().to_string())?;
    for (name, token) in tokens {
        files.write_secret(&format!("tokens/{name}.jwt"), token)?;
    }
    files.write_secret("keys/cluster-eu.key", &secrets.eu)?;
    files.write_secret("keys/cluster-us.key", &secrets.us)?;
    files.write_secret("keys/lake.key", &secrets.lake.secret)?;
    datasets::seed(&files.at("store"))
}

async fn doubles(files: &Files, secrets: &Secrets) -> std::io::Result<BTreeMap<&'static str, Double>> {
    let eu = Cluster::new("eu", &secrets.eu, &["tide-small", "tide-large", "tide-embed"]);
    let us = Cluster::new("us", &secrets.us, &["tide-small", "tide-embed"]);
    let haven = Cluster::new("haven", &secrets.haven, &["tide-small"]);
    Ok(BTreeMap::from([
        ("eu", eu.start(port::EU).await?),
        ("us", us.start(port::US).await?),
        ("haven", haven.start(port::HAVEN).await?),
        ("lake", Double::start(port::LAKE, Store::new(files.at("store"), secrets.lake.clone())).await?),
        ("status", Double::start(port::STATUS, Status).await?),
    ]))
}

/// Where a double listens.
fn address(doubles: &BTreeMap<&'static str, Double>, name: &str) -> SocketAddr {
    doubles.get(name).map_or_else(|| (Ipv4Addr::LOCALHOST, 0).into(), Double::address)
}

async fn addresses(
    doubles: &BTreeMap<&'static str, Double>,
    wiretap: &Wiretap,
) -> std::io::Result<Addresses> {
    Ok(Addresses {
        data: free(port::BORDER[0]).await?,
        admin: free(port::BORDER[1]).await?,
        eu: address(doubles, "eu"),
        us: address(doubles, "us"),
        lake: address(doubles, "lake"),
        status: address(doubles, "status"),
        haven: wiretap.address(),
    })
}

/// The certificate of a client in the demo's directory.
fn identity(files: &Files, name: &str) -> ClientIdentityFiles {
    ClientIdentityFiles {
        certificate: files.at(&format!("certs/{name}.pem")),
        key: files.at(&format!("keys/{name}.key")),
    }
}

async fn wiretap(files: &Files, far: SocketAddr) -> anyhow::Result<Wiretap> {
    let tls = ClientTls::load(&files.at("certs/ca.pem"), Some(&identity(files, "border")), Alpn::Http1)?;
    let uri: Uri = format!("https://{far}").parse()?;
    let (reach, times) = (Reach::default(), ConnectTimes::default());
    let connector = Connector::secure(Origin::of(&uri)?, &tls, Some("localhost"), reach, times)?;
    Ok(Wiretap::start(port::WIRETAP, connector, uri).await?)
}

/// Makes the keys that are missing, as `tidegate keys init` does, and hands the scan job its own.
async fn branch_keys(files: &Files) -> anyhow::Result<Keys> {
    let keys = keys_of(files)?;
    let tenants = BTreeSet::from([TENANT.parse()?]);
    keys.make_missing(&tenants, |_| true).await?;
    let scope =
        Scope { tenant: TENANT.parse()?, recipient: "scanner".parse()?, direction: Direction::Answer };
    let (name, _) = keys.store().active(&scope)?.context("there is no key for the scan job")?;
    files.write_secret(JOB_KEY, keys.export(&name).await?.as_slice())?;
    Ok(keys)
}

/// The keys of the configuration in a directory, and its root keys if they are missing.
fn keys_of(files: &Files) -> anyhow::Result<Keys> {
    let file = files.at("tidegate.toml");
    let config = config::load(&file).map_err(|problems| anyhow::anyhow!("{problems}"))?;
    let settings = config.file.keys.as_ref().context("there is no `[keys]`")?;
    make_root_files(settings)?;
    let (recipients, clock) = (&config.file.recipients, Arc::new(SystemClock));
    Keys::with_limits(settings, recipients, &config.name, clock, Limits::COMMAND)
        .map_err(|problems| anyhow::anyhow!("{problems}"))
}

async fn far_side(
    files: &Files,
    [data, admin]: [SocketAddr; 2],
    cluster: SocketAddr,
    border_keys: &Keys,
    border: &Files,
) -> anyhow::Result<Running> {
    files.write("tidegate.toml", &far::config(data, admin, cluster))?;
    far::hand_root(border, files)?;
    far::hand_keys(border_keys, &keys_of(files)?)?;
    Ok(app::start(&files.at("tidegate.toml")).await?)
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

/// A fresh CA, and of it the certificates of both gateways, of the border as a client, and of the jobs.
fn certificates(files: &Files, far: &Files) -> anyhow::Result<()> {
    let authority = Authority::new("Tidegate demo CA", SystemClock.now())?;
    let server = || authority.issue(Subject::Server(&["localhost", "127.0.0.1", "::1"]));
    let client = |id| authority.issue(Subject::Client(id));
    for (files, name, issued) in [
        (files, "server", server()?),
        (far, "server", server()?),
        (files, "border", client(far::BORDER)?),
        (files, "trainer", client(files::TRAINER)?),
        (files, "scanner", client(files::SCANNER)?),
    ] {
        files.write("certs/ca.pem", &authority.issued().certificate)?;
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
