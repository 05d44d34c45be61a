//! The connection to the API server.

use std::path::Path;
use std::time::Duration;

use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::pulse::{ObeyLayer, Pulse};

/// A single stream that says nothing for this long is dead: the server ends a watch after 290 s. That all are dead is known
/// sooner, by [`Pulse`].
const READ_TIMEOUT: Duration = Duration::from_secs(295);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Why no client could be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The kubeconfig cannot be read.
    #[error("cannot read kubeconfig {path}: {source}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        source: kube::config::KubeconfigError,
    },
    /// No kubeconfig was given and this is no pod.
    #[error("not running in a pod ({0}); give --kubeconfig")]
    NotInCluster(#[from] kube::config::InferConfigError),
    /// The configuration does not make a client.
    #[error("cannot set up the API client: {0}")]
    Client(#[from] kube::Error),
}

/// The daemon's two ways to the API server.
pub struct Connection {
    /// For everything but the Lease. Its lists and watches end when the server is silent.
    pub client: Client,
    /// For the Lease alone: what the server answers is not asked for again behind its back, so that a refusal counts as a
    /// sign of life.
    pub lease: Client,
    /// To be told how the Lease's renewals go.
    pub pulse: Pulse,
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

/// As [`connect`], for a daemon that renews a Lease.
///
/// # Errors
/// [`ClientError`].
pub async fn open(kubeconfig: Option<&Path>) -> Result<Connection, ClientError> {
    let config = configure(kubeconfig).await?;
    let (pulse, obey) = Pulse::new();
    let mut plain = config.clone();
    plain.default_retry = false;
    // The renewal's own deadline covers the connection too: a time-out of the connection would look like an answer.
    plain.connect_timeout = None;
    Ok(Connection {
        client: obedient(config, &obey)?,
        lease: Client::try_from(plain)?,
        pulse,
    })
}

fn obedient(config: Config, obey: &ObeyLayer) -> Result<Client, ClientError> {
    Ok(ClientBuilder::try_from(config)?.with_layer(obey).build())
}

/// Connects with a kubeconfig, or as the pod this process runs in. No packet is sent yet.
///
/// # Errors
/// [`ClientError`].
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    Ok(Client::try_from(configure(kubeconfig).await?)?)
}

async fn configure(kubeconfig: Option<&Path>) -> Result<Config, ClientError> {
    let mut config = match kubeconfig {
        Some(path) => from_file(path).await?,
        None => Config::infer().await?,
    };
    config.connect_timeout = Some(CONNECT_TIMEOUT);
    config.read_timeout = Some(READ_TIMEOUT);
    Ok(config)
}

async fn from_file(path: &Path) -> Result<Config, ClientError> {
    let unreadable = |source| ClientError::Kubeconfig {
        path: path.display().to_string(),
        source,
    };
    let file = Kubeconfig::read_from(path).map_err(unreadable)?;
    Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(unreadable)
}
