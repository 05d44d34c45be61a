//! Which addresses a selector stands for, kept up to date change by change.
//!
//! A pod that changes is compared with the selectors that could match it, found through the label each of them cannot do
//! without; the others are not looked at. The specification is one line, and lives as a property in the tests: the members of
//! a selector are the addresses of all endpoints whose labels it matches.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::selector::Selector;
use ipnet::IpNet;

use crate::endpoint::{Labels, NamedPort, Transport};
use crate::ids::{AttachmentId, NamespacedName, ObjectName, PodRef};

/// What has labels and addresses.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MemberKey {
    /// A pod of the cluster.
    Pod(PodRef),
    /// A local interface without a pod.
    Attachment(AttachmentId),
    /// A set of addresses of a namespace.
    NetworkSet(NamespacedName),
    /// A cluster-wide set of addresses.
    GlobalNetworkSet(ObjectName),
}

/// Labels, addresses and named ports of one endpoint or network set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Effective labels.
    pub labels: Arc<Labels>,
    /// Addresses, as host prefixes; sets may bring wider ones.
    pub addresses: Vec<IpNet>,
    /// Named ports it serves.
    pub ports: Vec<NamedPort>,
}

/// The addresses behind one selector: prefix → number of endpoints that bring it.
pub type Members = BTreeMap<IpNet, u32>;

#[derive(Debug, Default)]
struct Watched {
    matched: BTreeSet<MemberKey>,
    members: Members,
}

/// Selectors in use and the endpoints behind them.
#[derive(Debug, Default)]
pub struct Membership {
    endpoints: BTreeMap<MemberKey, Member>,
    watched: BTreeMap<Selector, Watched>,
    /// Label key a selector needs → selectors. A selector that needs none stands in `unindexed`.
    by_label: BTreeMap<String, BTreeSet<Selector>>,
    unindexed: BTreeSet<Selector>,
    changed: BTreeSet<Selector>,
}

impl Membership {
    /// Adds or changes an endpoint.
    pub fn upsert(&mut self, key: &MemberKey, member: Member) {
        if self.endpoints.get(key) == Some(&member) {
            return;
        }
        let candidates = self.candidates(key, Some(&member.labels));
        let old = self.endpoints.insert(key.clone(), member);
        for selector in candidates {
            self.rematch(&selector, key, old.as_ref());
        }
    }

    /// Removes an endpoint.
    pub fn remove(&mut self, key: &MemberKey) {
        let candidates = self.candidates(key, None);
        let old = self.endpoints.remove(key);
        for selector in candidates {
            self.rematch(&selector, key, old.as_ref());
        }
    }

    /// Watches exactly these selectors from now on; the ones no longer named are dropped.
    pub fn watch_only(&mut self, selectors: &BTreeSet<Selector>) {
        let stale: Vec<Selector> = self
            .watched
            .keys()
            .filter(|selector| !selectors.contains(*selector))
            .cloned()
            .collect();
        for selector in stale {
            self.unwatch(&selector);
        }
        for selector in selectors {
            self.watch(selector);
        }
    }

    /// Starts to follow a selector; its members are known at once.
    pub fn watch(&mut self, selector: &Selector) {
        if self.watched.contains_key(selector) {
            return;
        }
        let mut watched = Watched::default();
        for (key, member) in &self.endpoints {
            if selector.matches(&*member.labels) {
                watched.matched.insert(key.clone());
                add(&mut watched.members, &member.addresses);
            }
        }
        match needed_label(selector) {
            Some(label) => self
                .by_label
                .entry(label)
                .or_default()
                .insert(selector.clone()),
            None => self.unindexed.insert(selector.clone()),
        };
        self.watched.insert(selector.clone(), watched);
        self.changed.insert(selector.clone());
    }

    /// Stops following a selector.
    pub fn unwatch(&mut self, selector: &Selector) {
        self.watched.remove(selector);
        self.changed.remove(selector);
        self.unindexed.remove(selector);
        if let Some(label) = needed_label(selector)
            && let Some(set) = self.by_label.get_mut(&label)
        {
            set.remove(selector);
            if set.is_empty() {
                self.by_label.remove(&label);
            }
        }
    }

    /// Addresses of a watched selector; `None` if nobody watches it.
    pub fn members(&self, selector: &Selector) -> Option<&Members> {
        self.watched.get(selector).map(|watched| &watched.members)
    }

    /// Addresses and port numbers at which the endpoints of a watched selector serve a named port.
    pub fn port_members(
        &self,
        selector: &Selector,
        name: &str,
        protocol: Transport,
    ) -> BTreeSet<(IpAddr, u16)> {
        let matched = self
            .watched
            .get(selector)
            .into_iter()
            .flat_map(|watched| &watched.matched);
        let mut found = BTreeSet::new();
        for member in matched.filter_map(|key| self.endpoints.get(key)) {
            let ports = member
                .ports
                .iter()
                .filter(|port| &*port.name == name && port.protocol == protocol);
            for port in ports {
                found.extend(member.addresses.iter().map(|net| (net.addr(), port.port)));
            }
        }
        found
    }

    /// Labels of a known endpoint.
    pub fn member(&self, key: &MemberKey) -> Option<&Member> {
        self.endpoints.get(key)
    }

    /// Every known endpoint, by key.
    pub fn endpoints(&self) -> impl Iterator<Item = (&MemberKey, &Member)> {
        self.endpoints.iter()
    }

    /// Selectors whose members changed since the last call.
    pub fn take_changed(&mut self) -> BTreeSet<Selector> {
        std::mem::take(&mut self.changed)
    }

    /// Selectors that may match the labels, or that match the endpoint now.
    fn candidates(&self, key: &MemberKey, labels: Option<&Arc<Labels>>) -> BTreeSet<Selector> {
        let mut found = self.unindexed.clone();
        let old = self.endpoints.get(key).map(|member| &member.labels);
        for label in labels
            .into_iter()
            .chain(old)
            .flat_map(|labels| labels.keys())
        {
            if let Some(selectors) = self.by_label.get(label) {
                found.extend(selectors.iter().cloned());
            }
        }
        found
    }

    fn rematch(&mut self, selector: &Selector, key: &MemberKey, old: Option<&Member>) {
        let Some(watched) = self.watched.get_mut(selector) else {
            return;
        };
        let now = self
            .endpoints
            .get(key)
            .filter(|member| selector.matches(&*member.labels));
        let before = watched.matched.contains(key).then_some(old).flatten();
        if now.is_none() && before.is_none() {
            return;
        }
        if let Some(before) = before {
            subtract(&mut watched.members, &before.addresses);
            watched.matched.remove(key);
        }
        if let Some(now) = now {
            add(&mut watched.members, &now.addresses);
            watched.matched.insert(key.clone());
        }
        let unchanged = now.zip(before).is_some_and(|(now, before)| {
            now.addresses == before.addresses && now.ports == before.ports
        });
        if !unchanged {
            self.changed.insert(selector.clone());
        }
    }
}

fn needed_label(selector: &Selector) -> Option<String> {
    let needed = selector.must_have()?;
    needed.keys().next().map(|label| (*label).to_owned())
}

fn add(members: &mut Members, addresses: &[IpNet]) {
    for address in addresses {
        *members.entry(*address).or_insert(0) += 1;
    }
}

fn subtract(members: &mut Members, addresses: &[IpNet]) {
    for address in addresses {
        if let Some(count) = members.get_mut(address) {
            *count -= 1;
            if *count == 0 {
                members.remove(address);
            }
        }
    }
}

#[cfg(test)]
mod tests;
