//! The form in which rules are written.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attr::{Community, LargeCommunity, Origin};
use crate::{Asn, Family};

/// An ordered list of rules; the first that matches and says accept or reject decides.
///
/// Two filters with equal rules are the same filter: peers that share it share encoded updates.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Filter {
    /// Rules in order of evaluation.
    pub rules: Vec<Rule>,
    /// What happens when no rule decided. [`Verdict::Next`] counts as reject.
    pub default: Verdict,
}

impl Filter {
    /// A filter that passes everything unchanged.
    pub fn accept_all() -> Arc<Self> {
        Arc::new(Self {
            rules: Vec::new(),
            default: Verdict::Accept,
        })
    }

    /// A filter that passes nothing.
    pub fn reject_all() -> Arc<Self> {
        Arc::new(Self {
            rules: Vec::new(),
            default: Verdict::Reject,
        })
    }
}

/// One rule: when every match holds, actions apply, then the verdict.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Rule {
    /// Name printed by `explain`, e.g. `own-blocks` or `filter rack-a rule 3`.
    pub name: Arc<str>,
    /// All must hold; an empty list always holds.
    pub matches: Vec<Match>,
    /// Rewrites, in order. They depend on the route alone, so results are memoised.
    pub actions: Vec<Action>,
    /// What happens after the actions.
    pub verdict: Verdict,
}

impl Rule {
    /// A rule without actions.
    pub fn new(name: &str, matches: Vec<Match>, verdict: Verdict) -> Self {
        Self {
            name: Arc::from(name),
            matches,
            actions: Vec::new(),
            verdict,
        }
    }
}

/// What a rule decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Verdict {
    /// The route passes with the rewrites made so far; no further rule is read.
    Accept,
    /// The route is refused; no further rule is read.
    Reject,
    /// The rewrites stay, evaluation goes on with the next rule.
    Next,
}

/// A condition on a route.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Match {
    /// The prefix fits at least one entry.
    Prefixes(Vec<PrefixMatch>),
    /// The prefix belongs to the family.
    Family(Family),
    /// Where the route came from.
    Source(LearntFrom),
    /// The route is locally originated by this owner ([`crate::speaker::Origination::owner`]).
    Owner(Arc<str>),
    /// The route carries every listed community (RFC 1997).
    Communities(Vec<Community>),
    /// The route carries every listed large community (RFC 8092).
    LargeCommunities(Vec<LargeCommunity>),
    /// The AS path begins with these numbers.
    AsPathPrefix(Vec<Asn>),
    /// The AS path contains this number.
    AsPathContains(Asn),
    /// The origin attribute.
    Origin(Origin),
    /// The next hop is one of these.
    NextHops(Vec<IpAddr>),
    /// The inner condition does not hold.
    Not(Box<Match>),
    /// At least one of the inner conditions holds.
    Any(Vec<Match>),
}

/// Where a route was learnt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum LearntFrom {
    /// Originated by this speaker.
    Local,
    /// Learnt from a peer in another autonomous system.
    Ebgp,
    /// Learnt from a peer in the same autonomous system.
    Ibgp,
}

/// A covering prefix together with the prefix lengths it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PrefixMatch {
    /// The route's prefix must lie inside this one.
    pub net: IpNet,
    /// Lengths that fit.
    pub lengths: Lengths,
}

/// Which lengths below a covering prefix fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Lengths {
    /// The prefix itself and nothing else.
    Exact,
    /// The prefix and everything inside it.
    Within,
    /// Everything inside, but not the prefix itself.
    MoreSpecific,
    /// Inside, with a length in this inclusive range.
    Between(u8, u8),
}

impl PrefixMatch {
    /// `net` itself.
    pub fn exact(net: IpNet) -> Self {
        Self {
            net: net.trunc(),
            lengths: Lengths::Exact,
        }
    }

    /// `net` and everything inside it.
    pub fn within(net: IpNet) -> Self {
        Self {
            net: net.trunc(),
            lengths: Lengths::Within,
        }
    }

    /// Everything inside `net`, without `net`.
    pub fn more_specific(net: IpNet) -> Self {
        Self {
            net: net.trunc(),
            lengths: Lengths::MoreSpecific,
        }
    }

    /// Whether `prefix` fits.
    pub fn fits(&self, prefix: &IpNet) -> bool {
        let length = prefix.prefix_len();
        let long_enough = match self.lengths {
            Lengths::Exact => length == self.net.prefix_len(),
            Lengths::Within => length >= self.net.prefix_len(),
            Lengths::MoreSpecific => length > self.net.prefix_len(),
            Lengths::Between(low, high) => (low..=high).contains(&length),
        };
        long_enough && self.net.contains(prefix)
    }
}

impl fmt::Display for PrefixMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.lengths {
            Lengths::Exact => write!(f, "{}", self.net),
            Lengths::Within => write!(f, "{} or inside", self.net),
            Lengths::MoreSpecific => write!(f, "inside {}", self.net),
            Lengths::Between(low, high) => write!(f, "{} length {low}..{high}", self.net),
        }
    }
}

/// A rewrite of a route that passes.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Action {
    /// Adds communities (a set: those present stay single).
    AddCommunities(Vec<Community>),
    /// Takes communities away.
    RemoveCommunities(Vec<Community>),
    /// Adds large communities.
    AddLargeCommunities(Vec<LargeCommunity>),
    /// Sets `LOCAL_PREF`.
    SetLocalPref(u32),
    /// Sets `MULTI_EXIT_DISC`.
    SetMed(u32),
    /// Puts numbers in front of the AS path, the first outermost.
    Prepend(Vec<Asn>),
    /// Sets the next hop.
    SetNextHop(IpAddr),
    /// Sets the kernel metric a consumer of best routes should use.
    SetPriority(u32),
}

/// Prefixes that never belong into a table, with everything inside them: "this network", loopback, link-local,
/// multicast and reserved space (RFC 6890). The default route is not among them: see [`default_routes`].
pub fn martians() -> Vec<PrefixMatch> {
    const INSIDE: [&str; 10] = [
        "0.0.0.0/8",
        "127.0.0.0/8",
        "169.254.0.0/16",
        "224.0.0.0/4",
        "240.0.0.0/4",
        "::/128",
        "::1/128",
        "::ffff:0:0/96",
        "fe80::/10",
        "ff00::/8",
    ];
    INSIDE
        .iter()
        .map(|text| PrefixMatch::within(constant(text)))
        .collect()
}

/// The default routes of both families, exactly.
pub fn default_routes() -> Vec<PrefixMatch> {
    ["0.0.0.0/0", "::/0"]
        .iter()
        .map(|text| PrefixMatch::exact(constant(text)))
        .collect()
}

fn constant(text: &str) -> IpNet {
    text.parse()
        .expect("the tables of this file hold valid prefixes")
}
