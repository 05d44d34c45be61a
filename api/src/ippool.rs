//! Which addresses exist and how they travel: `IPPool`, and the addresses nobody may get: `IPReservation`.

use kube::{CustomResource, KubeSchema};
use serde::{Deserialize, Serialize};

use crate::conditions::ConditionsStatus;
use crate::scalar::{empty_is_none, text_enum};

text_enum! {
    /// When packets between nodes are encapsulated.
    #[derive(Default)]
    pub enum EncapMode: Exact {
        /// The network routes pod addresses itself.
        #[default]
        Never = "Never",
        /// Between all nodes.
        Always = "Always",
        /// Between nodes of different subnets only.
        CrossSubnet = "CrossSubnet",
    }
}

text_enum! {
    /// What addresses of a pool may be used for.
    pub enum PoolUse: Exact {
        /// Pods.
        Workload = "Workload",
        /// Tunnel devices of nodes.
        Tunnel = "Tunnel",
        /// Services of type LoadBalancer.
        LoadBalancer = "LoadBalancer",
    }
}

text_enum! {
    /// Whether a pool serves requests that do not name it.
    #[derive(Default)]
    pub enum AssignmentMode: Exact {
        /// It does.
        #[default]
        Automatic = "Automatic",
        /// Only requests that name the pool (annotations) are served.
        Manual = "Manual",
    }
}

/// A range of addresses, who may allocate from it and how its packets travel.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPPool",
    plural = "ippools",
    singular = "ippool",
    shortname = "ipp",
    shortname = "ipps",
    shortname = "pool",
    shortname = "pools",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "A range of addresses, who may allocate from it and how its packets travel.",
    printcolumn = r#"{"name": "CIDR", "type": "string", "jsonPath": ".spec.cidr", "description": "The range of addresses"}"#,
    printcolumn = r#"{"name": "VXLAN", "type": "string", "jsonPath": ".spec.vxlanMode", "description": "When VXLAN is used"}"#,
    printcolumn = r#"{"name": "IPIP", "type": "string", "jsonPath": ".spec.ipipMode", "description": "When IP-in-IP is used"}"#,
    printcolumn = r#"{"name": "NAT", "type": "boolean", "jsonPath": ".spec.natOutgoing", "description": "Whether traffic leaving the pools is masqueraded"}"#,
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("!has(self.blockSize) || self.blockSize == 0 || !isCIDR(self.cidr) || (cidr(self.cidr).ip().family() == 4 ? self.blockSize >= 20 && self.blockSize <= 32 : self.blockSize >= 116 && self.blockSize <= 128)").message("blockSize must be 20 to 32 for IPv4 and 116 to 128 for IPv6").reason(Reason::FieldValueInvalid).field_path(".blockSize"),
    validation = Rule::new("!has(self.blockSize) || self.blockSize == 0 || !isCIDR(self.cidr) || (has(self.disabled) && self.disabled) || self.blockSize >= cidr(self.cidr).prefixLength()").message("the pool is smaller than one block: blockSize must not be below the prefix length of cidr").reason(Reason::FieldValueInvalid).field_path(".blockSize"),
    validation = Rule::new("!(has(self.ipipMode) && self.ipipMode != 'Never' && has(self.vxlanMode) && self.vxlanMode != 'Never')").message("ipipMode and vxlanMode cannot both be on").reason(Reason::FieldValueForbidden).field_path(".ipipMode"),
    validation = Rule::new("!has(self.namespaceSelector) || size(self.namespaceSelector) == 0 || !has(self.allowedUses) || !('Tunnel' in self.allowedUses)").message("namespaceSelector cannot be used with the use Tunnel: tunnels have no namespace").reason(Reason::FieldValueForbidden).field_path(".namespaceSelector"),
    validation = Rule::new("!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || size(self.allowedUses) == 1").message("LoadBalancer must be the only use of a pool").reason(Reason::FieldValueInvalid).field_path(".allowedUses"),
    validation = Rule::new("!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || ((!has(self.ipipMode) || self.ipipMode == 'Never') && (!has(self.vxlanMode) || self.vxlanMode == 'Never'))").message("a LoadBalancer pool cannot be encapsulated").reason(Reason::FieldValueForbidden).field_path(".allowedUses"),
    validation = Rule::new("!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || !has(self.disableBGPExport) || !self.disableBGPExport").message("a LoadBalancer pool is of no use without BGP").reason(Reason::FieldValueForbidden).field_path(".disableBGPExport"),
    validation = Rule::new(r"!has(self.allowedUses) || !('LoadBalancer' in self.allowedUses) || !has(self.nodeSelector) || self.nodeSelector.matches('^[ \\t]*(all\\([ \\t]*\\))?[ \\t]*$')").message("a LoadBalancer pool must have nodeSelector all()").reason(Reason::FieldValueForbidden).field_path(".nodeSelector"),
    validation = Rule::new("!has(oldSelf.blockSize) || oldSelf.blockSize == 0 || (has(self.blockSize) && self.blockSize == oldSelf.blockSize)").message("blockSize cannot be changed once it is set: make a new pool").reason(Reason::FieldValueForbidden).field_path(".blockSize"),
    validation = Rule::new("(has(oldSelf.allowedUses) && 'LoadBalancer' in oldSelf.allowedUses) == (has(self.allowedUses) && 'LoadBalancer' in self.allowedUses)").message("a pool cannot change into or out of LoadBalancer: make a new pool").reason(Reason::FieldValueForbidden).field_path(".allowedUses"),
    validation = Rule::new("!has(self.ipipMode) || self.ipipMode == 'Never' || !isCIDR(self.cidr) || cidr(self.cidr).ip().family() == 4").message("IP-in-IP exists for IPv4 pools only").reason(Reason::FieldValueForbidden).field_path(".ipipMode")
)]
pub struct IPPoolSpec {
    /// The range, written with its host bits zero, such as 10.244.0.0/16. It cannot be changed.
    #[schemars(length(max = 48), extend("format" = "cidr"))]
    #[x_kube(
        validation = Rule::new("self == oldSelf").message("cidr cannot be changed: make a new pool").reason(Reason::FieldValueForbidden),
        validation = Rule::new("!isCIDR(self) || (!cidr(self).containsCIDR('169.254.0.0/16') && !cidr('169.254.0.0/16').containsCIDR(cidr(self)) && !cidr(self).containsCIDR('fe80::/10') && !cidr('fe80::/10').containsCIDR(cidr(self)))").message("a pool cannot hold link-local addresses (169.254.0.0/16, fe80::/10)").reason(Reason::FieldValueInvalid),
        validation = Rule::new("!isCIDR(self) || cidr(self) == cidr(self).masked()").message("cidr has host bits set").reason(Reason::FieldValueInvalid)
    )]
    pub cidr: String,

    /// Prefix length of the blocks handed to nodes: 20 to 32 (IPv4), 116 to 128 (IPv6); 0 or absent means 26 or 122.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 128))]
    pub block_size: Option<u8>,

    /// When packets of the pool travel in IP-in-IP; absent means Never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub ipip_mode: Option<EncapMode>,

    /// When packets of the pool travel in VXLAN; absent means Never.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub vxlan_mode: Option<EncapMode>,

    /// Whether traffic from the pool to addresses outside all pools gets the node's address.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub nat_outgoing: bool,

    /// Whether new addresses are refused. Addresses in use keep their routes and NAT.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub disabled: bool,

    /// Whether blocks of the pool are kept out of BGP.
    #[serde(
        default,
        rename = "disableBGPExport",
        skip_serializing_if = "std::ops::Not::not"
    )]
    pub disable_bgp_export: bool,

    /// Selects the nodes that may allocate; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub node_selector: Option<String>,

    /// Selects the namespaces whose pods may get an address; absent or empty means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub namespace_selector: Option<String>,

    /// What the addresses may be used for; absent or empty means Workload and Tunnel.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10), extend("x-kubernetes-list-type" = "set"))]
    pub allowed_uses: Vec<PoolUse>,

    /// Whether requests that do not name the pool are served; absent means Automatic.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub assignment_mode: Option<AssignmentMode>,
}

impl IPPoolSpec {
    /// Whether the pool gives out addresses for `wanted`; an absent list means workloads and tunnels.
    pub fn serves(&self, wanted: PoolUse) -> bool {
        if self.allowed_uses.is_empty() {
            return matches!(wanted, PoolUse::Workload | PoolUse::Tunnel);
        }
        self.allowed_uses.contains(&wanted)
    }

    /// When packets travel in IP-in-IP.
    pub fn ipip(&self) -> EncapMode {
        self.ipip_mode.unwrap_or_default()
    }

    /// When packets travel in VXLAN.
    pub fn vxlan(&self) -> EncapMode {
        self.vxlan_mode.unwrap_or_default()
    }

    /// Whether requests that do not name the pool are served.
    pub fn assignment(&self) -> AssignmentMode {
        self.assignment_mode.unwrap_or_default()
    }

    /// The range, if the text is one; host bits are cut off.
    pub fn network(&self) -> Option<ipnet::IpNet> {
        self.cidr
            .parse::<ipnet::IpNet>()
            .ok()
            .map(|net| net.trunc())
    }

    /// Prefix length of the pool's blocks, the default filled in; `None` when the range cannot be read.
    pub fn block_prefix_len(&self) -> Option<u8> {
        let default = match self.network()? {
            ipnet::IpNet::V4(_) => 26,
            ipnet::IpNet::V6(_) => 122,
        };
        Some(self.block_size.filter(|len| *len != 0).unwrap_or(default))
    }
}

/// Ranges that automatic assignment skips; addresses in use and explicit requests are untouched.
#[derive(CustomResource, KubeSchema, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[kube(
    group = "projectcalico.org",
    version = "v3",
    kind = "IPReservation",
    plural = "ipreservations",
    singular = "ipreservation",
    status = "ConditionsStatus",
    derive = "PartialEq",
    derive = "Default",
    doc = "Ranges that automatic assignment skips; addresses in use and explicit requests are untouched.",
    printcolumn = r#"{"name": "Accepted", "type": "string", "jsonPath": ".status.conditions[?(@.type=='Accepted')].status", "description": "Whether the object passed every rule"}"#
)]
pub struct IPReservationSpec {
    /// The reserved ranges, such as 10.244.0.0/28; host bits are cut off, a bare address is a /32 or /128.
    #[serde(
        default,
        rename = "reservedCIDRs",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub reserved_cidrs: Vec<String>,
}

impl IPReservationSpec {
    /// The ranges that can be read, host bits cut off; the others are findings and reserve nothing.
    pub fn ranges(&self) -> impl Iterator<Item = ipnet::IpNet> + '_ {
        self.reserved_cidrs.iter().filter_map(|text| {
            let range = text.parse::<ipnet::IpNet>().ok();
            let bare = || {
                text.parse::<std::net::IpAddr>()
                    .ok()
                    .map(ipnet::IpNet::from)
            };
            range.or_else(bare).map(|net| net.trunc())
        })
    }
}
