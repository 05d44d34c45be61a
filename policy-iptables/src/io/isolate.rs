//! What to do with a plan that the kernel refuses: find the chains it does not like, and leave them as they were.
//!
//! The kernel usually names the message it stumbled over. Where it does not, or where leaving out what it named does not help,
//! halves are tried until the bad ones are alone ([`sift`]).

use std::collections::{BTreeMap, BTreeSet};

use netlink::Error;

use crate::nft::Subject;
use crate::ruleset::{Action, Chain, Match, Name, Rule, Ruleset, Set};

/// The object whose message was refused first. What is refused after it may be in order: once a ring of jumps is closed, the
/// kernel finds it again at each rule that follows.
pub(super) fn refused(error: &Error, subjects: &[Subject]) -> Option<Subject> {
    let Error::Rejected(rejected) = error else {
        return None;
    };
    let indexes = rejected.failures.iter().filter_map(|failure| failure.index);
    let first = indexes.min().and_then(|index| subjects.get(index));
    first.cloned()
}

/// Chains that stand or fall with this object. A base chain is all of our policy: there is nothing to fall back to.
pub(super) fn chains_of(wanted: &Ruleset, subject: Option<&Subject>) -> BTreeSet<Name> {
    let mut bad: BTreeSet<Name> = match subject {
        Some(Subject::Chain(name)) => BTreeSet::from([name.clone()]),
        Some(Subject::Set(set)) => asking(wanted, set),
        Some(Subject::Table) | None => BTreeSet::new(),
    };
    bad.retain(|name| wanted.chains.get(name).is_some_and(is_ordinary));
    bad
}

/// Chains that are not as they were: any of them may be what the kernel refuses.
pub(super) fn suspects(wanted: &Ruleset, old: Option<&Ruleset>) -> Vec<Name> {
    let changed = wanted.chains.iter().filter(|(name, chain)| {
        let there = old.and_then(|old| old.chains.get(*name).map(|there| (old, there)));
        is_ordinary(chain)
            && there.is_none_or(|(old, there)| {
                there != *chain
                    || sets_of(chain)
                        .iter()
                        .any(|set| old.sets.get(set) != wanted.sets.get(set))
            })
    });
    changed.map(|(name, _)| name.clone()).collect()
}

fn is_ordinary(chain: &Chain) -> bool {
    chain.base.is_none()
}

/// The plan with these chains as they were before; those that are new drop everything.
pub(super) fn revert(wanted: &Ruleset, old: Option<&Ruleset>, bad: &BTreeSet<Name>) -> Ruleset {
    let mut plan = wanted.clone();
    for name in bad {
        let kept = old.and_then(|old| old.chains.get(name));
        let rules = kept.map_or_else(closed, |kept| kept.rules.clone());
        if let Some(chain) = plan.chains.get_mut(name) {
            chain.rules = rules;
        }
        if let (Some(old), Some(kept)) = (old, kept) {
            restore(&mut plan, old, kept);
        }
    }
    // Sets that only the reverted chains asked would come without anybody who asks them.
    let asked = |ruleset: &Ruleset| -> BTreeSet<Name> {
        ruleset.chains.values().flat_map(sets_of).collect()
    };
    let (before, after) = (asked(wanted), asked(&plan));
    plan.sets
        .retain(|name, _| after.contains(name) || !before.contains(name));
    plan
}

/// Brings back what the old rules of a chain lead to and the new plan no longer has. A set that both have is the new plan's.
fn restore(plan: &mut Ruleset, old: &Ruleset, kept: &Chain) {
    let sets: BTreeMap<Name, Set> = sets_of(kept)
        .into_iter()
        .filter_map(|name| Some((name.clone(), old.sets.get(&name)?.clone())))
        .collect();
    for (name, set) in sets {
        plan.sets.entry(name).or_insert(set);
    }
    for target in targets_of(kept) {
        if plan.chains.contains_key(&target) {
            continue;
        }
        if let Some(chain) = old.chains.get(&target) {
            plan.chains.insert(target, chain.clone());
            restore(plan, old, chain);
        }
    }
}

/// Finds the bad ones among suspects by halves. `accepts` is asked with those that are left out, and what it accepts is in force;
/// `None` when even without all of them it does not. The last accepted question left out exactly the answer.
pub(super) fn sift<E>(
    suspects: &[Name],
    mut accepts: impl FnMut(&BTreeSet<Name>) -> Result<bool, E>,
) -> Result<Option<BTreeSet<Name>>, E> {
    let mut out: BTreeSet<Name> = suspects.iter().cloned().collect();
    if !accepts(&out)? {
        return Ok(None);
    }
    let mut open = vec![suspects];
    while let Some(part) = open.pop() {
        let without: BTreeSet<Name> = out
            .iter()
            .filter(|name| !part.contains(name))
            .cloned()
            .collect();
        if part.is_empty() {
            continue;
        }
        if accepts(&without)? {
            out = without;
        } else if let (left, right @ [_, ..]) = part.split_at(part.len() / 2)
            && !left.is_empty()
        {
            open.push(right);
            open.push(left);
        }
    }
    Ok(Some(out))
}

fn closed() -> Vec<Rule> {
    vec![
        Rule::new("refused by the kernel, closed")
            .then(Action::Count)
            .then(Action::Drop),
    ]
}

fn asking(ruleset: &Ruleset, set: &Name) -> BTreeSet<Name> {
    let asking = ruleset
        .chains
        .iter()
        .filter(|(_, chain)| sets_of(chain).contains(set));
    asking.map(|(name, _)| name.clone()).collect()
}

fn sets_of(chain: &Chain) -> BTreeSet<Name> {
    let mut sets = BTreeSet::new();
    for rule in &chain.rules {
        for matching in &rule.matches {
            if let Match::Lookup(_, _, set) = matching {
                sets.insert(set.clone());
            }
        }
        for action in &rule.actions {
            if let Action::Map(_, map) = action {
                sets.insert(map.clone());
            }
        }
    }
    sets
}

fn targets_of(chain: &Chain) -> BTreeSet<Name> {
    let mut targets = BTreeSet::new();
    for action in chain.rules.iter().flat_map(|rule| &rule.actions) {
        if let Action::Jump(chain) | Action::Goto(chain) = action {
            targets.insert(chain.clone());
        }
    }
    targets
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn sifting_finds_exactly_the_bad_ones_in_few_questions(
            count in 1..200_usize,
            picks in proptest::collection::btree_set(0..200_usize, 0..4),
        ) {
            let name = |n: usize| Name::from(format!("f{n}"));
            let suspects: Vec<Name> = (0..count).map(name).collect();
            let bad: BTreeSet<Name> = picks.into_iter().filter(|n| *n < count).map(name).collect();
            let (mut questions, mut accepted) = (0_usize, BTreeSet::new());
            let found = sift(&suspects, |without| {
                questions += 1;
                let accepts = bad.is_subset(without);
                if accepts {
                    accepted = without.clone();
                }
                Ok::<_, Infallible>(accepts)
            });
            prop_assert_eq!(found.unwrap(), Some(bad.clone()));
            prop_assert_eq!(&accepted, &bad);
            let depth = usize::try_from(count.ilog2()).unwrap() + 2;
            prop_assert!(questions <= 2 + 2 * depth * bad.len(), "{} questions", questions);
        }
    }

    #[test]
    fn what_nobody_can_leave_out_is_not_sifted() {
        let found = sift(&["f1".into()], |_| Ok::<_, Infallible>(false));
        assert_eq!(found, Ok(None));
    }
}
