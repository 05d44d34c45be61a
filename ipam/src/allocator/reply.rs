//! Replies: what a call's result means for its lane.

use std::sync::Arc;

use ipnet::IpNet;

use super::job::Trouble;
use super::lane::{Flight, Give, Item, Lane};
use super::{Allocator, Caller, Note};
use crate::affinity::Step;
use crate::index::Event;
use crate::request::{AssignError, ReleaseError};
use crate::store::{CallId, StoreError, StoreReply};
use crate::time::Time;

/// Round of [`Allocator::pause`] after a refusal: what cannot be dropped is tried again after its longest pause.
const REFUSED: u32 = 16;

impl Allocator {
    pub(super) fn reply(&mut self, call: CallId, reply: Result<StoreReply, StoreError>, now: Time) {
        match self.calls.remove(&call) {
            Some(Caller::Lane(block)) => {
                if let Some(flight) = self.lanes.get_mut(&block).and_then(Lane::take_flight) {
                    match reply {
                        Ok(reply) => self.succeeded(block, flight, reply),
                        Err(error) => self.failed(block, flight, error, now),
                    }
                }
            }
            Some(Caller::Handle(handle)) => self.handle_replied(&handle, reply, now),
            None => {}
        }
    }

    fn succeeded(&mut self, block: IpNet, flight: Flight, reply: StoreReply) {
        // Only a write that landed ends a row of failures: reads work where writes do not.
        if !matches!(flight, Flight::ReadBlock | Flight::ReadAffinity) {
            self.with_lane(block, Lane::smooth);
        }
        let stored = match reply {
            StoreReply::Object(stored) => stored,
            StoreReply::Removed => return self.forget(block, Subject::of(&flight)),
        };
        match flight {
            Flight::Create(batch) => {
                self.index.learn(stored);
                self.warm.fence(block);
                self.warm.touch();
                self.note(Note::Claimed { block });
                self.note(Note::Landed {
                    block,
                    batch: batch.len(),
                });
                self.land(block, batch);
            }
            Flight::Swap(batch) => {
                self.check_cooling(&stored, &batch);
                self.index.learn(stored);
                self.warm.fence(block);
                self.warm.touch();
                self.note(Note::Landed {
                    block,
                    batch: batch.len(),
                });
                self.land(block, batch);
                self.review();
            }
            Flight::ReadBlock | Flight::ReadAffinity | Flight::Affinity(_) | Flight::Block(_) => {
                self.index.learn(stored);
            }
        }
    }

    fn failed(&mut self, block: IpNet, flight: Flight, error: StoreError, now: Time) {
        self.failure_notes(block, &flight, &error);
        let subject = Subject::of(&flight);
        self.restore(block, flight);
        match error {
            StoreError::NotFound => self.forget(block, subject),
            StoreError::Conflict | StoreError::Exists => {
                self.reread(block, subject);
                self.conflicted(block, now);
            }
            StoreError::Unknown(why) => {
                self.reread(block, subject);
                self.silent(block, &why, now);
            }
            StoreError::Denied(why) => self.denied(block, &why, now),
            StoreError::Broken(why) => {
                self.index.apply(Event::BrokenBlock(block));
                let items = self
                    .lanes
                    .get_mut(&block)
                    .map(Lane::take_queue)
                    .unwrap_or_default();
                self.turn_away(block, items, &why, now);
            }
        }
    }

    fn failure_notes(&mut self, block: IpNet, flight: &Flight, error: &StoreError) {
        match error {
            StoreError::Conflict => self.note(Note::Conflict { block }),
            StoreError::Exists | StoreError::NotFound => {}
            StoreError::Denied(_) | StoreError::Broken(_) | StoreError::Unknown(_) => {
                let what = match flight {
                    Flight::ReadBlock => "read block",
                    Flight::ReadAffinity => "read affinity",
                    Flight::Affinity(_) => "write affinity",
                    Flight::Create(_) => "create block",
                    Flight::Swap(_) => "write block",
                    Flight::Block(Step::RemoveBlock) => "remove block",
                    Flight::Block(_) => "change block",
                };
                self.note(Note::Failed {
                    what: format!("{what} {block}"),
                    why: error.clone(),
                });
            }
        }
    }

    /// What was to happen is still to happen.
    fn restore(&mut self, block: IpNet, flight: Flight) {
        match flight {
            Flight::Create(batch) | Flight::Swap(batch) => {
                self.with_lane(block, |lane| lane.restore(batch));
            }
            Flight::ReadBlock | Flight::ReadAffinity | Flight::Affinity(_) | Flight::Block(_) => {}
        }
    }

    fn reread(&mut self, block: IpNet, subject: Subject) {
        self.with_lane(block, |lane| match subject {
            Subject::Block => lane.reread_block(),
            Subject::Affinity => lane.reread_affinity(),
        });
    }

    /// Another write came first: read, decide anew; after too many rounds look elsewhere.
    fn conflicted(&mut self, block: IpNet, now: Time) {
        let Some(rounds) = self.lanes.get_mut(&block).map(Lane::count_round) else {
            return;
        };
        if rounds >= self.settings.rounds {
            self.with_lane(block, Lane::forgive_rounds);
            let items = self
                .lanes
                .get_mut(&block)
                .map(Lane::take_queue)
                .unwrap_or_default();
            let mut kept = Vec::new();
            for item in items {
                match item {
                    Item::Take(take) => self.take_moves(&take, Some(block), None, now),
                    Item::Hand { .. } | Item::Give(Give { request: None, .. }) => kept.push(item),
                    Item::Give(give) => {
                        let why = format!("block {block} kept changing");
                        self.give_failed(&give, ReleaseError::Unreachable(why));
                    }
                    Item::Stock | Item::Thaw { .. } => {}
                }
            }
            self.keep(block, kept);
        }
        if rounds > 1 {
            let pause = self.pause(rounds);
            self.with_lane(block, |lane| lane.pause_until(now.plus(pause)));
        }
    }

    /// No answer: read back after a pause; after too many silences everybody who waits is told.
    fn silent(&mut self, block: IpNet, why: &str, now: Time) {
        let Some(silences) = self.lanes.get_mut(&block).map(Lane::count_silence) else {
            return;
        };
        if silences >= self.settings.silences {
            let trouble = AssignError::Unreachable(why.to_owned());
            self.dismiss(block, &trouble, &ReleaseError::Unreachable(why.to_owned()));
        }
        let pause = self.pause(silences);
        self.with_lane(block, |lane| lane.pause_until(now.plus(pause)));
    }

    /// The server will not have it: takes try other blocks, releases stay owed, and the protocol rests.
    fn denied(&mut self, block: IpNet, why: &str, now: Time) {
        self.with_lane(block, Lane::drop_goal);
        let items = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_queue)
            .unwrap_or_default();
        let landed = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_landed)
            .unwrap_or_default();
        let trouble = Trouble(why.to_owned());
        for (take, assigned) in landed {
            self.fail(take.request, trouble.clone().into());
            self.take_landed(&take, assigned);
        }
        let (mut takes, mut kept) = (Vec::new(), Vec::new());
        for item in items {
            match item {
                Item::Take(_) => takes.push(item),
                Item::Hand { .. } | Item::Give(Give { request: None, .. }) => kept.push(item),
                Item::Give(give) => self.give_failed(&give, ReleaseError::Denied(why.to_owned())),
                Item::Stock | Item::Thaw { .. } => {}
            }
        }
        if !kept.is_empty() {
            let pause = self.pause(REFUSED);
            self.keep(block, kept);
            self.with_lane(block, |lane| lane.pause_until(now.plus(pause)));
        }
        self.move_takes(takes, Some(block), Some(&trouble), now);
    }

    /// Fails everything that waits for this block.
    fn dismiss(&mut self, block: IpNet, assign: &AssignError, release: &ReleaseError) {
        let items = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_queue)
            .unwrap_or_default();
        let landed = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_landed)
            .unwrap_or_default();
        let mut kept = Vec::new();
        for item in items {
            match item {
                Item::Hand { .. } | Item::Give(Give { request: None, .. }) => kept.push(item),
                Item::Take(take) => {
                    self.set_part(take.request, take.part, super::job::PartState::Unplaced);
                    self.fail(take.request, assign.clone());
                }
                Item::Give(give) => self.give_failed(&give, release.clone()),
                Item::Stock | Item::Thaw { .. } => {}
            }
        }
        self.keep(block, kept);
        for (take, assigned) in landed {
            self.fail(take.request, assign.clone());
            self.take_landed(&take, assigned);
        }
    }

    /// An object is gone: the one the call was about. A later one of the same name, of which an event told while the
    /// call was under way, stays.
    fn forget(&mut self, block: IpNet, kind: Subject) {
        let subject = self.lanes.get_mut(&block).and_then(Lane::take_subject);
        let Some(uid) = subject else {
            return;
        };
        let event = match kind {
            Subject::Block => Event::BlockGone(block, Some(uid)),
            Subject::Affinity => {
                Event::AffinityGone(Arc::clone(self.index.node()), block, Some(uid))
            }
        };
        self.index.apply(event);
        self.block_changed(block);
    }
}

/// What a call was about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Subject {
    Block,
    Affinity,
}

impl Subject {
    fn of(flight: &Flight) -> Self {
        match flight {
            Flight::ReadBlock | Flight::Create(_) | Flight::Swap(_) | Flight::Block(_) => {
                Self::Block
            }
            Flight::ReadAffinity | Flight::Affinity(_) => Self::Affinity,
        }
    }
}
