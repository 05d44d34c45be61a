//! Routes this speaker announces as its own.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::attr::{Attributes, Community, LargeCommunity};

/// A change to the set of originated routes. Idempotent: adding what is there replaces it, removing what is not
/// there does nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginateDiff {
    /// Routes to announce or to announce differently.
    pub add: Vec<Origination>,
    /// Routes to withdraw: owner and prefix.
    pub remove: Vec<(Arc<str>, IpNet)>,
}

/// One originated route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origination {
    /// Who wants it, e.g. `ipam` or `services`: two owners may announce one prefix, it goes when the last one lets go.
    /// Export rules can match it ([`crate::filter::Match::Owner`]); the alphabetically first owner's attributes win.
    pub owner: Arc<str>,
    /// The prefix; host bits are cleared.
    pub prefix: IpNet,
    /// Attributes it starts with.
    pub attributes: OriginAttributes,
}

/// Attributes of an originated route, before export rules.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OriginAttributes {
    /// `LOCAL_PREF` sent to iBGP peers; 100 when unset.
    pub local_pref: Option<u32>,
    /// `MULTI_EXIT_DISC`.
    pub med: Option<u32>,
    /// Communities.
    pub communities: Vec<Community>,
    /// Large communities.
    pub large_communities: Vec<LargeCommunity>,
    /// Next hop instead of our own address.
    pub next_hop: Option<IpAddr>,
}

impl OriginAttributes {
    /// As path attributes: origin IGP, an empty path.
    pub(super) fn attributes(&self) -> Attributes {
        let mut attributes = Attributes {
            local_pref: self.local_pref,
            med: self.med,
            ..Attributes::default()
        };
        attributes.add_communities(&self.communities);
        attributes.add_large_communities(&self.large_communities);
        attributes
    }
}
