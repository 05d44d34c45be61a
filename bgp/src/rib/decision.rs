//! The choice among paths to one prefix.

use serde::{Deserialize, Serialize};

/// The step of the decision that told two paths apart, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Preference {
    /// Originated by ourselves.
    Local,
    /// Higher `LOCAL_PREF`.
    LocalPref,
    /// Shorter AS path.
    AsPathLength,
    /// Lower origin.
    Origin,
    /// Lower `MULTI_EXIT_DISC` within one neighbour system.
    Med,
    /// eBGP before iBGP.
    External,
    /// Lower metric to the next hop.
    NextHopMetric,
    /// Different neighbour systems where that excludes from multipath; or no room for a further equal path.
    Multipath,
    /// Lower `ORIGINATOR_ID` or router id.
    RouterId,
    /// Shorter `CLUSTER_LIST`.
    ClusterList,
    /// Lower address of the peer.
    PeerAddress,
}

/// Why a path is no candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ineligible {
    /// Its next hop cannot be reached.
    NextHopUnresolved,
}
