//! Export rules: from a best path to what a group of peers is told.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use ipnet::IpNet;

use super::group::GroupKey;
use crate::attr::{Attributes, flags};
use crate::filter::{Compiled, LearntFrom, Outcome, Rewritten, Subject, Trace};
use crate::rib::{Dest, Path, PeerId, Rib, Source};
use crate::speaker::NextHopMode;
use crate::wire::attribute;

/// Kind of session, as far as it changes what is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Class {
    /// In another AS.
    External,
    /// In our AS.
    Internal,
    /// In our AS, and our client (RFC 4456).
    Client,
}

/// Prefix → owner of an originated route.
pub type Locals = BTreeMap<IpNet, Arc<str>>;

/// A route as a group is told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exported {
    /// Canonical attributes.
    pub attributes: Vec<u8>,
    /// Next hop.
    pub next_hop: IpAddr,
}

/// Why a group is not told a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Withheld {
    /// There is no best path.
    NoRoute,
    /// Learnt over iBGP, and neither side is a client (RFC 4456 §6).
    InternalToInternal,
    /// A well-known community forbids it.
    WellKnownCommunity,
    /// The export rules reject it.
    Filtered,
    /// There is no address to put into the next hop.
    NoNextHop,
}

/// Evaluates destinations for one group.
#[derive(Clone, Copy, Debug)]
pub struct Exporter<'a> {
    /// The table.
    pub rib: &'a Rib,
    /// What the group's members have in common.
    pub key: &'a GroupKey,
    /// Their export rules.
    pub filter: &'a Compiled,
    /// Owners of originated routes.
    pub locals: &'a Locals,
}

impl<'a> Exporter<'a> {
    /// The path to tell, and the outcome of the rules; the expensive part follows in [`Exporter::render`].
    ///
    /// # Errors
    /// [`Withheld`] when nothing is told.
    pub fn decide(&self, dest: &'a Dest) -> Result<(&'a Path, Outcome), Withheld> {
        let best = self.candidate(dest)?;
        let outcome = self.filter.evaluate(&self.subject(dest, best));
        if outcome.accepted {
            Ok((best, outcome))
        } else {
            Err(Withheld::Filtered)
        }
    }

    /// What the rules say and which of them matched.
    ///
    /// # Errors
    /// [`Withheld`] when it does not come to the rules.
    pub fn explain(&self, dest: &'a Dest) -> Result<(&'a Path, Outcome, Trace), Withheld> {
        let best = self.candidate(dest)?;
        let (outcome, trace) = self.filter.explain(&self.subject(dest, best));
        Ok((best, outcome, trace))
    }

    fn candidate(&self, dest: &'a Dest) -> Result<&'a Path, Withheld> {
        let best = dest.best().ok_or(Withheld::NoRoute)?;
        let header = self.rib.attributes.get(best.attributes).header();
        let external = self.key.class == Class::External;
        if header.has(flags::NO_ADVERTISE) || (external && header.has(flags::NO_EXPORT)) {
            return Err(Withheld::WellKnownCommunity);
        }
        let source = self.rib.source(best.peer).ok_or(Withheld::NoRoute)?;
        let internal = best.peer != PeerId::LOCAL && !source.external;
        if internal && self.key.class == Class::Internal && !source.client {
            return Err(Withheld::InternalToInternal);
        }
        Ok(best)
    }

    fn subject(&self, dest: &'a Dest, best: &Path) -> Subject<'a> {
        let external = self
            .rib
            .source(best.peer)
            .is_some_and(|source| source.external);
        let local = best.peer == PeerId::LOCAL;
        Subject {
            prefix: &dest.prefix,
            attributes: self.rib.attributes.get(best.attributes),
            next_hop: self.rib.next_hops.address(best.next_hop),
            learnt: match (local, external) {
                (true, _) => LearntFrom::Local,
                (false, true) => LearntFrom::Ebgp,
                (false, false) => LearntFrom::Ibgp,
            },
            owner: self
                .locals
                .get(&dest.prefix)
                .filter(|_| local)
                .map(|owner| &**owner),
        }
    }

    /// Attributes and next hop as told. A function of path and rewrites alone, so callers memoise it by these.
    ///
    /// # Errors
    /// [`Withheld::NoNextHop`].
    pub fn render(&self, path: &Path, outcome: &Outcome) -> Result<Exported, Withheld> {
        let source = self.rib.source(path.peer).ok_or(Withheld::NoRoute)?;
        let mut route = Rewritten::new(self.rib.attributes.get(path.attributes).attributes());
        if self.key.class == Class::External && path.peer != PeerId::LOCAL {
            route.attributes.med = None;
        }
        self.filter.rewrite(&outcome.rewrites, &mut route);
        let next_hop = self
            .next_hop(path, source, route.next_hop)
            .ok_or(Withheld::NoNextHop)?;
        self.finish(path, source, &mut route.attributes);
        let mut attributes = Vec::new();
        attribute::put_canonical(&mut attributes, &route.attributes);
        Ok(Exported {
            attributes,
            next_hop,
        })
    }

    /// What the kind of session demands, after all rules (RFC 4271 §5.1, RFC 4456 §8).
    fn finish(&self, path: &Path, source: &Source, attributes: &mut Attributes) {
        if self.key.class == Class::External {
            attributes.local_pref = None;
            attributes.originator = None;
            attributes.cluster_list.clear();
            attributes.as_path.prepend(self.key.local_as);
            return;
        }
        attributes
            .local_pref
            .get_or_insert(Attributes::DEFAULT_LOCAL_PREF);
        if path.peer != PeerId::LOCAL && !source.external {
            attributes.originator.get_or_insert(source.router_id);
            attributes.cluster_list.insert(0, self.key.cluster_id);
        }
    }

    fn next_hop(&self, path: &Path, source: &Source, set: Option<IpAddr>) -> Option<IpAddr> {
        let received = Some(self.rib.next_hops.address(path.next_hop))
            .filter(|address| !address.is_unspecified());
        let local = path.peer == PeerId::LOCAL;
        let own = self.key.own_address;
        let external = self.key.class == Class::External;
        let chosen = match self.key.next_hop {
            NextHopMode::Explicit(address) => Some(address),
            NextHopMode::OwnAddress => own,
            NextHopMode::Auto if external && !(local && received.is_some()) => own,
            NextHopMode::Auto | NextHopMode::Keep => received.or(own),
        };
        let reflected = !local && !source.external && self.key.class != Class::External;
        // A reflector must not change the next hop of what it reflects (RFC 4456 §10).
        let chosen = if reflected { received } else { chosen };
        set.or(chosen)
    }
}

/// The next hop that stands for "our own address" in the table: the unspecified address of the family.
pub(crate) fn own_next_hop(prefix: &IpNet) -> IpAddr {
    match prefix {
        IpNet::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpNet::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}
