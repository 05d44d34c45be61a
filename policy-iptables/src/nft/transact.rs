//! One difference as one or two transactions.
//!
//! A packet takes the rules of the generation in which it entered a base chain, but looks sets up in the generation of the moment,
//! and an interval set may fill its search tree only after the rules that ask it are live. So a packet on its way through a commit
//! may find a chain that is new and still empty for it, which would be Allow, or a new set that is still empty, which may be Deny.
//! Therefore what is new and not reachable yet is committed first ([`Changes::split`]), and only then what leads to it.
//!
//! Order inside a transaction: sets and chains that are new; rules; elements, removals first; at last sets, then chains, that nobody wants. So
//! every name exists before it is used and is unused before it goes, and no verdict map is full while rules are added (the kernel
//! walks it for each).

use std::collections::BTreeMap;

use netlink::attr::Encoder;
use netlink::{Batch, GenerationId, flags};

use super::abi::{self, chain, element, rule, set, table};
use super::encode::{self, Element, key_datatype, key_length};
use super::image::{
    ChainImage, RuleImage, SetImage, chain_userdata, put_userdata, rule_userdata, set_userdata,
};
use crate::ruleset::{
    Chain, ChainKind, Content, Hook, Key, Name, Range, Rule, Ruleset, Set, TABLE, Verdict,
};

/// Elements of one message stay below this; an attribute holds at most 65,531 octets.
const ELEMENT_OCTETS: usize = 50_000;

/// How the table is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableFlags {
    /// `owner,persist`: nobody else can change it, and it outlives the daemon.
    OwnedPersistent,
    /// For kernels without `persist`: an owned table would vanish with the daemon and fail open.
    Plain,
}

impl TableFlags {
    const fn bits(self) -> u32 {
        match self {
            Self::OwnedPersistent => table::FLAG_OWNER | table::FLAG_PERSIST,
            Self::Plain => 0,
        }
    }
}

/// What differs between plan and kernel, with the plan it came from.
#[derive(Debug)]
pub(crate) struct Changes<'a> {
    /// The whole plan: where rules and elements are taken from.
    pub(crate) ruleset: &'a Ruleset,
    /// Chains that differ.
    pub(crate) chains: model::Changes<Name, ChainImage>,
    /// Sets that differ.
    pub(crate) sets: model::Changes<Name, SetImage>,
}

impl Changes<'_> {
    /// True when the kernel already equals the plan.
    pub(crate) fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.sets.is_empty()
    }

    /// Chains that exist, hold rules and change: the handles of their rules are needed.
    pub(crate) fn existing(&self) -> impl Iterator<Item = (&Name, &ChainImage)> {
        self.chains.upserts.iter().filter_map(|(name, _, there)| {
            let there = there.as_ref().filter(|there| !there.rules.is_empty())?;
            Some((name, there))
        })
    }

    /// What is new and can stand before anything leads to it, and the rest.
    pub(crate) fn split(self) -> (Self, Self) {
        let (new_chains, chains) = self.chains.upserts.into_iter().partition(
            |(_, wanted, there): &(Name, ChainImage, Option<ChainImage>)| {
                there.is_none() && wanted.base.is_none()
            },
        );
        let (new_sets, sets) = self
            .sets
            .upserts
            .into_iter()
            .partition(|(_, _, there)| there.is_none());
        let first = Self {
            ruleset: self.ruleset,
            chains: model::Changes {
                upserts: new_chains,
                removals: Vec::new(),
            },
            sets: model::Changes {
                upserts: new_sets,
                removals: Vec::new(),
            },
        };
        let second = Self {
            ruleset: self.ruleset,
            chains: model::Changes {
                upserts: chains,
                removals: self.chains.removals,
            },
            sets: model::Changes {
                upserts: sets,
                removals: self.sets.removals,
            },
        };
        (first, second)
    }

    /// True when a set or a base chain stands there under our name with another type: nothing in place can mend that, so the table
    /// is made anew. Only a foreign hand or a new layout of ours leads here.
    pub(crate) fn is_repaving(&self) -> bool {
        let sets = &self.sets.upserts;
        let chains = &self.chains.upserts;
        sets.iter()
            .any(|(_, wanted, there)| there.is_some() && !is_updatable(wanted, there.as_ref()))
            || chains.iter().any(|(_, wanted, there)| {
                there
                    .as_ref()
                    .is_some_and(|there| there.base != wanted.base)
            })
    }
}

/// What a message is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    /// The table itself.
    Table,
    /// A chain or a rule of it.
    Chain(Name),
    /// A set or elements of it.
    Set(Name),
}

/// Handles of the rules of chains that change, in order.
pub(crate) type Handles = BTreeMap<Name, Vec<u64>>;

/// Encodes the changes. `create` makes the table first. A generation is named where others could interfere.
pub(crate) fn transaction(
    changes: &Changes<'_>,
    handles: &Handles,
    create: Option<TableFlags>,
    generation: Option<GenerationId>,
) -> Writer {
    let mut writer = Writer::new(generation);
    if let Some(flags) = create {
        writer.table(flags);
    }
    let ruleset = changes.ruleset;
    for (name, wanted, there) in &changes.sets.upserts {
        if !is_updatable(wanted, there.as_ref())
            && let Some(set) = ruleset.sets.get(name)
        {
            writer.new_set(name, set);
        }
    }
    for (name, wanted, there) in &changes.chains.upserts {
        let new = there.as_ref().is_none_or(|there| there.base != wanted.base);
        if let Some(planned) = ruleset.chains.get(name).filter(|_| new) {
            writer.new_chain(name, planned);
        }
    }
    for (name, wanted, there) in &changes.chains.upserts {
        if let Some(planned) = ruleset.chains.get(name) {
            let there = there.as_ref().map_or(&[][..], |there| &there.rules);
            let handles = handles.get(name).map_or(&[][..], Vec::as_slice);
            writer.rules(name, planned, &wanted.rules, there, handles);
        }
    }
    for (name, _) in &changes.chains.removals {
        writer.flush(name);
    }
    for (name, wanted, there) in &changes.sets.upserts {
        let there = there
            .as_ref()
            .filter(|there| is_updatable(wanted, Some(there)));
        writer.elements(name, &wanted.content, there.map(|there| &there.content));
    }
    for (name, _) in &changes.sets.removals {
        writer.delete_set(name);
    }
    for (name, _) in &changes.chains.removals {
        writer.delete_chain(name);
    }
    writer
}

/// Encodes a whole table anew in place of the one that stands.
pub(crate) fn repave(
    ruleset: &Ruleset,
    flags: TableFlags,
    generation: Option<GenerationId>,
) -> Writer {
    let mut writer = Writer::new(generation);
    writer.delete_table();
    writer.table(flags);
    for (name, set) in &ruleset.sets {
        writer.new_set(name, set);
    }
    for (name, chain) in &ruleset.chains {
        writer.new_chain(name, chain);
    }
    for (name, chain) in &ruleset.chains {
        for rule in &chain.rules {
            writer.insert_rule(name, rule, None);
        }
    }
    for (name, set) in &ruleset.sets {
        writer.elements(name, &set.content, None);
    }
    writer
}

/// A transaction that makes and removes a table: what the kernel says to it tells whether it knows `owner,persist`.
pub(crate) fn probe_owner() -> Batch {
    probe(TableFlags::OwnedPersistent, |_| {})
}

/// The same with a rule: whether the kernel knows what it asks.
pub(crate) fn probe_rule(planned: &Rule) -> Batch {
    probe(TableFlags::Plain, |writer| {
        writer.push(Subject::Table, abi::NEW_CHAIN, flags::CREATE, |enc| {
            enc.put_str(chain::TABLE, PROBE_TABLE);
            enc.put_str(chain::NAME, "probe");
        });
        writer.push(
            Subject::Table,
            abi::NEW_RULE,
            flags::CREATE | flags::APPEND,
            |enc| {
                enc.put_str(rule::TABLE, PROBE_TABLE);
                enc.put_str(rule::CHAIN, "probe");
                enc.nest(rule::EXPRESSIONS, |enc| enc.raw(&encode::rule(planned)));
            },
        );
    })
}

const PROBE_TABLE: &str = "margay-probe";

fn probe(held: TableFlags, content: impl FnOnce(&mut Writer)) -> Batch {
    let mut writer = Writer::new(None);
    writer.push(
        Subject::Table,
        abi::NEW_TABLE,
        flags::CREATE | flags::EXCL,
        |enc| {
            enc.put_str(table::NAME, PROBE_TABLE);
            enc.put_be32(table::FLAGS, held.bits());
        },
    );
    content(&mut writer);
    writer.push(Subject::Table, abi::DEL_TABLE, 0, |enc| {
        enc.put_str(table::NAME, PROBE_TABLE);
    });
    writer.batch
}

/// An adopting transaction: the same table with the same flags, from a new socket.
pub(crate) fn adoption() -> Batch {
    let mut writer = Writer::new(None);
    writer.table(TableFlags::OwnedPersistent);
    writer.batch
}

/// A set keeps its object while type and kind of content stay.
fn is_updatable(wanted: &SetImage, there: Option<&SetImage>) -> bool {
    there.is_some_and(|there| {
        there.key == wanted.key
            && match (&there.content, &wanted.content) {
                (Content::Keys(_), Content::Keys(_)) | (Content::Ranges(_), Content::Ranges(_)) => {
                    true
                }
                (
                    Content::Verdicts { otherwise: a, .. },
                    Content::Verdicts { otherwise: b, .. },
                ) => a == b,
                (Content::Keys(_) | Content::Ranges(_) | Content::Verdicts { .. }, _) => false,
            }
    })
}

/// A transaction in the making.
#[derive(Debug)]
pub(crate) struct Writer {
    /// The messages.
    pub(crate) batch: Batch,
    /// What each of them is about.
    pub(crate) subjects: Vec<Subject>,
}

impl Writer {
    fn new(generation: Option<GenerationId>) -> Self {
        Self {
            batch: Batch::transaction(abi::SUBSYSTEM, generation),
            subjects: Vec::new(),
        }
    }

    fn push(&mut self, subject: Subject, kind: u16, extra: u16, body: impl FnOnce(&mut Encoder)) {
        self.subjects.push(subject);
        self.batch.push(kind, extra, |enc| {
            enc.raw(&abi::INET);
            body(enc);
        });
    }

    fn delete_table(&mut self) {
        self.push(Subject::Table, abi::DEL_TABLE, 0, |enc| {
            enc.put_str(table::NAME, TABLE);
        });
    }

    fn table(&mut self, held: TableFlags) {
        self.push(Subject::Table, abi::NEW_TABLE, flags::CREATE, |enc| {
            enc.put_str(table::NAME, TABLE);
            enc.put_be32(table::FLAGS, held.bits());
        });
    }

    fn new_set(&mut self, name: &Name, planned: &Set) {
        let id = u32::try_from(self.batch.len()).unwrap_or(u32::MAX);
        self.push(
            Subject::Set(name.clone()),
            abi::NEW_SET,
            flags::CREATE | flags::EXCL,
            |enc| {
                enc.put_str(set::TABLE, TABLE);
                enc.put_str(set::NAME, name);
                enc.put_be32(set::FLAGS, set_flags(&planned.content));
                enc.put_be32(set::KEY_TYPE, key_datatype(planned.key));
                enc.put_be32(set::KEY_LENGTH, key_length(planned.key));
                if matches!(planned.content, Content::Verdicts { .. }) {
                    enc.put_be32(set::DATA_TYPE, set::DATA_VERDICT);
                }
                enc.put_be32(set::ID, id);
                put_userdata(enc, set::USERDATA, &set_userdata(planned));
            },
        );
    }

    fn new_chain(&mut self, name: &Name, planned: &Chain) {
        self.push(
            Subject::Chain(name.clone()),
            abi::NEW_CHAIN,
            flags::CREATE,
            |enc| {
                enc.put_str(chain::TABLE, TABLE);
                enc.put_str(chain::NAME, name);
                if let Some(base) = planned.base {
                    enc.nest(chain::HOOK, |enc| {
                        enc.put_be32(chain::HOOK_NUMBER, hook_number(base.hook));
                        let priority = u32::from_ne_bytes(base.priority.to_ne_bytes());
                        enc.put_be32(chain::HOOK_PRIORITY, priority);
                    });
                    enc.put_str(chain::TYPE, kind_name(base.kind));
                    // NF_ACCEPT.
                    enc.put_be32(chain::POLICY, 1);
                }
                put_userdata(enc, chain::USERDATA, &chain_userdata(planned));
            },
        );
    }

    /// Makes the rules of a chain equal: what it begins and ends with alike stays, the middle is replaced.
    fn rules(
        &mut self,
        name: &Name,
        planned: &Chain,
        wanted: &[RuleImage],
        there: &[RuleImage],
        handles: &[u64],
    ) {
        let head = wanted.iter().zip(there).take_while(|(a, b)| a == b).count();
        let (rest, old) = (
            wanted.get(head..).unwrap_or(&[]),
            there.get(head..).unwrap_or(&[]),
        );
        let tail = rest
            .iter()
            .rev()
            .zip(old.iter().rev())
            .take_while(|(a, b)| a == b)
            .count();
        let before = handles.get(there.len() - tail).copied();
        for handle in handles.iter().take(there.len() - tail).skip(head) {
            self.delete_rule(name, *handle);
        }
        for rule in planned.rules.iter().take(wanted.len() - tail).skip(head) {
            self.insert_rule(name, rule, before);
        }
    }

    /// Inserts before a rule, or at the end.
    fn insert_rule(&mut self, name: &Name, planned: &Rule, before: Option<u64>) {
        let append = if before.is_some() { 0 } else { flags::APPEND };
        self.push(
            Subject::Chain(name.clone()),
            abi::NEW_RULE,
            flags::CREATE | append,
            |enc| {
                enc.put_str(rule::TABLE, TABLE);
                enc.put_str(rule::CHAIN, name);
                if let Some(handle) = before {
                    enc.put_be64(rule::POSITION, handle);
                }
                enc.nest(rule::EXPRESSIONS, |enc| enc.raw(&encode::rule(planned)));
                put_userdata(enc, rule::USERDATA, &rule_userdata(planned));
            },
        );
    }

    fn delete_rule(&mut self, name: &Name, handle: u64) {
        self.push(Subject::Chain(name.clone()), abi::DEL_RULE, 0, |enc| {
            enc.put_str(rule::TABLE, TABLE);
            enc.put_str(rule::CHAIN, name);
            enc.put_be64(rule::HANDLE, handle);
        });
    }

    fn flush(&mut self, name: &Name) {
        self.push(Subject::Chain(name.clone()), abi::DEL_RULE, 0, |enc| {
            enc.put_str(rule::TABLE, TABLE);
            enc.put_str(rule::CHAIN, name);
        });
    }

    fn delete_chain(&mut self, name: &Name) {
        self.push(Subject::Chain(name.clone()), abi::DEL_CHAIN, 0, |enc| {
            enc.put_str(chain::TABLE, TABLE);
            enc.put_str(chain::NAME, name);
        });
    }

    fn delete_set(&mut self, name: &Name) {
        self.push(Subject::Set(name.clone()), abi::DEL_SET, 0, |enc| {
            enc.put_str(set::TABLE, TABLE);
            enc.put_str(set::NAME, name);
        });
    }

    /// Makes the elements of a set equal. An element whose verdict changed goes and comes in the same transaction.
    fn elements(&mut self, name: &Name, wanted: &Content, there: Option<&Content>) {
        let (gone, come) = difference(wanted, there);
        self.element_messages(abi::DEL_ELEMENT, 0, name, &gone);
        self.element_messages(abi::NEW_ELEMENT, flags::CREATE, name, &come);
    }

    fn element_messages(&mut self, kind: u16, extra: u16, name: &Name, elements: &[Element]) {
        let mut rest = elements;
        while !rest.is_empty() {
            let mut octets = 0;
            let fitting = rest
                .iter()
                .take_while(|element| {
                    octets += element.octets();
                    octets <= ELEMENT_OCTETS
                })
                .count();
            let (now, later) = rest.split_at(fitting.max(1));
            rest = later;
            self.push(Subject::Set(name.clone()), kind, extra, |enc| {
                enc.put_str(element::LIST_TABLE, TABLE);
                enc.put_str(element::LIST_SET, name);
                enc.nest(element::LIST_ELEMENTS, |enc| {
                    for element in now {
                        element.put(enc);
                    }
                });
            });
        }
    }
}

/// Elements to remove and to add.
fn difference(wanted: &Content, there: Option<&Content>) -> (Vec<Element>, Vec<Element>) {
    match (wanted, there) {
        (Content::Keys(wanted), Some(Content::Keys(there))) => (
            there.difference(wanted).map(exact).collect(),
            wanted.difference(there).map(exact).collect(),
        ),
        (Content::Keys(wanted), _) => (Vec::new(), wanted.iter().map(exact).collect()),
        (Content::Ranges(wanted), Some(Content::Ranges(there))) => (
            there
                .difference(wanted)
                .flat_map(Element::of_range)
                .collect(),
            wanted
                .difference(there)
                .flat_map(Element::of_range)
                .collect(),
        ),
        (Content::Ranges(wanted), _) => (Vec::new(), all_ranges(wanted.iter())),
        (Content::Verdicts { entries, .. }, Some(Content::Verdicts { entries: there, .. })) => (
            there
                .iter()
                .filter(|entry| entries.get(entry.0) != Some(entry.1))
                .map(entry)
                .collect(),
            entries
                .iter()
                .filter(|entry| there.get(entry.0) != Some(entry.1))
                .map(entry)
                .collect(),
        ),
        (Content::Verdicts { entries, otherwise }, _) => {
            let mut come: Vec<Element> = entries.iter().map(entry).collect();
            come.push(Element::CatchAll(otherwise.clone()));
            (Vec::new(), come)
        }
    }
}

fn all_ranges<'a>(ranges: impl IntoIterator<Item = &'a Range>) -> Vec<Element> {
    ranges.into_iter().flat_map(Element::of_range).collect()
}

fn exact(key: &Key) -> Element {
    Element::Exact(encode::key(key), None)
}

fn entry((key, verdict): (&Key, &Verdict)) -> Element {
    Element::Exact(encode::key(key), Some(verdict.clone()))
}

fn set_flags(content: &Content) -> u32 {
    match content {
        Content::Keys(_) => 0,
        Content::Ranges(_) => set::FLAG_INTERVAL,
        Content::Verdicts { .. } => set::FLAG_MAP,
    }
}

fn hook_number(hook: Hook) -> u32 {
    match hook {
        Hook::Prerouting => 0,
        Hook::Input => 1,
        Hook::Forward => 2,
        Hook::Output => 3,
        Hook::Postrouting => 4,
    }
}

fn kind_name(kind: ChainKind) -> &'static str {
    match kind {
        ChainKind::Filter => "filter",
        ChainKind::Nat => "nat",
    }
}
