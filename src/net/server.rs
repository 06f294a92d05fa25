//! A server's TLS: its files, the configuration made of them, and how one follows another while connections live.
//!
//! Whom a connection trusted when it was made is a *generation*. New authorities or revocation lists begin a new one, with new
//! session tickets and stores, so that nobody resumes past them; connections of the old one learn of it and are drained by the
//! listener. A new certificate alone begins none: old connections go on.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{Context, SHA256};
use jiff::Timestamp;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use tokio::sync::watch;

use super::certificate::{read_chain, read_key};
use super::crl::{self, Crl, StaleCrl};
use super::tls::{ClientAuth, H2, HTTP1, TlsError, VERSIONS, provider, roots};

/// The files behind a server's TLS configuration.
#[derive(Debug, Clone)]
pub struct ServerTlsFiles {
    /// The certificate, then the intermediates.
    pub certificate: PathBuf,
    /// The private key, mode 0600.
    pub key: PathBuf,
    /// Whether clients must show a certificate.
    pub client_auth: ClientAuth,
    /// The authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// Revocation lists of these authorities. With any, a certificate whose issuer has none is refused.
    pub crl: Vec<PathBuf>,
    /// What an old revocation list does.
    pub stale_crl: StaleCrl,
}

impl ServerTlsFiles {
    /// Everything that keeps these files from being used at `now`, each with the setting that it belongs to.
    #[must_use]
    pub fn problems(&self, now: Timestamp) -> Vec<(&'static str, TlsError)> {
        let mut wrong = Vec::new();
        let mut note = |setting, error: Option<TlsError>| wrong.extend(error.map(|error| (setting, error)));
        note("certificate", read_chain(&self.certificate).err().map(TlsError::from));
        note("key", read_key(&self.key).err().map(TlsError::from));
        match (self.client_auth, &self.client_ca) {
            (ClientAuth::Off, None) => {}
            (ClientAuth::Off, Some(_)) => note("client_ca", Some(TlsError::UnusedClientCa)),
            (_, None) => note("client_ca", Some(TlsError::NoClientCa)),
            (_, Some(path)) => note("client_ca", roots(path).err()),
        }
        if self.client_auth == ClientAuth::Off && !self.crl.is_empty() {
            note("crl", Some(TlsError::UnusedCrl));
        }
        for path in &self.crl {
            note("crl", self.lists(path, now).err());
        }
        if wrong.is_empty() {
            // Each file is sound; whether they fit together shows only now.
            wrong.extend(Serving::read(self, now, 0).err().map(|error| ("key", error)));
        }
        wrong
    }

    /// SHA-256 over the contents of all files; a file that cannot be read counts as such.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        let mut all = vec![&self.certificate, &self.key];
        all.extend(self.of_trust());
        hash(&all)
    }

    /// The files that may be shown, by setting; the key is none of them.
    pub fn public(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        let certificate = ("certificate", self.certificate.as_path());
        let ca = self.client_ca.iter().map(|path| ("client_ca", path.as_path()));
        std::iter::once(certificate).chain(ca).chain(self.crl.iter().map(|path| ("crl", path.as_path())))
    }

    fn of_trust(&self) -> Vec<&PathBuf> {
        self.client_ca.iter().chain(&self.crl).collect()
    }

    fn lists(&self, path: &Path, now: Timestamp) -> Result<Vec<Crl>, TlsError> {
        let lists = crl::read(path)?;
        lists.iter().try_for_each(|crl| crl.check(path, self.stale_crl, now))?;
        Ok(lists)
    }
}

/// Each file goes in with its length, so that two files are never another two.
fn hash(files: &[&PathBuf]) -> [u8; 32] {
    let mut context = Context::new(&SHA256);
    for path in files {
        match std::fs::read(path) {
            Ok(bytes) => {
                context.update(&u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
                context.update(&bytes);
            }
            Err(error) => context.update(format!("{:?}", error.kind()).as_bytes()),
        }
    }
    let mut bytes = [0; 32];
    bytes.copy_from_slice(context.finish().as_ref());
    bytes
}

/// What a reload changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsChange {
    /// The certificate or key alone: connections go on.
    Certificate,
    /// Whom we trust: a new generation, and connections of the old one are drained.
    Trust,
}

/// A server's TLS configuration, replaceable while it serves. Clones share it.
#[derive(Debug, Clone)]
pub struct ServerTls(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    current: ArcSwap<Serving>,
    generation: watch::Sender<u64>,
}

/// One configuration of a server.
#[derive(Debug)]
pub(crate) struct Serving {
    /// For the next handshake.
    pub(crate) config: Arc<ServerConfig>,
    /// Counts the changes of whom we trust.
    pub(crate) generation: u64,
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    trust: Trust,
    /// SHA-256 over all files.
    contents: [u8; 32],
}

/// Whom a configuration trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Trust {
    /// SHA-256 over the files of authorities and revocation lists.
    contents: [u8; 32],
    /// When the first of the lists becomes too old to count, if it does.
    ends: Option<Timestamp>,
    /// Whether that was so already.
    ended: bool,
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// A file is missing, malformed or open to others, key and certificate differ, the client authorities are missing, or a
    /// revocation list is too old.
    pub fn load(files: &ServerTlsFiles, now: Timestamp) -> Result<Self, TlsError> {
        for path in &files.crl {
            files.lists(path, now)?;
        }
        let current = ArcSwap::from_pointee(Serving::read(files, now, 0)?);
        Ok(Self(Arc::new(Shared { current, generation: watch::Sender::new(0) })))
    }

    /// Reads the files again; connections made from now on use them, and no ticket of the old configuration resumes.
    ///
    /// # Errors
    /// As [`ServerTls::load`]; the old configuration then stays. But revocation lists that have become too old since they were read
    /// ([`ServerTls::is_outdated`]) are no error: they refuse every client from now on.
    pub fn reload(&self, files: &ServerTlsFiles, now: Timestamp) -> Result<TlsChange, TlsError> {
        let old = self.0.current.load_full();
        if hash(&files.of_trust()) != old.trust.contents {
            for path in &files.crl {
                files.lists(path, now)?;
            }
        }
        let mut new = Serving::read(files, now, old.generation)?;
        let changed = new.trust != old.trust;
        new.generation = old.generation.saturating_add(u64::from(changed));
        let generation = new.generation;
        self.0.current.store(Arc::new(new));
        if changed {
            self.0.generation.send_replace(generation);
            return Ok(TlsChange::Trust);
        }
        Ok(TlsChange::Certificate)
    }

    /// [`ServerTlsFiles::content_hash`] of the files that were read.
    #[must_use]
    pub fn content_hash(&self) -> [u8; 32] {
        self.0.current.load().contents
    }

    /// Whether a revocation list has become too old since the files were read.
    #[must_use]
    pub fn is_outdated(&self, now: Timestamp) -> bool {
        let trust = self.0.current.load().trust;
        !trust.ended && trust.ends.is_some_and(|end| now >= end)
    }

    /// The configuration for the next handshake.
    pub(crate) fn current(&self) -> Arc<Serving> {
        self.0.current.load_full()
    }

    /// The generation that connections are now made in.
    pub(crate) fn generations(&self) -> watch::Receiver<u64> {
        self.0.generation.subscribe()
    }

    /// Whether a client with this chain (leaf first; empty: it showed none) would still be let in. Without the proof of possession,
    /// which the connection has given.
    pub(crate) fn trusts(&self, chain: &[CertificateDer<'_>]) -> bool {
        let current = self.0.current.load();
        match (chain.split_first(), &current.verifier) {
            (None, _) => true,
            (Some(_), None) => false,
            (Some((leaf, intermediates)), Some(verifier)) => {
                verifier.verify_client_cert(leaf, intermediates, UnixTime::now()).is_ok()
            }
        }
    }
}

impl Serving {
    fn read(files: &ServerTlsFiles, now: Timestamp, generation: u64) -> Result<Self, TlsError> {
        // Before the files are read: if they change meanwhile, the next look finds another hash.
        let (all, contents) = (files.content_hash(), hash(&files.of_trust()));
        let mut lists = Vec::new();
        for path in &files.crl {
            lists.extend(crl::read(path)?);
        }
        let dates = lists.iter().filter_map(|crl| crl.next_update);
        let ends = dates.min().filter(|_| files.stale_crl == StaleCrl::Deny);
        let trust = Trust { contents, ends, ended: ends.is_some_and(|end| now >= end) };
        let verifier = verifier(files, lists)?;
        let builder = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_protocol_versions(VERSIONS)
            .map_err(TlsError::Provider)?;
        let builder = match &verifier {
            None => builder.with_no_client_auth(),
            Some(verifier) => builder.with_client_cert_verifier(Arc::clone(verifier)),
        };
        let mut config = builder
            .with_single_cert(read_chain(&files.certificate)?, read_key(&files.key)?)
            .map_err(|source| TlsError::Identity { path: files.certificate.clone(), source })?;
        config.alpn_protocols = vec![H2.to_vec(), HTTP1.to_vec()];
        // A resumed session is not verified again: each configuration has its own tickets and its own store.
        config.ticketer = Ticketer::new().map_err(TlsError::Provider)?;
        // A client resumes with one; each more is a derivation and a record in every handshake.
        config.send_tls13_tickets = 1;
        config.max_early_data_size = 0;
        Ok(Self { config: Arc::new(config), generation, verifier, trust, contents: all })
    }
}

fn verifier(
    files: &ServerTlsFiles,
    lists: Vec<Crl>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, TlsError> {
    let (wanted, path) = match (files.client_auth, &files.client_ca) {
        (ClientAuth::Off, None) if files.crl.is_empty() => return Ok(None),
        (ClientAuth::Off, None) => return Err(TlsError::UnusedCrl),
        (ClientAuth::Off, Some(_)) => return Err(TlsError::UnusedClientCa),
        (_, None) => return Err(TlsError::NoClientCa),
        (wanted, Some(path)) => (wanted, path),
    };
    let mut builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots(path)?), Arc::new(provider()));
    if wanted == ClientAuth::Optional {
        builder = builder.allow_unauthenticated();
    }
    // rustls denies by default what no list speaks of, and looks at the whole chain.
    builder = builder.with_crls(lists.into_iter().map(|crl| crl.der));
    if files.stale_crl == StaleCrl::Deny {
        builder = builder.enforce_revocation_expiration();
    }
    builder.build().map(Some).map_err(|source| TlsError::Verifier { path: path.clone(), source })
}
