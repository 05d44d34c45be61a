//! Graceful restart, both ways (RFC 4724): routes of a restarting peer are kept; after our own restart the choice of
//! routes waits for the peers.

use std::time::{Duration, Instant};

use super::Speaker;
use super::peer::{PeerSlot, Sending, session_config};
use crate::rib::PeerId;
use crate::session::Negotiated;
use crate::speaker::{Event, Output};
use crate::{Family, FamilySet};

/// How long to wait for the routes of a peer that says it has restarted as well. RFC 4724 §4.1 would not wait at all,
/// lest two wait for each other; but some daemons set the R bit for minutes after their start, and going on without
/// their routes would empty the kernel for a moment.
const BOTH_RESTARTING: Duration = Duration::from_secs(3);

/// The choice of routes of a family waits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deferral {
    /// At the latest until then.
    cap: Instant,
}

impl Speaker {
    /// Keeps routes of `retained` families as stale and removes the others.
    pub(super) fn begin_stale(&mut self, peer: PeerId, retained: FamilySet, now: Instant) {
        let cap = self.settings.stale_cap;
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        let time = slot.last_restart_time.unwrap_or_default().min(cap);
        let still_stale = std::mem::replace(&mut slot.stale, retained);
        slot.stale_until = (!retained.is_empty()).then(|| now + time);
        for family in Family::ALL {
            if retained.contains(family) {
                // What was stale already belongs to the session before the last one.
                let gone = if still_stale.contains(family) {
                    self.rib.sweep_stale(peer, family)
                } else {
                    0
                };
                self.uncount(peer, family, gone);
                self.rib.mark_stale(peer, family);
            } else {
                let gone = self.rib.flush(peer, family);
                self.uncount(peer, family, gone);
            }
        }
    }

    /// The peer is back: families it did not preserve are swept, the others wait for End-of-RIB.
    pub(super) fn resume_stale(&mut self, peer: PeerId, agreed: &Negotiated, now: Instant) {
        let cap = self.settings.stale_cap;
        let kept = agreed
            .restart
            .map_or(FamilySet::EMPTY, |restart| restart.forwarding);
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        slot.last_restart_time = agreed.restart.map(|restart| restart.time);
        let stale = slot.stale;
        slot.stale_until = (!stale.intersection(kept).is_empty()).then(|| now + cap);
        for family in stale.difference(kept).iter() {
            self.sweep_stale(peer, family);
        }
        let restarts = agreed.restart.is_some_and(|restart| restart.restarting);
        let able = agreed
            .restart
            .map_or(FamilySet::EMPTY, |restart| restart.families);
        if let Some(slot) = self.slot_mut(peer) {
            slot.awaited_until = restarts.then(|| now + BOTH_RESTARTING);
            for family in Family::ALL {
                slot.families.get_mut(family).converged |= !able.contains(family);
            }
        }
    }

    /// Removes what the peer did not announce again.
    pub(super) fn sweep_stale(&mut self, peer: PeerId, family: Family) {
        let Some(slot) = self.slot_mut(peer) else {
            return;
        };
        if !slot.stale.contains(family) {
            return;
        }
        slot.stale.remove(family);
        if slot.stale.is_empty() {
            slot.stale_until = None;
        }
        let key = slot.key.clone();
        let routes = self.rib.sweep_stale(peer, family);
        self.uncount(peer, family, routes);
        self.outputs.push_back(Output::Event(Event::StaleSwept {
            peer: key,
            family,
            routes,
        }));
    }

    /// Ends the patience with a peer that did not come back.
    pub(super) fn sweep_expired(&mut self, peer: PeerId, now: Instant) {
        let Some(slot) = self
            .slot(peer)
            .filter(|slot| slot.stale_until.is_some_and(|at| at <= now))
        else {
            return;
        };
        for family in slot.stale.iter() {
            self.sweep_stale(peer, family);
        }
        if let Some(slot) = self.slot_mut(peer) {
            slot.stale_until = None;
        }
        self.changed(now);
    }

    fn uncount(&mut self, peer: PeerId, family: Family, routes: usize) {
        if let Some(slot) = self.slot_mut(peer) {
            let state = slot.families.get_mut(family);
            state.accepted = state.accepted.saturating_sub(routes);
        }
    }

    /// Begins to wait, when we restarted.
    pub(super) fn begin_deferral(&mut self, now: Instant) {
        let Some(restarting) = self.settings.restarting else {
            return;
        };
        for family in restarting.forwarding.iter() {
            *self.deferral.get_mut(family) = Some(Deferral {
                cap: now + self.settings.deferral_cap,
            });
        }
    }

    /// Whether any family still waits.
    pub(super) fn is_deferring(&self) -> bool {
        self.deferral.iter().any(|(_, deferral)| deferral.is_some())
    }

    /// Families that still wait.
    pub(super) fn deferring(&self) -> FamilySet {
        self.deferral
            .iter()
            .filter(|(_, deferral)| deferral.is_some())
            .map(|(family, _)| family)
            .collect()
    }

    /// The next time waiting could end.
    pub(super) fn deferral_deadline(&self) -> Option<Instant> {
        let caps = self
            .deferral
            .iter()
            .filter_map(|(_, deferral)| deferral.map(|deferral| deferral.cap));
        let silence = self.settings.deferral_silence;
        let waiting = self.is_deferring();
        let patience = self
            .peers_in_use()
            .filter(|_| waiting)
            .filter_map(|(_, slot)| {
                let silent = slot.session.established().is_none();
                if silent {
                    Some(slot.born + silence)
                } else {
                    slot.awaited_until
                }
            });
        caps.chain(patience.filter(|at| self.deferral_checked.is_none_or(|checked| *at > checked)))
            .min()
    }

    /// Ends the deferral of families nobody has to be waited for any more.
    pub(super) fn check_deferral(&mut self, now: Instant) {
        if !self.is_deferring() || self.desired.is_none() {
            return;
        }
        self.deferral_checked = Some(now);
        for family in Family::ALL {
            let Some(deferral) = *self.deferral.get(family) else {
                continue;
            };
            let silence = self.settings.deferral_silence;
            let waits = self
                .peers_in_use()
                .any(|(_, slot)| slot.is_awaited(family, now, silence));
            if !waits || deferral.cap <= now {
                self.end_deferral(family, now);
            }
        }
    }

    fn end_deferral(&mut self, family: Family, now: Instant) {
        *self.deferral.get_mut(family) = None;
        self.outputs
            .push_back(Output::Event(Event::DeferralEnded { family }));
        for peer in self.peer_ids() {
            let held = self
                .slot(peer)
                .is_some_and(|slot| matches!(slot.families.get(family).sending, Sending::Held));
            if held {
                self.release_held(peer, family);
            }
            self.reoffer_restart(peer, now);
        }
        self.changed(now);
    }

    /// Renews what the next OPEN to a peer will say about our restart.
    pub(super) fn reoffer_restart(&mut self, peer: PeerId, now: Instant) {
        let Some(global) = self.desired.as_ref().map(|desired| desired.global.clone()) else {
            return;
        };
        let Some(slot) = self.slot(peer) else {
            return;
        };
        let offer = self.restart_offer(&slot.config, slot.was_established);
        let config = session_config(&slot.key, &global, &slot.config, offer);
        if let Some(slot) = self.slot_mut(peer) {
            slot.session.configure(config, now);
        }
    }
}

impl PeerSlot {
    /// Whether the choice of routes should wait for this peer's End-of-RIB.
    fn is_awaited(&self, family: Family, now: Instant, silence: Duration) -> bool {
        let state = self.families.get(family);
        if !self.config.families.contains(family) || state.converged {
            return false;
        }
        match self.session.established() {
            Some(agreed) => {
                agreed.families.contains(family)
                    && self.awaited_until.is_none_or(|until| now < until)
            }
            None => !self.was_refused && now < self.born + silence,
        }
    }
}
