//! Membership kept up: whoever has labels and addresses, after something they depend on changed.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use super::World;
use crate::endpoint::{Labels, Pod, pod_labels};
use crate::ids::{AttachmentId, NamespacedName, ObjectName, PodRef};
use crate::membership::{Member, MemberKey};

impl World {
    pub(super) fn refresh_attachment(&mut self, id: &AttachmentId, pod: Option<&PodRef>) {
        if let Some(pod) = pod {
            self.refresh_pod(pod);
            return;
        }
        let key = MemberKey::Attachment(id.clone());
        match self.endpoints.get(id) {
            Some(endpoint) => {
                let member = Member {
                    labels: Arc::new(endpoint.labels.clone()),
                    addresses: endpoint
                        .addresses
                        .iter()
                        .copied()
                        .map(IpNet::from)
                        .collect(),
                    ports: Vec::new(),
                };
                self.membership.upsert(&key, member);
            }
            None => self.membership.remove(&key),
        }
    }

    pub(super) fn refresh_namespace(&mut self, name: &ObjectName) {
        let first = PodRef::new(name.clone(), "");
        let pods: Vec<PodRef> = self
            .pods
            .range(first..)
            .take_while(|(id, _)| id.namespace == *name)
            .map(|(id, _)| id.clone())
            .collect();
        for pod in pods {
            self.refresh_pod(&pod);
        }
        let sets: Vec<NamespacedName> = self
            .network_sets
            .range(NamespacedName::new(name.clone(), "")..)
            .take_while(|(id, _)| id.namespace == *name)
            .map(|(id, _)| id.clone())
            .collect();
        for set in sets {
            self.refresh_network_set(&set);
        }
    }

    pub(super) fn refresh_network_set(&mut self, id: &NamespacedName) {
        let key = MemberKey::NetworkSet(id.clone());
        let Some(set) = self.network_sets.get(id) else {
            self.membership.remove(&key);
            return;
        };
        let labels = set.effective_labels(self.namespaces.get(&id.namespace));
        let member = Member {
            labels: Arc::new(labels),
            addresses: set.nets.iter().copied().collect(),
            ports: Vec::new(),
        };
        self.membership.upsert(&key, member);
    }

    pub(super) fn refresh_pod(&mut self, id: &PodRef) {
        let key = MemberKey::Pod(id.clone());
        match self.pod_member(id) {
            Some(member) => self.membership.upsert(&key, member),
            None => self.membership.remove(&key),
        }
    }

    fn pod_member(&self, id: &PodRef) -> Option<Member> {
        let pod = self.pods.get(id)?;
        if pod.host_network || pod.finished {
            return None;
        }
        let mut addresses: BTreeSet<IpAddr> = pod.ips.iter().copied().collect();
        for endpoint in self.endpoints_of(id) {
            addresses.extend(&endpoint.addresses);
        }
        Some(Member {
            labels: Arc::new(self.labels_of(pod)),
            addresses: addresses.into_iter().map(IpNet::from).collect(),
            ports: pod.ports.clone(),
        })
    }

    fn labels_of(&self, pod: &Pod) -> Labels {
        let account = pod.service_account.as_ref().map(|name| NamespacedName {
            namespace: pod.id.namespace.clone(),
            name: name.clone(),
        });
        pod_labels(
            pod,
            self.namespaces.get(&pod.id.namespace),
            account.and_then(|id| self.accounts.get(&id)),
        )
    }
}
