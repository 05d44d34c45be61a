//! Watched objects as the address index takes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use ::ipam::codec;
use ::ipam::index::{Config, Event};
use ::ipam::pool::Pool;
use ipnet::IpNet;
use model::{Key, Kind, Object, ObjectName};

/// A change, parsed; blocks and affinities by the name a deletion will bear.
#[derive(Debug)]
pub(super) enum Told {
    Event(Event),
    /// A block or affinity under its object name.
    Named(ObjectName, Event),
    BlockGone(ObjectName),
    AffinityGone(ObjectName),
    Synced(Kind),
}

/// Kinds the index needs whole before it answers. Reservations are not watched yet: none is known.
const NEEDED: [Kind; 5] = [
    Kind::Node,
    Kind::IpPool,
    Kind::Block,
    Kind::Affinity,
    Kind::IpamConfiguration,
];

/// Parses an event; `None` = it does not concern addresses.
pub(super) fn translate(event: &model::Event, node: &str) -> Option<Told> {
    match event {
        model::Event::Upsert(object) => upsert(object, node),
        model::Event::Delete(key) => delete(key),
        model::Event::Synced(kind) => NEEDED.contains(kind).then_some(Told::Synced(*kind)),
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most kinds do not concern addresses, and new ones will not either"
)]
fn upsert(object: &Object, node: &str) -> Option<Told> {
    match object {
        Object::Node(found) => {
            let labels = Arc::new(found.labels.clone());
            Some(Told::Event(Event::Node(
                Arc::from(found.name.as_str()),
                labels,
            )))
        }
        Object::IpPool(pool) => {
            let pool = Pool::parse(pool);
            if let Err((name, why)) = &pool {
                tracing::warn!(pool = %name, why, "pool gives out no addresses");
            }
            Some(Told::Event(Event::Pool(pool)))
        }
        Object::Block(block) => block_seen(block),
        Object::Affinity(affinity) if affinity.spec.node == node => affinity_seen(affinity),
        Object::IpamConfiguration(config) if is_default(config.metadata.name.as_deref()) => Some(
            Told::Event(Event::Config(Config::parse(Some(&config.spec)))),
        ),
        _ => None,
    }
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "most kinds do not concern addresses, and new ones will not either"
)]
fn delete(key: &Key) -> Option<Told> {
    match key {
        Key::Node(name) => Some(Told::Event(Event::NodeGone(Arc::from(name.as_str())))),
        Key::IpPool(name) => Some(Told::Event(Event::PoolGone(Arc::from(name.as_str())))),
        Key::Block(name) => Some(Told::BlockGone(name.clone())),
        Key::Affinity(name) => Some(Told::AffinityGone(name.clone())),
        Key::IpamConfiguration(name) if is_default(Some(name.as_str())) => {
            Some(Told::Event(Event::Config(Config::default())))
        }
        _ => None,
    }
}

fn block_seen(block: &api::IPAMBlock) -> Option<Told> {
    let name = ObjectName::from(block.metadata.name.as_deref()?);
    match codec::parse_block(block) {
        Ok(stored) => Some(Told::Named(name, Event::Block(Box::new(stored)))),
        Err(why) => {
            tracing::error!(block = %name, %why, "broken block: its addresses are neither given out nor taken back");
            let cidr: IpNet = block.spec.cidr.parse().ok()?;
            Some(Told::Named(name, Event::BrokenBlock(cidr)))
        }
    }
}

fn affinity_seen(affinity: &api::BlockAffinity) -> Option<Told> {
    let name = ObjectName::from(affinity.metadata.name.as_deref()?);
    match codec::parse_affinity(affinity) {
        Ok(stored) => Some(Told::Named(name, Event::Affinity(Box::new(stored)))),
        Err(why) => {
            tracing::error!(affinity = %name, %why, "broken affinity: counts as absent");
            None
        }
    }
}

fn is_default(name: Option<&str>) -> bool {
    name == Some("default")
}

/// What deletions need: the watch names an object, the index wants its CIDR and which of its lives ended.
#[derive(Debug, Default)]
pub(super) struct Names {
    blocks: BTreeMap<ObjectName, (IpNet, Option<Arc<str>>)>,
    affinities: BTreeMap<ObjectName, (Arc<str>, IpNet, Arc<str>)>,
    listed: BTreeSet<Kind>,
    synced: bool,
}

impl Names {
    /// The event for the index, if there is one.
    pub(super) fn resolve(&mut self, told: Told) -> Option<Event> {
        match told {
            Told::Event(event) => Some(event),
            Told::Named(name, event) => {
                self.remember(name, &event);
                Some(event)
            }
            Told::BlockGone(name) => {
                let (cidr, uid) = self.blocks.remove(&name)?;
                Some(Event::BlockGone(cidr, uid))
            }
            Told::AffinityGone(name) => {
                let (node, cidr, uid) = self.affinities.remove(&name)?;
                Some(Event::AffinityGone(node, cidr, Some(uid)))
            }
            Told::Synced(kind) => {
                self.listed.insert(kind);
                let all = NEEDED.iter().all(|kind| self.listed.contains(kind));
                (all && !std::mem::replace(&mut self.synced, all)).then_some(Event::Synced)
            }
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only blocks and affinities are deleted by name"
    )]
    fn remember(&mut self, name: ObjectName, event: &Event) {
        match event {
            Event::Block(stored) => {
                let uid = Arc::clone(&stored.meta.uid);
                self.blocks.insert(name, (stored.value.cidr(), Some(uid)));
            }
            Event::BrokenBlock(cidr) => {
                self.blocks.insert(name, (*cidr, None));
            }
            Event::Affinity(stored) => {
                let of = (
                    Arc::clone(&stored.value.node),
                    stored.value.cidr,
                    Arc::clone(&stored.meta.uid),
                );
                self.affinities.insert(name, of);
            }
            _ => {}
        }
    }
}
