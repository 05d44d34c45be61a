//! Routes of one round, gathered into buckets and encoded.

use bytes::Bytes;
use hashbrown::HashMap;
use ipnet::IpNet;

use super::export::{Exported, Exporter, Withheld};
use super::group::GroupKey;
use crate::attr::{self, AttrId, Header};
use crate::filter::Rewrites;
use crate::rib::{Dest, NhId, PeerId, Source};
use crate::wire::message::MAX;
use crate::wire::update::{Reach, put_reach, put_withdraw};

/// What decides that two routes are told alike.
type BucketKey = (AttrId, NhId, PeerId, Rewrites);

#[derive(Debug)]
struct Bucket {
    source: PeerId,
    exported: Option<Exported>,
    prefixes: Vec<IpNet>,
    /// Those of `prefixes` that members may have been told before.
    told: Vec<IpNet>,
}

/// Routes to tell and to withdraw.
#[derive(Debug, Default)]
pub struct Bundle {
    withdrawn: Vec<IpNet>,
    buckets: Vec<Bucket>,
    index: HashMap<BucketKey, usize, foldhash::fast::FixedState>,
}

/// Encoded messages, shared by members.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Whole messages.
    pub octets: Bytes,
    /// How many.
    pub messages: u64,
    /// What a member that must not hear it gets instead: withdrawals of what it may have been told before.
    pub instead: Option<Box<(Bytes, u64)>>,
    audience: Option<Audience>,
}

/// Who must not hear a route.
#[derive(Clone, Debug)]
struct Audience {
    source: PeerId,
    header: Header,
    attributes: Vec<u8>,
}

impl Bundle {
    /// Adds a destination as it stands; whether members are told it now. `told`: whether they were before.
    pub fn add(&mut self, exporter: &Exporter<'_>, dest: &Dest, told: bool) -> bool {
        let announced = exporter.decide(dest).and_then(|(path, outcome)| {
            let key = (
                path.attributes,
                path.next_hop,
                path.peer,
                outcome.rewrites.clone(),
            );
            let buckets = &mut self.buckets;
            let index = *self.index.entry(key).or_insert_with(|| {
                let exported = exporter.render(path, &outcome).ok();
                buckets.push(Bucket {
                    source: path.peer,
                    exported,
                    prefixes: Vec::new(),
                    told: Vec::new(),
                });
                buckets.len() - 1
            });
            self.buckets
                .get_mut(index)
                .filter(|bucket| bucket.exported.is_some())
                .ok_or(Withheld::NoNextHop)
        });
        if let Ok(bucket) = announced {
            bucket.prefixes.push(dest.prefix);
            if told {
                bucket.told.push(dest.prefix);
            }
            true
        } else {
            if told {
                self.withdrawn.push(dest.prefix);
            }
            false
        }
    }

    /// Encodes everything once: withdrawals first.
    pub fn encode(self, key: &GroupKey) -> Vec<Chunk> {
        let mut chunks = Vec::new();
        if !self.withdrawn.is_empty() {
            let (octets, messages) = withdraw(key, &self.withdrawn);
            chunks.push(Chunk {
                octets,
                messages,
                instead: None,
                audience: None,
            });
        }
        chunks.extend(
            self.buckets
                .into_iter()
                .filter_map(|bucket| bucket.encode(key)),
        );
        chunks
    }
}

impl Bucket {
    fn encode(self, key: &GroupKey) -> Option<Chunk> {
        let exported = self.exported?;
        let mut octets = Vec::new();
        let reach = Reach {
            family: key.family,
            attributes: &exported.attributes,
            next_hop: exported.next_hop,
            prefixes: &self.prefixes,
            width: key.width,
            max: MAX,
        };
        let instead = (!self.told.is_empty()).then(|| Box::new(withdraw(key, &self.told)));
        let Some(messages) = put_reach(&mut octets, &reach) else {
            // Attributes alone exceed a message: whoever was told before must forget (RFC 4271 §9.2).
            return instead.map(|withdrawal| Chunk {
                octets: withdrawal.0,
                messages: withdrawal.1,
                instead: None,
                audience: None,
            });
        };
        let header = Header::of(&exported.attributes);
        let audience = Some(Audience {
            source: self.source,
            header,
            attributes: exported.attributes,
        });
        Some(Chunk {
            octets: octets.into(),
            messages,
            instead,
            audience,
        })
    }
}

fn withdraw(key: &GroupKey, prefixes: &[IpNet]) -> (Bytes, u64) {
    let mut octets = Vec::new();
    let messages = put_withdraw(&mut octets, key.family, prefixes, MAX);
    (octets.into(), messages)
}

impl Chunk {
    /// Whether a member may hear it. The group's own AS number stands in front of every external path, so a path that
    /// contains the member's number has it from elsewhere.
    pub fn audible(&self, member: PeerId, facts: &Source) -> bool {
        let Some(audience) = &self.audience else {
            return true;
        };
        let looped = facts.external && attr::any_asn(&audience.attributes, |asn| asn == facts.asn);
        audience.source != member && audience.header.originator != Some(facts.router_id) && !looped
    }
}
