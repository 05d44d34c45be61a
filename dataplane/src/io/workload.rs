//! Performs recipes: attaches pods, finds and deletes their links.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::Arc;

use ipnet::IpNet;
use netlink::netns::{self, NetnsError, NetnsId};
use netlink::{Batch, Errno, Error, OpenError, Protocol as Family, Socket};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute,
};
use netlink_packet_route::route::{RouteProtocol, RouteScope};
use rtnetlink::{LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::task::spawn_blocking;

use super::devices::{self, Listed};
use super::sysctl::{SysctlError, SysctlRoot};
use super::{addresses, neighbours, rtm, tunnels};
use crate::link::{IfName, Mac};
use crate::plan::workload::{Existing, HostStep, Recipe, SandboxStep, Veth};
use crate::route::TABLE_MAIN;

/// `IPV4_DEVCONF_*` (`linux/ip.h`).
const DEVCONF_FORWARDING: u16 = 1;
const DEVCONF_PROXY_ARP: u16 = 3;
const DEVCONF_ROUTE_LOCALNET: u16 = 26;
const IFLA_AF_SPEC: u16 = 26;
const IFLA_INET_CONF: u16 = 1;
/// `linux/neighbour.h`: the table by name, parameters of one device in it.
const NDTA_NAME: u16 = 1;
const NDTA_PARMS: u16 = 6;
const NDTPA_IFINDEX: u16 = 1;
const NDTPA_PROXY_DELAY: u16 = 13;
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
            name: link.name,
            index: link.index,
            up: link.up,
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
                    addresses::push_put(&mut batch, end.index, *net, addresses::Dad::Skip);
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
                    addresses::push_put(
                        &mut batch,
                        host.index,
                        IpNet::V6(*net),
                        addresses::Dad::Skip,
                    );
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

/// Sends a batch and names the first step that was refused.
fn submit<S: std::fmt::Debug>(
    socket: &mut Socket,
    batch: &mut Batch,
    steps: &[S],
) -> Result<(), AttachError> {
    socket.submit(batch).map_err(|source| {
        let failure = source.failures().first();
        let step = failure.and_then(|failure| steps.get(failure.index?));
        AttachError::Step {
            step: step.map_or_else(
                || "talk to the kernel".to_owned(),
                |step| format!("{step:?}"),
            ),
            source,
        }
    })
}

/// Whether the main table has a route to exactly this destination, whatever its metric.
fn has_route(socket: &mut Socket, destination: IpNet) -> Result<bool, AttachError> {
    const HEADER: usize = 12;
    const RTA_TABLE: u16 = 15;
    let family = if destination.addr().is_ipv4() {
        rtm::AF_INET
    } else {
        rtm::AF_INET6
    };
    let found = socket.dump(
        rtm::GETROUTE,
        |enc| {
            enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            enc.put_u32(RTA_TABLE, TABLE_MAIN);
        },
        |message| {
            let &[_, length, ..] = message.body.first_chunk::<HEADER>()?;
            let attributes = netlink::attr::parse(message.body.get(HEADER..)?);
            let to = attributes
                .clone()
                .find(1)
                .and_then(|a| devices::address(a.payload));
            let same = length == destination.prefix_len()
                && to.is_none_or(|to| to == destination.network());
            same.then_some(())
        },
    );
    Ok(!rtm::no_such_table_is_empty(found)
        .map_err(at(format!("look for a route to {destination}")))?
        .is_empty())
}

/// The pair in one request, its far end straight into the sandbox; then what creation cannot set.
fn make_pair(socket: &mut Socket, veth: &Veth, sandbox: &OwnedFd) -> Result<End, AttachError> {
    let peer = LinkMessageBuilder::<LinkUnspec>::new()
        .name(veth.sandbox.as_str())
        .mtu(veth.mtu)
        // Never up here: the kernel answers ENOTCONN.
        .setns_by_fd(sandbox.as_fd().as_raw_fd())
        .build();
    let pair = LinkVeth::new(veth.host.as_str(), veth.sandbox.as_str())
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .address(veth.host_mac.0.to_vec())
        .mtu(veth.mtu)
        .build();
    let mut batch = Batch::new();
    rtm::push(
        &mut batch,
        rtm::NEWLINK,
        netlink::flags::CREATE | netlink::flags::EXCL,
        &pair,
    );
    if let Err(error) = socket.submit(&mut batch) {
        return Err(name_taken(socket, veth, error));
    }
    let finish = LinkUnspec::new_with_name(veth.host.as_str())
        .alias(veth.alias.as_str())
        .append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(
            vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)],
        )]))
        .build();
    let mut batch = Batch::new();
    rtm::push(&mut batch, rtm::NEWLINK, 0, &finish);
    let finished = socket
        .submit(&mut batch)
        .and_then(|()| devices::find(socket, &veth.host));
    match finished
        .map_err(at(format!("set up {}", veth.host)))
        .and_then(end)
    {
        Ok(end) => Ok(end),
        Err(error) => {
            if let Ok(link) = devices::find(socket, &veth.host) {
                let mut batch = Batch::new();
                tunnels::push_delete(&mut batch, link.index);
                if let Err(undo) = socket.submit(&mut batch) {
                    tracing::error!(link = %veth.host, error = %undo, "a half-made link could not be deleted");
                }
            }
            Err(error)
        }
    }
}

/// `EEXIST` speaks of either end.
fn name_taken(socket: &mut Socket, veth: &Veth, error: Error) -> AttachError {
    if error.errno() != Some(Errno::EEXIST) {
        return at(format!("make {}", veth.host))(error);
    }
    match devices::find(socket, &veth.host) {
        Ok(link) => AttachError::HostNameTaken {
            name: veth.host.clone(),
            alias: link.alias,
        },
        Err(_) => AttachError::SandboxNameTaken {
            name: veth.sandbox.clone(),
        },
    }
}

/// IPv4 settings by netlink: one message instead of files that a container may only read, and in force before the link is up.
fn push_ipv4_settings(batch: &mut Batch, index: u32) {
    batch.push(rtm::NEWLINK, 0, |enc| {
        let [a, b, c, d] = index.to_ne_bytes();
        enc.raw(&[0, 0, 0, 0, a, b, c, d, 0, 0, 0, 0, 0, 0, 0, 0]);
        enc.nest(IFLA_AF_SPEC, |enc| {
            enc.nest(u16::from(rtm::AF_INET), |enc| {
                enc.nest(IFLA_INET_CONF, |enc| {
                    for key in [
                        DEVCONF_FORWARDING,
                        DEVCONF_PROXY_ARP,
                        DEVCONF_ROUTE_LOCALNET,
                    ] {
                        enc.put_u32(key, 1);
                    }
                });
            });
        });
    });
    batch.push(rtm::SETNEIGHTBL, 0, |enc| {
        enc.raw(&[rtm::AF_INET, 0, 0, 0]);
        enc.put_str(NDTA_NAME, "arp_cache");
        enc.nest(NDTA_PARMS, |enc| {
            enc.put_u32(NDTPA_IFINDEX, index);
            enc.put_u64(NDTPA_PROXY_DELAY, 0);
        });
    });
}

fn push_route(batch: &mut Batch, index: u32, destination: IpNet, via: Option<IpAddr>) {
    let scope = if via.is_some() {
        RouteScope::Universe
    } else {
        RouteScope::Link
    };
    let message = match (destination, via) {
        (IpNet::V4(net), via) => {
            let mut builder = RouteMessageBuilder::<std::net::Ipv4Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(index)
                .protocol(RouteProtocol::Boot)
                .scope(scope);
            if let Some(IpAddr::V4(via)) = via {
                builder = builder.gateway(via);
            }
            builder.build()
        }
        (IpNet::V6(net), via) => {
            let mut builder = RouteMessageBuilder::<std::net::Ipv6Addr>::new()
                .destination_prefix(net.network(), net.prefix_len())
                .output_interface(index)
                .protocol(RouteProtocol::Boot);
            if let Some(IpAddr::V6(via)) = via {
                builder = builder.gateway(via);
            }
            builder.build()
        }
    };
    rtm::push(batch, rtm::NEWROUTE, rtm::PUT, &message);
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
