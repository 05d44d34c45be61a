//! What must hold for a selector to be true, and, for the sake of `!`, for it to be false.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};

use super::leaf::{Leaf, Test};
use super::{MustHave, Op};

/// Necessary conditions of one outcome; `None` when the outcome cannot be.
type Needs<'a> = Option<MustHave<'a>>;

/// Necessary conditions of both outcomes of a subtree.
struct Both<'a> {
    yes: Needs<'a>,
    no: Needs<'a>,
}

/// Necessary conditions of a match; `None` when nothing can match.
pub(super) fn must_have(ops: &[Op]) -> Needs<'_> {
    let mut stack: Vec<Both<'_>> = Vec::new();
    for op in ops {
        let both = match op {
            Op::Leaf(leaf) => of_leaf(leaf),
            Op::Not => stack
                .pop()
                .map_or_else(anything, |Both { yes, no }| Both { yes: no, no: yes }),
            Op::And(n) => fold(&mut stack, *n, together, either),
            Op::Or(n) => fold(&mut stack, *n, either, together),
        };
        stack.push(both);
    }
    stack.pop().unwrap_or_else(anything).yes
}

type Join = for<'a> fn(Needs<'a>, Needs<'a>) -> Needs<'a>;

fn fold<'a>(stack: &mut Vec<Both<'a>>, n: usize, yes: Join, no: Join) -> Both<'a> {
    let first = stack.len().saturating_sub(n);
    let operands = stack.drain(first..);
    operands
        .reduce(|a, b| Both {
            yes: yes(a.yes, b.yes),
            no: no(a.no, b.no),
        })
        .unwrap_or_else(anything)
}

fn anything<'a>() -> Both<'a> {
    Both {
        yes: Some(BTreeMap::new()),
        no: Some(BTreeMap::new()),
    }
}

fn of_leaf(leaf: &Leaf) -> Both<'_> {
    let free = || Some(BTreeMap::new());
    match leaf {
        Leaf::All | Leaf::Global => Both {
            yes: free(),
            no: None,
        },
        Leaf::Has(label) => Both {
            yes: Some(present(label)),
            no: free(),
        },
        Leaf::Compare { label, test, value } => match test {
            Test::Equals => Both {
                yes: Some(one_of(label, [&**value])),
                no: free(),
            },
            Test::Differs => Both {
                yes: free(),
                no: Some(one_of(label, [&**value])),
            },
            Test::Contains | Test::StartsWith | Test::EndsWith => Both {
                yes: Some(present(label)),
                no: free(),
            },
        },
        Leaf::Within {
            label,
            inside,
            values,
        } => {
            let found = (!values.is_empty()).then(|| one_of(label, values.iter().map(|v| &**v)));
            if *inside {
                Both {
                    yes: found,
                    no: free(),
                }
            } else {
                Both {
                    yes: free(),
                    no: found,
                }
            }
        }
    }
}

fn present(label: &str) -> MustHave<'_> {
    BTreeMap::from([(label, None)])
}

fn one_of<'a>(label: &'a str, values: impl IntoIterator<Item = &'a str>) -> MustHave<'a> {
    BTreeMap::from([(label, Some(values.into_iter().collect()))])
}

/// Both must hold: a label must satisfy either side's demands.
fn together<'a>(a: Needs<'a>, b: Needs<'a>) -> Needs<'a> {
    let (mut all, b) = (a?, b?);
    for (label, wanted) in b {
        match all.entry(label) {
            Entry::Vacant(entry) => {
                entry.insert(wanted);
            }
            Entry::Occupied(mut entry) => {
                let both = overlap(entry.get().as_ref(), wanted);
                if both.as_ref().is_some_and(BTreeSet::is_empty) {
                    return None;
                }
                entry.insert(both);
            }
        }
    }
    Some(all)
}

fn overlap<'a>(
    a: Option<&BTreeSet<&'a str>>,
    b: Option<BTreeSet<&'a str>>,
) -> Option<BTreeSet<&'a str>> {
    match (a, b) {
        (None, b) => b,
        (Some(a), None) => Some(a.clone()),
        (Some(a), Some(b)) => Some(a.intersection(&b).copied().collect()),
    }
}

/// One of them holds: only what both demand is necessary.
fn either<'a>(a: Needs<'a>, b: Needs<'a>) -> Needs<'a> {
    let (a, mut b) = match (a, b) {
        (None, only) | (only, None) => return only,
        (Some(a), Some(b)) => (a, b),
    };
    let shared = a.into_iter().filter_map(|(label, from_a)| {
        let from_b = b.remove(label)?;
        let values = from_a
            .zip(from_b)
            .map(|(a, b)| a.union(&b).copied().collect());
        Some((label, values))
    });
    Some(shared.collect())
}
