//! Key sets by URL, over the small HTTPS client.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::identity::KeySource;
use crate::net::{Client, ClientError, ClientSettings, private_networks};

/// The most addresses whose connections are kept: an issuer that names another one at each refresh must not fill the memory.
const MAX_CLIENTS: usize = 256;

/// Fetches key sets for `identity`; connections are kept between fetches.
#[derive(Debug, Default)]
pub(super) struct Keys {
    clients: Mutex<HashMap<(String, Option<PathBuf>), Client>>,
}

impl Keys {
    fn client(&self, url: &str, ca: Option<&Path>) -> Result<Client, ClientError> {
        let key = (url.to_owned(), ca.map(Path::to_path_buf));
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let ca = ca.map(Path::to_path_buf);
        let settings = ClientSettings { ca, allow_networks: private_networks(), ..ClientSettings::default() };
        let client = Client::new(url, &settings)?;
        if clients.len() >= MAX_CLIENTS {
            clients.clear();
        }
        clients.insert(key, client.clone());
        Ok(client)
    }
}

#[async_trait]
impl KeySource for Keys {
    async fn fetch(
        &self,
        url: &str,
        ca: Option<&Path>,
    ) -> Result<Vec<u8>, Box<dyn std::error::Error + Send + Sync>> {
        let client = self.client(url, ca)?;
        Ok(client.get(url).await?.into())
    }
}
