//! The transit engine of OpenBao and HashiCorp Vault: the root key never leaves the key service.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::root::{BranchKey, KEY_BYTES};
use super::settings::TransitSettings;
use crate::model::{ByteSize, Secret, SecretFileError};
use crate::net::{Client, ClientError, ClientSettings, FetchError, private_networks};

/// A call to the key service that failed.
#[derive(Debug, thiserror::Error)]
pub enum TransitError {
    /// The token.
    #[error(transparent)]
    Token(#[from] SecretFileError),
    /// The token file holds no token.
    #[error("token file `{}` holds no token", .0.display())]
    NoToken(PathBuf),
    /// It did not answer.
    #[error("the key service at `{address}` did not answer")]
    Unreachable {
        /// Where.
        address: String,
        /// Why.
        #[source]
        source: FetchError,
    },
    /// It refused: the token may not use the key, the key's version is gone, or the name differs.
    #[error("the key service refused with {status}: {reason}")]
    Refused {
        /// Its status.
        status: StatusCode,
        /// Its first error, at most 200 characters.
        reason: String,
    },
    /// Its answer is not what it should be.
    #[error("the key service answered what cannot be read")]
    Answer,
}

/// One key of a transit engine.
#[derive(Debug)]
pub(super) struct Transit {
    client: Client,
    settings: TransitSettings,
}

#[derive(Deserialize)]
struct Answer {
    data: Data,
}

#[derive(Deserialize)]
struct Data {
    ciphertext: Option<String>,
    plaintext: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<String>,
}

impl Transit {
    pub(super) fn new(settings: &TransitSettings) -> Result<Self, ClientError> {
        let client = ClientSettings {
            ca: settings.ca.clone(),
            allow_networks: private_networks(),
            timeout: settings.timeout,
            max_bytes: ByteSize::kib(64),
            ..ClientSettings::default()
        };
        Ok(Self { client: Client::new(&settings.address, &client)?, settings: settings.clone() })
    }

    /// Wraps a branch key; the name is authenticated with it.
    pub(super) async fn encrypt(&self, name: &str, key: &BranchKey) -> Result<String, TransitError> {
        let plaintext = Zeroizing::new(STANDARD.encode(**key));
        let body = json!({"plaintext": *plaintext, "associated_data": STANDARD.encode(name)});
        self.call("encrypt", &body).await?.ciphertext.ok_or(TransitError::Answer)
    }

    /// Opens what [`Self::encrypt`] made under the same name.
    pub(super) async fn decrypt(&self, name: &str, ciphertext: &str) -> Result<BranchKey, TransitError> {
        let body = json!({"ciphertext": ciphertext, "associated_data": STANDARD.encode(name)});
        let plaintext = self.call("decrypt", &body).await?.plaintext.ok_or(TransitError::Answer)?;
        let plaintext = Zeroizing::new(plaintext);
        let mut key = BranchKey::default();
        match STANDARD.decode_slice(plaintext.as_bytes(), &mut *key) {
            Ok(KEY_BYTES) => Ok(key),
            _ => Err(TransitError::Answer),
        }
    }

    async fn call(&self, operation: &str, body: &serde_json::Value) -> Result<Data, TransitError> {
        let TransitSettings { address, mount, key, token_file, .. } = &self.settings;
        let token = Secret::read(token_file)?;
        let token = token.expose_text().and_then(|text| HeaderValue::from_str(text).ok());
        let mut token = token.ok_or_else(|| TransitError::NoToken(token_file.clone()))?;
        token.set_sensitive(true);
        let mut headers = HeaderMap::new();
        headers.insert("x-vault-token", token);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let url = format!("{}/v1/{mount}/{operation}/{key}", address.trim_end_matches('/'));
        let answer = self.client.post(&url, headers, Bytes::from(body.to_string())).await;
        let (status, answer) =
            answer.map_err(|source| TransitError::Unreachable { address: address.clone(), source })?;
        if status != StatusCode::OK {
            let reason =
                serde_json::from_slice::<Errors>(&answer).ok().and_then(|e| e.errors.into_iter().next());
            let reason = reason.unwrap_or_default().chars().take(200).collect();
            return Err(TransitError::Refused { status, reason });
        }
        serde_json::from_slice::<Answer>(&answer).map(|answer| answer.data).map_err(|_| TransitError::Answer)
    }
}
