//! What sessions say: outputs are passed on, routes go through import rules into the table.

use std::net::IpAddr;
use std::time::Instant;

use hashbrown::HashMap;
use ipnet::IpNet;

use super::Speaker;
use crate::attr::{self, AttrId, AttrSet, Attributes, Header, flags};
use crate::filter::{LearntFrom, Rewrites, Rewritten, Subject};
use crate::rib::{NhId, Path, PeerId};
use crate::session::{self, Action, DownReason, Negotiated, RouteUpdate};
use crate::speaker::{Event, MaxPrefixes, Output};
use crate::wire::{Fault, Notification, cease};
use crate::{Asn, Family, FamilySet};

/// An attribute set as it enters the table, by the rules that rewrote it.
type Imported = HashMap<Rewrites, (AttrId, NhId, Option<u32>), foldhash::fast::FixedState>;

impl Speaker {
    /// Acts on what one session said.
    pub(super) fn receive_from(&mut self, peer: PeerId, now: Instant) {
        while let Some(action) = self.outbox.actions.pop_front() {
            self.act(peer, action, now);
        }
        self.outbox.recycle();
    }

    fn act(&mut self, peer: PeerId, action: Action, now: Instant) {
        match action {
            Action::Connect(request) => {
                self.conns.insert(request.conn, peer);
                self.outputs.push_back(Output::Connect(request));
            }
            Action::Send(conn, octets) => self.outputs.push_back(Output::Send { conn, octets }),
            Action::Close(conn) => {
                self.conns.remove(&conn);
                self.outputs.push_back(Output::Close { conn });
            }
            Action::Abort(conn) => {
                self.conns.remove(&conn);
                self.outputs.push_back(Output::Abort { conn });
            }
            Action::Established(_, agreed) => self.established(peer, &agreed, now),
            Action::Down(_, reason, retained) => self.down(peer, reason, retained, now),
            Action::Refused(reason) => self.refused(peer, reason, now),
            Action::Routes(_, update) => self.routes_in(peer, &update, now),
            Action::EndOfRib(_, family) => self.end_of_rib(peer, family, now),
            Action::Refresh(_, family) => self.begin_walk(peer, family, now),
            Action::Drained(_) => self.changed(now),
            Action::Malformed(fault) => self.count_malformed(peer, fault),
            Action::NotificationIn(notification) => {
                self.count(peer, |counters| {
                    *counters
                        .notifications_in
                        .entry((notification.code, notification.subcode))
                        .or_default() += 1;
                });
            }
            Action::NotificationOut(notification) => {
                self.count(peer, |counters| {
                    *counters
                        .notifications_out
                        .entry((notification.code, notification.subcode))
                        .or_default() += 1;
                });
            }
        }
    }

    fn count(&mut self, peer: PeerId, count: impl FnOnce(&mut crate::speaker::PeerCounters)) {
        if let Some(slot) = self.slot_mut(peer) {
            count(&mut slot.counters);
        }
    }

    fn count_malformed(&mut self, peer: PeerId, fault: Fault) {
        self.count(peer, |counters| {
            *counters
                .malformed
                .entry((fault.part(), fault.verdict()))
                .or_default() += 1;
        });
    }

    fn established(&mut self, peer: PeerId, agreed: &Negotiated, now: Instant) {
        let Some(global) = self.desired.as_ref().map(|desired| desired.global.clone()) else {
            return;
        };
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        slot.was_established = true;
        slot.was_refused = false;
        slot.counters.established += 1;
        for family in Family::ALL {
            slot.families.get_mut(family).end_of_rib = false;
        }
        let source = slot.source(&global);
        let event = Event::Established {
            peer: slot.key.clone(),
            families: agreed.families,
        };
        self.rib.set_source(peer, source);
        self.outputs.push_back(Output::Event(event));
        self.reoffer_restart(peer, now);
        self.resume_stale(peer, agreed, now);
        for family in agreed.families.iter() {
            self.join_group(peer, family, agreed, now);
        }
        self.changed(now);
        self.check_deferral(now);
    }

    fn down(&mut self, peer: PeerId, reason: DownReason, retained: FamilySet, now: Instant) {
        for family in Family::ALL {
            self.leave_group(peer, family);
        }
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        slot.counters.flaps += 1;
        slot.last_down = Some((reason.clone(), now));
        let event = Event::Down {
            peer: slot.key.clone(),
            reason,
            retained,
        };
        self.outputs.push_back(Output::Event(event));
        self.begin_stale(peer, retained, now);
        self.changed(now);
    }

    fn refused(&mut self, peer: PeerId, reason: DownReason, now: Instant) {
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        slot.was_refused |= matches!(reason, DownReason::ConnectFailed(_));
        slot.last_down = Some((reason.clone(), now));
        let event = Event::Refused {
            peer: slot.key.clone(),
            reason,
        };
        self.outputs.push_back(Output::Event(event));
        self.check_deferral(now);
    }

    fn end_of_rib(&mut self, peer: PeerId, family: Family, now: Instant) {
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        let state = slot.families.get_mut(family);
        state.end_of_rib = true;
        state.converged = true;
        slot.counters.updates_in += 1;
        let event = Event::EndOfRib {
            peer: slot.key.clone(),
            family,
        };
        self.outputs.push_back(Output::Event(event));
        self.sweep_stale(peer, family);
        self.changed(now);
        self.check_deferral(now);
    }

    fn routes_in(&mut self, peer: PeerId, update: &RouteUpdate, now: Instant) {
        self.count(peer, |counters| counters.updates_in += 1);
        let batch = std::mem::take(&mut self.outbox.batch);
        for prefix in batch.prefixes(&update.withdrawn) {
            self.forget(peer, prefix);
        }
        let octets = batch.octets(&update.attributes);
        for (next_hop, range) in update.announced.iter().flatten() {
            self.import(peer, octets, *next_hop, batch.prefixes(range));
        }
        self.outbox.batch = batch;
        self.check_limit(peer, now);
        self.changed(now);
    }

    fn forget(&mut self, peer: PeerId, prefix: &IpNet) {
        if self.rib.withdraw(prefix, peer)
            && let Some(slot) = self.slot_mut(peer)
        {
            let state = slot.families.get_mut(Family::of(prefix));
            state.accepted = state.accepted.saturating_sub(1);
        }
    }

    /// Runs routes of one attribute set through the import rules.
    fn import(&mut self, peer: PeerId, octets: &[u8], next_hop: IpAddr, prefixes: &[IpNet]) {
        let Some(slot) = self.slot(peer) else {
            return;
        };
        let filter = std::sync::Arc::clone(&slot.import);
        let external = self.rib.source(peer).is_some_and(|source| source.external);
        let looped = self.looped(peer, octets);
        let set = AttrSet::from_canonical(octets);
        let learnt = if external {
            LearntFrom::Ebgp
        } else {
            LearntFrom::Ibgp
        };
        let mut imported = Imported::default();
        let mut rejected = 0;
        let mut added = 0;
        for prefix in prefixes {
            let subject = Subject {
                prefix,
                attributes: &set,
                next_hop,
                learnt,
                owner: None,
            };
            let outcome = filter.evaluate(&subject);
            if looped || !outcome.accepted {
                rejected += 1;
                self.forget(peer, prefix);
                continue;
            }
            let (attributes, next_hop, priority) = *imported
                .entry(outcome.rewrites)
                .or_insert_with_key(|rewrites| {
                    let mut route = Rewritten::new(Attributes::default());
                    if !rewrites.is_empty() || must_drain(set.header(), external) {
                        route.attributes = set.attributes();
                        if must_drain(set.header(), external) {
                            route.attributes.local_pref = Some(0);
                        }
                        filter.rewrite(rewrites, &mut route);
                        let octets = AttrSet::from_attributes(&route.attributes);
                        let attributes = self.rib.attributes.intern(octets.octets());
                        let next_hop = self.rib.next_hops.id(route.next_hop.unwrap_or(next_hop));
                        return (attributes, next_hop, route.priority);
                    }
                    (
                        self.rib.attributes.intern(octets),
                        self.rib.next_hops.id(next_hop),
                        None,
                    )
                });
            added += usize::from(self.rib.announce(
                *prefix,
                Path {
                    peer,
                    attributes,
                    next_hop,
                    priority,
                    stale: false,
                },
            ));
        }
        for (_, (attributes, _, _)) in imported.drain() {
            self.rib.attributes.release(attributes);
        }
        let family = prefixes.first().map(Family::of);
        if let (Some(family), Some(slot)) = (family, self.slot_mut(peer)) {
            let state = slot.families.get_mut(family);
            state.accepted += added;
            state.rejected += rejected;
        }
    }

    /// Whether a route came from ourselves: our AS in the path more often than allowed, our router id as originator,
    /// our cluster in the list (RFC 4271 §9.1.2, RFC 4456 §8). Not an error.
    fn looped(&self, peer: PeerId, octets: &[u8]) -> bool {
        let (Some(slot), Some(desired)) = (self.slot(peer), self.desired.as_ref()) else {
            return true;
        };
        let global = &desired.global;
        let own = |asn: Asn| asn == global.asn || Some(asn) == slot.config.local_as;
        let mut seen = 0;
        let too_often = attr::any_asn(octets, |asn| {
            seen += u32::from(own(asn));
            seen > u32::from(slot.config.allowed_own_as)
        });
        let cluster = global.cluster_id.unwrap_or(global.router_id);
        too_often
            || Header::of(octets).originator == Some(global.router_id)
            || attr::has_cluster(octets, cluster)
    }

    fn check_limit(&mut self, peer: PeerId, now: Instant) {
        let Some(slot) = self.slot(peer) else {
            return;
        };
        let Some(MaxPrefixes {
            limit,
            restart_after,
        }) = slot.config.max_prefixes
        else {
            return;
        };
        let over = slot
            .families
            .iter()
            .find(|(_, state)| state.accepted > limit as usize)
            .map(|(family, _)| family);
        let Some(family) = over else {
            return;
        };
        let event = Event::MaxPrefixes {
            peer: slot.key.clone(),
            family,
            limit,
        };
        self.outputs.push_back(Output::Event(event));
        // RFC 4486 §4: the data names the family and the limit.
        let (afi, safi) = family.codes();
        let mut data = afi.to_be_bytes().to_vec();
        data.push(safi);
        data.extend_from_slice(&limit.to_be_bytes());
        let full = self.hard(
            peer,
            Notification::with_data(crate::wire::code::CEASE, cease::MAX_PREFIXES, &data),
        );
        let Some(slot) = self.slots.get_mut(peer.0 as usize).and_then(Option::as_mut) else {
            return;
        };
        slot.session.handle(
            session::Input::Rest(full, restart_after),
            now,
            &mut self.outbox,
        );
    }
}

/// A neighbour is about to leave: use its routes last (RFC 8326 §4).
fn must_drain(header: &Header, external: bool) -> bool {
    external && header.has(flags::GRACEFUL_SHUTDOWN)
}
