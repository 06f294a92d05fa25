//! Who and what is believed no longer: token ids, subjects, workloads, keys, from a file that is read while the gateway serves.
//!
//! ```toml
//! [[revoked]]
//! token = "0b9f2c"                                # `jti` of a token; or one of:
//! # subject = "https://login.example|alice"       # issuer and subject of a user
//! # workload = "spiffe://example.org/job"         # SPIFFE or client id, also of whoever shows another's token
//! # key = "build"                                 # id of an API key
//! # credential = "9f86…"                          # as records show it: 64 hexadecimal digits
//! until = "2026-12-01T00:00:00Z"                  # absent: for ever
//! reason = "laptop stolen"                        # for people
//! ```

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwap;
use aws_lc_rs::digest::{SHA256, digest};
use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{Authn, Duration, Principal, PrincipalKind, Problems};

use super::error::IdentityError;
use super::{hex, read_bounded};

/// The largest file, in bytes.
const MAX_FILE_BYTES: u64 = 32 * 1024 * 1024;
/// The most entries; each takes about 150 bytes of memory.
const MAX_ENTRIES: usize = 100_000;
/// The longest id, in bytes: that of a SPIFFE ID.
const MAX_ID_BYTES: usize = 2_048;
/// Problems of one file that are told.
const MAX_TOLD: usize = 20;

/// Where the revocations are.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RevokedSettings {
    /// TOML file with a list `[[revoked]]`, at most 100000 entries; `revoked = []` for none. It must be there.
    pub file: PathBuf,
    /// How often its contents are compared with what is loaded; SIGHUP compares at once.
    #[serde(default = "default_poll")]
    pub poll: Duration,
}

const fn default_poll() -> Duration {
    Duration::secs(1)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    revoked: Vec<toml::Value>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    token: Option<String>,
    subject: Option<String>,
    workload: Option<String>,
    key: Option<String>,
    credential: Option<String>,
    until: Option<Timestamp>,
    #[serde(rename = "reason")]
    _reason: Option<String>,
}

/// What an entry names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Kind {
    Token,
    Subject,
    Workload,
    Key,
    Credential,
}

/// A list that is in force.
#[derive(Debug, Default)]
pub struct Revocations {
    /// Until when, if not for ever, by kind and id; of tokens and keys SHA-256 of the id in hexadecimal, as a principal has it.
    by_kind: HashMap<Kind, HashMap<Box<str>, Option<Timestamp>>>,
    /// How many entries it has.
    pub entries: usize,
    /// SHA-256 of its file, hexadecimal; empty without a file.
    pub hash: Arc<str>,
}

impl Revocations {
    /// Reads a file; everything that is wrong goes into `problems`.
    fn read(path: &Path, problems: &mut Problems) -> Self {
        let name = path.display().to_string();
        let bytes = match read_bounded(path, MAX_FILE_BYTES) {
            Ok(bytes) => bytes,
            Err(error) => {
                let hint =
                    "mend `identity.revoked.file`, or put the file there; `revoked = []` revokes nothing";
                problems.push(name, "", format!("cannot be read: {error}"), hint);
                return Self::default();
            }
        };
        let file: Result<File, String> = std::str::from_utf8(&bytes)
            .map_err(|_| "is not UTF-8".to_owned())
            .and_then(|text| toml::from_str(text).map_err(|error| error.message().to_owned()));
        let file = match file {
            Ok(file) => file,
            Err(message) => {
                problems.push(
                    name,
                    "",
                    message,
                    "write a list `[[revoked]]`; `revoked = []` revokes nothing",
                );
                return Self::default();
            }
        };
        if file.revoked.len() > MAX_ENTRIES {
            let hint = "remove those whose token or certificate has ended";
            problems.push(&name, "revoked", "more than 100000 entries", hint);
        }
        let mut list = Self {
            entries: file.revoked.len(),
            hash: hex(digest(&SHA256, &bytes).as_ref()),
            ..Self::default()
        };
        let mut told = 0;
        for (index, entry) in file.revoked.into_iter().enumerate().take(MAX_ENTRIES) {
            if let Err(message) = list.add(entry) {
                let hint = "name one of `token`, `subject`, `workload`, `key`, `credential`; `until` and `reason` may stand beside";
                problems.push(&name, format!("revoked[{index}]"), message, hint);
                told += 1;
            }
            if told == MAX_TOLD {
                break;
            }
        }
        list
    }

    fn add(&mut self, entry: toml::Value) -> Result<(), String> {
        let entry: Entry = entry.try_into().map_err(|error: toml::de::Error| error.message().to_owned())?;
        let named = [
            (Kind::Token, entry.token),
            (Kind::Subject, entry.subject),
            (Kind::Workload, entry.workload),
            (Kind::Key, entry.key),
            (Kind::Credential, entry.credential),
        ];
        let mut named = named.into_iter().filter_map(|(kind, id)| Some((kind, id?)));
        let (Some((kind, id)), None) = (named.next(), named.next()) else {
            return Err("does not name exactly one thing".to_owned());
        };
        // An entry that can hit nobody looks like one that does.
        let odd = id.trim() != id || id.chars().any(char::is_control);
        if id.is_empty() || id.len() > MAX_ID_BYTES || odd {
            let message =
                "the id is empty, longer than 2048 bytes, or has control characters or spaces around it";
            return Err(message.to_owned());
        }
        let id = match kind {
            Kind::Token | Kind::Key => hex(digest(&SHA256, id.as_bytes()).as_ref()).as_ref().into(),
            Kind::Subject if !id.contains('|') => {
                return Err("`subject` is not written `issuer|subject`".to_owned());
            }
            Kind::Credential if id.len() != 64 || !id.bytes().all(is_lower_hex) => {
                return Err("`credential` is not 64 lower-case hexadecimal digits".to_owned());
            }
            Kind::Subject | Kind::Workload | Kind::Credential => id.into_boxed_str(),
        };
        // Of two entries the longer one counts.
        let until = self.by_kind.entry(kind).or_default().entry(id).or_insert(entry.until);
        *until = until.zip(entry.until).map(|(one, other)| one.max(other));
        Ok(())
    }

    fn has(&self, kind: Kind, id: &str, now: Timestamp) -> bool {
        let until = self.by_kind.get(&kind).and_then(|ids| ids.get(id));
        until.is_some_and(|until| until.is_none_or(|until| now < until))
    }

    /// Whether nothing about the principal is revoked.
    fn judge(&self, principal: &Principal, now: Timestamp) -> Result<(), IdentityError> {
        if self.by_kind.is_empty() {
            return Ok(());
        }
        if let Some(credential) = &principal.credential {
            let by_id = match principal.authn {
                Authn::Jwt => self.has(Kind::Token, credential, now),
                Authn::ApiKey => self.has(Kind::Key, credential, now),
                Authn::Mtls | Authn::Anonymous => false,
            };
            if by_id || self.has(Kind::Credential, credential, now) {
                return Err(IdentityError::CredentialRevoked);
            }
        }
        let kind = match principal.kind {
            PrincipalKind::User => Kind::Subject,
            PrincipalKind::Workload => Kind::Workload,
        };
        let presenting = principal.chain.workload.as_deref();
        if self.has(kind, &principal.id, now)
            || presenting.is_some_and(|id| self.has(Kind::Workload, id, now))
        {
            return Err(IdentityError::PrincipalRevoked);
        }
        Ok(())
    }
}

const fn is_lower_hex(byte: u8) -> bool {
    matches!(byte, b'0'..=b'9' | b'a'..=b'f')
}

/// The list in force, replaceable.
#[derive(Debug, Default)]
pub(super) struct Revoked {
    list: ArcSwap<Revocations>,
    /// Counts the lists.
    version: AtomicU64,
}

impl Revoked {
    /// The list of a file, or an empty one without.
    pub(super) fn new(settings: Option<&RevokedSettings>, problems: &mut Problems) -> Self {
        let list = settings.map(|settings| Revocations::read(&settings.file, problems)).unwrap_or_default();
        Self { list: ArcSwap::from_pointee(list), version: AtomicU64::new(0) }
    }

    /// Takes the file if all of it is sound.
    pub(super) fn read(&self, settings: &RevokedSettings) -> Result<(), Problems> {
        let mut problems = Problems::new();
        let list = Revocations::read(&settings.file, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        self.list.store(Arc::new(list));
        self.version.fetch_add(1, Ordering::Release);
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<Revocations> {
        self.list.load_full()
    }

    /// A number that changes with the list; whoever was judged at this one need not be judged again.
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(super) fn judge(&self, principal: &Principal, now: Timestamp) -> Result<(), IdentityError> {
        self.list.load().judge(principal, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Chain;

    fn read(text: &str) -> Result<Revocations, String> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("revoked.toml");
        std::fs::write(&path, text).unwrap();
        let mut problems = Problems::new();
        let list = Revocations::read(&path, &mut problems);
        if problems.is_empty() { Ok(list) } else { Err(problems.to_string()) }
    }

    fn principal(kind: PrincipalKind, id: &str, authn: Authn, credential: &str) -> Principal {
        Principal {
            kind,
            id: id.into(),
            tenant: "t".parse().unwrap(),
            teams: Vec::new(),
            authn,
            chain: Chain::default(),
            issued_at: None,
            expires_at: None,
            credential: Some(hex(digest(&SHA256, credential.as_bytes()).as_ref())),
        }
    }

    #[test]
    fn each_kind_hits_its_own_and_nothing_else() {
        let user = principal(PrincipalKind::User, "https://i|alice", Authn::Jwt, "x");
        let key = principal(PrincipalKind::Workload, "x", Authn::ApiKey, "x");
        let job = principal(PrincipalKind::Workload, "spiffe://td/job", Authn::Mtls, "cert");
        let mut carried = principal(PrincipalKind::User, "https://i|bob", Authn::Jwt, "y");
        carried.chain.workload = Some("spiffe://td/job".into());
        let all = [&user, &key, &job, &carried];
        let hash = hex(digest(&SHA256, b"cert").as_ref());
        for (entry, hits) in [
            ("token = 'x'", [true, false, false, false]),
            ("key = 'x'", [false, true, false, false]),
            ("workload = 'x'", [false, true, false, false]),
            ("subject = 'https://i|alice'", [true, false, false, false]),
            ("subject = 'https://i|spiffe://td/job'", [false; 4]),
            ("workload = 'spiffe://td/job'", [false, false, true, true]),
            (format!("credential = '{hash}'").as_str(), [false, false, true, false]),
        ] {
            let list = read(&format!("[[revoked]]\n{entry}\nreason = 'r'\n")).unwrap();
            let now = Timestamp::UNIX_EPOCH;
            assert_eq!(all.map(|principal| list.judge(principal, now).is_err()), hits, "{entry}");
        }
    }

    #[test]
    fn an_entry_ends_and_the_longer_of_two_counts() {
        let user = principal(PrincipalKind::User, "https://i|alice", Authn::Jwt, "x");
        let at = |second| Timestamp::from_second(second).unwrap();
        let entry = |until: &str| format!("[[revoked]]\ntoken = 'x'\nuntil = '{until}'\n");
        let short = entry("1970-01-01T00:00:10Z");
        let list = read(&short).unwrap();
        assert!(list.judge(&user, at(9)).is_err() && list.judge(&user, at(10)).is_ok());
        let list = read(&format!("{}{short}", entry("1970-01-01T00:00:20Z"))).unwrap();
        assert!(list.judge(&user, at(19)).is_err() && list.judge(&user, at(20)).is_ok());
        let list = read(&format!("[[revoked]]\ntoken = 'x'\n{short}")).unwrap();
        assert!(list.judge(&user, at(1_000_000)).is_err());
    }

    #[test]
    fn the_manual_shows_a_list_that_is_read() {
        let page = std::fs::read_to_string("docs/operations.md").unwrap();
        let (_, list) = page.split_once("```text\n# revoked.toml").unwrap();
        assert_eq!(read(&format!("#{}", list.split("```").next().unwrap())).unwrap().entries, 5);
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for (text, problem) in [
            ("", "revoked"),
            ("revoke = []", "unknown field"),
            ("[[revoked]]\n", "exactly one"),
            ("[[revoked]]\ntoken = 'a'\nkey = 'b'\n", "exactly one"),
            ("[[revoked]]\ntokne = 'a'\n", "unknown field"),
            ("[[revoked]]\ntoken = ''\n", "empty"),
            ("[[revoked]]\nsubject = 'https://i|alice '\n", "spaces around"),
            ("[[revoked]]\nsubject = 'alice'\n", "issuer|subject"),
            ("[[revoked]]\ncredential = 'abc'\n", "hexadecimal"),
            ("[[revoked]]\ntoken = 'a'\nuntil = 'tomorrow'\n", "revoked[0]"),
            ("[[revoked]]\ntoken = 'a'\n[[revoked]]\nkey = 7\n", "revoked[1]"),
        ] {
            let found = read(text).unwrap_err();
            assert!(found.contains(problem), "{text}: {found}");
        }
        assert_eq!(read("revoked = []").unwrap().entries, 0);
    }
}
