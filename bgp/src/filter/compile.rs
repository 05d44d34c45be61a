//! The form in which rules run.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use prefix_trie::PrefixMap;
use smallvec::SmallVec;

use super::rule::{Action, Filter, LearntFrom, Match, PrefixMatch, Verdict};
use crate::Family;
use crate::attr::{AttrSet, Attributes};

/// From this many entries on, a prefix list becomes a trie.
const TRIE_FROM: usize = 16;

/// Names of the rules that matched, in order, for `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(pub Vec<Arc<str>>);

/// Indices of the rules whose actions apply: with the attributes they determine the rewritten route.
pub type Rewrites = SmallVec<[u16; 4]>;

/// A route as a filter sees it.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// Its prefix.
    pub prefix: &'a IpNet,
    /// Its attributes.
    pub attributes: &'a AttrSet,
    /// Its next hop.
    pub next_hop: IpAddr,
    /// Where it was learnt.
    pub learnt: LearntFrom,
    /// Its owner, when originated by this speaker.
    pub owner: Option<&'a str>,
}

/// What a filter says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Whether the route passes.
    pub accepted: bool,
    /// What is done to it.
    pub rewrites: Rewrites,
}

/// A filter ready to run.
#[derive(Debug)]
pub struct Compiled {
    source: Arc<Filter>,
    rules: Vec<Vec<Condition>>,
}

#[derive(Debug)]
enum Condition {
    List(Vec<PrefixMatch>),
    Trie(Box<PrefixTrie>),
    /// A condition on attributes that needs no preparation.
    Plain(Match),
    Not(Box<Condition>),
    Any(Vec<Condition>),
}

#[derive(Debug, Default)]
struct PrefixTrie {
    ipv4: PrefixMap<ipnet::Ipv4Net, Vec<PrefixMatch>>,
    ipv6: PrefixMap<ipnet::Ipv6Net, Vec<PrefixMatch>>,
}

impl Compiled {
    /// Prepares a filter.
    pub fn compile(source: &Arc<Filter>) -> Self {
        let rules = source
            .rules
            .iter()
            .map(|rule| rule.matches.iter().map(Condition::compile).collect())
            .collect();
        Self {
            source: Arc::clone(source),
            rules,
        }
    }

    /// The filter it was made from.
    pub fn source(&self) -> &Arc<Filter> {
        &self.source
    }

    /// Decides about a route.
    pub fn evaluate(&self, subject: &Subject<'_>) -> Outcome {
        self.run(subject, |_| ())
    }

    /// Decides about a route and tells which rules matched.
    pub fn explain(&self, subject: &Subject<'_>) -> (Outcome, Trace) {
        let mut trace = Trace::default();
        let outcome = self.run(subject, |name| trace.0.push(Arc::clone(name)));
        (outcome, trace)
    }

    fn run(&self, subject: &Subject<'_>, mut matched: impl FnMut(&Arc<str>)) -> Outcome {
        let mut rewrites = Rewrites::new();
        for (index, (rule, conditions)) in (0u16..).zip(self.source.rules.iter().zip(&self.rules)) {
            if !conditions.iter().all(|condition| condition.holds(subject)) {
                continue;
            }
            matched(&rule.name);
            if !rule.actions.is_empty() {
                rewrites.push(index);
            }
            match rule.verdict {
                Verdict::Accept => {
                    return Outcome {
                        accepted: true,
                        rewrites,
                    };
                }
                Verdict::Reject => {
                    return Outcome {
                        accepted: false,
                        rewrites,
                    };
                }
                Verdict::Next => {}
            }
        }
        Outcome {
            accepted: self.source.default == Verdict::Accept,
            rewrites,
        }
    }

    /// Applies the actions of an outcome.
    pub fn rewrite(&self, rewrites: &Rewrites, route: &mut Rewritten) {
        for index in rewrites {
            for action in self
                .source
                .rules
                .get(usize::from(*index))
                .into_iter()
                .flat_map(|rule| &rule.actions)
            {
                route.apply(action);
            }
        }
    }
}

/// A route while actions are applied to it.
#[derive(Clone, Debug)]
pub struct Rewritten {
    /// Its attributes.
    pub attributes: Attributes,
    /// Its next hop, when an action set one.
    pub next_hop: Option<IpAddr>,
    /// The kernel metric, when an action set one.
    pub priority: Option<u32>,
}

impl Rewritten {
    /// A route nothing was done to yet.
    pub fn new(attributes: Attributes) -> Self {
        Self {
            attributes,
            next_hop: None,
            priority: None,
        }
    }

    fn apply(&mut self, action: &Action) {
        match action {
            Action::AddCommunities(more) => self.attributes.add_communities(more),
            Action::RemoveCommunities(gone) => self
                .attributes
                .communities
                .retain(|community| !gone.contains(community)),
            Action::AddLargeCommunities(more) => self.attributes.add_large_communities(more),
            Action::SetLocalPref(value) => self.attributes.local_pref = Some(*value),
            Action::SetMed(value) => self.attributes.med = Some(*value),
            Action::Prepend(asns) => asns
                .iter()
                .rev()
                .for_each(|asn| self.attributes.as_path.prepend(*asn)),
            Action::SetNextHop(address) => self.next_hop = Some(*address),
            Action::SetPriority(metric) => self.priority = Some(*metric),
        }
    }
}

impl Condition {
    fn compile(source: &Match) -> Self {
        match source {
            Match::Prefixes(list) if list.len() >= TRIE_FROM => {
                Self::Trie(Box::new(PrefixTrie::new(list)))
            }
            Match::Prefixes(list) => Self::List(list.clone()),
            Match::Not(inner) => Self::Not(Box::new(Self::compile(inner))),
            Match::Any(inner) => Self::Any(inner.iter().map(Self::compile).collect()),
            Match::Family(_)
            | Match::Source(_)
            | Match::Owner(_)
            | Match::Communities(_)
            | Match::LargeCommunities(_)
            | Match::AsPathPrefix(_)
            | Match::AsPathContains(_)
            | Match::Origin(_)
            | Match::NextHops(_) => Self::Plain(source.clone()),
        }
    }

    fn holds(&self, subject: &Subject<'_>) -> bool {
        match self {
            Self::List(list) => list.iter().any(|entry| entry.fits(subject.prefix)),
            Self::Trie(trie) => trie.fits(subject.prefix),
            Self::Not(inner) => !inner.holds(subject),
            Self::Any(inner) => inner.iter().any(|condition| condition.holds(subject)),
            Self::Plain(plain) => plain_holds(plain, subject),
        }
    }
}

/// Conditions that need the readable attributes parse them here: filters with such rules pay for them.
fn plain_holds(plain: &Match, subject: &Subject<'_>) -> bool {
    match plain {
        Match::Family(family) => Family::of(subject.prefix) == *family,
        Match::Source(source) => subject.learnt == *source,
        Match::Owner(owner) => subject.owner == Some(owner),
        Match::NextHops(list) => list.contains(&subject.next_hop),
        Match::Origin(origin) => subject.attributes.header().origin == *origin,
        Match::Communities(wanted) => {
            let attributes = subject.attributes.attributes();
            wanted
                .iter()
                .all(|community| attributes.communities.contains(community))
        }
        Match::LargeCommunities(wanted) => {
            let attributes = subject.attributes.attributes();
            wanted
                .iter()
                .all(|community| attributes.large_communities.contains(community))
        }
        Match::AsPathPrefix(wanted) => {
            let attributes = subject.attributes.attributes();
            let mut path = attributes.as_path.asns();
            wanted.iter().all(|asn| path.next() == Some(*asn))
        }
        Match::AsPathContains(wanted) => {
            crate::attr::any_asn(subject.attributes.octets(), |asn| asn == *wanted)
        }
        Match::Prefixes(list) => list.iter().any(|entry| entry.fits(subject.prefix)),
        Match::Not(inner) => !plain_holds(inner, subject),
        Match::Any(inner) => inner.iter().any(|plain| plain_holds(plain, subject)),
    }
}

impl PrefixTrie {
    fn new(list: &[PrefixMatch]) -> Self {
        let mut trie = Self::default();
        for entry in list {
            match entry.net {
                IpNet::V4(net) => trie.ipv4.entry(net).or_default().push(*entry),
                IpNet::V6(net) => trie.ipv6.entry(net).or_default().push(*entry),
            }
        }
        trie
    }

    fn fits(&self, prefix: &IpNet) -> bool {
        let any = |entries: &Vec<PrefixMatch>| entries.iter().any(|entry| entry.fits(prefix));
        match prefix {
            IpNet::V4(net) => self.ipv4.cover(net).any(|(_, entries)| any(entries)),
            IpNet::V6(net) => self.ipv6.cover(net).any(|(_, entries)| any(entries)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Community;
    use crate::filter::{Rule, default_routes, martians};

    fn outcome(filter: &Arc<Filter>, prefix: &str) -> (bool, Vec<String>) {
        let attributes = AttrSet::from_attributes(&Attributes::default());
        let prefix: IpNet = prefix.parse().unwrap();
        let subject = Subject {
            prefix: &prefix,
            attributes: &attributes,
            next_hop: "10.0.0.2".parse().unwrap(),
            learnt: LearntFrom::Ebgp,
            owner: None,
        };
        let (outcome, trace) = Compiled::compile(filter).explain(&subject);
        (
            outcome.accepted,
            trace.0.iter().map(ToString::to_string).collect(),
        )
    }

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn the_first_deciding_rule_wins_and_is_named() {
        let filter = Arc::new(Filter {
            rules: vec![
                Rule::new(
                    "martians",
                    vec![Match::Prefixes(martians())],
                    Verdict::Reject,
                ),
                Rule::new(
                    "default",
                    vec![Match::Prefixes(default_routes())],
                    Verdict::Reject,
                ),
                Rule::new(
                    "own",
                    vec![Match::Prefixes(vec![PrefixMatch::within(net(
                        "10.244.0.0/26",
                    ))])],
                    Verdict::Reject,
                ),
                Rule::new("rest", vec![], Verdict::Accept),
            ],
            default: Verdict::Reject,
        });
        for (prefix, accepted, rule) in [
            ("127.0.0.0/24", false, "martians"),
            ("0.0.0.0/0", false, "default"),
            ("10.244.0.0/26", false, "own"),
            ("10.244.0.9/32", false, "own"),
            ("10.244.0.0/25", true, "rest"),
            ("203.0.113.0/24", true, "rest"),
        ] {
            assert_eq!(
                outcome(&filter, prefix),
                (accepted, vec![rule.to_owned()]),
                "{prefix}"
            );
        }
    }

    #[test]
    fn long_lists_decide_like_short_ones() {
        let list: Vec<PrefixMatch> = (0..40u8)
            .map(|third| PrefixMatch::more_specific(net(&format!("10.1.{third}.0/24"))))
            .chain([
                PrefixMatch::exact(net("10.0.0.0/8")),
                PrefixMatch {
                    net: net("10.2.0.0/16"),
                    lengths: crate::filter::Lengths::Between(20, 24),
                },
            ])
            .collect();
        let filter = |list: Vec<PrefixMatch>| {
            Arc::new(Filter {
                rules: vec![Rule::new(
                    "list",
                    vec![Match::Prefixes(list)],
                    Verdict::Accept,
                )],
                default: Verdict::Reject,
            })
        };
        for prefix in [
            "10.1.7.0/24",
            "10.1.7.0/25",
            "10.0.0.0/8",
            "10.0.0.0/9",
            "10.2.16.0/20",
            "10.2.0.0/19",
            "10.2.0.0/25",
        ] {
            let long = outcome(&filter(list.clone()), prefix).0;
            let short = list
                .chunks(10)
                .any(|part| outcome(&filter(part.to_vec()), prefix).0);
            assert_eq!(long, short, "{prefix}");
        }
    }

    #[test]
    fn rules_that_go_on_collect_their_rewrites() {
        let mut tag = Rule::new("tag", vec![], Verdict::Next);
        tag.actions = vec![Action::AddCommunities(vec![Community::new(1, 2)])];
        let mut prefer = Rule::new("prefer", vec![], Verdict::Accept);
        prefer.actions = vec![Action::SetLocalPref(200)];
        let compiled = Compiled::compile(&Arc::new(Filter {
            rules: vec![tag, prefer],
            default: Verdict::Reject,
        }));
        let mut route = Rewritten::new(Attributes::default());
        compiled.rewrite(&Rewrites::from_slice(&[0, 1]), &mut route);
        assert_eq!(route.attributes.local_pref, Some(200));
        assert_eq!(route.attributes.communities, [Community::new(1, 2)]);
    }
}
