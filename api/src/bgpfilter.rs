//! Which routes cross a BGP session, and what is changed on them: `BGPFilter`.

use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::{AsNumber, empty_is_none, text_enum};

text_enum! {
    /// How the prefix of a route is compared with the range of a rule.
    pub enum MatchOperator: Exact {
        /// The same prefix.
        Equal = "Equal",
        /// Any other prefix.
        NotEqual = "NotEqual",
        /// The range itself or a prefix inside it.
        In = "In",
        /// A prefix that is not inside the range.
        NotIn = "NotIn",
    }
}

text_enum! {
    /// Where a route comes from.
    pub enum FilterSource: Exact {
        /// A BGP peer: routes that are announced again, not our own.
        RemotePeers = "RemotePeers",
    }
}

text_enum! {
    /// What kind of session a rule is about.
    pub enum PeerType: Exact {
        /// With another AS.
        External = "eBGP",
        /// Inside one AS.
        Internal = "iBGP",
    }
}

text_enum! {
    /// What happens to a route that a rule matches.
    pub enum FilterAction: Exact {
        /// It passes.
        Accept = "Accept",
        /// It does not.
        Reject = "Reject",
    }
}

/// Rules for the routes of the peers that name the filter.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "BGPFilter",
    plural = "bgpfilters",
    singular = "bgpfilter",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Rules for the routes of the BGPPeers that name the filter: asked in order, the first that matches decides.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
pub struct BGPFilterSpec {
    /// Rules for IPv4 routes we announce.
    #[serde(default, rename = "exportV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub export_v4: Vec<FilterRuleV4>,

    /// Rules for IPv4 routes we learn.
    #[serde(default, rename = "importV4", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub import_v4: Vec<FilterRuleV4>,

    /// Rules for IPv6 routes we announce.
    #[serde(default, rename = "exportV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub export_v6: Vec<FilterRuleV6>,

    /// Rules for IPv6 routes we learn.
    #[serde(default, rename = "importV6", skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
    pub import_v6: Vec<FilterRuleV6>,
}

/// The two families differ in the longest prefix only; each needs a schema of its own.
macro_rules! filter_rule {
    ($(#[$meta:meta])* $rule:ident, $length:ident, $text:literal, $longest:literal) => {
        $(#[$meta])*
        #[derive(KubeSchema, Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename_all = "camelCase")]
        #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
        #[x_kube(
            validation = Rule::new("(has(self.cidr) && size(self.cidr) > 0) == (has(self.matchOperator) && size(self.matchOperator) > 0)").message("cidr and matchOperator belong together: set both or neither").reason(Reason::FieldValueInvalid).field_path(".matchOperator"),
            validation = Rule::new("!has(self.prefixLength) || (has(self.cidr) && size(self.cidr) > 0)").message("prefixLength needs cidr").reason(Reason::FieldValueInvalid).field_path(".prefixLength"),
            validation = Rule::new("!has(self.operations) || size(self.operations) == 0 || self.action == 'Accept'").message("operations are of use with action Accept only").reason(Reason::FieldValueForbidden).field_path(".operations")
        )]
        pub struct $rule {
            /// The range the prefix of the route is compared with, by matchOperator and prefixLength.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(max = $text), extend("format" = "cidr"))]
            pub cidr: Option<String>,

            /// Lengths of prefixes that match; absent means from that of cidr to the longest of the family.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub prefix_length: Option<$length>,

            /// Matches routes by where they come from; absent means any.
            #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
            pub source: Option<FilterSource>,

            /// Matches routes that leave by an interface of this name; `*` stands for any text.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub interface: Option<String>,

            /// How the prefix is compared with cidr.
            #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
            pub match_operator: Option<MatchOperator>,

            /// Matches sessions of this type; absent means both.
            #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "empty_is_none")]
            pub peer_type: Option<PeerType>,

            /// Matches routes that carry a community.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            pub communities: Option<CommunityMatch>,

            /// Matches routes whose AS path begins with these numbers.
            #[serde(default, skip_serializing_if = "Vec::is_empty")]
            #[schemars(extend("x-kubernetes-list-type" = "atomic"))]
            pub as_path_prefix: Vec<AsNumber>,

            /// Matches routes of this priority (metric), as FelixConfiguration counts it.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
            pub priority: Option<u32>,

            /// What happens to a route that matches.
            pub action: FilterAction,

            /// What is changed on a route that is accepted, in order.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(length(min = 1, max = 10), extend("x-kubernetes-list-type" = "atomic"))]
            pub operations: Option<Vec<FilterOperation>>,
        }

        impl $rule {
            /// A rule that matches every route.
            pub fn new(action: FilterAction) -> Self {
                Self {
                    cidr: None,
                    prefix_length: None,
                    source: None,
                    interface: None,
                    match_operator: None,
                    peer_type: None,
                    communities: None,
                    as_path_prefix: Vec::new(),
                    priority: None,
                    action,
                    operations: None,
                }
            }
        }

        /// Lengths of prefixes, both ends included.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        #[schemars(extend("x-kubernetes-map-type" = "atomic"))]
        pub struct $length {
            /// The shortest; absent means the length of cidr.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = $longest), extend("format" = "int32"))]
            pub min: Option<u8>,

            /// The longest; absent means the longest of the family.
            #[serde(default, skip_serializing_if = "Option::is_none")]
            #[schemars(range(min = 0, max = $longest), extend("format" = "int32"))]
            pub max: Option<u8>,
        }
    };
}

filter_rule!(
    /// One rule for IPv4 routes. All criteria that are set must hold.
    FilterRuleV4,
    PrefixLengthV4,
    18,
    32
);

filter_rule!(
    /// One rule for IPv6 routes. All criteria that are set must hold.
    FilterRuleV6,
    PrefixLengthV6,
    43,
    128
);

/// Pattern of a community: `aa:nn` of 16 bits each, or `aa:nn:mm` of 32 bits each. The widths of the numbers are a rule
/// ([`crate::validate`]): as a pattern they would be a page.
const COMMUNITY: &str = r"^\d{1,5}:\d{1,5}$|^\d{1,10}:\d{1,10}:\d{1,10}$";

/// A text that must be a community.
fn community_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "maxLength": 32, "pattern": COMMUNITY })
}

fn communities_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "minItems": 1,
        "maxItems": 1,
        "x-kubernetes-list-type": "atomic",
        "items": { "type": "string", "maxLength": 32, "pattern": COMMUNITY },
    })
}

/// Communities a route must carry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct CommunityMatch {
    /// Exactly one: `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
    #[schemars(schema_with = "communities_schema")]
    pub values: Vec<String>,
}

/// One change of a route: exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
#[x_kube(
    validation = Rule::new("(has(self.addCommunity) ? 1 : 0) + (has(self.prependASPath) ? 1 : 0) + (has(self.setPriority) ? 1 : 0) + (has(self.margay) ? 1 : 0) == 1").message("set exactly one operation in each entry").reason(Reason::FieldValueInvalid)
)]
pub struct FilterOperation {
    /// Adds a community.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub add_community: Option<AddCommunity>,

    /// Puts AS numbers in front of the path.
    #[serde(
        default,
        rename = "prependASPath",
        skip_serializing_if = "Option::is_none"
    )]
    pub prepend_as_path: Option<PrependAsPath>,

    /// Sets the priority (metric).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_priority: Option<SetPriority>,

    /// Operations Calico's schema has no field for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margay: Option<FilterExtension>,
}

/// Adds a community to a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct AddCommunity {
    /// `aa:nn` (RFC 1997) or `aa:nn:mm` (RFC 8092).
    #[schemars(schema_with = "community_schema")]
    pub value: String,
}

/// Puts AS numbers in front of a path.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct PrependAsPath {
    /// The numbers, in the order the path begins with.
    #[schemars(length(min = 1, max = 10), extend("x-kubernetes-list-type" = "atomic"))]
    pub prefix: Vec<AsNumber>,
}

/// Sets the priority of a route.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(extend("x-kubernetes-map-type" = "atomic"))]
pub struct SetPriority {
    /// The priority (metric), as FelixConfiguration counts it.
    #[schemars(range(min = 1, max = 2_147_483_646), extend("format" = "int32"))]
    pub value: u32,
}

/// Operations Calico's schema has no field for: exactly one field is set.
#[derive(KubeSchema, Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("(has(self.removeCommunity) ? 1 : 0) + (has(self.setLocalPref) ? 1 : 0) + (has(self.setMED) ? 1 : 0) == 1").message("set exactly one operation in each entry").reason(Reason::FieldValueInvalid)
)]
pub struct FilterExtension {
    /// Takes a community away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remove_community: Option<AddCommunity>,

    /// Sets the local preference.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u32), extend("format" = "int64"))]
    pub set_local_pref: Option<u32>,

    /// Sets the multi-exit discriminator.
    #[serde(default, rename = "setMED", skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4_294_967_295_u32), extend("format" = "int64"))]
    pub set_med: Option<u32>,
}
