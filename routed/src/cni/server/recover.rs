//! Start: the journal, the links that stand, the spool and IPAM become one picture again. The decision is pure, [`decide`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use ::ipam::Time;
use cni_plugin::rpc::Request;
use cni_plugin::spec::Verb;
use cni_plugin::spool;
use dataplane::plan::workload;
use model::{AttachmentId, NodeName, PodRef};
use tokio::time::sleep;

use super::{Key, Server};
use crate::clock;
use crate::cni::ask;
use crate::cni::call::Call;
use crate::cni::cancel::Trip;
use crate::cni::install::NETWORK;
use crate::cni::names::{self, PRIMARY};
use crate::cni::record::{Record, State};
use crate::cni::seams::{Holding, HostLink};
use crate::ipam::is_warm;

/// Pause between two tries to read IPAM.
const AGAIN: Duration = Duration::from_millis(200);

/// What a start does with what it finds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Recovery {
    /// Alive: handed to the World as they are.
    pub(super) adopt: Vec<Record>,
    /// Half made, half gone, or their sandbox vanished: taken apart.
    pub(super) undo: Vec<Record>,
}

/// Decides from the journal and the links that stand.
pub(super) fn decide(records: &[Record], links: &BTreeMap<String, HostLink>) -> Recovery {
    let mut recovery = Recovery::default();
    for record in records {
        match record.state {
            State::Attached => match links.get(&*record.host) {
                Some(link) if link.ifindex == record.ifindex => recovery.adopt.push(record.clone()),
                Some(_) | None => recovery.undo.push(record.clone()),
            },
            State::Intent | State::Leaving => recovery.undo.push(record.clone()),
            // One keeps its address for a DEL to come, the other is paid in its own time.
            State::Replaced | State::Owed => {}
        }
    }
    recovery
}

/// A record for a link that bears our mark and that no record knows: the journal was lost.
pub(super) fn rebuild(
    serial: u64,
    name: &str,
    link: &HostLink,
    routed: &[IpAddr],
) -> Option<Record> {
    let (pod, container_id) = workload::parse_alias(&link.alias)?;
    let id = AttachmentId {
        network: NETWORK.into(),
        container_id: container_id.into(),
        ifname: PRIMARY.into(),
    };
    Some(Record {
        serial,
        handle: names::handle(&id).into(),
        id,
        pod,
        pod_uid: None,
        netns: "".into(),
        sandbox: None,
        host: name.into(),
        ifindex: link.ifindex,
        mac: None,
        claims: routed
            .iter()
            .map(|address| crate::cni::record::Claim {
                address: *address,
                place: None,
            })
            .collect(),
        labels: BTreeMap::new(),
        state: State::Attached,
        since: 0,
    })
}

/// What IPAM holds for containers of this node that no record explains: adopted when the pod's interface stands (a node taken
/// over, or a journal lost), else released (a node that rebooted).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Unexplained {
    /// The interface of its pod stands.
    Adopt {
        /// Name of that interface.
        host: Arc<str>,
        /// The pod.
        pod: PodRef,
    },
    /// Nothing here uses it.
    Release,
}

/// Judges one holding; `None` when it is explained, or not a container's of this node.
pub(super) fn judge(
    holding: &Holding,
    node: &NodeName,
    prefix: &str,
    known: &BTreeSet<Arc<str>>,
    links: &BTreeMap<String, HostLink>,
) -> Option<Unexplained> {
    let attribute = |key: &str| holding.attributes.get(key).map(String::as_str);
    let ours = attribute("node") == Some(node.as_str()) && attribute("type").is_none();
    let pod = attribute("namespace")
        .zip(attribute("pod"))
        .or(attribute("margay.namespace").zip(attribute("margay.pod")));
    let network = holding
        .handle
        .strip_prefix(NETWORK)
        .and_then(|rest| rest.strip_prefix('.'));
    if !ours || known.contains(&holding.handle) || (pod.is_none() && network.is_none()) {
        return None;
    }
    let Some((namespace, name)) = pod else {
        return Some(Unexplained::Release);
    };
    let pod = PodRef::new(namespace, name);
    let id = AttachmentId {
        network: NETWORK.into(),
        container_id: network.unwrap_or_default().into(),
        ifname: attribute("margay.ifname").unwrap_or(PRIMARY).into(),
    };
    let host = names::host_interface(prefix, Some(&pod), &id).ok()?;
    Some(match links.get(&*host) {
        Some(link)
            if link.alias.is_empty() || names::is_alias_of(&link.alias, &id.container_id) =>
        {
            Unexplained::Adopt { host, pod }
        }
        Some(_) | None => Unexplained::Release,
    })
}

impl Server {
    /// Before anything is served: the World learns of every attachment that lives, half-made ones are undone.
    pub(in crate::cni) async fn recover(&self) {
        let prefix = self.rooms.cluster.settings().interface_prefix;
        let links = loop {
            match self.rooms.kernel.links(&prefix).await {
                Ok(links) => break links,
                Err(why) => {
                    tracing::error!(why, "interfaces cannot be listed: nothing is adopted yet");
                }
            }
            sleep(AGAIN).await;
        };
        let recovery = decide(&self.book.all(), &links);
        let mut alive = recovery.adopt;
        alive.extend(self.rebuilt(&links).await);
        let count = alive.len() as u64;
        if let Err(error) = self
            .rooms
            .cluster
            .adopt(alive.iter().map(Record::endpoint).collect())
            .await
        {
            tracing::warn!(%error, "attachments were not handed over");
        }
        self.adopted.send_replace(true);
        self.metrics.adopted(count);
        tracing::info!(
            adopted = count,
            undoing = recovery.undo.len(),
            "attachments recovered"
        );
        for found in recovery.undo {
            let _turn = self.locks.enter(Key::Attachment(found.id.clone())).await;
            // A DEL may have been quicker.
            if let Some(record) = self.book.get(found.serial) {
                self.tear_down_or_say(record).await;
            }
        }
    }

    async fn rebuilt(&self, links: &BTreeMap<String, HostLink>) -> Vec<Record> {
        let known: BTreeSet<Arc<str>> = self
            .book
            .all()
            .into_iter()
            .map(|record| record.host)
            .collect();
        let strays: Vec<_> = links
            .iter()
            .filter(|(name, _)| !known.contains(name.as_str()))
            .collect();
        let mut rebuilt = Vec::new();
        if strays.is_empty() {
            return rebuilt;
        }
        let prefix = self.rooms.cluster.settings().interface_prefix;
        let routed = match self.rooms.kernel.routed(&prefix).await {
            Ok(routed) => routed,
            Err(why) => {
                tracing::warn!(
                    why,
                    "routes cannot be listed: addresses come from IPAM later"
                );
                BTreeMap::new()
            }
        };
        for (name, link) in strays {
            let routed = routed
                .get(&link.ifindex)
                .map(Vec::as_slice)
                .unwrap_or_default();
            let Some(record) = rebuild(self.book.next_serial(), name, link, routed) else {
                continue;
            };
            tracing::warn!(attachment = %record.id, interface = %record.host, "rebuilt from its interface: the journal does not know it");
            self.book.note(&record);
            rebuilt.push(record);
        }
        rebuilt
    }

    /// Once in sync: what IPAM holds is compared with what lives here, then ADD may begin. Retries until IPAM has listed.
    pub(in crate::cni) async fn compare_with_ipam(&self) {
        loop {
            if self.rooms.cluster.sync().in_sync {
                match self.rooms.addresses.holdings().await {
                    Ok(holdings) => {
                        self.complete_places(&holdings);
                        match self.agree().await {
                            Ok(holdings) => {
                                self.settle(holdings).await;
                                break;
                            }
                            Err(why) => tracing::debug!(why, "IPAM does not answer yet"),
                        }
                    }
                    Err(why) => tracing::debug!(why, "IPAM has not listed yet"),
                }
            }
            sleep(AGAIN).await;
        }
        self.compared.send_replace(true);
    }

    /// Tells IPAM what lives, and reads its books with that in them.
    async fn agree(&self) -> Result<Vec<Holding>, String> {
        let node = self.rooms.cluster.settings().node;
        let now = Time::from_nanos(clock::unix_nanos());
        let living = |record: Record| {
            let attributes = ask::attributes(&record.id, record.pod.as_ref(), &node, now);
            let handle = Arc::clone(&record.handle);
            record.claims.into_iter().map(move |claim| Holding {
                handle: Arc::clone(&handle),
                claim,
                attributes: attributes.clone(),
            })
        };
        let living = self.book.all().into_iter().flat_map(living).collect();
        self.rooms.addresses.living(living).await?;
        self.rooms.addresses.holdings().await
    }

    async fn settle(&self, holdings: Vec<Holding>) {
        let settings = self.rooms.cluster.settings();
        let links = match self.rooms.kernel.links(&settings.interface_prefix).await {
            Ok(links) => links,
            Err(why) => {
                tracing::warn!(
                    why,
                    "interfaces cannot be listed: addresses are not compared with them"
                );
                return;
            }
        };
        let known: BTreeSet<Arc<str>> = self
            .book
            .all()
            .into_iter()
            .map(|record| record.handle)
            .collect();
        for holding in holdings {
            match judge(
                &holding,
                &settings.node,
                &settings.interface_prefix,
                &known,
                &links,
            ) {
                None => {}
                Some(Unexplained::Adopt { host, pod }) => {
                    self.adopt_late(&holding, &host, pod, &links);
                }
                Some(Unexplained::Release) => {
                    tracing::info!(handle = %holding.handle, address = %holding.claim.address, "nothing here uses the address: releasing");
                    self.release_stale(holding).await;
                }
            }
        }
    }

    /// Records rebuilt from links know addresses but not where they are written; IPAM does.
    fn complete_places(&self, holdings: &[Holding]) {
        for mut record in self.book.all() {
            let mut changed = false;
            for claim in record
                .claims
                .iter_mut()
                .filter(|claim| claim.place.is_none())
            {
                // An address that was kept ready may not bear its pod's name yet.
                let found = holdings.iter().find(|held| {
                    (held.handle == record.handle || is_warm(&held.handle))
                        && held.claim.address == claim.address
                });
                if let Some(place) = found.and_then(|held| held.claim.place) {
                    claim.place = Some(place);
                    changed = true;
                }
            }
            if changed {
                self.book.note(&record);
            }
        }
    }

    /// A pod that another plugin attached, or whose record was lost with its mark: it is ours from now on.
    fn adopt_late(
        &self,
        holding: &Holding,
        host: &str,
        pod: PodRef,
        links: &BTreeMap<String, HostLink>,
    ) {
        let Some(link) = links.get(host) else { return };
        let sibling = self
            .book
            .all()
            .into_iter()
            .find(|record| record.handle == holding.handle);
        let record = match sibling {
            // The other family of the same pod came first.
            Some(mut record) => {
                record.claims.push(holding.claim.clone());
                record.claims.sort_by_key(|claim| claim.address);
                record
            }
            None => self.foreign_record(holding, host, pod, link),
        };
        tracing::info!(attachment = %record.id, interface = host, "adopted from IPAM");
        self.book.note(&record);
        self.metrics.adopted(1);
        let cluster = Arc::clone(&self.rooms.cluster);
        tokio::spawn(async move {
            if let Err(error) = cluster.program(record.endpoint()).await {
                tracing::warn!(attachment = %record.id, %error, "adopted endpoint is not in force yet");
            }
        });
    }

    fn foreign_record(
        &self,
        holding: &Holding,
        host: &str,
        pod: PodRef,
        link: &HostLink,
    ) -> Record {
        let container_id = holding.handle.rsplit('.').next().unwrap_or_default();
        Record {
            serial: self.book.next_serial(),
            id: AttachmentId {
                network: NETWORK.into(),
                container_id: container_id.into(),
                ifname: PRIMARY.into(),
            },
            pod: Some(pod),
            pod_uid: None,
            netns: "".into(),
            sandbox: None,
            host: host.into(),
            ifindex: link.ifindex,
            mac: None,
            handle: Arc::clone(&holding.handle),
            claims: vec![holding.claim.clone()],
            labels: BTreeMap::new(),
            state: State::Attached,
            since: 0,
        }
    }

    async fn release_stale(&self, holding: Holding) {
        let released = self
            .rooms
            .addresses
            .release(Arc::clone(&holding.handle), vec![holding.claim.clone()])
            .await;
        if let Err(error) = released {
            tracing::warn!(handle = %holding.handle, %error, "stale address stays for now");
        }
    }

    /// DELs that found no daemon.
    pub(in crate::cni) async fn pay_spool(&self) {
        let found = match spool::collect(&self.socket) {
            Ok(found) => found,
            Err(error) => {
                tracing::warn!(%error, "the spool cannot be listed");
                return;
            }
        };
        for (path, request) in found {
            match request {
                Ok(request) => self.replay(&request).await,
                Err(error) => {
                    tracing::warn!(path = %path.display(), %error, "spooled DEL cannot be read: blocks are compared instead");
                }
            }
            if let Err(error) = spool::paid(&path) {
                tracing::warn!(path = %path.display(), %error, "spooled DEL stays");
            }
        }
    }

    async fn replay(&self, request: &Request) {
        let call = match Call::parse(request) {
            Ok(call) if call.verb == Verb::Del => call,
            Ok(_) => return,
            Err(failure) => {
                tracing::warn!(%failure, "spooled DEL is refused");
                return;
            }
        };
        let (trip, cancel) = Trip::new(Verb::Del.deadline());
        match self.serve(&call, None, &trip, &cancel).await {
            Ok(answer) => {
                if let Some(leaving) = answer.leaving {
                    self.finish(leaving).await;
                }
                tracing::info!(attachment = %call.id, "spooled DEL done");
            }
            Err(failure) => {
                tracing::warn!(attachment = %call.id, %failure, details = failure.details, "spooled DEL failed: collected later");
            }
        }
    }
}
