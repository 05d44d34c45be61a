//! All work on one block: what is queued, what is in flight, and the next step.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;

use super::job::Trouble;
use super::{Allocator, Caller, Note};
use crate::affinity::{Affinity, AffinityView, BlockView, Goal, State, Step};
use crate::block::{Attribute, Block, Given, Occupied, Owner};
use crate::index::Known;
use crate::pool::Refusal;
use crate::request::{Assign, Assigned, Path, ReleaseError, RequestId};
use crate::store::{Key, Object, StoreCall, Stored};
use crate::time::Time;

/// One address wanted from this block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Take {
    pub(super) request: RequestId,
    pub(super) part: usize,
    pub(super) attribute: Arc<Attribute>,
    pub(super) asked: Arc<Assign>,
    /// Exactly this ordinal.
    pub(super) exact: Option<u32>,
    pub(super) path: Path,
}

/// The request and its part decide the rest.
impl Hash for Take {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.request, self.part, self.exact, self.path).hash(state);
    }
}

/// One address to give back to this block.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Give {
    /// Request and part that wait for it.
    pub(super) request: Option<(RequestId, usize)>,
    pub(super) handle: Arc<str>,
    pub(super) ordinal: u32,
    pub(super) sequence: Option<u64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Item {
    Take(Take),
    Give(Give),
    /// Puts what was lent from the stock in its name.
    Hand {
        ordinal: u32,
    },
    /// Fills the stock.
    Stock,
    /// Frees an entry whose stamp the server dropped.
    Thaw {
        ordinal: u32,
        sequence: u64,
    },
}

/// What a write does for an item, once it lands.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Outcome {
    Taken(Assigned),
    Given(Given),
    /// Of the stock; whether a loan stands in its name.
    Kept(bool),
}

/// Items and what the write in flight does for them.
pub(super) type Batch = Vec<(Item, Outcome)>;

/// The call in flight.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Flight {
    ReadBlock,
    ReadAffinity,
    /// A create, swap or removal of the affinity.
    Affinity(Step),
    /// The create that decides a claim.
    Create(Batch),
    /// A swap that takes and gives.
    Swap(Batch),
    /// Soft delete, removal or orphaning of the block.
    Block(Step),
}

/// What is to be read before anything else.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct Reread {
    block: bool,
    affinity: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lane {
    queue: VecDeque<Item>,
    /// Stored, not answered: the affinity is not confirmed yet.
    landed: Vec<(Take, Assigned)>,
    goal: Option<Goal>,
    flight: Option<Flight>,
    /// Uid of the object the call in flight is about, as known when it was sent.
    subject: Option<Arc<str>>,
    reread: Reread,
    /// The affinity lacks labels.
    relabel: bool,
    /// Conflicts, and calls without an answer, in a row.
    rounds: u32,
    silences: u32,
    wait: Option<Time>,
    /// The server refused: nothing is tried unasked.
    refused: bool,
}

impl Lane {
    pub(super) fn push(&mut self, item: Item, reread: bool) {
        self.queue.push_back(item);
        self.reread.block |= reread;
        self.wait = None;
    }

    pub(super) fn goal(&self) -> Option<Goal> {
        self.goal
    }

    /// Sets a goal. Owning the block goes before everything, abandoning before giving up.
    pub(super) fn aim(&mut self, goal: Goal) {
        let weight = |goal: Goal| match goal {
            Goal::Settle => 0,
            Goal::GiveUp => 1,
            Goal::Abandon => 2,
            Goal::Hold => 3,
        };
        if self
            .goal
            .is_none_or(|current| weight(goal) > weight(current))
        {
            self.goal = Some(goal);
        }
    }

    pub(super) fn aim_relabel(&mut self) {
        self.relabel = true;
    }

    pub(super) fn is_leaving(&self) -> bool {
        matches!(self.goal, Some(Goal::GiveUp | Goal::Abandon))
    }

    pub(super) fn is_flying(&self) -> bool {
        self.flight.is_some()
    }

    pub(super) fn is_done(&self) -> bool {
        self.flight.is_none()
            && self.queue.is_empty()
            && self.landed.is_empty()
            && self.goal.is_none()
            && !self.relabel
    }

    pub(super) fn is_ready(&self, now: Time) -> bool {
        self.flight.is_none() && self.wait.is_none_or(|until| until <= now)
    }

    pub(super) fn wakes_at(&self) -> Option<Time> {
        if self.flight.is_none() {
            self.wait
        } else {
            None
        }
    }

    /// Takes that are not in the index yet.
    pub(super) fn takes(&self) -> usize {
        let flying = self
            .flying()
            .filter(|(item, _)| matches!(item, Item::Take(_)))
            .count();
        flying
            + self
                .queue
                .iter()
                .filter(|item| matches!(item, Item::Take(_)))
                .count()
    }

    /// Takes that a block as the index has it does not show: an event may tell of a write before its own reply does.
    pub(super) fn takes_beyond(&self, block: &Block) -> usize {
        let shown = self.flying().filter(|(item, outcome)| {
            let (Item::Take(take), Outcome::Taken(assigned)) = (item, outcome) else {
                return false;
            };
            block
                .holder(assigned.ordinal)
                .is_some_and(|holder| holder.handle() == take.attribute.handle())
        });
        self.takes() - shown.count()
    }

    /// Whether an address of this handle is on its way back.
    pub(super) fn gives(&self, handle: &str) -> bool {
        self.items()
            .any(|item| matches!(item, Item::Give(give) if &*give.handle == handle))
    }

    fn items(&self) -> impl Iterator<Item = &Item> {
        self.flying().map(|(item, _)| item).chain(&self.queue)
    }

    /// Whether a place is on its way back.
    pub(super) fn returns(&self, ordinal: u32) -> bool {
        self.items()
            .any(|item| matches!(item, Item::Give(give) if give.ordinal == ordinal))
    }

    /// Whether a loan is on its way into its name.
    pub(super) fn hands(&self, ordinal: u32) -> bool {
        self.items()
            .any(|item| matches!(item, Item::Hand { ordinal: o } if *o == ordinal))
    }

    /// Whether the stock is being filled.
    pub(super) fn stocks(&self) -> bool {
        self.items().any(|item| matches!(item, Item::Stock))
    }

    /// Takes a queued part out of the queue; `false` when it is in flight or stored already.
    pub(super) fn withdraw(&mut self, request: RequestId, part: usize) -> bool {
        let before = self.queue.len();
        self.queue.retain(|item| !matches!(item, Item::Take(take) if take.request == request && take.part == part));
        self.queue.len() < before
    }

    pub(super) fn take_flight(&mut self) -> Option<Flight> {
        self.flight.take()
    }

    pub(super) fn take_subject(&mut self) -> Option<Arc<str>> {
        self.subject.take()
    }

    pub(super) fn reread_block(&mut self) {
        self.reread.block = true;
    }

    pub(super) fn reread_affinity(&mut self) {
        self.reread.affinity = true;
    }

    /// Puts the items of a write that did not land back to the head of the queue, in order.
    pub(super) fn restore(&mut self, batch: Batch) {
        for (item, _) in batch.into_iter().rev() {
            self.queue.push_front(item);
        }
    }

    /// A call was answered as hoped.
    pub(super) fn smooth(&mut self) {
        self.rounds = 0;
        self.silences = 0;
        self.wait = None;
        self.refused = false;
    }

    pub(super) fn count_round(&mut self) -> u32 {
        self.rounds += 1;
        self.rounds
    }

    pub(super) fn count_silence(&mut self) -> u32 {
        self.silences += 1;
        self.silences
    }

    pub(super) fn forgive_rounds(&mut self) {
        self.rounds = 0;
    }

    pub(super) fn pause_until(&mut self, until: Time) {
        self.wait = Some(until);
    }

    pub(super) fn may_settle(&self) -> bool {
        !self.refused
    }

    pub(super) fn drop_goal(&mut self) {
        self.refused = true;
        self.goal = None;
        self.relabel = false;
    }

    pub(super) fn take_queue(&mut self) -> VecDeque<Item> {
        std::mem::take(&mut self.queue)
    }

    pub(super) fn take_landed(&mut self) -> Vec<(Take, Assigned)> {
        std::mem::take(&mut self.landed)
    }

    fn flying(&self) -> impl Iterator<Item = &(Item, Outcome)> {
        match &self.flight {
            Some(Flight::Create(batch) | Flight::Swap(batch)) => batch.iter(),
            Some(
                Flight::ReadBlock | Flight::ReadAffinity | Flight::Affinity(_) | Flight::Block(_),
            )
            | None => [].iter(),
        }
    }

    fn has_takes(&self) -> bool {
        self.queue.iter().any(|item| matches!(item, Item::Take(_)))
    }
}

/// A batch, decided.
struct Composed {
    block: Block,
    batch: Batch,
    /// Takes that found no place, and why, when it is for good.
    left: Vec<(Take, Option<Refusal>)>,
    changed: bool,
}

impl Allocator {
    /// Does the next step of a lane. `false` = nothing moved.
    pub(super) fn step(&mut self, block: IpNet, now: Time) -> bool {
        if self.close_if_done(block) {
            return false;
        }
        let known = self.index.block(block);
        let views = self.index.views(block);
        let Some(lane) = self.lanes.get_mut(&block).filter(|lane| lane.is_ready(now)) else {
            return false;
        };
        lane.wait = None;
        if std::mem::take(&mut lane.reread.affinity) {
            let key = Key::Affinity(Arc::clone(self.index.node()), block);
            return self.fly(block, Flight::ReadAffinity, StoreCall::Get(key));
        }
        let unread = matches!(known, Known::Unread) && !lane.queue.is_empty();
        if std::mem::take(&mut lane.reread.block) || unread {
            return self.fly(block, Flight::ReadBlock, StoreCall::Get(Key::Block(block)));
        }
        let mine = matches!(views.0, BlockView::MineEmpty | BlockView::MineBusy);
        let unconfirmed = views.1 != AffinityView::Live(State::Confirmed);
        if lane.goal.is_none()
            && mine
            && unconfirmed
            && (lane.has_takes() || !lane.landed.is_empty())
        {
            lane.goal = Some(Goal::Hold);
        }
        match lane.goal {
            Some(Goal::Hold) => self.advance(block, Goal::Hold, now),
            Some(goal) if lane.queue.is_empty() => self.advance(block, goal, now),
            Some(_) | None if !lane.queue.is_empty() => self.flush(block, known, now),
            Some(goal) => self.advance(block, goal, now),
            None if lane.relabel => self.relabel(block),
            None => self.answer_landed(block),
        }
    }

    fn fly(&mut self, block: IpNet, flight: Flight, call: StoreCall) -> bool {
        let subject = match &call {
            StoreCall::Swap(_, meta) | StoreCall::Remove(_, meta) => Some(Arc::clone(&meta.uid)),
            StoreCall::Get(key) => self.index.uid(key),
            StoreCall::Create(_) => None,
        };
        if let Some(lane) = self.lanes.get_mut(&block) {
            lane.flight = Some(flight);
            lane.subject = subject;
        }
        self.call(Caller::Lane(block), call);
        true
    }

    /// The next step of the claim protocol.
    fn advance(&mut self, block: IpNet, goal: Goal, now: Time) -> bool {
        let step = self.protocol(block, goal);
        match step {
            Step::CreateAffinity(state) => {
                let affinity = Affinity::new(self.index.node(), block, state);
                self.fly(
                    block,
                    Flight::Affinity(step),
                    StoreCall::Create(Object::Affinity(affinity)),
                )
            }
            Step::SwapAffinity(state) => {
                self.swap_affinity(block, step, |affinity| affinity.state = state)
            }
            Step::SoftDeleteAffinity => {
                self.swap_affinity(block, step, |affinity| affinity.deleted = true)
            }
            Step::RemoveAffinity => match self.index.affinity(block) {
                Some(stored) => {
                    let key = Key::Affinity(Arc::clone(&stored.value.node), block);
                    let meta = stored.meta.clone();
                    self.fly(block, Flight::Affinity(step), StoreCall::Remove(key, meta))
                }
                None => false,
            },
            Step::CreateBlock => self.create_block(block, now),
            Step::SoftDeleteBlock => self.change_block(block, step, Block::soft_delete),
            Step::Orphan => self.change_block(block, step, Block::orphan),
            Step::RemoveBlock => match self.index.block(block) {
                Known::Whole(stored) => {
                    let call = StoreCall::Remove(Key::Block(block), stored.meta.clone());
                    self.fly(block, Flight::Block(step), call)
                }
                Known::Absent | Known::Unread | Known::Broken => false,
            },
            Step::Use => {
                self.with_lane(block, |lane| lane.goal = None);
                self.answer_landed(block);
                true
            }
            Step::Lost => self.lost_to_another(block, now),
            Step::Done => {
                self.with_lane(block, |lane| lane.goal = None);
                self.requeue_landed(block);
                self.empty_since.remove(&block);
                self.note(Note::GivenUp { block });
                true
            }
        }
    }

    fn swap_affinity(
        &mut self,
        block: IpNet,
        step: Step,
        change: impl FnOnce(&mut Affinity),
    ) -> bool {
        let Some(stored) = self.index.affinity(block) else {
            return false;
        };
        let (mut affinity, meta) = (stored.value.clone(), stored.meta.clone());
        change(&mut affinity);
        self.fly(
            block,
            Flight::Affinity(step),
            StoreCall::Swap(Object::Affinity(affinity), meta),
        )
    }

    /// Writes an affinity back as it is: rendering adds the labels old rows lack.
    fn relabel(&mut self, block: IpNet) -> bool {
        self.with_lane(block, |lane| lane.relabel = false);
        match self.index.views(block).1 {
            AffinityView::Live(state) => {
                self.swap_affinity(block, Step::SwapAffinity(state), |_| {})
            }
            AffinityView::Absent | AffinityView::Deleted => true,
        }
    }

    fn change_block(&mut self, block: IpNet, step: Step, change: impl FnOnce(&mut Block)) -> bool {
        let Known::Whole(stored) = self.index.block(block) else {
            return false;
        };
        let mut changed = stored.value.clone();
        change(&mut changed);
        changed.seal();
        let call = StoreCall::Swap(Object::Block(Box::new(changed)), stored.meta.clone());
        self.fly(block, Flight::Block(step), call)
    }

    /// A3: creates the block with the waiting takes in it.
    fn create_block(&mut self, block: IpNet, now: Time) -> bool {
        let owner = Owner::Host(Arc::clone(self.index.node()));
        let items = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_queue)
            .unwrap_or_default();
        let (takes, rest): (Vec<Item>, Vec<Item>) = items
            .into_iter()
            .partition(|item| matches!(item, Item::Take(_)));
        self.vanish(block, rest);
        let fresh = Block::try_new(block, owner, now, self.index.floor(block));
        let composed = match fresh {
            Ok(fresh) if !takes.is_empty() => self.compose(&fresh, takes.into(), now),
            Ok(_) | Err(_) => {
                // Nobody waits any more: the claim is dropped.
                self.with_lane(block, |lane| lane.goal = Some(Goal::GiveUp));
                self.vanish(block, takes);
                return true;
            }
        };
        self.leave(block, composed.left, now);
        if composed.batch.is_empty() {
            self.with_lane(block, |lane| lane.goal = Some(Goal::GiveUp));
            return true;
        }
        let call = StoreCall::Create(Object::Block(Box::new(composed.block)));
        self.fly(block, Flight::Create(composed.batch), call)
    }

    /// Everything queued for the block as one swap.
    fn flush(&mut self, block: IpNet, known: Known, now: Time) -> bool {
        let items = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_queue)
            .unwrap_or_default();
        let stored = match known {
            Known::Whole(stored) if !stored.value.is_deleted() => stored,
            Known::Whole(_) | Known::Absent | Known::Unread => {
                let (takes, rest): (Vec<Item>, Vec<Item>) = items
                    .into_iter()
                    .partition(|item| matches!(item, Item::Take(_)));
                self.vanish(block, rest);
                self.move_takes(takes, None, None, now);
                return true;
            }
            Known::Broken => {
                self.turn_away(block, items, "the stored block cannot be decoded", now);
                return true;
            }
        };
        let composed = self.compose(&stored.value, items, now);
        self.leave(block, composed.left, now);
        if composed.batch.is_empty() {
            return true;
        }
        if !composed.changed {
            self.land(block, composed.batch);
            return true;
        }
        let call = StoreCall::Swap(Object::Block(Box::new(composed.block)), stored.meta.clone());
        self.fly(block, Flight::Swap(composed.batch), call)
    }

    /// Decides a batch on a copy of the block: gives first, so what they free can rest behind what is free longest.
    fn compose(&self, base: &Block, items: VecDeque<Item>, now: Time) -> Composed {
        let mut block = base.clone();
        let cooldown = self.cooldown();
        block.thaw(now, cooldown);
        let (mut batch, mut left, mut changed) = (Batch::new(), Vec::new(), false);
        let (mut takes, mut stocks) = (Vec::new(), false);
        for item in items {
            let given = match item {
                Item::Give(ref give) => {
                    block.give(give.ordinal, &give.handle, give.sequence, now, cooldown)
                }
                Item::Thaw { ordinal, sequence } => block.free_bare(ordinal, sequence),
                Item::Hand { ordinal } => {
                    let (new_name, stands) = self.compose_hand(&mut block, ordinal);
                    changed |= new_name;
                    batch.push((item, Outcome::Kept(stands)));
                    continue;
                }
                Item::Take(take) => {
                    takes.push(take);
                    continue;
                }
                Item::Stock => {
                    stocks = true;
                    continue;
                }
            };
            changed |= given == Given::Freed;
            batch.push((item, Outcome::Given(given)));
        }
        for take in takes {
            match self.take_from(&mut block, &take, now) {
                Ok((ordinal, fresh)) => match assigned(&block, ordinal, take.path) {
                    Some(assigned) => {
                        changed |= fresh;
                        batch.push((Item::Take(take), Outcome::Taken(assigned)));
                    }
                    None => left.push((take, None)),
                },
                Err(refusal) => left.push((take, refusal)),
            }
        }
        // Last: whoever waits goes before what nobody waits for.
        if stocks {
            changed |= self.compose_stock(&mut block);
            batch.push((Item::Stock, Outcome::Kept(true)));
        }
        block.seal();
        Composed {
            block,
            batch,
            left,
            changed,
        }
    }

    /// One take from the copy: the ordinal, and whether the copy changed.
    fn take_from(
        &self,
        block: &mut Block,
        take: &Take,
        now: Time,
    ) -> Result<(u32, bool), Option<Refusal>> {
        let handle = take.attribute.handle().unwrap_or_default();
        let there = block
            .of_handle(handle)
            .find(|ordinal| take.exact.is_none_or(|exact| exact == *ordinal));
        if let Some(ordinal) = there {
            return Ok((ordinal, false));
        }
        let foreign = !block.is_of(self.index.node());
        if foreign
            && self.index.config().strict
            && (take.exact.is_none() || block.owner().is_some())
        {
            let refusal = take
                .exact
                .and_then(|ordinal| block.address(ordinal))
                .map(|address| Refusal::Strict {
                    address,
                    owner: owner_text(block.owner()),
                });
            return Err(refusal);
        }
        let Some(ordinal) = take.exact else {
            return block
                .take(&take.attribute, |a| self.index.reserved(a))
                .map(|o| (o, true))
                .ok_or(None);
        };
        match block.take_exact(ordinal, &take.attribute) {
            Ok(()) => Ok((ordinal, true)),
            Err(Occupied::Mine) => Ok((ordinal, false)),
            Err(Occupied::By(holder)) => {
                let by = holder.handle().unwrap_or_default();
                if take.asked.supersedes.contains(by) || self.in_stock(block.cidr(), ordinal, by) {
                    block.give(ordinal, by, None, now, std::time::Duration::ZERO);
                    return block
                        .take_exact(ordinal, &take.attribute)
                        .map(|()| (ordinal, true))
                        .map_err(|_occupied| None);
                }
                Err(block.address(ordinal).map(|address| Refusal::Taken {
                    address,
                    by: holder_text(&holder),
                }))
            }
            Err(Occupied::Outside) => Err(None),
        }
    }

    /// What a write did is stored.
    pub(super) fn land(&mut self, block: IpNet, batch: Batch) {
        let (stored, claim) = self.index.views(block);
        let mine = matches!(stored, BlockView::MineEmpty | BlockView::MineBusy);
        let answer = !mine || claim == AffinityView::Live(State::Confirmed);
        for (item, outcome) in batch {
            match (item, outcome) {
                (Item::Take(take), Outcome::Taken(assigned)) if answer => {
                    self.touch_handle(&take.attribute, false);
                    self.take_landed(&take, assigned);
                }
                (Item::Take(take), Outcome::Taken(assigned)) => {
                    self.with_lane(block, |lane| lane.landed.push((take, assigned)));
                }
                (Item::Give(give), Outcome::Given(given)) => {
                    if given == Given::NotYours {
                        let handle = give.handle.to_string();
                        self.note(Note::NotOurs {
                            handle,
                            block,
                            ordinal: give.ordinal,
                        });
                    }
                    self.touch_given(&give.handle);
                    self.give_landed(&give, given);
                }
                (Item::Hand { ordinal }, Outcome::Kept(stands)) => {
                    self.handed_over(block, ordinal, stands);
                }
                (
                    Item::Take(_)
                    | Item::Give(_)
                    | Item::Thaw { .. }
                    | Item::Hand { .. }
                    | Item::Stock,
                    Outcome::Taken(_) | Outcome::Given(_) | Outcome::Kept(_),
                ) => {}
            }
        }
    }

    /// Answers what is stored under a confirmed affinity.
    fn answer_landed(&mut self, block: IpNet) -> bool {
        let landed = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_landed)
            .unwrap_or_default();
        let moved = !landed.is_empty();
        for (take, assigned) in landed {
            self.touch_handle(&take.attribute, false);
            self.take_landed(&take, assigned);
        }
        moved
    }

    /// What was stored in a block that is ours no longer is looked for anew.
    fn requeue_landed(&mut self, block: IpNet) {
        self.with_lane(block, |lane| {
            for (take, _) in std::mem::take(&mut lane.landed).into_iter().rev() {
                lane.queue.push_front(Item::Take(take));
            }
            lane.reread.block |= !lane.queue.is_empty();
        });
    }

    fn lost_to_another(&mut self, block: IpNet, now: Time) -> bool {
        self.lost.insert(block, now.plus(self.settings.lost_hold));
        self.note(Note::Lost { block });
        let landed = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_landed)
            .unwrap_or_default();
        let items = self
            .lanes
            .get_mut(&block)
            .map(Lane::take_queue)
            .unwrap_or_default();
        self.with_lane(block, |lane| lane.goal = Some(Goal::GiveUp));
        let (takes, rest): (Vec<Item>, Vec<Item>) = items
            .into_iter()
            .partition(|item| matches!(item, Item::Take(_)));
        self.with_lane(block, |lane| lane.queue.extend(rest));
        let stranded = landed.into_iter().map(|(take, _)| Item::Take(take));
        self.move_takes(stranded.chain(takes).collect(), None, None, now);
        true
    }

    /// Takes look for another block.
    pub(super) fn move_takes(
        &mut self,
        takes: Vec<Item>,
        exclude: Option<IpNet>,
        trouble: Option<&Trouble>,
        now: Time,
    ) {
        for item in takes {
            if let Item::Take(take) = item {
                self.take_moves(&take, exclude, trouble.cloned(), now);
            }
        }
    }

    /// Takes that found no place in a batch.
    fn leave(&mut self, block: IpNet, left: Vec<(Take, Option<Refusal>)>, now: Time) {
        for (take, refusal) in left {
            match refusal {
                Some(refusal) => {
                    self.take_moves_nowhere(&take);
                    self.fail(take.request, refusal.into());
                }
                // Full by now, or borrowing was forbidden meanwhile.
                None => self.take_moves(&take, take.exact.map(|_| block), None, now),
            }
        }
    }

    fn take_moves_nowhere(&mut self, take: &Take) {
        self.set_part(take.request, take.part, super::job::PartState::Nothing);
    }

    /// The block is gone, and with it what was to be given back to it.
    fn vanish(&mut self, block: IpNet, items: Vec<Item>) {
        for item in items {
            match item {
                Item::Give(give) => {
                    self.touch_given(&give.handle);
                    self.give_landed(&give, Given::AlreadyFree);
                }
                Item::Hand { ordinal } => self.loan_vanished(block, ordinal),
                Item::Take(_) | Item::Stock | Item::Thaw { .. } => {}
            }
        }
    }

    /// Puts back what must not be dropped half way though nobody waits for it: loans, and what leaves the stock.
    pub(super) fn keep(&mut self, block: IpNet, items: Vec<Item>) {
        self.with_lane(block, |lane| lane.queue.extend(items));
    }

    /// Items of a block that cannot be used.
    pub(super) fn turn_away(&mut self, block: IpNet, items: VecDeque<Item>, why: &str, now: Time) {
        for item in items {
            match item {
                Item::Take(take) => self.take_moves(&take, Some(block), None, now),
                Item::Give(give) => {
                    let error = ReleaseError::Broken {
                        block,
                        why: why.to_owned(),
                    };
                    self.give_failed(&give, error);
                }
                // A loan is tried again once the block can be read.
                Item::Hand { .. } | Item::Stock | Item::Thaw { .. } => {}
            }
        }
    }

    pub(super) fn with_lane(&mut self, block: IpNet, change: impl FnOnce(&mut Lane)) {
        if let Some(lane) = self.lanes.get_mut(&block) {
            change(lane);
        }
    }

    /// Addresses the server stored without their stamp are freed at once, and nothing rests from now on.
    pub(super) fn check_cooling(&mut self, stored: &Stored<Object>, batch: &Batch) {
        let Object::Block(block) = &stored.value else {
            return;
        };
        let pruned: Vec<Item> = batch
            .iter()
            .filter_map(|(item, outcome)| {
                let Item::Give(give) = item else { return None };
                (*outcome == Outcome::Given(Given::Freed)).then_some(give.ordinal)
            })
            .filter(|ordinal| {
                block
                    .holder(*ordinal)
                    .is_some_and(|holder| *holder == Attribute::default())
            })
            .map(|ordinal| Item::Thaw {
                ordinal,
                sequence: block.sequence_of(ordinal),
            })
            .collect();
        if pruned.is_empty() {
            return;
        }
        if !std::mem::replace(&mut self.no_cooldown, true) {
            self.note(Note::CooldownUnsupported);
        }
        let cidr = block.cidr();
        for item in pruned {
            self.lane(cidr).push(item, false);
        }
    }
}

fn assigned(block: &Block, ordinal: u32, path: Path) -> Option<Assigned> {
    let address = block.address(ordinal)?;
    Some(Assigned {
        address,
        block: block.cidr(),
        ordinal,
        sequence: block.sequence_of(ordinal),
        path,
    })
}

fn owner_text(owner: Option<&Owner>) -> String {
    match owner {
        Some(Owner::Host(node)) => format!("node {node}"),
        Some(Owner::LoadBalancer) => "the load balancer".to_owned(),
        Some(Owner::Other(text)) => text.to_string(),
        None => "nobody".to_owned(),
    }
}

/// Who holds an address, as a person reads it.
fn holder_text(holder: &Attribute) -> String {
    let of = |key: &str| holder.owner.get(key).map(String::as_str);
    let handle = holder.handle().unwrap_or("no handle");
    match (of("namespace"), of("pod"), of("node")) {
        (Some(namespace), Some(pod), Some(node)) => {
            format!("pod {namespace}/{pod} on {node} ({handle})")
        }
        (_, _, Some(node)) => format!("{handle} on {node}"),
        (_, _, None) => handle.to_owned(),
    }
}
