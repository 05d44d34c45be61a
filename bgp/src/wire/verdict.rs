//! The table of verdicts: what each kind of malformed input causes.
//!
//! Rows refer to RFC 7606 and the RFC named beside them. A treat-as-withdraw in an UPDATE that carries no reachable
//! NLRI becomes a reset (RFC 7606 §5.2): [`Fault::BadWithoutRoutes`].

use super::{Notification, code};

/// What a fault causes, mildest first; the strongest of several wins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reaction {
    /// Taken as if nothing were wrong, or the part is ignored.
    Accept,
    /// The attribute is discarded, the rest stands.
    Discard,
    /// The announced prefixes count as withdrawn.
    Withdraw,
    /// NOTIFICATION with this code and subcode; the session ends.
    Reset(u8, u8),
}

macro_rules! verdicts {
    ($($(#[$doc:meta])* $name:ident: $part:literal => $reaction:expr;)*) => {
        /// Everything that can be wrong with what a peer sends.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Fault {
            $($(#[$doc])* $name,)*
        }

        impl Fault {
            /// Every fault, in the order of the table.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// What it causes: the one table.
            pub const fn reaction(self) -> Reaction {
                use Reaction::{Accept, Discard, Reset, Withdraw};
                match self {
                    $(Self::$name => $reaction,)*
                }
            }

            /// The part of the message it was found in, for metrics.
            pub const fn part(self) -> &'static str {
                match self {
                    $(Self::$name => $part,)*
                }
            }
        }
    };
}

verdicts! {
    /// The marker is not all ones (RFC 4271 §6.1).
    Marker: "header" => Reset(code::HEADER, 1);
    /// The length is below 19 or above what was agreed.
    HeaderLength: "header" => Reset(code::HEADER, 2);
    /// The length does not fit the type.
    MessageLength: "header" => Reset(code::HEADER, 2);
    /// The type is unknown.
    MessageType: "header" => Reset(code::HEADER, 3);
    /// A message that does not belong into `OpenSent` (RFC 6608).
    UnexpectedInOpenSent: "fsm" => Reset(code::FSM, 1);
    /// A message that does not belong into `OpenConfirm`.
    UnexpectedInOpenConfirm: "fsm" => Reset(code::FSM, 2);
    /// A message that does not belong into Established.
    UnexpectedInEstablished: "fsm" => Reset(code::FSM, 3);
    /// OPEN: another version than 4.
    Version: "open" => Reset(code::OPEN, 1);
    /// OPEN: not the AS number configured, 0 (RFC 7607), or `AS_TRANS` without the number behind it.
    PeerAs: "open" => Reset(code::OPEN, 2);
    /// OPEN: the 4-octet number agrees neither with the 2-octet field nor is that `AS_TRANS` (RFC 6793).
    FourOctetAs: "open" => Reset(code::OPEN, 2);
    /// OPEN: identifier 0, or ours within one AS (RFC 6286).
    Identifier: "open" => Reset(code::OPEN, 3);
    /// OPEN: hold time 1 or 2.
    HoldTime: "open" => Reset(code::OPEN, 6);
    /// OPEN: the optional parameters overrun the message or their own length (RFC 9072 form included).
    Parameters: "open" => Reset(code::OPEN, 0);
    /// OPEN: an optional parameter other than capabilities.
    ParameterType: "open" => Reset(code::OPEN, 4);
    /// OPEN: a capability overruns its parameter.
    CapabilityOverrun: "open" => Reset(code::OPEN, 0);
    /// OPEN: a known capability of wrong length counts as absent.
    CapabilityLength: "open" => Accept;
    /// OPEN: no family in common: data holds what we would have needed.
    CapabilityRequired: "open" => Reset(code::OPEN, 7);
    /// UPDATE: the sections do not fit the message.
    Sections: "update" => Reset(code::UPDATE, 1);
    /// An attribute runs past the section; prefixes are still located.
    AttributeOverrun: "attributes" => Withdraw;
    /// Octets too few for an attribute header remain.
    AttributeStray: "attributes" => Withdraw;
    /// Optional and transitive flags conflict with the type.
    AttributeFlags: "attributes" => Withdraw;
    /// The same on one of the multiprotocol attributes.
    MultiprotocolFlags: "mp" => Reset(code::UPDATE, 9);
    /// A second attribute of one type: the first wins.
    Duplicate: "attributes" => Discard;
    /// A second multiprotocol attribute (RFC 7606 §3(g)).
    DuplicateMultiprotocol: "mp" => Reset(code::UPDATE, 1);
    /// A well-known attribute nobody knows.
    UnknownWellKnown: "attributes" => Reset(code::UPDATE, 2);
    /// ORIGIN is not one octet.
    OriginLength: "origin" => Withdraw;
    /// ORIGIN above 2.
    OriginValue: "origin" => Withdraw;
    /// ORIGIN is missing.
    OriginMissing: "origin" => Withdraw;
    /// `AS_PATH` is missing.
    AsPathMissing: "as_path" => Withdraw;
    /// `AS_PATH` segment of unknown kind.
    AsPathSegmentKind: "as_path" => Withdraw;
    /// `AS_PATH` segment without numbers.
    AsPathSegmentEmpty: "as_path" => Withdraw;
    /// `AS_PATH` segment overruns, or an octet remains.
    AsPathOverrun: "as_path" => Withdraw;
    /// AS 0 in the path (RFC 7607).
    AsPathZero: "as_path" => Withdraw;
    /// Confederation segment, but no confederation is configured (RFC 5065 §5.1).
    AsPathConfederation: "as_path" => Withdraw;
    /// `AS_SET` (RFC 9774).
    AsPathSet: "as_path" => Withdraw;
    /// The first number is not the external peer's (RFC 4271 §6.3).
    AsPathFirst: "as_path" => Withdraw;
    /// More hops than the limit.
    AsPathTooLong: "as_path" => Withdraw;
    /// `NEXT_HOP` is missing although the classic NLRI field is not empty.
    NextHopMissing: "next_hop" => Withdraw;
    /// `NEXT_HOP` is not four octets.
    NextHopLength: "next_hop" => Withdraw;
    /// `NEXT_HOP` is no unicast address, or ours: a semantic error, the route is ignored.
    NextHopValue: "next_hop" => Withdraw;
    /// `MULTI_EXIT_DISC` is not four octets.
    MedLength: "med" => Withdraw;
    /// `LOCAL_PREF` from an external peer, whatever its length.
    LocalPrefExternal: "local_pref" => Discard;
    /// `LOCAL_PREF` is not four octets.
    LocalPrefLength: "local_pref" => Withdraw;
    /// `LOCAL_PREF` is missing from an internal peer.
    LocalPrefMissing: "local_pref" => Withdraw;
    /// `ATOMIC_AGGREGATE` is not empty.
    AtomicAggregateLength: "atomic_aggregate" => Discard;
    /// AGGREGATOR is not 6 octets (2-octet peer) or 8.
    AggregatorLength: "aggregator" => Discard;
    /// AGGREGATOR with AS 0 (RFC 7607).
    AggregatorZero: "aggregator" => Discard;
    /// COMMUNITIES is empty or no multiple of 4.
    CommunitiesLength: "communities" => Withdraw;
    /// `ORIGINATOR_ID` or `CLUSTER_LIST` from an external peer.
    ReflectionExternal: "reflection" => Discard;
    /// `ORIGINATOR_ID` is not four octets.
    OriginatorLength: "reflection" => Withdraw;
    /// `CLUSTER_LIST` is empty or no multiple of 4.
    ClusterListLength: "reflection" => Withdraw;
    /// Extended communities are empty or no multiple of 8 (IPv6: 20).
    ExtendedCommunitiesLength: "extended_communities" => Withdraw;
    /// Large communities are empty or no multiple of 12.
    LargeCommunitiesLength: "large_communities" => Withdraw;
    /// Only-to-customer is not four octets (RFC 9234).
    OnlyToCustomerLength: "otc" => Withdraw;
    /// `MP_REACH_NLRI` is too short for its fixed part.
    ReachLength: "mp" => Reset(code::UPDATE, 9);
    /// `MP_UNREACH_NLRI` is too short for its fixed part.
    UnreachLength: "mp" => Reset(code::UPDATE, 9);
    /// The next hop of `MP_REACH_NLRI` has a length its family does not know: prefixes cannot be located.
    ReachNextHopLength: "mp" => Reset(code::UPDATE, 9);
    /// The next hop of `MP_REACH_NLRI` is no global unicast address.
    ReachNextHopValue: "mp" => Withdraw;
    /// A family that was not agreed on: the attribute is ignored.
    FamilyNotNegotiated: "mp" => Accept;
    /// A prefix in a multiprotocol attribute is too long or overruns.
    MultiprotocolPrefix: "mp" => Reset(code::UPDATE, 9);
    /// A prefix in a classic field is longer than 32 or overruns.
    Prefix: "nlri" => Reset(code::UPDATE, 10);
    /// Something that would withdraw, but there is nothing to withdraw: framing may be lost (RFC 7606 §5.2).
    BadWithoutRoutes: "update" => Reset(code::UPDATE, 1);
    /// `AS4_PATH` or `AS4_AGGREGATOR` from a peer that speaks 4 octets (RFC 6793 §6).
    As4FromNew: "as4" => Discard;
    /// `AS4_PATH` is malformed.
    As4Path: "as4" => Discard;
    /// `AS4_AGGREGATOR` is not 8 octets.
    As4AggregatorLength: "as4" => Discard;
    /// ROUTE-REFRESH for a family that was not agreed on, or of an unknown subtype.
    RefreshIgnored: "refresh" => Accept;
}

impl Fault {
    /// The NOTIFICATION it causes; `None` when the session goes on. `data` is cut from what was received.
    pub fn notification(self, data: &[u8]) -> Option<Notification> {
        match self.reaction() {
            Reaction::Accept | Reaction::Discard | Reaction::Withdraw => None,
            Reaction::Reset(code, subcode) => Some(Notification::with_data(code, subcode, data)),
        }
    }

    /// The verdict in a word, for metrics.
    pub const fn verdict(self) -> &'static str {
        match self.reaction() {
            Reaction::Accept => "ignore",
            Reaction::Discard => "discard",
            Reaction::Withdraw => "withdraw",
            Reaction::Reset(..) => "reset",
        }
    }

    fn bit(self) -> u128 {
        1 << (self as u8)
    }
}

/// The faults of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FaultSet(u128);

impl FaultSet {
    /// Adds a fault.
    pub fn insert(&mut self, fault: Fault) {
        self.0 |= fault.bit();
    }

    /// Whether a fault was found.
    pub fn contains(self, fault: Fault) -> bool {
        self.0 & fault.bit() != 0
    }

    /// Whether nothing is wrong.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Faults in the order of the table.
    pub fn iter(self) -> impl Iterator<Item = Fault> {
        Fault::ALL
            .iter()
            .copied()
            .filter(move |fault| self.contains(*fault))
    }

    /// The strongest reaction of all.
    pub fn reaction(self) -> Reaction {
        self.iter()
            .map(Fault::reaction)
            .max()
            .unwrap_or(Reaction::Accept)
    }
}

const _: () = assert!(Fault::ALL.len() <= 128, "a FaultSet has 128 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_damage_never_yields_a_milder_verdict() {
        for first in Fault::ALL {
            for second in Fault::ALL {
                let mut set = FaultSet::default();
                set.insert(*first);
                set.insert(*second);
                assert!(set.reaction() >= first.reaction() && set.reaction() >= second.reaction());
            }
        }
    }
}
