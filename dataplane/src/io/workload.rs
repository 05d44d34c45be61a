//! Performs recipes: attaches pods, finds and deletes their links.

mod steps;

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use netlink::netns::{self, NetnsError, NetnsId};
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, Socket};
use tokio::task::spawn_blocking;

use super::devices::{self, Listed};
use super::sysctl::{SysctlError, SysctlRoot};
use super::{addresses, neighbours, tunnels};
use crate::link::{IfName, Mac};
use crate::plan::workload::{Existing, HostStep, Recipe, SandboxStep};

use steps::{has_route, make_pair, push_ipv4_settings, push_route, submit, wait_until_settled};

/// Sockets kept open for the next attachments.
const IDLE_SOCKETS: usize = 4;

/// Why a pod could not be attached. Whatever was made is gone again.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// A link with the name of the host end exists.
    #[error("host interface {name} exists (alias {alias:?})")]
    HostNameTaken {
        /// The name.
        name: IfName,
        /// Whose it says it is.
        alias: Option<String>,
    },
    /// The sandbox already has an interface of that name.
    #[error("the sandbox already has an interface {name}")]
    SandboxNameTaken {
        /// The name.
        name: IfName,
    },
    /// The descriptor is no network namespace, or it cannot be entered.
    #[error("the sandbox: {0}")]
    Sandbox(#[from] NetnsError),
    /// The descriptor names the host's own namespace.
    #[error("the sandbox is the host's own network namespace")]
    HostNamespace,
    /// No netlink socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel refused a step.
    #[error("{step}: {source}")]
    Step {
        /// What was being done.
        step: String,
        /// The kernel's words.
        source: Error,
    },
    /// A setting could not be written.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The kernel answered with a name or address we cannot read.
    #[error("the link {name} came back without a hardware address")]
    NoMac {
        /// The link.
        name: IfName,
    },
    /// The thread that did it panicked; the links may stand.
    #[error("the thread that attached the pod panicked")]
    Panicked,
}

/// One end of a pair as it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Name.
    pub name: IfName,
    /// Index in its namespace.
    pub index: u32,
    /// Hardware address.
    pub mac: Mac,
    /// Octets.
    pub mtu: u32,
}

/// What an attachment became; the material of the CNI result.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attached {
    /// Host end, down: the planner brings it up once policy stands.
    pub host: End,
    /// Sandbox end.
    pub sandbox: End,
    /// Identity of the sandbox.
    pub netns: NetnsId,
}

/// A link of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostLink {
    /// Name.
    pub name: IfName,
    /// Index.
    pub index: u32,
    /// Administratively up.
    pub up: bool,
    /// Hardware address.
    pub mac: Option<Mac>,
    /// Alias, see [`crate::plan::workload::parse_alias`].
    pub alias: Option<String>,
    /// Kind, such as `veth`.
    pub kind: Option<String>,
    /// Octets.
    pub mtu: u32,
}

impl From<Listed> for HostLink {
    fn from(link: Listed) -> Self {
        Self {
            up: link.up(),
            name: link.name,
            index: link.index,
            mac: link.mac,
            alias: link.alias,
            kind: link.kind,
            mtu: link.mtu,
        }
    }
}

/// Attaches pods. Cheap to clone; many attachments run at once, each on a thread of the blocking pool.
#[derive(Debug, Clone)]
pub struct Workloads {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    host: OwnedFd,
    host_id: NetnsId,
    sysctl_root: SysctlRoot,
    /// Request sockets of the host's namespace that nobody uses right now.
    idle: std::sync::Mutex<Vec<Socket>>,
}

impl Workloads {
    /// Works in the calling thread's namespace.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be named.
    pub fn open(sysctl_root: SysctlRoot) -> Result<Self, NetnsError> {
        Self::open_in(netns::current()?, sysctl_root)
    }

    /// Works in another namespace as its host.
    ///
    /// # Errors
    /// [`NetnsError`] when the namespace cannot be identified.
    pub fn open_in(host: OwnedFd, sysctl_root: SysctlRoot) -> Result<Self, NetnsError> {
        let host_id = netns::identify(&host)?;
        Ok(Self {
            shared: Arc::new(Shared {
                host,
                host_id,
                sysctl_root,
                idle: std::sync::Mutex::new(Vec::new()),
            }),
        })
    }

    /// Performs a recipe. The host end stays down. A dropped caller does not interrupt it: who drops it must detach by name.
    ///
    /// # Errors
    /// [`AttachError`]; the pair was deleted again, unless the error says that the name was taken.
    pub async fn attach(&self, recipe: Recipe, sandbox: OwnedFd) -> Result<Attached, AttachError> {
        let shared = Arc::clone(&self.shared);
        spawn_blocking(move || {
            shared.with_socket(|socket| shared.attach(socket, &recipe, &sandbox))
        })
        .await
        .unwrap_or(Err(AttachError::Panicked))
    }

    /// The link of that name, `None` when there is none.
    ///
    /// # Errors
    /// [`AttachError::Step`] when the lookup failed.
    pub async fn find(&self, name: IfName) -> Result<Option<HostLink>, AttachError> {
        self.on_host(move |socket| match devices::find(socket, &name) {
            Ok(link) => Ok(Some(link.into())),
            Err(error) if error.errno() == Some(Errno::ENODEV) => Ok(None),
            Err(error) => Err(at(format!("look up {name}"))(error)),
        })
        .await
    }

    /// Every link whose name begins with one of the prefixes, for adoption.
    ///
    /// # Errors
    /// [`AttachError::Step`] when the listing failed.
    pub async fn list(&self, prefixes: Vec<String>) -> Result<Vec<HostLink>, AttachError> {
        self.on_host(move |socket| {
            let links = devices::list(socket).map_err(at("list links".to_owned()))?;
            let ours = links
                .into_iter()
                .filter(|link| tunnels::is_workload(&link.name, &prefixes));
            Ok(ours.map(HostLink::from).collect())
        })
        .await
    }

    /// Takes the host end down: nothing passes any more, whatever else still stands. A link that is gone is fine.
    ///
    /// # Errors
    /// [`AttachError::Step`] when the kernel refused.
    pub async fn down(&self, name: IfName) -> Result<(), AttachError> {
        self.on_host(move |socket| {
            let result = devices::find(socket, &name).and_then(|link| {
                let mut batch = Batch::new();
                tunnels::push_down(&mut batch, link.index);
                socket.submit(&mut batch)
            });
            match result {
                Err(error) if error.errno() != Some(Errno::ENODEV) => {
                    Err(at(format!("take {name} down"))(error))
                }
                Ok(()) | Err(_) => Ok(()),
            }
        })
        .await
    }

    /// Waits until the sandbox end may send, after the host end was brought up, at most `within`; returns whether it may.
    ///
    /// Bringing one end of a pair up turns the carrier of both on, but the kernel lets the *other* end send only when its link
    /// watch has run, some moments later; what the pod sends before is dropped in silence, and its first connection takes a
    /// second. Asking for the link makes newer kernels catch up at once, so this usually costs one look.
    ///
    /// # Errors
    /// [`AttachError::Sandbox`] when it cannot be entered, [`AttachError::Step`] when the link is gone.
    pub async fn settled(
        &self,
        sandbox: OwnedFd,
        name: IfName,
        within: Duration,
    ) -> Result<bool, AttachError> {
        spawn_blocking(move || netns::run_in(sandbox, || wait_until_settled(&name, within))?)
            .await
            .unwrap_or(Err(AttachError::Panicked))
    }

    pub(crate) async fn on_host<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, AttachError> + Send + 'static,
    ) -> Result<T, AttachError> {
        let shared = Arc::clone(&self.shared);
        spawn_blocking(move || shared.with_socket(work))
            .await
            .unwrap_or(Err(AttachError::Panicked))
    }
}

impl Shared {
    /// Lends a socket of the host. One whose request failed half-way is not kept.
    fn with_socket<T>(
        &self,
        work: impl FnOnce(&mut Socket) -> Result<T, AttachError>,
    ) -> Result<T, AttachError> {
        let idle = self
            .idle
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .pop();
        let mut socket = match idle {
            Some(socket) => socket,
            None => Socket::open_in(&self.host, Family::Route)?,
        };
        let result = work(&mut socket);
        if result.is_ok() {
            let mut idle = self
                .idle
                .lock()
                .unwrap_or_else(std::sync::PoisonError::into_inner);
            if idle.len() < IDLE_SOCKETS {
                idle.push(socket);
            }
        }
        result
    }

    fn attach(
        &self,
        socket: &mut Socket,
        recipe: &Recipe,
        sandbox: &OwnedFd,
    ) -> Result<Attached, AttachError> {
        let id = netns::identify(sandbox)?;
        if id == self.host_id {
            return Err(AttachError::HostNamespace);
        }
        let host = make_pair(socket, &recipe.veth, sandbox)?;
        let done = self.plumb(socket, recipe, sandbox, &host);
        match done {
            Ok(sandbox) => Ok(Attached {
                host,
                sandbox,
                netns: id,
            }),
            Err(error) => {
                // Deleting one end takes the other end and everything on both along.
                let mut batch = Batch::new();
                tunnels::push_delete(&mut batch, host.index);
                if let Err(undo) = socket.submit(&mut batch)
                    && undo.errno() != Some(Errno::ENODEV)
                {
                    tracing::error!(link = %host.name, error = %undo, "a half-made link could not be deleted");
                }
                Err(error)
            }
        }
    }

    fn plumb(
        &self,
        socket: &mut Socket,
        recipe: &Recipe,
        sandbox: &OwnedFd,
        host: &End,
    ) -> Result<End, AttachError> {
        let inside = netns::run_in(sandbox, || {
            self.in_sandbox(&recipe.veth.sandbox, &recipe.sandbox)
        })??;
        self.on_host_side(socket, &recipe.host, host, inside.mac)?;
        Ok(inside)
    }

    /// Runs on a thread inside the sandbox.
    fn in_sandbox(&self, name: &IfName, steps: &[SandboxStep]) -> Result<End, AttachError> {
        let mut socket = Socket::open(Family::Route)?;
        let link =
            devices::find(&mut socket, name).map_err(at(format!("find {name} in the sandbox")))?;
        let end = end(link)?;
        let mut batch = Batch::new();
        let mut pushed = Vec::new();
        for step in steps {
            let before = batch.len();
            match step {
                SandboxStep::Sysctl(setting) => self.sysctl_root.write(setting)?,
                SandboxStep::Address(net) => {
                    addresses::push_put(&mut batch, end.index, *net);
                }
                SandboxStep::Neighbour(address, mac) => {
                    neighbours::push_put(&mut batch, end.index, *address, *mac);
                }
                SandboxStep::Up => tunnels::push_up(&mut batch, end.index),
                SandboxStep::LinkRoute(net) => push_route(&mut batch, end.index, *net, None),
                SandboxStep::Route {
                    destination,
                    via,
                    existing,
                } => {
                    let keep = *existing == Existing::Keep && has_route(&mut socket, *destination)?;
                    if !keep {
                        push_route(&mut batch, end.index, *destination, Some(*via));
                    }
                }
            }
            pushed.extend(std::iter::repeat_n(step, batch.len() - before));
        }
        submit(&mut socket, &mut batch, &pushed)?;
        Ok(end)
    }

    fn on_host_side(
        &self,
        socket: &mut Socket,
        steps: &[HostStep],
        host: &End,
        pod: Mac,
    ) -> Result<(), AttachError> {
        let mut batch = Batch::new();
        let mut pushed = Vec::new();
        for step in steps {
            let before = batch.len();
            match step {
                HostStep::Ipv4 => push_ipv4_settings(&mut batch, host.index),
                HostStep::Sysctl(setting) => self
                    .sysctl_root
                    .write_in(&self.host, std::slice::from_ref(setting))?,
                HostStep::LinkLocal(net) => {
                    addresses::push_put(&mut batch, host.index, IpNet::V6(*net));
                }
                HostStep::PodNeighbour(address) => {
                    neighbours::push_put(&mut batch, host.index, *address, pod);
                }
            }
            pushed.extend(std::iter::repeat_n(step, batch.len() - before));
        }
        submit(socket, &mut batch, &pushed)
    }
}

pub(crate) fn end(link: Listed) -> Result<End, AttachError> {
    let Some(mac) = link.mac else {
        return Err(AttachError::NoMac { name: link.name });
    };
    Ok(End {
        name: link.name,
        index: link.index,
        mac,
        mtu: link.mtu,
    })
}

pub(crate) fn at(step: String) -> impl FnOnce(Error) -> AttachError {
    move |source| AttachError::Step { step, source }
}
