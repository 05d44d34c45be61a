//! BGP passwords: read by name from Secrets in the daemon's own namespace.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::sync::watch;

const LIMIT: Duration = Duration::from_secs(5);
const REFRESH: Duration = Duration::from_secs(30);

/// A key of a Secret.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretKey {
    /// Name of the Secret.
    pub name: String,
    /// Key inside it.
    pub key: String,
}

/// Text that is never printed, logged or serialised.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(String);

impl Password {
    /// Takes a secret text.
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for the socket option alone.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(…)")
    }
}

/// Passwords found so far; what is missing keeps its session down.
pub type Passwords = BTreeMap<SecretKey, Password>;

/// Follows the Secrets that peers name, until told to stop. Secrets cannot be watched with the rights this daemon has, by choice:
/// it may read them by name only. So they are read again every 30 s.
pub async fn follow(
    client: Client,
    namespace: String,
    mut wanted: watch::Receiver<BTreeSet<SecretKey>>,
    found: watch::Sender<Passwords>,
    mut stop: watch::Receiver<bool>,
) {
    let secrets: Api<Secret> = Api::namespaced(client, &namespace);
    loop {
        let keys = wanted.borrow_and_update().clone();
        let known = found.borrow().clone();
        let mut now = Passwords::new();
        for key in &keys {
            match read(&secrets, key).await {
                Ok(Some(password)) => {
                    now.insert(key.clone(), password);
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::warn!(secret = %key.name, %error, "BGP password not read");
                    if let Some(password) = known.get(key) {
                        now.insert(key.clone(), password.clone());
                    }
                }
            }
        }
        found.send_if_modified(|known| {
            let changed = *known != now;
            *known = now;
            changed
        });
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REFRESH), if !keys.is_empty() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Why a Secret could not be read.
#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", LIMIT.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("key {0} is not UTF-8 text")]
    NotText(String),
}

async fn read(secrets: &Api<Secret>, key: &SecretKey) -> Result<Option<Password>, ReadError> {
    let secret = tokio::time::timeout(LIMIT, secrets.get_opt(&key.name)).await??;
    let Some(bytes) = secret.and_then(|secret| secret.data?.remove(&key.key)) else {
        return Ok(None);
    };
    let text =
        String::from_utf8(bytes.0).map_err(|_not_utf8| ReadError::NotText(key.key.clone()))?;
    Ok(Some(Password::new(
        text.trim_end_matches(['\r', '\n']).to_owned(),
    )))
}
