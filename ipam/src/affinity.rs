//! A node's claim on a block, and what to do next with any pair of (block, affinity) the store can hold.
//!
//! [`next`] is the whole claim protocol as one table over what is stored. It knows no history: whoever reads the
//! store, after whichever crash, does the same next step, so every crash point repairs itself the next time someone
//! looks. Steps A1–A4 (claim) and R1–R4 (give up) are those of the design; each is one call to the store.

use std::sync::Arc;

use ipnet::IpNet;

use crate::block::{Block, Extra};
use crate::name;

pub use api::AffinityState as State;

/// A stored affinity, decoded.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Affinity {
    /// Who claims.
    pub node: Arc<str>,
    /// The block.
    pub cidr: IpNet,
    /// How far the claim has come.
    pub state: State,
    /// `host` or `virtual`; absent (old rows) means host.
    pub kind: Option<String>,
    /// Soft-deleted: readers treat the object as absent.
    pub deleted: bool,
    /// Fields this version does not know.
    pub extra: Extra,
}

impl Affinity {
    /// A node's claim.
    pub fn new(node: &Arc<str>, cidr: IpNet, state: State) -> Self {
        Self {
            node: Arc::clone(node),
            cidr,
            state,
            kind: Some("host".to_owned()),
            deleted: false,
            extra: Extra::new(),
        }
    }

    /// Name of the stored object.
    pub fn name(&self) -> String {
        name::affinity(&self.node, self.cidr)
    }
}

/// What the store has under the block's name, seen by one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockView {
    /// Nothing.
    Absent,
    /// The node's block, nothing in it.
    MineEmpty,
    /// The node's block, addresses held or resting.
    MineBusy,
    /// The node's block, soft-deleted.
    MineDeleted,
    /// A block of somebody else.
    Foreign,
    /// A block that lost its owner.
    Ownerless,
    /// A block that is not the node's, soft-deleted.
    ForeignDeleted,
}

impl BlockView {
    /// What `node` sees in a block.
    pub fn of(node: &str, block: Option<&Block>) -> Self {
        let Some(block) = block else {
            return Self::Absent;
        };
        match (
            block.is_of(node),
            block.is_deleted(),
            block.owner().is_some(),
        ) {
            (true, true, _) => Self::MineDeleted,
            (true, false, _) if block.is_empty() => Self::MineEmpty,
            (true, false, _) => Self::MineBusy,
            (false, true, _) => Self::ForeignDeleted,
            (false, false, true) => Self::Foreign,
            (false, false, false) => Self::Ownerless,
        }
    }
}

/// What the store has under the affinity's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AffinityView {
    /// Nothing.
    Absent,
    /// Soft-deleted.
    Deleted,
    /// A live row.
    Live(State),
}

impl AffinityView {
    /// What is seen of an affinity.
    pub fn of(affinity: Option<&Affinity>) -> Self {
        match affinity {
            None => Self::Absent,
            Some(affinity) if affinity.deleted => Self::Deleted,
            Some(affinity) => Self::Live(affinity.state),
        }
    }
}

/// What the node wants of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Goal {
    /// Own it.
    Hold,
    /// Make what is there whole: confirm what is owned, drop claims on what is not.
    Settle,
    /// Give it up if it is empty.
    GiveUp,
    /// Give it up whatever is in it: its pool goes.
    Abandon,
}

/// The next call to the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// A2, or repair: create the affinity in this state.
    CreateAffinity(State),
    /// A2, A4, R2: swap the affinity to this state.
    SwapAffinity(State),
    /// R4, first half.
    SoftDeleteAffinity,
    /// R4, second half: by uid and version.
    RemoveAffinity,
    /// A3: the decision. Carries the waiting batch's addresses.
    CreateBlock,
    /// R3, first half.
    SoftDeleteBlock,
    /// R3, second half: by uid and version.
    RemoveBlock,
    /// R3 of a pool that goes: addresses live on without an owner.
    Orphan,
    /// The block is the node's and confirmed.
    Use,
    /// Somebody else has the block; the claim is to be dropped.
    Lost,
    /// Nothing is left to do.
    Done,
}

/// The next step from what is stored towards a goal.
pub fn next(block: BlockView, affinity: AffinityView, goal: Goal) -> Step {
    match goal {
        Goal::Hold => hold(block, affinity),
        Goal::Settle => match block {
            BlockView::MineEmpty | BlockView::MineBusy => hold(block, affinity),
            BlockView::Absent
            | BlockView::MineDeleted
            | BlockView::Foreign
            | BlockView::Ownerless
            | BlockView::ForeignDeleted => give_up(block, affinity, goal),
        },
        Goal::GiveUp | Goal::Abandon => give_up(block, affinity, goal),
    }
}

fn hold(block: BlockView, affinity: AffinityView) -> Step {
    match (block, affinity) {
        (BlockView::Foreign | BlockView::Ownerless | BlockView::ForeignDeleted, _) => Step::Lost,
        (BlockView::MineDeleted, _) => Step::RemoveBlock,
        (BlockView::Absent | BlockView::MineEmpty | BlockView::MineBusy, AffinityView::Deleted) => {
            Step::RemoveAffinity
        }
        (BlockView::Absent, AffinityView::Absent) => Step::CreateAffinity(State::Pending),
        (BlockView::Absent, AffinityView::Live(State::PendingDeletion)) => {
            Step::SwapAffinity(State::Pending)
        }
        (BlockView::Absent, AffinityView::Live(State::Pending | State::Confirmed)) => {
            Step::CreateBlock
        }
        (BlockView::MineEmpty | BlockView::MineBusy, AffinityView::Absent) => {
            Step::CreateAffinity(State::Confirmed)
        }
        (
            BlockView::MineEmpty | BlockView::MineBusy,
            AffinityView::Live(State::Pending | State::PendingDeletion),
        ) => Step::SwapAffinity(State::Confirmed),
        (BlockView::MineEmpty | BlockView::MineBusy, AffinityView::Live(State::Confirmed)) => {
            Step::Use
        }
    }
}

fn give_up(block: BlockView, affinity: AffinityView, goal: Goal) -> Step {
    match (block, affinity) {
        (BlockView::MineBusy, _) if goal != Goal::Abandon => hold(block, affinity),
        (
            BlockView::MineEmpty | BlockView::MineBusy,
            AffinityView::Live(State::Pending | State::Confirmed),
        ) => Step::SwapAffinity(State::PendingDeletion),
        (
            BlockView::MineEmpty,
            AffinityView::Absent
            | AffinityView::Deleted
            | AffinityView::Live(State::PendingDeletion),
        ) => Step::SoftDeleteBlock,
        (
            BlockView::MineBusy,
            AffinityView::Absent
            | AffinityView::Deleted
            | AffinityView::Live(State::PendingDeletion),
        ) => Step::Orphan,
        (BlockView::MineDeleted, _) => Step::RemoveBlock,
        (
            BlockView::Absent
            | BlockView::Foreign
            | BlockView::Ownerless
            | BlockView::ForeignDeleted,
            AffinityView::Live(State::Pending | State::Confirmed | State::PendingDeletion),
        ) => Step::SoftDeleteAffinity,
        (
            BlockView::Absent
            | BlockView::Foreign
            | BlockView::Ownerless
            | BlockView::ForeignDeleted,
            AffinityView::Deleted,
        ) => Step::RemoveAffinity,
        (
            BlockView::Absent
            | BlockView::Foreign
            | BlockView::Ownerless
            | BlockView::ForeignDeleted,
            AffinityView::Absent,
        ) => Step::Done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BLOCKS: [BlockView; 7] = [
        BlockView::Absent,
        BlockView::MineEmpty,
        BlockView::MineBusy,
        BlockView::MineDeleted,
        BlockView::Foreign,
        BlockView::Ownerless,
        BlockView::ForeignDeleted,
    ];
    const AFFINITIES: [AffinityView; 5] = [
        AffinityView::Absent,
        AffinityView::Deleted,
        AffinityView::Live(State::Pending),
        AffinityView::Live(State::Confirmed),
        AffinityView::Live(State::PendingDeletion),
    ];

    /// What the store holds after a step succeeded.
    fn after(step: Step, block: BlockView, affinity: AffinityView) -> (BlockView, AffinityView) {
        match step {
            Step::CreateAffinity(state) | Step::SwapAffinity(state) => {
                (block, AffinityView::Live(state))
            }
            Step::SoftDeleteAffinity => (block, AffinityView::Deleted),
            Step::RemoveAffinity => (block, AffinityView::Absent),
            Step::CreateBlock => (BlockView::MineBusy, affinity),
            Step::SoftDeleteBlock => (BlockView::MineDeleted, affinity),
            Step::RemoveBlock => (BlockView::Absent, affinity),
            Step::Orphan => (BlockView::Ownerless, affinity),
            Step::Use | Step::Lost | Step::Done => (block, affinity),
        }
    }

    fn walk(
        mut block: BlockView,
        mut affinity: AffinityView,
        goal: Goal,
    ) -> (BlockView, AffinityView, Vec<Step>) {
        let mut steps = Vec::new();
        loop {
            let step = next(block, affinity, goal);
            steps.push(step);
            if matches!(step, Step::Use | Step::Lost | Step::Done) {
                return (block, affinity, steps);
            }
            assert!(
                steps.len() < 8,
                "{block:?} {affinity:?} {goal:?} does not end: {steps:?}"
            );
            (block, affinity) = after(step, block, affinity);
        }
    }

    #[test]
    fn first_claim_is_three_writes_in_order() {
        let (_, _, steps) = walk(BlockView::Absent, AffinityView::Absent, Goal::Hold);
        assert_eq!(
            steps,
            [
                Step::CreateAffinity(State::Pending),
                Step::CreateBlock,
                Step::SwapAffinity(State::Confirmed),
                Step::Use
            ]
        );
    }

    #[test]
    fn giving_up_goes_through_pending_deletion_and_two_soft_deletes() {
        let (block, affinity, steps) = walk(
            BlockView::MineEmpty,
            AffinityView::Live(State::Confirmed),
            Goal::GiveUp,
        );
        assert_eq!((block, affinity), (BlockView::Absent, AffinityView::Absent));
        assert_eq!(
            steps,
            [
                Step::SwapAffinity(State::PendingDeletion),
                Step::SoftDeleteBlock,
                Step::RemoveBlock,
                Step::SoftDeleteAffinity,
                Step::RemoveAffinity,
                Step::Done
            ]
        );
    }

    #[test]
    fn every_state_reaches_its_goal() {
        for goal in [Goal::Hold, Goal::Settle, Goal::GiveUp, Goal::Abandon] {
            for (block, affinity) in BLOCKS.into_iter().flat_map(|b| AFFINITIES.map(|a| (b, a))) {
                let (last, claim, steps) = walk(block, affinity, goal);
                match steps.last() {
                    Some(Step::Use) => {
                        assert_eq!(
                            claim,
                            AffinityView::Live(State::Confirmed),
                            "{block:?} {affinity:?} {goal:?}"
                        );
                        assert!(matches!(last, BlockView::MineEmpty | BlockView::MineBusy));
                        assert_ne!(goal, Goal::Abandon);
                    }
                    Some(Step::Done) => {
                        assert_eq!(
                            claim,
                            AffinityView::Absent,
                            "{block:?} {affinity:?} {goal:?}"
                        );
                        assert_ne!(last, BlockView::MineDeleted);
                        assert_ne!(goal, Goal::Hold);
                    }
                    Some(Step::Lost) => assert_eq!(goal, Goal::Hold),
                    other => panic!("ends with {other:?}"),
                }
            }
        }
    }

    #[test]
    fn a_busy_block_is_deleted_by_no_path_from_any_state() {
        for goal in [Goal::Hold, Goal::Settle, Goal::GiveUp, Goal::Abandon] {
            for affinity in AFFINITIES {
                let (_, _, steps) = walk(BlockView::MineBusy, affinity, goal);
                assert!(
                    !steps.contains(&Step::SoftDeleteBlock),
                    "{affinity:?} {goal:?}: {steps:?}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_never_deleted() {
        for goal in [Goal::Hold, Goal::Settle, Goal::GiveUp, Goal::Abandon] {
            for block in [
                BlockView::Foreign,
                BlockView::Ownerless,
                BlockView::ForeignDeleted,
            ] {
                for affinity in AFFINITIES {
                    let (_, _, steps) = walk(block, affinity, goal);
                    for step in [
                        Step::SoftDeleteBlock,
                        Step::RemoveBlock,
                        Step::Orphan,
                        Step::CreateBlock,
                    ] {
                        assert!(
                            !steps.contains(&step),
                            "{block:?} {affinity:?} {goal:?}: {steps:?}"
                        );
                    }
                }
            }
        }
    }
}
