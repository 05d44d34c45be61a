//! The index of the cluster as one node sees it.
//!
//! [`World::apply`] is the only way to change it, and the state it reaches depends on the set of objects alone, never on the
//! order in which they came: two nodes, or one node before and after a restart, always agree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{BitOr, BitOrAssign};
use std::sync::Arc;

use api::selector::Selector;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use crate::block::Block;
use crate::endpoint::{Labels, LocalEndpoint, NamedPort, Namespace, Pod, ServiceAccount};
use crate::event::{Event, Key, Kind, Object};
use crate::ids::{AttachmentId, NamespacedName, NodeName, ObjectName, PodRef};
use crate::membership::{Member, MemberKey, Membership};
use crate::networkset::{GlobalNetworkSet, NetworkSet};
use crate::node::Node;
use crate::service::{Backends, EndpointSlice};

mod held;
mod refresh;

use held::Held;

/// Domains whose plan may have changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dirty(u8);

impl Dirty {
    /// Nothing changed that anybody plans from.
    pub const NONE: Self = Self(0);
    /// Routes, tunnels, neighbours.
    pub const ROUTES: Self = Self(1);
    /// Policy: rules, sets, endpoints.
    pub const POLICY: Self = Self(2);
    /// Address translation.
    pub const NAT: Self = Self(4);
    /// BGP peers, filters and prefixes.
    pub const PEERING: Self = Self(8);
    /// Address management: pools, blocks, limits.
    pub const IPAM: Self = Self(16);
    /// Everything.
    pub const ALL: Self = Self(31);

    /// True if any domain of `other` is marked.
    pub const fn any(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// True if no domain is marked.
    pub const fn is_none(self) -> bool {
        self.0 == 0
    }
}

impl BitOr for Dirty {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for Dirty {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

/// What the cluster looks like to this node.
#[derive(Debug)]
pub struct World {
    this: NodeName,
    nodes: BTreeMap<NodeName, Node>,
    namespaces: BTreeMap<ObjectName, Namespace>,
    accounts: BTreeMap<NamespacedName, ServiceAccount>,
    pods: BTreeMap<PodRef, Pod>,
    /// Pods deleted from the API whose sandbox still stands here: identity is kept until it is gone.
    departed: BTreeSet<PodRef>,
    /// Policies deleted with their namespace whose pods still stand here.
    held: Held,
    endpoints: BTreeMap<AttachmentId, LocalEndpoint>,
    kube_policies: BTreeMap<NamespacedName, Arc<api::networking::NetworkPolicy>>,
    pools: BTreeMap<ObjectName, Arc<api::IPPool>>,
    blocks: BTreeMap<ObjectName, Block>,
    affinities: BTreeMap<ObjectName, Arc<api::BlockAffinity>>,
    ipam_configurations: BTreeMap<ObjectName, Arc<api::IPAMConfiguration>>,
    bgp_configurations: BTreeMap<ObjectName, Arc<api::BGPConfiguration>>,
    bgp_peers: BTreeMap<ObjectName, Arc<api::BGPPeer>>,
    felix_configurations: BTreeMap<ObjectName, Arc<api::FelixConfiguration>>,
    tiers: BTreeMap<ObjectName, Arc<api::Tier>>,
    policies: BTreeMap<NamespacedName, Arc<api::NetworkPolicy>>,
    global_policies: BTreeMap<ObjectName, Arc<api::GlobalNetworkPolicy>>,
    network_sets: BTreeMap<NamespacedName, NetworkSet>,
    global_network_sets: BTreeMap<ObjectName, GlobalNetworkSet>,
    slices: BTreeMap<NamespacedName, EndpointSlice>,
    /// Services that policies name.
    services: BTreeSet<NamespacedName>,
    membership: Membership,
    synced: BTreeSet<Kind>,
}

/// A local interface with everything policy asks about it.
#[derive(Clone, Debug)]
pub struct EndpointView<'a> {
    /// The interface.
    pub endpoint: &'a LocalEndpoint,
    /// Its pod, if the World knows it.
    pub pod: Option<&'a Pod>,
    /// Effective labels.
    pub labels: Arc<Labels>,
    /// Named ports of the pod.
    pub ports: &'a [NamedPort],
}

impl EndpointView<'_> {
    /// Namespace of the pod, absent for an interface without one.
    pub fn namespace(&self) -> Option<&ObjectName> {
        self.endpoint.pod.as_ref().map(|pod| &pod.namespace)
    }
}

impl World {
    /// An empty World, seen from `node`.
    pub fn new(node: NodeName) -> Self {
        Self {
            this: node,
            nodes: BTreeMap::new(),
            namespaces: BTreeMap::new(),
            accounts: BTreeMap::new(),
            pods: BTreeMap::new(),
            departed: BTreeSet::new(),
            held: Held::default(),
            endpoints: BTreeMap::new(),
            kube_policies: BTreeMap::new(),
            pools: BTreeMap::new(),
            blocks: BTreeMap::new(),
            affinities: BTreeMap::new(),
            ipam_configurations: BTreeMap::new(),
            bgp_configurations: BTreeMap::new(),
            bgp_peers: BTreeMap::new(),
            felix_configurations: BTreeMap::new(),
            tiers: BTreeMap::new(),
            policies: BTreeMap::new(),
            global_policies: BTreeMap::new(),
            network_sets: BTreeMap::new(),
            global_network_sets: BTreeMap::new(),
            slices: BTreeMap::new(),
            services: BTreeSet::new(),
            membership: Membership::default(),
            synced: BTreeSet::new(),
        }
    }

    /// Takes one event and says which plans to make anew.
    pub fn apply(&mut self, event: Event) -> Dirty {
        match event {
            Event::Upsert(object) => self.upsert(*object),
            Event::Delete(key) => self.delete(key),
            Event::Synced(kind) => {
                let news = self.synced.insert(kind);
                if news && self.all_synced() {
                    Dirty::ALL
                } else {
                    Dirty::NONE
                }
            }
        }
    }

    fn upsert(&mut self, object: Object) -> Dirty {
        match object {
            Object::Node(node) => changed(&mut self.nodes, node.name.clone(), node, node_domains()),
            Object::Namespace(namespace) => self.upsert_namespace(namespace),
            Object::ServiceAccount(account) => self.upsert_account(account),
            Object::Pod(pod) => self.upsert_pod(pod),
            Object::KubeNetworkPolicy(policy) => {
                let key = namespaced(&policy.metadata);
                self.held.release(&Key::KubeNetworkPolicy(key.clone()));
                changed(
                    &mut self.kube_policies,
                    key,
                    Arc::new(policy),
                    Dirty::POLICY,
                )
            }
            Object::IpPool(pool) => {
                let key = named(&pool.metadata);
                changed(&mut self.pools, key, Arc::new(pool), Dirty::ALL)
            }
            Object::Block(block) => self.upsert_block(&block),
            Object::Affinity(affinity) => {
                let key = named(&affinity.metadata);
                let domains = Dirty::ROUTES | Dirty::PEERING | Dirty::IPAM;
                changed(&mut self.affinities, key, Arc::new(affinity), domains)
            }
            Object::IpamConfiguration(object) => {
                let key = named(&object.metadata);
                changed(
                    &mut self.ipam_configurations,
                    key,
                    Arc::new(object),
                    Dirty::IPAM,
                )
            }
            Object::BgpConfiguration(object) => {
                let key = named(&object.metadata);
                let domains = Dirty::ROUTES | Dirty::PEERING;
                changed(&mut self.bgp_configurations, key, Arc::new(object), domains)
            }
            Object::BgpPeer(object) => {
                let key = named(&object.metadata);
                let domains = Dirty::ROUTES | Dirty::PEERING;
                changed(&mut self.bgp_peers, key, Arc::new(object), domains)
            }
            Object::FelixConfiguration(object) => {
                let key = named(&object.metadata);
                changed(
                    &mut self.felix_configurations,
                    key,
                    Arc::new(object),
                    Dirty::ALL,
                )
            }
            Object::Tier(object) => {
                let key = named(&object.metadata);
                changed(&mut self.tiers, key, Arc::new(object), Dirty::POLICY)
            }
            Object::NetworkPolicy(object) => {
                let key = namespaced(&object.metadata);
                self.held.release(&Key::NetworkPolicy(key.clone()));
                changed(&mut self.policies, key, Arc::new(object), Dirty::POLICY)
            }
            Object::GlobalNetworkPolicy(object) => {
                let key = named(&object.metadata);
                changed(
                    &mut self.global_policies,
                    key,
                    Arc::new(object),
                    Dirty::POLICY,
                )
            }
            Object::NetworkSet(set) => {
                let key = set.id.clone();
                self.held.release(&Key::NetworkSet(key.clone()));
                let dirty = changed(&mut self.network_sets, key.clone(), set, Dirty::POLICY);
                self.refresh_network_set(&key);
                dirty
            }
            Object::GlobalNetworkSet(set) => {
                let key = set.name.clone();
                let member = Member {
                    labels: Arc::new(set.effective_labels()),
                    addresses: set.nets.iter().copied().collect(),
                    ports: Vec::new(),
                };
                self.membership
                    .upsert(&MemberKey::GlobalNetworkSet(key.clone()), member);
                changed(&mut self.global_network_sets, key, set, Dirty::POLICY)
            }
            Object::EndpointSlice(slice) => {
                let key = slice.id.clone();
                let before = self.asked(self.slices.get(&key));
                let now = self.asked(Some(&slice));
                changed(&mut self.slices, key, slice, before | now)
            }
            Object::Endpoint(endpoint) => self.upsert_endpoint(endpoint),
        }
    }

    fn delete(&mut self, key: Key) -> Dirty {
        if self.outlives_its_namespace(&key) {
            return Dirty::NONE;
        }
        self.remove(key)
    }

    /// Whether a policy, or a set that policies may deny, must stay for now although it is deleted: its namespace is dying and
    /// interfaces of it still stand here.
    fn outlives_its_namespace(&mut self, key: &Key) -> bool {
        let (Key::KubeNetworkPolicy(id) | Key::NetworkPolicy(id) | Key::NetworkSet(id)) = key
        else {
            return false;
        };
        let dying = match self.namespaces.get(&id.namespace) {
            Some(namespace) => namespace.terminating,
            // Gone already, unless nobody has told of any namespace yet.
            None => self.synced.contains(&Kind::Namespace),
        };
        if !dying {
            return false;
        }
        let pods = self.endpoints.values().filter(|endpoint| {
            let pod = endpoint.pod.as_ref();
            pod.is_some_and(|pod| pod.namespace == id.namespace)
        });
        let interfaces = pods.map(|endpoint| endpoint.id.clone()).collect();
        self.held.keep(key.clone(), interfaces)
    }

    fn remove(&mut self, key: Key) -> Dirty {
        match key {
            Key::Node(name) => gone(&mut self.nodes, &name, node_domains()),
            Key::Namespace(name) => {
                let dirty = gone(&mut self.namespaces, &name, Dirty::POLICY);
                self.refresh_namespace(&name);
                dirty
            }
            Key::ServiceAccount(id) => {
                let dirty = gone(&mut self.accounts, &id, Dirty::POLICY);
                self.refresh_namespace(&id.namespace);
                dirty
            }
            Key::Pod(id) => self.delete_pod(&id),
            Key::KubeNetworkPolicy(id) => gone(&mut self.kube_policies, &id, Dirty::POLICY),
            Key::IpPool(name) => gone(&mut self.pools, &name, Dirty::ALL),
            Key::Block(name) => {
                let domains = Dirty::ROUTES | Dirty::PEERING | Dirty::IPAM;
                gone(&mut self.blocks, &name, domains)
            }
            Key::Affinity(name) => {
                let domains = Dirty::ROUTES | Dirty::PEERING | Dirty::IPAM;
                gone(&mut self.affinities, &name, domains)
            }
            Key::IpamConfiguration(name) => gone(&mut self.ipam_configurations, &name, Dirty::IPAM),
            Key::BgpConfiguration(name) => gone(
                &mut self.bgp_configurations,
                &name,
                Dirty::ROUTES | Dirty::PEERING,
            ),
            Key::BgpPeer(name) => gone(&mut self.bgp_peers, &name, Dirty::ROUTES | Dirty::PEERING),
            Key::FelixConfiguration(name) => {
                gone(&mut self.felix_configurations, &name, Dirty::ALL)
            }
            Key::Tier(name) => gone(&mut self.tiers, &name, Dirty::POLICY),
            Key::NetworkPolicy(id) => gone(&mut self.policies, &id, Dirty::POLICY),
            Key::GlobalNetworkPolicy(name) => gone(&mut self.global_policies, &name, Dirty::POLICY),
            Key::NetworkSet(id) => {
                let dirty = gone(&mut self.network_sets, &id, Dirty::POLICY);
                self.refresh_network_set(&id);
                dirty
            }
            Key::GlobalNetworkSet(name) => {
                self.membership
                    .remove(&MemberKey::GlobalNetworkSet(name.clone()));
                gone(&mut self.global_network_sets, &name, Dirty::POLICY)
            }
            Key::EndpointSlice(id) => {
                let dirty = self.asked(self.slices.get(&id));
                gone(&mut self.slices, &id, dirty)
            }
            Key::Endpoint(id) => self.delete_endpoint(&id),
        }
    }

    fn upsert_namespace(&mut self, namespace: Namespace) -> Dirty {
        let name = namespace.name.clone();
        let dirty = changed(&mut self.namespaces, name.clone(), namespace, Dirty::POLICY);
        if !dirty.is_none() {
            self.refresh_namespace(&name);
        }
        dirty
    }

    fn upsert_account(&mut self, account: ServiceAccount) -> Dirty {
        let namespace = account.id.namespace.clone();
        let dirty = changed(
            &mut self.accounts,
            account.id.clone(),
            account,
            Dirty::POLICY,
        );
        if !dirty.is_none() {
            self.refresh_namespace(&namespace);
        }
        dirty
    }

    fn upsert_pod(&mut self, pod: Pod) -> Dirty {
        let id = pod.id.clone();
        self.departed.remove(&id);
        let local = pod.node.as_ref() == Some(&self.this);
        let domains = if local {
            Dirty::POLICY | Dirty::ROUTES
        } else {
            Dirty::POLICY
        };
        let dirty = changed(&mut self.pods, id.clone(), pod, domains);
        if !dirty.is_none() {
            self.refresh_pod(&id);
        }
        dirty
    }

    fn delete_pod(&mut self, id: &PodRef) -> Dirty {
        if self.endpoints_of(id).next().is_some() {
            self.departed.insert(id.clone());
            return Dirty::NONE;
        }
        let dirty = gone(&mut self.pods, id, Dirty::POLICY);
        self.refresh_pod(id);
        dirty
    }

    fn upsert_block(&mut self, object: &api::IPAMBlock) -> Dirty {
        let domains = Dirty::ROUTES | Dirty::PEERING | Dirty::IPAM;
        let key = named(&object.metadata);
        match Block::parse(object) {
            Ok(Some(block)) => changed(&mut self.blocks, key, block, domains),
            Ok(None) | Err(_) => gone(&mut self.blocks, &key, domains),
        }
    }

    fn upsert_endpoint(&mut self, endpoint: LocalEndpoint) -> Dirty {
        let id = endpoint.id.clone();
        let pod = endpoint.pod.clone();
        let domains = Dirty::POLICY | Dirty::ROUTES | Dirty::PEERING;
        let dirty = changed(&mut self.endpoints, id.clone(), endpoint, domains);
        if !dirty.is_none() {
            self.refresh_attachment(&id, pod.as_ref());
        }
        dirty
    }

    fn delete_endpoint(&mut self, id: &AttachmentId) -> Dirty {
        let Some(endpoint) = self.endpoints.remove(id) else {
            return Dirty::NONE;
        };
        if let Some(pod) = &endpoint.pod
            && self.endpoints_of(pod).next().is_none()
            && self.departed.remove(pod)
        {
            self.pods.remove(pod);
        }
        for freed in self.held.without(id) {
            self.remove(freed);
        }
        self.refresh_attachment(id, endpoint.pod.as_ref());
        Dirty::POLICY | Dirty::ROUTES | Dirty::PEERING
    }

    fn endpoints_of<'a>(&'a self, pod: &'a PodRef) -> impl Iterator<Item = &'a LocalEndpoint> {
        self.endpoints
            .values()
            .filter(move |endpoint| endpoint.pod.as_ref() == Some(pod))
    }

    /// Name of the node this World is seen from.
    pub fn this_node_name(&self) -> &NodeName {
        &self.this
    }

    /// The node this World is seen from, once the API told of it.
    pub fn this_node(&self) -> Option<&Node> {
        self.nodes.get(&self.this)
    }

    /// Every node, by name.
    pub fn nodes(&self) -> &BTreeMap<NodeName, Node> {
        &self.nodes
    }

    /// Every namespace, by name.
    pub fn namespaces(&self) -> &BTreeMap<ObjectName, Namespace> {
        &self.namespaces
    }

    /// Every pod, by namespace and name.
    pub fn pods(&self) -> &BTreeMap<PodRef, Pod> {
        &self.pods
    }

    /// Every interface of a sandbox on this node, by key; finished pods excluded, because their addresses may be reused.
    pub fn local_endpoints(&self) -> impl Iterator<Item = EndpointView<'_>> {
        self.endpoints
            .values()
            .filter_map(|endpoint| self.view(endpoint))
    }

    /// One interface of a sandbox on this node.
    pub fn local_endpoint(&self, id: &AttachmentId) -> Option<&LocalEndpoint> {
        self.endpoints.get(id)
    }

    fn view<'a>(&'a self, endpoint: &'a LocalEndpoint) -> Option<EndpointView<'a>> {
        let pod = endpoint.pod.as_ref().and_then(|id| self.pods.get(id));
        if pod.is_some_and(|pod| pod.finished) {
            return None;
        }
        let key = match &endpoint.pod {
            Some(pod) => MemberKey::Pod(pod.clone()),
            None => MemberKey::Attachment(endpoint.id.clone()),
        };
        let labels = match self.membership.member(&key) {
            Some(member) => Arc::clone(&member.labels),
            None => Arc::new(endpoint.labels.clone()),
        };
        Some(EndpointView {
            endpoint,
            pod,
            labels,
            ports: pod.map_or(&[], |pod| &pod.ports),
        })
    }

    /// Address pools, by name.
    pub fn pools(&self) -> &BTreeMap<ObjectName, Arc<api::IPPool>> {
        &self.pools
    }

    /// Address blocks, by object name.
    pub fn blocks(&self) -> &BTreeMap<ObjectName, Block> {
        &self.blocks
    }

    /// Block affinities, by object name.
    pub fn affinities(&self) -> &BTreeMap<ObjectName, Arc<api::BlockAffinity>> {
        &self.affinities
    }

    /// Limits of address assignment, by object name; only `default` counts.
    pub fn ipam_configurations(&self) -> &BTreeMap<ObjectName, Arc<api::IPAMConfiguration>> {
        &self.ipam_configurations
    }

    /// Speaker settings, by object name: `default` and `node.<name>` count.
    pub fn bgp_configurations(&self) -> &BTreeMap<ObjectName, Arc<api::BGPConfiguration>> {
        &self.bgp_configurations
    }

    /// Neighbour definitions, by name.
    pub fn bgp_peers(&self) -> &BTreeMap<ObjectName, Arc<api::BGPPeer>> {
        &self.bgp_peers
    }

    /// Agent settings, by object name; [`crate::settings`] merges them.
    pub fn felix_configurations(&self) -> &BTreeMap<ObjectName, Arc<api::FelixConfiguration>> {
        &self.felix_configurations
    }

    /// Tiers, by name.
    pub fn tiers(&self) -> &BTreeMap<ObjectName, Arc<api::Tier>> {
        &self.tiers
    }

    /// Policies of `networking.k8s.io`.
    pub fn kube_policies(&self) -> &BTreeMap<NamespacedName, Arc<api::networking::NetworkPolicy>> {
        &self.kube_policies
    }

    /// Namespaced policies of `projectcalico.org/v3`.
    pub fn policies(&self) -> &BTreeMap<NamespacedName, Arc<api::NetworkPolicy>> {
        &self.policies
    }

    /// Cluster-wide policies of `projectcalico.org/v3`.
    pub fn global_policies(&self) -> &BTreeMap<ObjectName, Arc<api::GlobalNetworkPolicy>> {
        &self.global_policies
    }

    /// Follows exactly these Services from now on: endpoints of others change without a word.
    pub fn watch_services(&mut self, services: BTreeSet<NamespacedName>) {
        self.services = services;
    }

    /// What a change of this slice makes anew: endpoints come and go all the time, and few policies name a Service.
    fn asked(&self, slice: Option<&EndpointSlice>) -> Dirty {
        let service = slice.and_then(|slice| {
            let name = slice.service.clone()?;
            Some(NamespacedName::new(slice.id.namespace.clone(), name))
        });
        if service.is_some_and(|service| self.services.contains(&service)) {
            Dirty::POLICY
        } else {
            Dirty::NONE
        }
    }

    /// Every part of the endpoints of Services, by namespace and name.
    pub fn endpoint_slices(&self) -> &BTreeMap<NamespacedName, EndpointSlice> {
        &self.slices
    }

    /// What serves a Service; nothing when it is not known, headless, or has no endpoints.
    pub fn backends(&self, service: &NamespacedName) -> Backends {
        let first = NamespacedName::new(service.namespace.clone(), "");
        let own = self.slices.range(first..);
        let own = own.take_while(|(id, _)| id.namespace == service.namespace);
        let own = own.map(|(_, slice)| slice);
        Backends::of(own.filter(|slice| slice.service.as_ref() == Some(&service.name)))
    }

    /// Sets of addresses of namespaces.
    pub fn network_sets(&self) -> &BTreeMap<NamespacedName, NetworkSet> {
        &self.network_sets
    }

    /// Cluster-wide sets of addresses.
    pub fn global_network_sets(&self) -> &BTreeMap<ObjectName, GlobalNetworkSet> {
        &self.global_network_sets
    }

    /// Selector → addresses. Policy names the selectors it needs here, and reads their members.
    pub fn membership(&self) -> &Membership {
        &self.membership
    }

    /// The same, to name selectors.
    pub fn membership_mut(&mut self) -> &mut Membership {
        &mut self.membership
    }

    /// Names of namespaces whose labels a selector matches.
    pub fn namespaces_matching<'a>(
        &'a self,
        selector: &'a Selector,
    ) -> impl Iterator<Item = &'a ObjectName> {
        self.namespaces
            .values()
            .filter(|namespace| selector.matches(&namespace.labels))
            .map(|namespace| &namespace.name)
    }

    /// True once every kind has been listed. Before that nothing of ours leaves the kernel.
    pub fn all_synced(&self) -> bool {
        Kind::ALL.iter().all(|kind| self.synced.contains(kind))
    }

    /// Kinds not yet listed.
    pub fn unsynced(&self) -> impl Iterator<Item = Kind> + '_ {
        Kind::ALL
            .iter()
            .copied()
            .filter(|kind| !self.synced.contains(kind))
    }
}

fn node_domains() -> Dirty {
    Dirty::ROUTES | Dirty::NAT | Dirty::PEERING | Dirty::IPAM
}

fn changed<K: Ord, V: PartialEq>(
    map: &mut BTreeMap<K, V>,
    key: K,
    value: V,
    domains: Dirty,
) -> Dirty {
    if map.get(&key) == Some(&value) {
        return Dirty::NONE;
    }
    map.insert(key, value);
    domains
}

fn gone<K: Ord, V>(map: &mut BTreeMap<K, V>, key: &K, domains: Dirty) -> Dirty {
    match map.remove(key) {
        Some(_) => domains,
        None => Dirty::NONE,
    }
}

fn named(metadata: &ObjectMeta) -> ObjectName {
    ObjectName::from(metadata.name.clone().unwrap_or_default())
}

fn namespaced(metadata: &ObjectMeta) -> NamespacedName {
    NamespacedName::new(
        metadata.namespace.clone().unwrap_or_default(),
        metadata.name.clone().unwrap_or_default(),
    )
}

#[cfg(test)]
mod tests;
