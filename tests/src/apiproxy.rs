//! A proxy in front of the real API server that misbehaves on command, per client.
//!
//! It ends TLS with the API server's own certificate, so whoever is pointed at its port sees the same server; what it does not
//! spoil goes to the real one under the client's own token. Margay is put behind it by [`Lab::install_margay_behind_proxy`].
//!
//! ```text
//! client ──TLS── Line (may fall mute) ── rules ── body (shortened, lossy) ──TLS── kube-apiserver
//! ```
//! A fault plays as long as its [`Playing`] lives. HTTP/1.1 both ways, a connection to the server for each client's connection.

mod body;
mod rule;
mod serve;
mod wire;

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::sync::{broadcast, oneshot};
use tokio_rustls::{TlsAcceptor, TlsConnector};

pub use rule::{Asked, Call, Fault, Rule, Seen, Who};

use crate::control;
use crate::fabric;
use crate::lab::Lab;
use rule::Book;

/// The proxy's port on the control plane's machine.
pub const PORT: u16 = 6444;
/// The name in the API server's certificate.
const NAME: &str = "kubernetes.default.svc";
/// Cuts that may wait for a connection to look at them; a lagging one has many to choose from.
const CUTS: usize = 16;

/// The running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub struct ApiProxy {
    book: Arc<Mutex<Book>>,
    cuts: broadcast::Sender<Who>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// A fault that plays until this is dropped.
#[derive(Debug)]
#[must_use = "the fault ends when this is dropped"]
pub struct Playing {
    book: Arc<Mutex<Book>>,
    number: u64,
}

impl Drop for Playing {
    fn drop(&mut self) {
        lock(&self.book).lift(self.number);
    }
}

fn lock(book: &Mutex<Book>) -> std::sync::MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ApiProxy {
    /// Starts the proxy on the control plane's machine, with nothing to spoil yet.
    ///
    /// # Errors
    /// The API server's certificate cannot be read, or the machine's network cannot be entered.
    pub fn start(lab: &Lab) -> Result<Self> {
        let (accept, connect) = tls(lab)?;
        let book = Arc::new(Mutex::new(Book::default()));
        let (cuts, _) = broadcast::channel(CUTS);
        let host = fabric::control(lab.fabric.topology.families.first());
        let front = serve::Front {
            book: Arc::clone(&book),
            accept,
            connect,
            server: SocketAddr::new(host, control::PORT),
            name: ServerName::try_from(NAME).context("the server's name")?,
            cuts: cuts.clone(),
        };
        let place = format!("/proc/{}/ns/net", lab.fabric.control.pid());
        let namespace = File::open(&place).with_context(|| format!("open {place}"))?;
        let (stop, stopped) = oneshot::channel();
        let (started, outcome) = mpsc::sync_channel(1);
        let thread = std::thread::Builder::new()
            .name("apiproxy".into())
            .spawn(move || live(namespace, front, &started, stopped))
            .context("start the proxy's thread")?;
        outcome.recv().context("the proxy's thread ended")??;
        Ok(Self {
            book,
            cuts,
            stop: Some(stop),
            thread: Some(thread),
        })
    }

    /// Plays a fault until the returned value is dropped.
    pub fn play(&self, rule: Rule) -> Playing {
        let (refuse, who) = (*rule.fault() == Fault::Refuse, rule.who().clone());
        let number = lock(&self.book).add(rule);
        if refuse {
            self.cut(who);
        }
        Playing {
            book: Arc::clone(&self.book),
            number,
        }
    }

    /// Ends the connections these clients have now; by address.
    pub fn cut(&self, who: Who) {
        // Nobody connected: nothing to cut.
        let _ = self.cuts.send(who);
    }

    /// The requests seen so far, the oldest first; the newest 20,000 are kept.
    pub fn seen(&self) -> Vec<Seen> {
        lock(&self.book).seen()
    }

    /// How many requests from an address for a kind were of this sort.
    pub fn count(&self, address: impl Into<IpAddr>, call: Call, resource: &str) -> usize {
        let address = address.into();
        self.seen()
            .iter()
            .map(|seen| &seen.asked)
            .filter(|asked| {
                asked.address == address && asked.call == call && asked.resource == resource
            })
            .count()
    }
}

impl Drop for ApiProxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the thread has been printed already.
            let _ = thread.join();
        }
    }
}

/// The thread: in the machine's network, where its sockets belong from then on.
fn live(
    namespace: File,
    front: serve::Front,
    started: &mpsc::SyncSender<Result<()>>,
    stopped: oneshot::Receiver<()>,
) {
    let prepared = setns(namespace, CloneFlags::CLONE_NEWNET)
        .context("enter the control plane's network")
        .and_then(|()| {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .context("start the proxy's runtime")
        })
        .and_then(|runtime| {
            let listener = runtime
                .block_on(tokio::net::TcpListener::bind((front.server.ip(), PORT)))
                .context("bind the proxy's port")?;
            Ok((runtime, listener))
        });
    let (runtime, listener) = match prepared {
        Ok(ready) => ready,
        Err(error) => return drop(started.send(Err(error))),
    };
    drop(started.send(Ok(())));
    runtime.block_on(async {
        tokio::select! {
            () = serve::run(listener, Arc::new(front)) => {}
            _dropped = stopped => {}
        }
    });
}

/// The API server's own certificate and key for clients, and its authority for the way to it.
fn tls(lab: &Lab) -> Result<(TlsAcceptor, TlsConnector)> {
    let place = lab.fabric.control.disk().join("var/lib/kubernetes");
    let pem =
        std::fs::read(place.join("apiserver.crt")).context("read the server's certificate")?;
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&pem)
        .collect::<Result<_, _>>()
        .context("parse the server's certificate")?;
    let key = PrivateKeyDer::from_pem_file(place.join("apiserver.key"))
        .context("read the server's key")?;
    let mut roots = RootCertStore::empty();
    let authority = chain.last().context("the certificate's file is empty")?;
    roots
        .add(authority.clone())
        .context("use the server's authority")?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .context("use the server's certificate")?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("TLS versions")?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok((
        TlsAcceptor::from(Arc::new(server)),
        TlsConnector::from(Arc::new(client)),
    ))
}
