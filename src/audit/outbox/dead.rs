//! Records that a destination refuses for good: set aside beside the cursor, one a line, so that the others go on.
//!
//! They are still in the journal; this file says which the backend lacks and why, and holds a copy to send by other means.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use opentelemetry_proto::tonic::common::v1::any_value::Value;
use serde::Serialize;
use serde_json::value::RawValue;

use super::message::Message;
use crate::audit::keys::make_directory;

/// Beyond this size a line says which record it is, without the record.
const MAX_WHOLE: u64 = 64 << 20;

/// One line.
#[derive(Debug, Serialize)]
struct Line<'a> {
    seq: u64,
    status: u16,
    reason: &'a str,
    at: jiff::Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<&'a RawValue>,
}

/// The dead-letter file of a destination.
#[derive(Debug)]
pub(super) struct DeadLetters {
    path: PathBuf,
}

impl DeadLetters {
    pub(super) const fn new(path: PathBuf) -> Self {
        Self { path }
    }

    /// Sets a record aside; it is on the disk when this returns.
    ///
    /// # Errors
    /// It cannot be written.
    pub(super) fn keep(&self, message: &Message, status: u16, reason: &str) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            make_directory(folder)?;
        }
        let mut file: File = OpenOptions::new().append(true).create(true).mode(0o600).open(&self.path)?;
        let json = match message.log.body.as_ref().and_then(|body| body.value.as_ref()) {
            Some(Value::StringValue(json)) if file.metadata()?.len() < MAX_WHOLE => Some(json.as_str()),
            _ => None,
        };
        let record = json.and_then(|json| serde_json::from_str(json).ok());
        let line = Line { seq: message.seq, status, reason, at: jiff::Timestamp::now(), record };
        let mut bytes = serde_json::to_vec(&line)?;
        bytes.push(b'\n');
        file.write_all(&bytes)?;
        file.sync_data()
    }
}
