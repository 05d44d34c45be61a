//! Requests: from arrival to the one answer.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use ipnet::IpNet;

use super::lane::{Give, Item, Take};
use super::{Allocator, Output};
use crate::block::{Attribute, Given};
use crate::index::Known;
use crate::net::Family;
use crate::pool::Refusal;
use crate::request::{
    Addresses, Answer, Assign, AssignError, Assigned, Release, ReleaseError, Released, RequestId,
};
use crate::time::Time;

/// A request under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Job {
    Assign(AssignJob),
    Release(ReleaseJob),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AssignJob {
    pub(super) request: Arc<Assign>,
    pub(super) attribute: Arc<Attribute>,
    pub(super) parts: Vec<Part>,
    /// Set once the request cannot succeed; it is answered when everything taken is given back.
    failure: Option<Failure>,
}

/// The request is known by its id, under which the job is kept.
impl Hash for AssignJob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.parts.hash(state);
        self.failure.hash(state);
    }
}

/// One address wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Part {
    pub(super) state: PartState,
    /// Blocks that did not work out.
    pub(super) excluded: BTreeSet<IpNet>,
    /// Why the last block did not work out, when the store was the reason.
    pub(super) trouble: Option<Trouble>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum PartState {
    /// Not placed, or waiting for a block.
    #[default]
    Unplaced,
    /// Queued or in flight in the lane of this block.
    At(IpNet),
    /// Stored.
    Landed(Assigned),
    /// Stored, and on its way back.
    Returning,
    /// Given up; nothing is held.
    Nothing,
}

/// The store refused the write, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Trouble(pub(super) String);

impl From<Trouble> for AssignError {
    fn from(trouble: Trouble) -> Self {
        Self::Denied(trouble.0)
    }
}

/// An error, boxed: it outlives several steps and is rarely there. Compared by its text.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Failure(Box<AssignError>);

impl Hash for Failure {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&*self.0).hash(state);
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ReleaseJob {
    outstanding: usize,
    result: Released,
    error: Option<ReleaseError>,
}

impl Hash for ReleaseJob {
    fn hash<H: Hasher>(&self, state: &mut H) {
        (self.outstanding, self.result, self.error.is_some()).hash(state);
    }
}

impl Allocator {
    pub(super) fn assign(&mut self, id: RequestId, request: Assign, now: Time) {
        if !self.index.synced() {
            return self.answer(id, Answer::Assign(Err(AssignError::NotSynced)));
        }
        if let Some(why) = senseless(&request) {
            return self.answer(
                id,
                Answer::Assign(Err(Refusal::Senseless(why.to_owned()).into())),
            );
        }
        let attribute = Arc::new(Attribute::new(&request.handle, request.attributes.clone()));
        let parts = vec![Part::default(); request.wants.len()];
        let count = parts.len();
        let job = AssignJob {
            request: Arc::new(request),
            attribute,
            parts,
            failure: None,
        };
        self.jobs.insert(id, Job::Assign(job));
        for part in 0..count {
            self.place(id, part, now);
        }
    }

    pub(super) fn release(&mut self, id: RequestId, request: Release) {
        if !self.index.synced() {
            return self.answer(id, Answer::Release(Err(ReleaseError::NotSynced)));
        }
        if request.addresses == Addresses::OfHandle
            && let Some(assign) = self.assigning(&request.handle)
        {
            // In order per handle: what is being taken is withdrawn first, and only then looked for.
            self.cancel(assign);
            if self.jobs.contains_key(&assign) {
                self.behind.entry(assign).or_default().push((id, request));
                return;
            }
        }
        let gives: Vec<(IpNet, u32, Option<u64>)> = match request.addresses {
            Addresses::Exactly(taken) => taken
                .iter()
                .map(|t| (t.block, t.ordinal, Some(t.sequence)))
                .collect(),
            Addresses::OfHandle => self
                .of_handle(&request.handle)
                .iter()
                .map(|held| (held.block, held.ordinal, Some(held.sequence)))
                .collect(),
        };
        if gives.is_empty() {
            return self.answer(id, Answer::Release(Ok(Released::default())));
        }
        let job = ReleaseJob {
            outstanding: gives.len(),
            result: Released::default(),
            error: None,
        };
        self.jobs.insert(id, Job::Release(job));
        let handle: Arc<str> = Arc::from(request.handle);
        for (block, ordinal, sequence) in gives {
            let give = Give {
                request: Some((id, 0)),
                handle: Arc::clone(&handle),
                ordinal,
                sequence,
            };
            self.queue_give(block, give);
        }
    }

    /// The request under way that takes addresses for a handle.
    fn assigning(&self, handle: &str) -> Option<RequestId> {
        let of_handle = |job: &Job| match job {
            Job::Assign(job) => job.request.handle == handle,
            Job::Release(_) => false,
        };
        self.jobs
            .iter()
            .find(|(_, job)| of_handle(job))
            .map(|(id, _)| *id)
    }

    pub(super) fn cancel(&mut self, id: RequestId) {
        if matches!(self.jobs.get(&id), Some(Job::Assign(_))) {
            self.fail(id, AssignError::Cancelled);
        }
    }

    /// Queues a give; a block that is not known whole is read first.
    pub(super) fn queue_give(&mut self, block: IpNet, give: Give) {
        // What was lent is put in its name first, or the release would find another owner.
        self.hand_over(block);
        let unread = !matches!(self.index.block(block), Known::Whole(_));
        self.lane(block).push(Item::Give(give), unread);
    }

    /// A take is stored and, where the block is ours, confirmed.
    pub(super) fn take_landed(&mut self, take: &Take, assigned: Assigned) {
        let failed = match self.part_mut(take.request, take.part) {
            Some((failed, part)) => {
                part.state = if failed {
                    PartState::Returning
                } else {
                    PartState::Landed(assigned)
                };
                failed
            }
            None => true,
        };
        if failed {
            self.queue_return(take.request, take.part, &take.attribute, assigned);
        } else {
            self.finish_assign(take.request);
        }
    }

    /// A take did not work out in its block: it goes elsewhere, or its request fails.
    pub(super) fn take_moves(
        &mut self,
        take: &Take,
        exclude: Option<IpNet>,
        trouble: Option<Trouble>,
        now: Time,
    ) {
        let Some((failed, part)) = self.part_mut(take.request, take.part) else {
            return;
        };
        part.excluded.extend(exclude);
        part.trouble = trouble.or(part.trouble.take());
        if failed {
            part.state = PartState::Nothing;
            self.finish_assign(take.request);
        } else {
            part.state = PartState::Unplaced;
            self.place(take.request, take.part, now);
        }
    }

    /// Ends a request without success: what is queued is withdrawn, what is stored goes back.
    pub(super) fn fail(&mut self, id: RequestId, error: AssignError) {
        let Some(Job::Assign(job)) = self.jobs.get_mut(&id) else {
            return;
        };
        job.failure.get_or_insert(Failure(Box::new(error)));
        let attribute = Arc::clone(&job.attribute);
        let mut returns = Vec::new();
        for (number, part) in job.parts.iter_mut().enumerate() {
            match part.state {
                PartState::Unplaced => part.state = PartState::Nothing,
                PartState::At(block) => {
                    if self
                        .lanes
                        .get_mut(&block)
                        .is_some_and(|lane| lane.withdraw(id, number))
                    {
                        part.state = PartState::Nothing;
                    }
                }
                PartState::Landed(assigned) => {
                    part.state = PartState::Returning;
                    returns.push((number, assigned));
                }
                PartState::Returning | PartState::Nothing => {}
            }
            self.waiting.remove(&(id, number));
        }
        for (number, assigned) in returns {
            self.queue_return(id, number, &attribute, assigned);
        }
        self.finish_assign(id);
    }

    fn queue_return(
        &mut self,
        id: RequestId,
        part: usize,
        attribute: &Attribute,
        assigned: Assigned,
    ) {
        let handle = Arc::from(attribute.handle().unwrap_or_default());
        let give = Give {
            request: Some((id, part)),
            handle,
            ordinal: assigned.ordinal,
            sequence: Some(assigned.sequence),
        };
        self.queue_give(assigned.block, give);
    }

    /// A give is stored, or found nothing to do.
    pub(super) fn give_landed(&mut self, give: &Give, given: Given) {
        self.give_ends(give, Ok(given));
    }

    /// A give did not land.
    pub(super) fn give_failed(&mut self, give: &Give, error: ReleaseError) {
        self.give_ends(give, Err(error));
    }

    fn give_ends(&mut self, give: &Give, end: Result<Given, ReleaseError>) {
        let Some((id, part)) = give.request else {
            return;
        };
        match self.jobs.get_mut(&id) {
            Some(Job::Release(job)) => {
                job.outstanding = job.outstanding.saturating_sub(1);
                match end {
                    Ok(Given::Freed) => job.result.freed += 1,
                    Ok(Given::AlreadyFree) => job.result.already_free += 1,
                    Ok(Given::NotYours) => job.result.not_ours += 1,
                    Err(error) => job.error = Some(error),
                }
                if job.outstanding == 0 {
                    let answer = job.error.take().map_or(Ok(job.result), Err);
                    self.jobs.remove(&id);
                    self.answer(id, Answer::Release(answer));
                }
            }
            // A failed request waits for its returns. One that does not land is found by the node's own scan.
            Some(Job::Assign(job)) => {
                if let Some(part) = job.parts.get_mut(part) {
                    part.state = PartState::Nothing;
                }
                self.finish_assign(id);
            }
            None => {}
        }
    }

    /// Answers if every part has come to an end.
    pub(super) fn finish_assign(&mut self, id: RequestId) {
        let Some(Job::Assign(job)) = self.jobs.get(&id) else {
            return;
        };
        let answer = if let Some(Failure(error)) = &job.failure {
            if !job
                .parts
                .iter()
                .all(|part| part.state == PartState::Nothing)
            {
                return;
            }
            Err(AssignError::clone(error))
        } else {
            let landed: Option<Vec<Assigned>> = job
                .parts
                .iter()
                .map(|part| {
                    if let PartState::Landed(assigned) = part.state {
                        Some(assigned)
                    } else {
                        None
                    }
                })
                .collect();
            match landed {
                Some(landed) => Ok(landed),
                None => return,
            }
        };
        self.jobs.remove(&id);
        self.answer(id, Answer::Assign(answer));
        for (release, request) in self.behind.remove(&id).unwrap_or_default() {
            self.release(release, request);
        }
    }

    /// A part of an assign request, and whether the request has failed already.
    fn part_mut(&mut self, id: RequestId, part: usize) -> Option<(bool, &mut Part)> {
        match self.jobs.get_mut(&id)? {
            Job::Assign(job) => {
                let failed = job.failure.is_some();
                job.parts.get_mut(part).map(|part| (failed, part))
            }
            Job::Release(_) => None,
        }
    }

    pub(super) fn set_part(&mut self, id: RequestId, part: usize, state: PartState) {
        if let Some((_, part)) = self.part_mut(id, part) {
            part.state = state;
        }
    }

    fn answer(&mut self, id: RequestId, answer: Answer) {
        self.out.push(Output::Answer(id, answer));
    }
}

/// Why a request cannot be meant.
fn senseless(request: &Assign) -> Option<&'static str> {
    if request.wants.is_empty() {
        return Some("no address family is wanted");
    }
    if request.handle.is_empty() {
        return Some("the handle is empty");
    }
    let families: BTreeSet<Family> = request.wants.iter().map(|want| want.family).collect();
    if families.len() != request.wants.len() {
        return Some("a handle has at most one address of each family");
    }
    let fits = |want: &crate::request::Want| {
        want.address
            .is_none_or(|a| Family::of_address(a) == want.family)
    };
    (!request.wants.iter().all(fits)).then_some("a requested address is of another family")
}
