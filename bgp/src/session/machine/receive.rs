//! Messages that arrive.

use std::time::Instant;

use bytes::{Buf, BytesMut};
use smallvec::SmallVec;

use super::Session;
use crate::session::link::{Direction, Phase};
use crate::session::negotiate::{Negotiated, negotiate};
use crate::session::output::{Action, Batch, Outbox, RouteUpdate};
use crate::session::{ConnId, DownReason, SessionGen, State};
use crate::wire::message::{self, Kind, Malformed, Message};
use crate::wire::open::Open;
use crate::wire::update::{Context, Update};
use crate::wire::{Fault, Notification, cease, refresh};

impl Session {
    /// Takes octets in any portions: the result does not depend on how they were cut.
    pub(super) fn received(&mut self, conn: ConnId, octets: &[u8], now: Instant, out: &mut Outbox) {
        #[cfg(test)]
        assert!(!self.panic_on_receive, "asked to panic");
        let Some(link) = self.link(conn) else {
            return;
        };
        let mut inbox = std::mem::take(&mut link.inbox);
        if inbox.is_empty() {
            let used = self.read_messages(conn, octets, now, out);
            self.keep(conn, BytesMut::from(octets.get(used..).unwrap_or_default()));
        } else {
            inbox.extend_from_slice(octets);
            let used = self.read_messages(conn, &inbox, now, out);
            inbox.advance(used);
            self.keep(conn, inbox);
        }
    }

    fn keep(&mut self, conn: ConnId, inbox: BytesMut) {
        if let Some(link) = self.link(conn) {
            link.inbox = inbox;
        }
    }

    /// Octets of whole messages taken in.
    fn read_messages(
        &mut self,
        conn: ConnId,
        octets: &[u8],
        now: Instant,
        out: &mut Outbox,
    ) -> usize {
        let mut used = 0;
        loop {
            match message::split(octets.get(used..).unwrap_or_default(), message::MAX) {
                Ok(None) => return used,
                Ok(Some((message, length))) => {
                    used += length;
                    self.message(conn, &message, now, out);
                }
                Err(malformed) => {
                    self.reject(conn, malformed, now, out);
                    return octets.len();
                }
            }
            if self.link(conn).is_none() {
                return octets.len();
            }
        }
    }

    fn reject(&mut self, conn: ConnId, malformed: Malformed, now: Instant, out: &mut Outbox) {
        out.push(Action::Malformed(malformed.fault));
        self.end(conn, malformed.notification, now, out);
    }

    /// The whole transition table of messages: phase and kind (RFC 4271 §8.2.2).
    fn message(&mut self, conn: ConnId, message: &Message<'_>, now: Instant, out: &mut Outbox) {
        let Some(phase) = self.link(conn).map(|link| link.phase) else {
            return;
        };
        let unexpected = match (phase, message.kind) {
            (_, Kind::Notification) => return self.notified(conn, message.body, now, out),
            (Phase::OpenSent, Kind::Open) => return self.opened(conn, message.body, now, out),
            (Phase::OpenConfirm(negotiated), Kind::Keepalive) => {
                return self.confirmed(conn, negotiated, now, out);
            }
            (Phase::Established(_), Kind::Keepalive) => return self.touch(conn, now),
            (Phase::Established(negotiated), Kind::Update) => {
                self.touch(conn, now);
                return self.updated(conn, &negotiated, message.body, now, out);
            }
            (Phase::Established(negotiated), Kind::RouteRefresh) => {
                self.touch(conn, now);
                return self.refreshed(&negotiated, message.body, out);
            }
            (Phase::OpenSent, Kind::Update | Kind::Keepalive | Kind::RouteRefresh) => {
                Fault::UnexpectedInOpenSent
            }
            (Phase::OpenConfirm(_), Kind::Open | Kind::Update | Kind::RouteRefresh) => {
                Fault::UnexpectedInOpenConfirm
            }
            (Phase::Established(_), Kind::Open) => Fault::UnexpectedInEstablished,
        };
        self.reject(
            conn,
            Malformed::new(unexpected, &[message.kind.code()]),
            now,
            out,
        );
    }

    fn touch(&mut self, conn: ConnId, now: Instant) {
        if let Some(link) = self.link(conn) {
            link.touch(now);
        }
    }

    fn notified(&mut self, conn: ConnId, body: &[u8], now: Instant, out: &mut Outbox) {
        let Some(notification) = Notification::parse(body) else {
            return;
        };
        out.push(Action::NotificationIn(notification.clone()));
        out.push(Action::Close(conn));
        self.lose(conn, DownReason::Received(notification), now, out);
    }

    fn opened(&mut self, conn: ConnId, body: &[u8], now: Instant, out: &mut Outbox) {
        let (open, faults) = match Open::parse(body) {
            Ok(parsed) => parsed,
            Err(malformed) => return self.reject(conn, malformed, now, out),
        };
        faults
            .iter()
            .for_each(|fault| out.push(Action::Malformed(fault)));
        let Some((local, remote)) = self.link(conn).map(|link| (link.local, link.remote)) else {
            return;
        };
        let negotiated = match negotiate(&self.config, &open, local, remote) {
            Ok(negotiated) => negotiated,
            Err(malformed) => return self.reject(conn, malformed, now, out),
        };
        if !self.survives_collision(conn, &negotiated, now, out) {
            return;
        }
        let jitter = self.jitter();
        if let Some(link) = self.link(conn) {
            link.confirm(negotiated, now, jitter, out);
        }
    }

    /// Whether the connection goes on beside the others of this peer (RFC 4271 §6.8, RFC 6286 §2.3, RFC 4724 §4.2).
    fn survives_collision(
        &mut self,
        conn: ConnId,
        agreed: &Negotiated,
        now: Instant,
        out: &mut Outbox,
    ) -> bool {
        let rivals: SmallVec<[(ConnId, State, Direction); 2]> = self
            .links
            .iter()
            .filter(|link| link.conn != conn && link.state() > State::OpenSent)
            .map(|link| (link.conn, link.state(), link.direction))
            .collect();
        let Some(direction) = self.link(conn).map(|link| link.direction) else {
            return false;
        };
        for (rival, state, rival_direction) in rivals {
            if state == State::Established {
                if direction == Direction::In {
                    // The peer restarted and we had not noticed: the old connection is dead, its routes are stale.
                    out.push(Action::Abort(rival));
                    self.lose(rival, DownReason::Closed, now, out);
                    continue;
                }
                self.end(conn, Notification::cease(cease::COLLISION), now, out);
                return false;
            }
            let loser = if direction == rival_direction {
                rival
            } else {
                let kept = if self.we_win(agreed) {
                    Direction::Out
                } else {
                    Direction::In
                };
                if direction == kept { rival } else { conn }
            };
            self.end(loser, Notification::cease(cease::COLLISION), now, out);
            if loser == conn {
                return false;
            }
        }
        true
    }

    /// Whether our own call is the one to keep.
    fn we_win(&self, agreed: &Negotiated) -> bool {
        (self.config.router_id, self.config.local_as) > (agreed.router_id, agreed.peer_as)
    }

    fn confirmed(&mut self, conn: ConnId, negotiated: Negotiated, now: Instant, out: &mut Outbox) {
        let others: SmallVec<[ConnId; 2]> = self
            .links
            .iter()
            .map(|link| link.conn)
            .filter(|other| *other != conn)
            .collect();
        for other in others {
            self.end(other, Notification::cease(cease::COLLISION), now, out);
        }
        if let crate::session::dial::Dial::Calling(calling, _) = self.dial {
            out.push(Action::Abort(calling));
            self.dial = self.idle_dial(now);
        }
        self.generation = SessionGen(self.generation.0 + 1);
        if let Some(link) = self.link(conn) {
            link.phase = Phase::Established(negotiated);
            link.touch(now);
        }
        out.push(Action::Established(self.generation, negotiated));
    }

    fn refreshed(&self, negotiated: &Negotiated, body: &[u8], out: &mut Outbox) {
        match refresh::parse(body).filter(|family| negotiated.families.contains(*family)) {
            Some(family) => out.push(Action::Refresh(self.generation, family)),
            None => out.push(Action::Malformed(Fault::RefreshIgnored)),
        }
    }

    fn updated(
        &mut self,
        conn: ConnId,
        agreed: &Negotiated,
        body: &[u8],
        now: Instant,
        out: &mut Outbox,
    ) {
        let context = Context {
            width: agreed.width,
            external: agreed.external,
            peer_as: agreed.peer_as,
            families: agreed.families,
            local_address: Some(agreed.local.ip()),
        };
        let update = match Update::parse(body, &context) {
            Ok(update) => update,
            Err(malformed) => return self.reject(conn, malformed, now, out),
        };
        update
            .faults
            .iter()
            .for_each(|fault| out.push(Action::Malformed(fault)));
        if let Some(family) = update.end_of_rib() {
            out.push(Action::EndOfRib(self.generation, family));
            return;
        }
        let routes = put_routes(&update, &mut out.batch);
        out.push(Action::Routes(self.generation, routes));
    }
}

/// Puts the routes of an UPDATE into the batch: withdrawals first, so that a prefix in both fields counts as announced.
fn put_routes(update: &Update<'_>, batch: &mut Batch) -> RouteUpdate {
    let start = batch.prefixes.len();
    let octets = batch.octets.len();
    batch.prefixes.extend(update.withdrawn.iter());
    if let Some(nlri) = &update.mp_withdrawn {
        batch.prefixes.extend(nlri.iter());
    }
    if update.treat_as_withdraw() {
        batch.prefixes.extend(update.reach.iter());
        if let Some(mp) = &update.mp_reach {
            batch.prefixes.extend(mp.nlri.iter());
        }
        let end = batch.prefixes.len();
        return RouteUpdate {
            withdrawn: start..end,
            announced: [None, None],
            attributes: octets..octets,
        };
    }
    let withdrawn = start..batch.prefixes.len();
    let mut announced = [None, None];
    let [classic, multiprotocol] = &mut announced;
    if let Some(next_hop) = update.next_hop().filter(|_| !update.reach.is_empty()) {
        let start = batch.prefixes.len();
        batch.prefixes.extend(update.reach.iter());
        *classic = Some((next_hop.into(), start..batch.prefixes.len()));
    }
    if let Some(mp) = update.mp_reach.filter(|mp| !mp.nlri.is_empty()) {
        let start = batch.prefixes.len();
        batch.prefixes.extend(mp.nlri.iter());
        *multiprotocol = Some((mp.next_hop, start..batch.prefixes.len()));
    }
    if update.announces() {
        update.put_canonical(&mut batch.octets);
    }
    RouteUpdate {
        withdrawn,
        announced,
        attributes: octets..batch.octets.len(),
    }
}
