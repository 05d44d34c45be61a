//! What attaching needs of the other rooms, as three small traits: fakes stand behind them in the tests, thin adapters in the
//! daemon ([`crate::cni::adapters`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::{DefaultRoute, Families};
use futures::future::BoxFuture;
use ipnet::IpNet;
use model::{AttachmentId, LocalEndpoint, Namespace, PodRef};
use thiserror::Error;

use super::record::{Claim, Mac};
use crate::world::{CniSettings, PodView, SyncState, Unprogrammed};

/// A request for addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ask {
    /// Who will own them; asking twice with one handle answers the same addresses.
    pub handle: Arc<str>,
    /// One address of each family that is set; both or none.
    pub families: Families,
    /// Pools by name or CIDR, in the user's order; empty = whichever may serve.
    pub ipv4_pools: Vec<String>,
    /// The same for IPv6.
    pub ipv6_pools: Vec<String>,
    /// The pod's namespace, for pools that select namespaces.
    pub namespace: Option<Namespace>,
    /// Owner attributes as Calico writes them.
    pub attributes: BTreeMap<String, String>,
    /// These addresses and no others.
    pub requested: Vec<IpAddr>,
    /// Handles of dead sandboxes of the same pod: a requested address they hold is taken over.
    pub supersedes: BTreeSet<String>,
}

/// Why no address was given.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refusal {
    /// None is left; the text names pools, free counts and the limit.
    #[error("{0}")]
    Exhausted(String),
    /// What the user asked for cannot be.
    #[error("{0}")]
    Request(String),
    /// The store is away, or not listed yet.
    #[error("{0}")]
    Later(String),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

/// Why an address was not released.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{reason}")]
pub struct Unreleased {
    /// True when it should be tried again.
    pub retryable: bool,
    /// In words.
    pub reason: String,
}

/// An address that IPAM says is held by something on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holding {
    /// The handle.
    pub handle: Arc<str>,
    /// The address and its place.
    pub claim: Claim,
    /// Owner attributes.
    pub attributes: BTreeMap<String, String>,
}

/// Who owns which address.
pub trait Addresses: Send + Sync {
    /// Takes addresses; all that were asked for or none.
    fn assign(&self, ask: Ask) -> BoxFuture<'_, Result<Vec<Claim>, Refusal>>;
    /// Gives back addresses by handle and place; all of the handle when `claims` is empty. Gone already is success.
    fn release(
        &self,
        handle: Arc<str>,
        claims: Vec<Claim>,
    ) -> BoxFuture<'_, Result<(), Unreleased>>;
    /// All addresses held for containers of this node; an error while IPAM has not listed yet.
    fn holdings(&self) -> BoxFuture<'_, Result<Vec<Holding>, String>>;
    /// Tells what lives here by the journal, before the first ADD: addresses answered ahead of their entry are put in their name.
    fn living(&self, living: Vec<Holding>) -> BoxFuture<'_, Result<(), String>>;
    /// Whether an ADD for these families would find an address now.
    fn serviceable(&self, families: Families) -> BoxFuture<'_, Result<(), String>>;
}

/// What to make in the kernel for one attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plumbing {
    /// Name of the host end.
    pub host: Arc<str>,
    /// Name of the end inside the sandbox.
    pub ifname: Arc<str>,
    /// Mark of the host end.
    pub alias: String,
    /// Addresses, IPv4 first.
    pub addresses: Vec<IpAddr>,
    /// MTU of both ends.
    pub mtu: u32,
    /// Whether the container may forward.
    pub forwarding: bool,
    /// Whether default routes are set.
    pub default_route: DefaultRoute,
}

/// What was made. The host end is still down: the World brings it up behind its policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plumbed {
    /// Index of the host end.
    pub ifindex: u32,
    /// MAC inside the sandbox.
    pub mac: Mac,
    /// MTU of both ends.
    pub mtu: u32,
}

/// Why nothing was made; whatever had been made is undone.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Unplumbed {
    /// The sandbox vanished.
    #[error("{0}")]
    SandboxGone(String),
    /// IFNAME is taken inside the sandbox, or the host name by a link that is not ours.
    #[error("{0}")]
    Exists(String),
    /// The kernel refused; its words.
    #[error("{0}")]
    Refused(String),
}

/// A host end as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostLink {
    /// Index.
    pub ifindex: u32,
    /// Mark; empty when it has none.
    pub alias: String,
    /// Administratively up.
    pub up: bool,
}

/// The end inside the sandbox as it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SandboxLink {
    /// Administratively up.
    pub up: bool,
    /// MAC.
    pub mac: Mac,
    /// Addresses with prefix length.
    pub addresses: Vec<IpNet>,
    /// A route to our IPv4 gateway, 169.254.1.1, is there.
    pub gateway_v4: bool,
    /// A route via our IPv6 gateway is there.
    pub gateway_v6: bool,
}

/// Links of host and sandboxes.
pub trait Kernel: Send + Sync {
    /// Makes the link. Undoes itself on failure.
    fn attach(
        &self,
        plumbing: Plumbing,
        sandbox: OwnedFd,
    ) -> BoxFuture<'_, Result<Plumbed, Unplumbed>>;
    /// Waits until the sandbox's end may send, at most `within`, once the host end is up; answers whether it may. What a container
    /// sends before that, the kernel drops in silence.
    fn settled(
        &self,
        sandbox: OwnedFd,
        ifname: Arc<str>,
        within: Duration,
    ) -> BoxFuture<'_, Result<bool, String>>;
    /// Deletes the host end if `ifindex` (0 = any) still bears this name; gone is success.
    fn detach(&self, host: Arc<str>, ifindex: u32) -> BoxFuture<'_, Result<(), String>>;
    /// All links whose name begins with `prefix`: name → link.
    fn links(&self, prefix: &str) -> BoxFuture<'_, Result<BTreeMap<String, HostLink>, String>>;
    /// One host end by its name, `None` when it is gone.
    fn link(&self, host: Arc<str>) -> BoxFuture<'_, Result<Option<HostLink>, String>>;
    /// Addresses of containers that are routed over links named so: index → addresses. An index without any is absent.
    fn routed(&self, prefix: &str) -> BoxFuture<'_, Result<BTreeMap<u32, Vec<IpAddr>>, String>>;
    /// The end inside the sandbox; `None` when there is no such interface.
    fn inspect(
        &self,
        sandbox: OwnedFd,
        ifname: Arc<str>,
    ) -> BoxFuture<'_, Result<Option<SandboxLink>, String>>;
}

/// The World and what feeds it.
pub trait Cluster: Send + Sync {
    /// Whether this node may serve.
    fn sync(&self) -> SyncState;
    /// What attaching depends on.
    fn settings(&self) -> CniSettings;
    /// A pod as the watch told it.
    fn pod(&self, id: PodRef) -> BoxFuture<'_, Option<PodView>>;
    /// A pod straight from the API server; the error says why it cannot be asked.
    fn fetch_pod(&self, id: PodRef) -> BoxFuture<'_, Result<Option<PodView>, String>>;
    /// Puts an endpoint in force; returns when route and policy are in the kernel.
    fn program(&self, endpoint: LocalEndpoint) -> BoxFuture<'_, Result<(), Unprogrammed>>;
    /// Takes an endpoint out of force.
    fn withdraw(&self, id: AttachmentId) -> BoxFuture<'_, Result<(), Unprogrammed>>;
    /// Hands over the endpoints that outlived the last daemon; called once.
    fn adopt(&self, endpoints: Vec<LocalEndpoint>) -> BoxFuture<'_, Result<(), Unprogrammed>>;
}
