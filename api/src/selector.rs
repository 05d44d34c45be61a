//! The selector language: which endpoints, network sets, nodes or namespaces an object means.
//!
//! ```text
//! selector = [ or ]                                  empty = all()
//! or       = and *( "||" and )
//! and      = unary *( "&&" unary )
//! unary    = *"!" primary
//! primary  = "(" or ")" / all() / global() / has(label) / label op string / label [not] in {strings}
//! ```
//!
//! A selector is kept as a program in postfix order, so parsing, evaluating, printing, scoping and dropping are loops:
//! nothing here recurses, whatever the nesting. Its canonical text is Calico's and reading it again gives it back, so
//! two selectors are equal exactly when their texts are, and ids can be built from the text.
//!
//! Truth: with the label absent, `!=` and `not in` are true and every other comparison is false. Values are compared as
//! octets. `global()` is true by itself; only [`Selector::for_namespaces`] gives it a meaning.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::hash::{Hash, Hasher};
use std::str::FromStr;
use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use smallvec::SmallVec;

mod cursor;
mod from_labels;
mod leaf;
mod needs;
mod parser;
mod print;

pub use from_labels::LabelSelectorError;
use leaf::{Leaf, Test};
pub use parser::ParseError;

/// Longest text that is read, in characters.
pub const MAX_LENGTH: usize = 4096;
/// Deepest nesting of brackets that is read.
pub const MAX_NESTING: usize = 512;
/// Longest label that is read, in octets.
pub const MAX_LABEL: usize = 512;

/// Prefix of the labels an endpoint inherits from its namespace.
pub const NAMESPACE_PREFIX: &str = "pcns.";
/// Prefix of the labels an endpoint inherits from its service account.
pub const SERVICE_ACCOUNT_PREFIX: &str = "pcsa.";
/// Label that holds the name of the namespace of everything that lives in one.
pub const NAMESPACE_LABEL: &str = "projectcalico.org/namespace";
/// Label that holds the name of a pod's service account.
pub const SERVICE_ACCOUNT_LABEL: &str = "projectcalico.org/serviceaccount";

/// A set of labels to evaluate a selector against.
pub trait Labels {
    /// The value of label `key`, if it is present.
    fn get(&self, key: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn get(&self, key: &str) -> Option<&str> {
        BTreeMap::get(self, key).map(String::as_str)
    }
}

impl<T: Labels + ?Sized> Labels for &T {
    fn get(&self, key: &str) -> Option<&str> {
        (**self).get(key)
    }
}

impl<T: Labels + ?Sized> Labels for Arc<T> {
    fn get(&self, key: &str) -> Option<&str> {
        (**self).get(key)
    }
}

/// What labels must hold for a selector to match: label → the values it may have, `None` for any value.
///
/// All entries are necessary; none, nor all of them together, need be sufficient.
pub type MustHave<'a> = BTreeMap<&'a str, Option<BTreeSet<&'a str>>>;

/// A parsed selector: it cannot exist unless its text was one. Cloning costs a counter.
#[derive(Clone)]
pub struct Selector(Arc<Program>);

struct Program {
    /// Canonical text.
    text: Box<str>,
    /// The tree in postfix order: operands before their operator.
    ops: Box<[Op]>,
}

/// One step of the program.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Op {
    /// Pushes whether a comparison holds.
    Leaf(Leaf),
    /// Inverts the last value.
    Not,
    /// Joins the last `n` values, `n` ≥ 2.
    And(usize),
    /// Joins the last `n` values, `n` ≥ 2.
    Or(usize),
}

impl Selector {
    /// Reads a selector; an empty or blank text is `all()`.
    ///
    /// # Errors
    /// [`ParseError`] says where reading stopped, and what to write instead.
    pub fn parse(text: &str) -> Result<Self, ParseError> {
        parser::parse(text).map(Self::from_ops)
    }

    /// The selector that matches everything.
    pub fn all() -> Self {
        Self::from_ops(vec![Op::Leaf(Leaf::All)])
    }

    /// Matches where the label is present.
    pub fn has(label: &str) -> Self {
        Self::from_ops(vec![Op::Leaf(Leaf::Has(label.into()))])
    }

    /// Matches where the label is present with this value.
    pub fn label_equals(label: &str, value: &str) -> Self {
        Self::from_ops(vec![Op::Leaf(Leaf::compare(label, Test::Equals, value))])
    }

    /// Matches where the label is present with one of these values; nothing, when there are none.
    pub fn label_in<'a>(label: &str, values: impl IntoIterator<Item = &'a str>) -> Self {
        Self::from_ops(vec![Op::Leaf(Leaf::within(label, true, values))])
    }

    /// Matches where both match; `all()` on either side vanishes.
    pub fn and(a: &Self, b: &Self) -> Self {
        if a.is_all() {
            return b.clone();
        }
        if b.is_all() {
            return a.clone();
        }
        let mut ops = Vec::with_capacity(a.0.ops.len() + b.0.ops.len() + 1);
        ops.extend_from_slice(&a.0.ops);
        ops.extend_from_slice(&b.0.ops);
        ops.push(Op::And(2));
        Self::from_ops(ops)
    }

    /// Matches where this one does not.
    #[must_use]
    pub fn not(&self) -> Self {
        let mut ops = self.0.ops.to_vec();
        push_not(&mut ops);
        Self::from_ops(ops)
    }

    /// Reads a Kubernetes label selector; an empty one is `all()`.
    ///
    /// # Errors
    /// [`LabelSelectorError`] names the requirement that cannot be met or read.
    pub fn from_label_selector(selector: &LabelSelector) -> Result<Self, LabelSelectorError> {
        from_labels::compile(selector).map(Self::from_ops)
    }

    /// The same question asked of the labels endpoints inherit from their namespace (`pcns.` keys): `all()` means "lives
    /// in a namespace", `global()` means "lives in none".
    #[must_use]
    pub fn for_namespaces(&self) -> Self {
        self.scoped(NAMESPACE_PREFIX, NAMESPACE_LABEL)
    }

    /// The same question asked of the labels pods inherit from their service account (`pcsa.` keys): `all()` means "has
    /// a service account", `global()` means "has none".
    #[must_use]
    pub fn for_service_accounts(&self) -> Self {
        self.scoped(SERVICE_ACCOUNT_PREFIX, SERVICE_ACCOUNT_LABEL)
    }

    fn scoped(&self, prefix: &str, presence: &str) -> Self {
        let mut ops = Vec::with_capacity(self.0.ops.len() + 1);
        for op in &self.0.ops {
            match op {
                Op::Leaf(Leaf::All) => ops.push(Op::Leaf(Leaf::Has(presence.into()))),
                Op::Leaf(Leaf::Global) => {
                    ops.extend([Op::Leaf(Leaf::Has(presence.into())), Op::Not]);
                }
                Op::Leaf(leaf) => ops.push(Op::Leaf(leaf.prefixed(prefix))),
                Op::Not => push_not(&mut ops),
                Op::And(n) => ops.push(Op::And(*n)),
                Op::Or(n) => ops.push(Op::Or(*n)),
            }
        }
        Self::from_ops(ops)
    }

    /// Whether the labels match.
    pub fn matches(&self, labels: &(impl Labels + ?Sized)) -> bool {
        let mut stack = SmallVec::<[bool; 32]>::new();
        for op in &self.0.ops {
            let value = match op {
                Op::Leaf(leaf) => leaf.holds(labels),
                Op::Not => !stack.pop().unwrap_or(false),
                Op::And(n) => take(&mut stack, *n).all(|value| value),
                Op::Or(n) => take(&mut stack, *n).any(|value| value),
            };
            stack.push(value);
        }
        stack.pop().unwrap_or(false)
    }

    /// What labels must hold for a match, for indexing; `None` when nothing can match.
    pub fn must_have(&self) -> Option<MustHave<'_>> {
        needs::must_have(&self.0.ops)
    }

    /// Whether it is `all()`, empty text included.
    pub fn is_all(&self) -> bool {
        matches!(&*self.0.ops, [Op::Leaf(Leaf::All)])
    }

    /// Whether it is `global()` and nothing else.
    pub fn is_global(&self) -> bool {
        matches!(&*self.0.ops, [Op::Leaf(Leaf::Global)])
    }

    /// Whether `global()` stands anywhere in it.
    pub fn mentions_global(&self) -> bool {
        self.0
            .ops
            .iter()
            .any(|op| matches!(op, Op::Leaf(Leaf::Global)))
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0.text
    }

    fn from_ops(ops: Vec<Op>) -> Self {
        Self(Arc::new(Program {
            text: print::print(&ops).into(),
            ops: ops.into(),
        }))
    }
}

/// Takes the last `n` values off the stack, all of them before the iterator is used.
fn take(stack: &mut SmallVec<[bool; 32]>, n: usize) -> impl Iterator<Item = bool> {
    let first = stack.len().saturating_sub(n);
    stack
        .drain(first..)
        .collect::<SmallVec<[bool; 32]>>()
        .into_iter()
}

/// Inverts the last operand; two inversions cancel.
fn push_not(ops: &mut Vec<Op>) {
    if ops.pop_if(|last| *last == Op::Not).is_none() {
        ops.push(Op::Not);
    }
}

impl FromStr for Selector {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::parse(text)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Selector({})", self.as_str())
    }
}

impl PartialEq for Selector {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.as_str() == other.as_str()
    }
}

impl Eq for Selector {}

impl PartialOrd for Selector {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Selector {
    fn cmp(&self, other: &Self) -> Ordering {
        self.as_str().cmp(other.as_str())
    }
}

impl Hash for Selector {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

#[cfg(test)]
mod tests;
