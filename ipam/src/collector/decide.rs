//! What becomes of one doubtful allocation: the whole rule as one table.
//!
//! | node | answer | young | old enough |
//! |---|---|---|---|
//! | alive, or its daemon is, though the Node is deleted | none | wait, then ask | ask |
//! | | mine | keep | keep |
//! | | free | wait | free |
//! | Node there, daemon silent | any | keep | keep |
//! | Node deleted, daemon silent | any | wait | free |
//!
//! So nothing of a node that exists is freed without its word, and nothing at all of one that cannot be asked.

use std::time::Duration;

use super::Settings;

/// How a node stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeState {
    /// The Node exists and its daemon renews its Lease.
    Alive,
    /// The Node exists and its daemon does not: unreachable, or not ours.
    Silent,
    /// The Node is deleted, its daemon renews.
    DeletedAlive,
    /// The Node is deleted and its daemon silent; for how long the Node has been gone.
    Gone(Duration),
}

/// What a node says of an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Answer {
    /// A sandbox of this node uses it, or its release is under way.
    Mine,
    /// Nothing here knows of it.
    Free,
}

/// All that a decision rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Case {
    /// How long the allocation has been in doubt, without a break.
    pub age: Duration,
    /// How the node stands that its entry names.
    pub node: NodeState,
    /// What that node said of it.
    pub answer: Option<Answer>,
}

/// What to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Act {
    /// Leave it: somebody may use it.
    Keep,
    /// Look again later.
    Wait,
    /// Ask its node.
    Ask,
    /// Free it, once verified.
    Free,
}

/// Decides by the table above.
pub fn decide(case: &Case, settings: &Settings) -> Act {
    match (case.node, case.answer) {
        (NodeState::Silent, _)
        | (NodeState::Alive | NodeState::DeletedAlive, Some(Answer::Mine)) => Act::Keep,
        (NodeState::Alive | NodeState::DeletedAlive, _) if settings.leak_grace.is_zero() => {
            Act::Keep
        }
        (NodeState::Alive | NodeState::DeletedAlive, None) if case.age < settings.ask_after => {
            Act::Wait
        }
        (NodeState::Alive | NodeState::DeletedAlive, None) => Act::Ask,
        (NodeState::Alive | NodeState::DeletedAlive, Some(Answer::Free)) => {
            ripe(case.age, settings.leak_grace)
        }
        (NodeState::Gone(since), _) => ripe(since, settings.gone_grace),
    }
}

fn ripe(age: Duration, grace: Duration) -> Act {
    if age >= grace { Act::Free } else { Act::Wait }
}
