//! From a plan to sessions: what `reconcile` does.

use std::time::Instant;

use super::peer::{FamilyState, PeerSlot, session_config};
use super::{Speaker, local_source};
use crate::rib::{PeerId, Rules};
use crate::session::{self, RestartOffer, Session, Stop};
use crate::speaker::{
    Change, Desired, Global, ListenKey, Output, Peer, PeerCounters, PeerKey, Plan, Why,
};
use crate::wire::{Notification, cease, refresh};
use crate::{Family, FamilyMap, FamilySet};

impl Speaker {
    /// Makes `desired` the configuration.
    pub(super) fn apply(&mut self, plan: &Plan, desired: Desired, now: Instant) {
        let first = self.desired.is_none();
        self.set_global(&desired.global);
        for key in &plan.removed {
            self.remove_peer(key, now);
        }
        let global = desired.global.clone();
        let peers = desired.peers.clone();
        self.desired = Some(desired);
        if first {
            self.begin_deferral(now);
        }
        for change in plan.restart.iter().chain(&plan.refresh).chain(&plan.soft) {
            if let Some(peer) = peers.get(&change.peer) {
                self.change_peer(change, &global, peer, now);
            }
        }
        for change in &plan.restart {
            self.bounce(change, now);
        }
        for change in &plan.refresh {
            self.request_refresh(&change.peer, now);
        }
        for key in &plan.added {
            if let Some(peer) = peers.get(key) {
                self.add_peer(key, &global, peer, now);
            }
        }
        self.drop_unused_filters();
        self.check_deferral(now);
        self.changed(now);
    }

    fn set_global(&mut self, global: &Global) {
        self.rib
            .set_source(PeerId::LOCAL, local_source(global.asn, global.router_id));
        self.rib.set_rules(Rules {
            multipath: usize::from(global.multipath),
            relax: global.multipath_relax,
            always_compare_med: global.always_compare_med,
        });
    }

    fn add_peer(&mut self, key: &PeerKey, global: &Global, peer: &Peer, now: Instant) {
        let index = self
            .slots
            .iter()
            .skip(1)
            .position(Option::is_none)
            .map_or(self.slots.len(), |free| free + 1);
        let id = PeerId(u32::try_from(index).expect("fewer than 2^32 peers fit into memory"));
        let restart = self.restart_offer(peer, false);
        let config = session_config(key, global, peer, restart);
        let seed = self.seed ^ u64::from(id.0).rotate_left(32);
        let slot = PeerSlot {
            key: key.clone(),
            config: peer.clone(),
            session: Session::new(config, seed, now),
            import: self.compile(&peer.import).1,
            export: self.compile(&peer.export),
            families: FamilyMap::from_fn(|_| FamilyState::default()),
            stale: FamilySet::EMPTY,
            stale_until: None,
            last_restart_time: None,
            was_established: false,
            was_refused: false,
            awaited_until: None,
            born: now,
            last_down: None,
            counters: PeerCounters::default(),
        };
        self.rib.set_source(id, slot.source(global));
        if index == self.slots.len() {
            self.slots.push(Some(slot));
        } else if let Some(free) = self.slots.get_mut(index) {
            *free = Some(slot);
        }
        self.keys.insert(key.clone(), id);
        self.announce_key(key, peer);
        if !self.leaving {
            self.drive(id, session::Input::Start, now);
        }
    }

    fn announce_key(&mut self, key: &PeerKey, peer: &Peer) {
        if peer.password.is_some() {
            let key = ListenKey {
                address: key.address(),
                password: peer.password.clone(),
            };
            self.outputs.push_back(Output::Key(key));
        }
    }

    fn remove_peer(&mut self, key: &PeerKey, now: Instant) {
        let Some(id) = self.keys.get(key).copied() else {
            return;
        };
        let goodbye = self.hard(id, Notification::cease(cease::DECONFIGURED));
        self.drive(id, session::Input::Stop(Stop::Notify(goodbye)), now);
        for family in Family::ALL {
            self.leave_group(id, family);
            self.rib.flush(id, family);
        }
        self.keys.remove(key);
        self.conns.retain(|_, peer| *peer != id);
        let slot = self.slots.get_mut(id.0 as usize).and_then(Option::take);
        if slot.is_some_and(|slot| slot.config.password.is_some()) {
            self.outputs.push_back(Output::Key(ListenKey {
                address: key.address(),
                password: None,
            }));
        }
    }

    /// As Hard Reset where the peer would otherwise keep our routes (RFC 8538 §3).
    pub(super) fn hard(&self, peer: PeerId, notification: Notification) -> Notification {
        let restart = self
            .slot(peer)
            .and_then(|slot| slot.session.established())
            .and_then(|agreed| agreed.restart);
        match restart {
            Some(restart) if restart.notification => notification.into_hard_reset(),
            Some(_) | None => notification,
        }
    }

    fn change_peer(&mut self, change: &Change, global: &Global, peer: &Peer, now: Instant) {
        let Some(id) = self.keys.get(&change.peer).copied() else {
            return;
        };
        let import = self.compile(&peer.import).1;
        let export = self.compile(&peer.export);
        let was_established = self.slot(id).is_some_and(|slot| slot.was_established);
        let restart = self.restart_offer(peer, was_established);
        let config = session_config(&change.peer, global, peer, restart);
        let Some(slot) = self.slot_mut(id) else {
            return;
        };
        let had_key = slot.config.password.is_some();
        slot.config = peer.clone();
        slot.import = import;
        slot.export = export;
        slot.session.configure(config, now);
        let source = slot.source(global);
        self.rib.set_source(id, source);
        if change
            .why
            .iter()
            .any(|why| matches!(why, Why::Password | Why::PasswordPresence))
        {
            match (&peer.password, had_key) {
                (None, true) => {
                    let key = ListenKey {
                        address: change.peer.address(),
                        password: None,
                    };
                    self.outputs.push_back(Output::Key(key));
                }
                (Some(_) | None, _) => self.announce_key(&change.peer, peer),
            }
        }
        if change
            .why
            .iter()
            .any(|why| matches!(why, Why::Export | Why::NextHop))
        {
            for family in Family::ALL {
                self.regroup(id, family, now);
            }
        }
    }

    fn bounce(&mut self, change: &Change, now: Instant) {
        let Some(id) = self.keys.get(&change.peer).copied() else {
            return;
        };
        let reason = self.hard(id, Notification::cease(cease::CONFIG_CHANGE));
        self.drive(id, session::Input::Restart(Stop::Notify(reason)), now);
    }

    fn request_refresh(&mut self, key: &PeerKey, now: Instant) {
        let Some(id) = self.keys.get(key).copied() else {
            return;
        };
        for family in self.agreed_families(id).iter() {
            self.send(id, refresh::encode(family).into(), now);
        }
    }

    /// Graceful restart as offered to a peer now: R until our deferral ended, F for what survived or is live.
    pub(super) fn restart_offer(&self, peer: &Peer, was_established: bool) -> Option<RestartOffer> {
        let restarting = self.is_deferring();
        let survived = self
            .settings
            .restarting
            .map_or(FamilySet::EMPTY, |restarting| restarting.forwarding);
        peer.graceful_restart.map(|restart| RestartOffer {
            time: restart.restart_time,
            restarting: restarting && !was_established,
            forwarding: if was_established {
                peer.families
            } else {
                survived
            },
        })
    }

    /// Gives up filters that neither a peer nor a group holds.
    fn drop_unused_filters(&mut self) {
        for slot in &mut self.filters {
            slot.take_if(|filter| std::sync::Arc::strong_count(filter) == 1);
        }
    }
}
