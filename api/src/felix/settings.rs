//! The words and small structures of `FelixConfiguration`.

use std::borrow::Cow;
use std::fmt;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::scalar::{GoDuration, NumberOrText, Protocol, empty_is_none, int_or_string, text_enum};

text_enum! {
    /// How much is logged.
    pub enum LogSeverity: AnyCase {
        /// Every packet and message.
        Trace = "Trace",
        /// Every decision.
        Debug = "Debug",
        /// Changes an operator cares about.
        Info = "Info",
        /// What we recovered from.
        Warning = "Warning",
        /// What someone must act on.
        Error = "Error",
        /// What ends the process.
        Fatal = "Fatal",
    }
}

text_enum! {
    /// What happens to traffic from a pod to its own node after the pod's egress policy.
    pub enum EndpointToHostAction: AnyCase {
        /// It is dropped.
        Drop = "Drop",
        /// It is accepted.
        Accept = "Accept",
        /// The host's own rules decide.
        Return = "Return",
    }
}

text_enum! {
    /// What follows on allowed traffic.
    pub enum AllowAction: AnyCase {
        /// It is accepted at once.
        Accept = "Accept",
        /// The host's own rules follow.
        Return = "Return",
    }
}

text_enum! {
    /// How denied traffic ends.
    pub enum DenyAction: AnyCase {
        /// Silently.
        Drop = "Drop",
        /// With an answer to the sender.
        Reject = "Reject",
    }
}

text_enum! {
    /// Which iptables is used.
    pub enum IptablesBackend: AnyCase {
        /// The one the kernel's rules are in.
        Auto = "Auto",
        /// The old kernel interface.
        Legacy = "Legacy",
        /// iptables over nftables.
        Nft = "NFT",
    }
}

text_enum! {
    /// Where our jump stands in a built-in chain.
    pub enum ChainInsertMode: AnyCase {
        /// First.
        Insert = "Insert",
        /// Last.
        Append = "Append",
    }
}

text_enum! {
    /// Whether rules go to nftables.
    pub enum NftablesMode: Exact {
        /// No.
        Disabled = "Disabled",
        /// Yes.
        Enabled = "Enabled",
        /// Whenever the kernel can.
        Auto = "Auto",
    }
}

text_enum! {
    /// Whether pods may ask for foreign source addresses.
    pub enum SourceSpoofing: AnyCase {
        /// No.
        Disabled = "Disabled",
        /// Any, by annotation.
        Any = "Any",
    }
}

text_enum! {
    /// How packets to service addresses without a Service end.
    pub enum LoopPrevention: AnyCase {
        /// Silently.
        Drop = "Drop",
        /// With an answer to the sender.
        Reject = "Reject",
        /// They are routed as any other packet.
        Disabled = "Disabled",
    }
}

text_enum! {
    /// Where routes come from.
    pub enum RouteSource: AnyCase {
        /// Endpoints.
        WorkloadIPs = "WorkloadIPs",
        /// Blocks.
        CalicoIPAM = "CalicoIPAM",
    }
}

text_enum! {
    /// Destinations that are never masqueraded.
    pub enum NatExclusions: Exact {
        /// Addresses of pools.
        IPPoolsOnly = "IPPoolsOnly",
        /// Addresses of pools and of nodes.
        IPPoolsAndHostIPs = "IPPoolsAndHostIPs",
    }
}

text_enum! {
    /// Which addresses inside a host subnet are answered for on the link.
    pub enum LocalSubnetReachability: Exact {
        /// None.
        Disabled = "Disabled",
        /// Those of pods and of load balancers.
        PodsAndLoadBalancers = "PodsAndLoadBalancers",
    }
}

text_enum! {
    /// Which established flows take the flowtable.
    pub enum FlowTableOffload: Exact {
        /// None.
        Disabled = "Disabled",
        /// Those between pods.
        Enabled = "Enabled",
        /// Those over matching host interfaces too.
        All = "All",
    }
}

text_enum! {
    /// Whether live flows are evaluated again when policy changes.
    pub enum PolicyEvaluationMode: Exact {
        /// No.
        None = "None",
        /// Yes.
        Continuous = "Continuous",
    }
}

text_enum! {
    /// What is done about the source check of AWS.
    pub enum AwsSrcDstCheck: Exact {
        /// Nothing.
        DoNothing = "DoNothing",
        /// It is switched on.
        Enable = "Enable",
        /// It is switched off.
        Disable = "Disable",
    }
}

text_enum! {
    /// What happens to live flows that a tightened policy denies.
    #[derive(Default)]
    pub enum EstablishedFlows: Exact {
        /// They are cut.
        #[default]
        Reevaluate = "Reevaluate",
        /// They live on, Calico's way.
        Keep = "Keep",
    }
}

text_enum! {
    /// Calico's `bpfAttachType`.
    pub enum BpfAttachType: Exact {
        /// By qdisc.
        Tc = "TC",
        /// By link.
        Tcx = "TCX",
    }
}

text_enum! {
    /// Calico's `bpfConnectTimeLoadBalancing`.
    pub enum BpfConnectTime: Exact {
        /// TCP only.
        Tcp = "TCP",
        /// All protocols.
        Enabled = "Enabled",
        /// None.
        Disabled = "Disabled",
    }
}

text_enum! {
    /// Calico's `bpfConntrackLogLevel`.
    pub enum BpfConntrackLogLevel: Exact {
        /// Nothing.
        Off = "Off",
        /// Everything.
        Debug = "Debug",
    }
}

text_enum! {
    /// Calico's `bpfConntrackMode`.
    pub enum BpfConntrackMode: Exact {
        /// What the kernel can.
        Auto = "Auto",
        /// In the agent.
        Userspace = "Userspace",
        /// In the kernel.
        BpfProgram = "BPFProgram",
    }
}

text_enum! {
    /// Calico's `bpfEnforceRPF`.
    pub enum BpfRpf: AnyCase {
        /// No check.
        Disabled = "Disabled",
        /// Same interface.
        Strict = "Strict",
        /// Any interface.
        Loose = "Loose",
    }
}

text_enum! {
    /// Calico's `bpfExternalServiceMode`.
    pub enum BpfServiceMode: AnyCase {
        /// Both directions in a tunnel.
        Tunnel = "Tunnel",
        /// Answers go straight back.
        Dsr = "DSR",
    }
}

text_enum! {
    /// Calico's `bpfJITHardening`.
    pub enum BpfJitHardening: Exact {
        /// Lowered where it costs speed.
        Auto = "Auto",
        /// Left alone.
        Strict = "Strict",
    }
}

text_enum! {
    /// Calico's `bpfLogLevel`.
    pub enum BpfLogLevel: AnyCase {
        /// Nothing.
        Off = "Off",
        /// A little.
        Info = "Info",
        /// Everything.
        Debug = "Debug",
    }
}

text_enum! {
    /// Calico's `bpfMapSizeConntrackScaling`.
    pub enum BpfMapScaling: AnyCase {
        /// Fixed size.
        Disabled = "Disabled",
        /// Twice the size when full.
        DoubleIfFull = "DoubleIfFull",
    }
}

text_enum! {
    /// Calico's `bpfOverlayHostSourceIP`.
    pub enum BpfOverlaySource: Exact {
        /// The tunnel device's address.
        TunnelAddress = "TunnelAddress",
        /// The node's address.
        HostAddress = "HostAddress",
    }
}

text_enum! {
    /// Calico's `bpfRedirectToPeer`.
    pub enum BpfRedirect: Exact {
        /// On.
        Enabled = "Enabled",
        /// Off.
        Disabled = "Disabled",
        /// Older word for on.
        L2Only = "L2Only",
    }
}

/// Calico's `bpfConntrackTimeouts`: durations, or `Auto` for the kernel's own value.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BpfConntrackTimeouts {
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub creation_grace_period: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_syn_sent: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_established: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_fins_seen: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_reset_seen: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub udp_timeout: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub generic_timeout: Option<String>,
    /// Accepted and reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icmp_timeout: Option<String>,
}

/// The watchdog time of one component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HealthTimeoutOverride {
    /// Name of the component.
    pub name: String,
    /// How long it may stay silent.
    pub timeout: GoDuration,
}

/// Routing tables from one to another, both included.
#[derive(KubeSchema, Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[x_kube(
    validation = Rule::new("self.min >= 1").message("min must be >= 1").reason(Reason::FieldValueInvalid),
    validation = Rule::new("self.min <= self.max").message("min must not be greater than max").reason(Reason::FieldValueInvalid)
)]
pub struct RouteTableRange {
    /// First table.
    pub min: i64,
    /// Last table.
    pub max: i64,
}

/// A port, of one protocol, towards a range: what host policy never closes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ProtoPort {
    /// TCP, UDP or SCTP; absent means TCP.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_protocol_is_none"
    )]
    #[schemars(with = "Option<String>")]
    pub protocol: Option<Protocol>,
    /// Port number.
    pub port: u16,
    /// Addresses it holds for; absent means all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub net: Option<String>,
}

fn empty_protocol_is_none<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<Protocol>, D::Error> {
    let text = Option::<String>::deserialize(deserializer)?;
    Ok(text
        .filter(|text| !text.is_empty())
        .map(|text| Protocol::parse(&text)))
}

impl ProtoPort {
    /// The protocol, the default filled in.
    pub fn protocol(&self) -> Protocol {
        self.protocol.clone().unwrap_or(Protocol::Tcp)
    }
}

fn everywhere(ports: &[(Protocol, u16)]) -> Vec<ProtoPort> {
    ports
        .iter()
        .map(|(protocol, port)| ProtoPort {
            protocol: Some(protocol.clone()),
            port: *port,
            net: None,
        })
        .collect()
}

/// Ports of hosts that policy never closes when `failsafeInboundHostPorts` is absent: SSH, DHCP, BGP, etcd, Typha, API server.
pub fn default_failsafe_inbound() -> Vec<ProtoPort> {
    use Protocol::{Tcp, Udp};
    everywhere(&[
        (Tcp, 22),
        (Udp, 68),
        (Tcp, 179),
        (Tcp, 2379),
        (Tcp, 2380),
        (Tcp, 5473),
        (Tcp, 6443),
        (Tcp, 6666),
        (Tcp, 6667),
    ])
}

/// Ports hosts may always reach when `failsafeOutboundHostPorts` is absent: DNS, DHCP, BGP, etcd, Typha, API server.
pub fn default_failsafe_outbound() -> Vec<ProtoPort> {
    use Protocol::{Tcp, Udp};
    everywhere(&[
        (Udp, 53),
        (Udp, 67),
        (Tcp, 179),
        (Tcp, 2379),
        (Tcp, 2380),
        (Tcp, 5473),
        (Tcp, 6443),
        (Tcp, 6666),
        (Tcp, 6667),
    ])
}

/// A differentiated services code point, by number (0 to 63) or name, as the user wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dscp(pub String);

impl fmt::Display for Dscp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::str::FromStr for Dscp {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

impl Serialize for Dscp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.parse::<u8>() {
            Ok(number) => serializer.serialize_u8(number),
            Err(_) => serializer.serialize_str(&self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Dscp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match NumberOrText::deserialize(deserializer)? {
            NumberOrText::Number(n) => Self(n.to_string()),
            NumberOrText::Text(text) => Self(text),
        })
    }
}

impl JsonSchema for Dscp {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Dscp".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        int_or_string()
    }
}

/// Agent settings Calico's schema has no field for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FelixExtension {
    /// What happens to live flows that a tightened policy denies; absent means Reevaluate.
    #[serde(
        default,
        skip_serializing_if = "Option::is_none",
        deserialize_with = "empty_is_none"
    )]
    pub established_flows: Option<EstablishedFlows>,
}
