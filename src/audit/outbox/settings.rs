//! `[audit.export.NAME]`: where records go besides the journal, and how they are sent.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::headers;
use crate::model::{ByteSize, Duration, Problems};
use crate::net::{Alpn, ClientIdentityFiles, ClientTls, Origin};

/// Most destinations: each has a thread and a batch in memory.
const MAX_DESTINATIONS: usize = 8;
const MAX_RECORDS: usize = 4096;
const MIN_BYTES: u64 = 64 << 10;
const MAX_BYTES: u64 = 8 << 20;

/// The name of a destination, which is also that of its folder in the journal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DestinationName(String);

impl DestinationName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A text that is no name of a destination.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no name of a destination: use 1 to 40 of `a-z 0-9 -`, beginning with a letter or digit")]
pub struct InvalidDestination(String);

impl FromStr for DestinationName {
    type Err = InvalidDestination;

    fn from_str(text: &str) -> Result<Self, InvalidDestination> {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        if text.bytes().next().is_some_and(known)
            && text.len() <= 40
            && text.bytes().all(|byte| known(byte) || byte == b'-')
        {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidDestination(text.chars().take(60).collect()))
    }
}

impl fmt::Display for DestinationName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Serialize for DestinationName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for DestinationName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for DestinationName {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "DestinationName".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[a-z0-9][a-z0-9-]{0,39}$" })
    }
}

/// One destination: an OTLP/HTTP collector that gets every record as a log record, at least once.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ExportSettings {
    /// Base URL of an OTLP/HTTP collector (`https://collector.example:4318`); `/v1/logs` is appended. `http` only on this machine.
    pub endpoint: String,
    /// File of headers to send, one `name: value` a line, mode 0600: tokens of the collector. Read again after each failure. Absent: no headers of its own.
    #[serde(default)]
    pub headers_file: Option<PathBuf>,
    /// CA certificate (PEM) that signed the collector's certificate; required for `https://`, absent for `http://`.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// Certificate (PEM) that we show to the collector; with `client_key`. Read again after each failure. Absent: none is shown.
    #[serde(default)]
    pub client_certificate: Option<PathBuf>,
    /// Its private key, mode 0600. Absent: see `client_certificate`.
    #[serde(default)]
    pub client_key: Option<PathBuf>,
    /// How requests are compressed: `none` or `gzip`, which every collector must take by the OTLP specification, and which costs a few milliseconds of a core a request.
    #[serde(default)]
    pub compression: Compression,
    /// Whether segments of the journal are kept until this destination has acknowledged their records.
    #[serde(default = "ExportSettings::default_required")]
    pub required: bool,
    /// Most records of one request, 1 to 4096.
    #[serde(default = "ExportSettings::default_records")]
    pub batch_records: usize,
    /// Most bytes of the records of one request, `64KiB` to `8MiB`.
    #[serde(default = "ExportSettings::default_bytes")]
    pub batch_bytes: ByteSize,
    /// How long records are collected when there are too few for a whole request.
    #[serde(default = "ExportSettings::default_delay")]
    pub delay: Duration,
    /// Time for one request and its answer, `1s` to `5m`.
    #[serde(default = "ExportSettings::default_timeout")]
    pub timeout: Duration,
    /// The longest wait between two attempts, `100ms` to `1h`; waits begin at a tenth of a second and double.
    #[serde(default = "ExportSettings::default_retry")]
    pub retry_max: Duration,
}

/// How the body of a request is encoded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// As it is.
    #[default]
    None,
    /// `content-encoding: gzip`.
    Gzip,
}

impl ExportSettings {
    const fn default_required() -> bool {
        true
    }

    const fn default_records() -> usize {
        512
    }

    const fn default_bytes() -> ByteSize {
        ByteSize::mib(1)
    }

    const fn default_delay() -> Duration {
        Duration::secs(1)
    }

    const fn default_timeout() -> Duration {
        Duration::secs(10)
    }

    const fn default_retry() -> Duration {
        Duration::secs(60)
    }

    /// The certificate to show, if there is one.
    pub(super) fn identity(&self) -> Option<ClientIdentityFiles> {
        let (certificate, key) = (self.client_certificate.clone()?, self.client_key.clone()?);
        Some(ClientIdentityFiles { certificate, key })
    }

    /// Everything that is wrong with these settings; `place` is where they stand in `file`.
    pub(super) fn check(&self, file: &str, place: &str, problems: &mut Problems) {
        let mut note = |key: &str, message: String, hint: &str| {
            problems.push(file, format!("{place}.{key}"), message, hint);
        };
        let origin = Origin::parse(&self.endpoint);
        match &origin {
            Err(_) => note(
                "endpoint",
                format!("`{}` is no URL of a collector", self.endpoint),
                "write for example `https://collector.example:4318`",
            ),
            Ok(origin) if origin.secure && self.ca.is_none() => note(
                "ca",
                "is missing: an `https` collector needs the authorities that are trusted for it".to_owned(),
                "name a PEM file; system roots are not used",
            ),
            Ok(origin) if !origin.secure && !origin.host.is_loopback() => note(
                "endpoint",
                format!("`{}` would carry records in the clear off this machine", self.endpoint),
                "use `https`",
            ),
            Ok(_) => {}
        }
        match (&self.client_certificate, &self.client_key) {
            (Some(_), None) => {
                note("client_key", "is missing".to_owned(), "name the private key of `client_certificate`");
            }
            (None, Some(_)) => {
                note(
                    "client_certificate",
                    "is missing".to_owned(),
                    "name the certificate that `client_key` belongs to",
                );
            }
            _ => {}
        }
        if let Some(ca) = &self.ca
            && let Err(error) = ClientTls::load(ca, self.identity().as_ref(), Alpn::Http1)
        {
            note("ca", error.describe(), error.hint());
        }
        if let Some(path) = &self.headers_file
            && let Err(error) = headers::load(path)
        {
            note("headers_file", error.to_string(), error.hint());
        }
        self.check_bounds(&mut note);
    }

    fn check_bounds(&self, note: &mut impl FnMut(&str, String, &str)) {
        if !(1..=MAX_RECORDS).contains(&self.batch_records) {
            note("batch_records", format!("{} is out of range", self.batch_records), "use 1 to 4096");
        }
        if !(MIN_BYTES..=MAX_BYTES).contains(&self.batch_bytes.get()) {
            note(
                "batch_bytes",
                format!("`{}` is out of range", self.batch_bytes),
                "use `64KiB` to `8MiB`: a record has up to 32 KiB",
            );
        }
        let mut within = |key: &str, value: Duration, (least, most): (Duration, Duration)| {
            if value < least || value > most {
                let hint = format!("use `{least}` to `{most}`");
                note(key, format!("`{value}` is out of range"), &hint);
            }
        };
        within("delay", self.delay, (Duration::millis(10), Duration::secs(60)));
        within("timeout", self.timeout, (Duration::secs(1), Duration::secs(300)));
        within("retry_max", self.retry_max, (Duration::millis(100), Duration::secs(3600)));
    }
}

/// Everything that is wrong with the destinations of a journal.
pub(crate) fn check<'a>(
    destinations: impl ExactSizeIterator<Item = (&'a DestinationName, &'a ExportSettings)>,
    file: &str,
    place: &str,
) -> Problems {
    let mut problems = Problems::new();
    if destinations.len() > MAX_DESTINATIONS {
        let message = format!("{} destinations are too many", destinations.len());
        let hint = format!("use at most {MAX_DESTINATIONS}: a collector can pass records on");
        problems.push(file, place, message, hint);
    }
    for (name, settings) in destinations {
        settings.check(file, &format!("{place}.{name}"), &mut problems);
    }
    problems
}

/// Makes the paths relative to a folder.
pub(crate) fn resolve(settings: &mut ExportSettings, base: &Path) {
    let paths = [
        &mut settings.headers_file,
        &mut settings.ca,
        &mut settings.client_certificate,
        &mut settings.client_key,
    ];
    for path in paths.into_iter().flatten() {
        *path = base.join(&*path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let settings: ExportSettings = toml::from_str(text).unwrap();
        let name: DestinationName = "backend".parse().unwrap();
        check([(&name, &settings)].into_iter(), "t.toml", "audit.export")
            .iter()
            .map(|problem| format!("{}: {}", problem.place, problem.message))
            .collect()
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        assert_eq!(problems("endpoint = \"http://127.0.0.1:4318\""), Vec::<String>::new());
        assert_eq!(
            problems("endpoint = \"http://127.0.0.1:4318\"\ncompression = \"gzip\""),
            Vec::<String>::new()
        );
        let wrong = "endpoint = \"http://localhost\"\ncompression = \"zstd\"";
        let error = toml::from_str::<ExportSettings>(wrong).unwrap_err().to_string();
        assert!(error.contains("`none` or `gzip`"), "{error}");
        for (text, says) in [
            ("endpoint = \"collector\"", "audit.export.backend.endpoint: `collector` is no URL"),
            ("endpoint = \"http://collector.example\"", "endpoint: `http://collector.example` would carry"),
            ("endpoint = \"https://collector.example\"", "audit.export.backend.ca: is missing"),
            ("endpoint = \"http://localhost\"\nclient_key = \"k\"", "client_certificate: is missing"),
            ("endpoint = \"http://localhost\"\nclient_certificate = \"k\"", "client_key: is missing"),
            (
                "endpoint = \"http://localhost\"\nheaders_file = \"/none\"",
                "headers_file: secret file `/none`",
            ),
            ("endpoint = \"https://localhost\"\nca = \"/none\"", "audit.export.backend.ca: "),
            ("endpoint = \"http://localhost\"\nbatch_records = 0", "batch_records: 0 is out of range"),
            ("endpoint = \"http://localhost\"\nbatch_bytes = \"1KiB\"", "batch_bytes: `1KiB` is out"),
            ("endpoint = \"http://localhost\"\ntimeout = \"10ms\"", "timeout: `10ms` is out of range"),
            ("endpoint = \"http://localhost\"\nretry_max = \"2h\"", "retry_max: `2h` is out of range"),
            ("endpoint = \"http://localhost\"\ndelay = \"2m\"", "delay: `2m` is out of range"),
        ] {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].contains(says), "{text}: {found:?}");
        }
    }

    #[test]
    fn a_name_is_a_folder_and_nothing_else() {
        for name in ["backend", "otel-2", "0"] {
            assert_eq!(name.parse::<DestinationName>().unwrap().as_str(), name);
        }
        for wrong in ["", "..", "a/b", "-a", "A", "a.b", "ä", &"a".repeat(41)] {
            assert!(wrong.parse::<DestinationName>().is_err(), "{wrong}");
        }
    }
}
