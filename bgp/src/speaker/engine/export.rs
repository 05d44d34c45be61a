//! What peers are told: groups, members, walks.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use ipnet::IpNet;

use super::Speaker;
use super::peer::{Sending, Walk};
use crate::out::{Chunk, Class, Forget, Group, GroupKey};
use crate::rib::PeerId;
use crate::session::Negotiated;
use crate::speaker::Reflection;
use crate::wire::message::{self, MAX};
use crate::wire::update::{prefixes, put_end_of_rib, put_withdraw};
use crate::{Family, FamilyMap, FamilySet};

/// Octets queued for a member above which its queue is dropped, to be rebuilt from the table.
const SLOW: usize = 1 << 20;
/// Octets queued below which a walk goes on.
const WALK_BELOW: usize = 256 * 1024;
/// Destinations of a slice of a walk.
const SLICE: u32 = 4096;

impl Speaker {
    /// Makes an Established peer a member of the group it fits.
    pub(super) fn join_group(
        &mut self,
        peer: PeerId,
        family: Family,
        agreed: &Negotiated,
        now: Instant,
    ) {
        let held = self.deferral.get(family).is_some()
            && agreed
                .restart
                .is_some_and(|restart| restart.families.contains(family));
        let walk = Sending::Walk(Walk {
            next: 0,
            forget: Forget::Nothing,
            end_of_rib: true,
        });
        self.enter_group(
            peer,
            family,
            agreed,
            if held { Sending::Held } else { walk },
            now,
        );
    }

    fn enter_group(
        &mut self,
        peer: PeerId,
        family: Family,
        agreed: &Negotiated,
        sending: Sending,
        now: Instant,
    ) {
        let Some((key, filter)) = self.group_key(peer, family, agreed) else {
            return;
        };
        let found = self
            .groups
            .iter()
            .find(|(_, group)| group.key == key)
            .map(|(id, _)| *id);
        let id = found.unwrap_or_else(|| {
            let id = self.groups.last_key_value().map_or(0, |(last, _)| last + 1);
            self.groups.insert(id, Group::new(key, filter));
            id
        });
        // Before the first member joins, this fills the group's bits; later it tells the others what is new.
        self.flush_group(id, now);
        if let Some(group) = self.groups.get_mut(&id) {
            group.members.push(peer);
        }
        if let Some(slot) = self.slot_mut(peer) {
            let state = slot.families.get_mut(family);
            state.group = Some(id);
            state.sending = sending;
        }
    }

    fn group_key(
        &self,
        peer: PeerId,
        family: Family,
        agreed: &Negotiated,
    ) -> Option<(GroupKey, Arc<crate::filter::Compiled>)> {
        let slot = self.slot(peer)?;
        let global = &self.desired.as_ref()?.global;
        let address = agreed.local.ip().to_canonical();
        let same_kind = matches!(family, Family::Ipv4Unicast) == address.is_ipv4();
        let key = GroupKey {
            family,
            class: match (agreed.external, slot.config.reflection) {
                (true, Reflection::None | Reflection::Client) => Class::External,
                (false, Reflection::Client) => Class::Client,
                (false, Reflection::None) => Class::Internal,
            },
            local_as: slot.config.local_as.unwrap_or(global.asn),
            export: slot.export.0,
            next_hop: slot.config.next_hop,
            own_address: same_kind.then_some(address),
            cluster_id: global.cluster_id.unwrap_or(global.router_id),
            width: agreed.width,
        };
        Some((key, Arc::clone(&slot.export.1)))
    }

    /// Takes a peer out of its group; the last one closes it.
    pub(super) fn leave_group(&mut self, peer: PeerId, family: Family) {
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        let state = slot.families.get_mut(family);
        state.sending = Sending::Nothing;
        let Some(id) = state.group.take() else {
            return;
        };
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        group.members.retain(|member| *member != peer);
        if group.members.is_empty() {
            self.groups.remove(&id);
        }
    }

    /// Moves a live member to the group its new rules ask for: what it was told and is told no more is withdrawn.
    pub(super) fn regroup(&mut self, peer: PeerId, family: Family, now: Instant) {
        let Some(slot) = self.slot(peer) else {
            return;
        };
        let state = slot.families.get(family);
        let Some(agreed) = slot
            .session
            .established()
            .copied()
            .filter(|agreed| agreed.families.contains(family))
        else {
            return;
        };
        let Some(old) = state.group else {
            return;
        };
        let sending = match &state.sending {
            Sending::Nothing => return,
            Sending::Held => Sending::Held,
            Sending::Walk(walk) => Sending::Walk(Walk {
                next: 0,
                forget: Forget::Anything,
                end_of_rib: walk.end_of_rib,
            }),
            Sending::Live => {
                let told = self
                    .groups
                    .get(&old)
                    .map(|group| group.sent().clone())
                    .unwrap_or_default();
                Sending::Walk(Walk {
                    next: 0,
                    forget: Forget::Told(Box::new(told)),
                    end_of_rib: false,
                })
            }
        };
        self.flush_group(old, now);
        self.leave_group(peer, family);
        self.enter_group(peer, family, &agreed, sending, now);
    }

    /// The peer asked for our routes (RFC 2918): it is told everything once more.
    pub(super) fn begin_walk(&mut self, peer: PeerId, family: Family, now: Instant) {
        if let Some(slot) = self.slot_mut(peer) {
            let state = slot.families.get_mut(family);
            match &mut state.sending {
                Sending::Nothing | Sending::Held => {}
                Sending::Walk(walk) => walk.next = 0,
                live @ Sending::Live => {
                    *live = Sending::Walk(Walk {
                        next: 0,
                        forget: Forget::Nothing,
                        end_of_rib: false,
                    });
                }
            }
        }
        self.changed(now);
    }

    /// Our deferral ended: a member that waited is served.
    pub(super) fn release_held(&mut self, peer: PeerId, family: Family) {
        if let Some(slot) = self.slot_mut(peer) {
            slot.families.get_mut(family).sending = Sending::Walk(Walk {
                next: 0,
                forget: Forget::Nothing,
                end_of_rib: true,
            });
        }
    }

    /// Tells members what changed, goes on with walks, and frees what nobody refers to any more.
    pub(super) fn flush(&mut self, now: Instant) {
        let ids: Vec<usize> = self.groups.keys().copied().collect();
        for id in ids {
            self.flush_group(id, now);
        }
        for peer in self.peer_ids() {
            for family in Family::ALL {
                self.walk(peer, family, now);
            }
        }
        self.reclaim();
    }

    fn flush_group(&mut self, id: usize, now: Instant) {
        let Some(group) = self.groups.get_mut(&id) else {
            return;
        };
        let family = group.key.family;
        let chunks = group.flush(&mut self.rib, &self.locals);
        if chunks.is_empty() {
            return;
        }
        for member in group.members.clone() {
            for chunk in &chunks {
                if self.keeps_up(member, chunk, now) {
                    self.deliver(member, family, chunk, now);
                }
            }
        }
    }

    /// Whether a member has room for a chunk. If not, it takes octets too slowly: what waits is dropped, and told again
    /// from the table as it reads on. It never delays others and never grows.
    fn keeps_up(&mut self, member: PeerId, chunk: &Chunk, now: Instant) -> bool {
        let Some(slot) = self.slot_mut(member) else {
            return false;
        };
        if slot.session.queued() + chunk.octets.len() <= SLOW {
            return true;
        }
        let dropped = slot.session.take_back();
        slot.counters.slow += 1;
        for family in Family::ALL {
            let state = slot.families.get_mut(family);
            if matches!(state.sending, Sending::Walk(_) | Sending::Live) {
                // End-of-RIB may be among what was dropped; a further one does no harm.
                state.sending = Sending::Walk(Walk {
                    next: 0,
                    forget: Forget::Anything,
                    end_of_rib: true,
                });
            }
        }
        self.withdraw_vanished(member, &dropped, now);
        false
    }

    /// Withdraws prefixes of dropped messages that the table does not know any more: no walk would come across them.
    fn withdraw_vanished(&mut self, member: PeerId, dropped: &VecDeque<Bytes>, now: Instant) {
        let mut vanished: FamilyMap<BTreeSet<IpNet>> = FamilyMap::default();
        for prefix in dropped.iter().flat_map(|octets| prefixes_of(octets)) {
            let family = Family::of(&prefix);
            if self.rib.table(family).find(&prefix).is_none() {
                vanished.get_mut(family).insert(prefix);
            }
        }
        for (family, prefixes) in vanished.iter() {
            let prefixes: Vec<IpNet> = prefixes.iter().copied().collect();
            let mut octets = Vec::new();
            let messages = put_withdraw(&mut octets, family, &prefixes, MAX);
            if let Some(slot) = self.slot_mut(member).filter(|_| messages > 0) {
                slot.counters.updates_out += messages;
                self.send(member, octets.into(), now);
            }
        }
    }

    /// Hands a chunk to a member, or what it gets instead.
    fn deliver(&mut self, member: PeerId, family: Family, chunk: &Chunk, now: Instant) {
        let Some(source) = self.rib.source(member).copied() else {
            return;
        };
        let Some(slot) = self
            .slots
            .get_mut(member.0 as usize)
            .and_then(Option::as_mut)
        else {
            return;
        };
        let state = slot.families.get_mut(family);
        if matches!(state.sending, Sending::Nothing | Sending::Held) {
            return;
        }
        let (octets, messages) = match (chunk.audible(member, &source), &chunk.instead) {
            (true, _) => (chunk.octets.clone(), chunk.messages),
            (false, Some(instead)) => (instead.0.clone(), instead.1),
            (false, None) => return,
        };
        slot.counters.updates_out += messages;
        self.send(member, octets, now);
    }

    /// Goes on with the walk of a member while it takes octets.
    fn walk(&mut self, peer: PeerId, family: Family, now: Instant) {
        loop {
            let Some(slot) = self.slot(peer) else {
                return;
            };
            let state = slot.families.get(family);
            let (Sending::Walk(walk), Some(id)) = (&state.sending, state.group) else {
                return;
            };
            if slot.session.queued() > WALK_BELOW {
                return;
            }
            let Some(group) = self.groups.get(&id) else {
                return;
            };
            let end_of_rib = walk.end_of_rib;
            let (chunks, next) =
                group.walk(&self.rib, &self.locals, walk.next, SLICE, &walk.forget);
            for chunk in &chunks {
                self.deliver(peer, family, chunk, now);
            }
            let Some(slot) = self.slot_mut(peer) else {
                return;
            };
            let state = slot.families.get_mut(family);
            match (next, &mut state.sending) {
                (Some(next), Sending::Walk(walk)) => walk.next = next,
                (None, sending) => *sending = Sending::Live,
                (Some(_), Sending::Nothing | Sending::Held | Sending::Live) => return,
            }
            if next.is_none() {
                if end_of_rib {
                    self.send_end_of_rib(peer, family, now);
                }
                return;
            }
        }
    }

    /// Strictly after the last chunk of the walk.
    fn send_end_of_rib(&mut self, peer: PeerId, family: Family, now: Instant) {
        let mut octets = Vec::new();
        put_end_of_rib(&mut octets, family);
        if let Some(slot) = self.slot_mut(peer) {
            slot.counters.updates_out += 1;
        }
        self.send(peer, octets.into(), now);
    }

    /// Frees destinations without paths, when every reader knows they are gone.
    fn reclaim(&mut self) {
        for family in Family::ALL {
            if !self.rib.table(family).has_empty() || !self.readers_current(family) {
                continue;
            }
            let walking = self.peers_in_use().any(|(_, slot)| {
                matches!(&slot.families.get(family).sending, Sending::Walk(walk) if !matches!(walk.forget, Forget::Nothing))
            });
            if !walking {
                self.rib.table_mut(family).reclaim();
            }
        }
    }

    /// Families a peer was agreed on.
    pub(super) fn agreed_families(&self, peer: PeerId) -> FamilySet {
        self.slot(peer)
            .and_then(|slot| slot.session.established())
            .map_or(FamilySet::EMPTY, |agreed| agreed.families)
    }
}

/// All prefixes named in messages of our own making.
fn prefixes_of(octets: &[u8]) -> Vec<IpNet> {
    let mut named = Vec::new();
    let mut rest = octets;
    while let Ok(Some((message, length))) = message::split(rest, MAX) {
        if message.kind == message::Kind::Update {
            named.extend(prefixes(message.body));
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    named
}
