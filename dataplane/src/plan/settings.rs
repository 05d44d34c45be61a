//! Configuration in typed form: FelixConfiguration read once, with what could not be read.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use api::felix::NatExclusions;
use api::{FelixConfigurationSpec, Switch};
use ipnet::IpNet;
use regex::Regex;

use crate::link::IfName;
use crate::route::Protocol;
use crate::tables::Strangers;

/// Calico's VXLAN network identifier.
pub const DEFAULT_VNI: u32 = 4096;
/// The port IANA gave VXLAN.
pub const DEFAULT_VXLAN_PORT: u16 = 4789;
/// Calico's default `mtuIfacePattern`.
pub const DEFAULT_MTU_PATTERN: &str = "^((en|wl|ww|sl|ib)[Pcopsvx].*|(eth|wlan|wwan).*)";
const DEFAULT_PRIORITY: u32 = 1024;
const VNI_MAX: u32 = (1 << 24) - 1;

/// Whether BGP runs on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bgp {
    /// Pools without encapsulation are routed by BGP.
    On,
    /// The planner routes them straight to the node address.
    Off,
}

/// Room that is kept for an encapsulation that another part brings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserve {
    /// It is not in use.
    Off,
    /// Its usual overhead.
    Derived,
    /// What the configuration says its device can carry, octets.
    Fixed(u32),
}

/// What the plans need to know of the configuration.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Who routes pools without encapsulation.
    pub bgp: Bgp,
    /// IPv6 is handled.
    pub ipv6: bool,
    /// The daemon turns on forwarding of IPv4 packets on the host.
    pub forwarding: bool,
    /// VXLAN network identifier.
    pub vxlan_vni: u32,
    /// VXLAN UDP port.
    pub vxlan_port: u16,
    /// MTU of `vxlan.calico`, `None` = derived.
    pub vxlan_mtu: Option<u32>,
    /// MTU of `vxlan-v6.calico`, `None` = derived.
    pub vxlan_mtu_v6: Option<u32>,
    /// MTU of `tunl0`, `None` = derived.
    pub ipip_mtu: Option<u32>,
    /// What `WireGuard` would take from packets of each family, IPv4 first.
    pub wireguard: [Reserve; 2],
    /// Which devices count for the MTU of the host.
    pub mtu_pattern: Regex,
    /// Protocol of planned routes.
    pub route_protocol: Protocol,
    /// What becomes of routes on host ends that nobody here put there.
    pub strangers: Strangers,
    /// Metric of routes to pods, IPv4.
    pub priority_v4: u32,
    /// Metric of routes to pods, IPv6.
    pub priority_v6: u32,
    /// Preferred source of routes to pods, IPv4.
    pub device_source_v4: Option<Ipv4Addr>,
    /// Preferred source of routes to pods, IPv6.
    pub device_source_v6: Option<Ipv6Addr>,
    /// Further sources of tunnel packets.
    pub external_nodes: Vec<IpNet>,
    /// Ports for masqueraded TCP and UDP, inclusive.
    pub nat_ports: Option<(u16, u16)>,
    /// Address to translate to, `None` = the leaving interface's.
    pub nat_address: Option<Ipv4Addr>,
    /// Node addresses are not translated towards.
    pub nat_excludes_hosts: bool,
    /// Translate only what leaves here.
    pub nat_interface: Option<String>,
}

/// A field that is not used as written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("FelixConfiguration {field}: {value:?} {problem}")]
pub struct SettingError {
    /// Name of the field as users write it.
    pub field: &'static str,
    /// What stands there, cut to 64 characters.
    pub value: String,
    /// What is wrong and what is used instead.
    pub problem: &'static str,
}

impl Settings {
    /// The built-in values.
    pub fn new(bgp: Bgp) -> Self {
        Self::read(bgp, &FelixConfigurationSpec::default()).0
    }

    /// Reads the merged configuration. A bad field takes its built-in value and is reported.
    pub fn read(bgp: Bgp, spec: &FelixConfigurationSpec) -> (Self, Vec<SettingError>) {
        let mut bad = Bad(Vec::new());
        let settings = Self {
            bgp,
            ipv6: spec.ipv6_support.unwrap_or(true),
            forwarding: spec.ip_forwarding != Some(Switch::Disabled),
            vxlan_vni: bad.vni(spec.vxlan_vni),
            vxlan_port: spec
                .vxlan_port
                .filter(|&port| port != 0)
                .unwrap_or(DEFAULT_VXLAN_PORT),
            vxlan_mtu: spec.vxlan_mtu.filter(|&mtu| mtu != 0),
            vxlan_mtu_v6: spec.vxlan_mtuv6.filter(|&mtu| mtu != 0),
            ipip_mtu: spec.ipip_mtu.filter(|&mtu| mtu != 0),
            wireguard: [
                reserve(spec.wireguard_enabled, spec.wireguard_mtu),
                reserve(spec.wireguard_enabled_v6, spec.wireguard_mtuv6),
            ],
            mtu_pattern: bad.pattern(spec.mtu_iface_pattern.as_deref()),
            route_protocol: bad.protocol(spec.device_route_protocol),
            strangers: if spec.remove_external_routes == Some(false) {
                Strangers::Keep
            } else {
                Strangers::Remove
            },
            priority_v4: spec.ipv4_normal_route_priority.unwrap_or(DEFAULT_PRIORITY),
            priority_v6: spec.ipv6_normal_route_priority.unwrap_or(DEFAULT_PRIORITY),
            device_source_v4: bad.parse(
                "deviceRouteSourceAddress",
                spec.device_route_source_address.as_deref(),
            ),
            device_source_v6: bad.parse(
                "deviceRouteSourceAddressIPv6",
                spec.device_route_source_address_ipv6.as_deref(),
            ),
            external_nodes: bad.nets(&spec.external_nodes_list),
            nat_ports: bad.ports(spec.nat_port_range.as_ref()),
            nat_address: bad.parse("natOutgoingAddress", spec.nat_outgoing_address.as_deref()),
            nat_excludes_hosts: spec.nat_outgoing_exclusions
                == Some(NatExclusions::IPPoolsAndHostIPs),
            nat_interface: bad.interface(spec.iptables_nat_outgoing_interface_filter.as_deref()),
        };
        (settings, bad.0)
    }

    /// Metric of routes to pods of an address's family.
    pub fn priority(&self, address: IpAddr) -> u32 {
        if address.is_ipv6() {
            self.priority_v6
        } else {
            self.priority_v4
        }
    }

    /// Preferred source of routes to pods of an address's family.
    pub fn device_source(&self, address: IpAddr) -> Option<IpAddr> {
        if address.is_ipv6() {
            self.device_source_v6.map(IpAddr::from)
        } else {
            self.device_source_v4.map(IpAddr::from)
        }
    }
}

fn reserve(enabled: Option<bool>, mtu: Option<u32>) -> Reserve {
    if enabled != Some(true) {
        return Reserve::Off;
    }
    mtu.filter(|&mtu| mtu != 0)
        .map_or(Reserve::Derived, Reserve::Fixed)
}

struct Bad(Vec<SettingError>);

impl Bad {
    fn report(&mut self, field: &'static str, value: &str, problem: &'static str) {
        self.0.push(SettingError {
            field,
            value: value.chars().take(64).collect(),
            problem,
        });
    }

    fn vni(&mut self, value: Option<u32>) -> u32 {
        match value {
            Some(vni) if vni > VNI_MAX => {
                self.report(
                    "vxlanVNI",
                    &vni.to_string(),
                    "is above 16777215; 4096 is used",
                );
                DEFAULT_VNI
            }
            Some(0) | None => DEFAULT_VNI,
            Some(vni) => vni,
        }
    }

    fn pattern(&mut self, value: Option<&str>) -> Regex {
        let wanted = value.filter(|text| !text.is_empty());
        if let Some(text) = wanted {
            match Regex::new(text) {
                Ok(regex) => return regex,
                Err(_) => self.report(
                    "mtuIfacePattern",
                    text,
                    "is no regular expression; the default is used",
                ),
            }
        }
        Regex::new(DEFAULT_MTU_PATTERN)
            .expect("the default pattern is a constant that a test compiles")
    }

    fn protocol(&mut self, value: Option<u8>) -> Protocol {
        match value {
            // 3 is Calico's default for routes to pods: adopted, written as 80.
            None | Some(0 | 3) => Protocol::PLANNED,
            Some(81) => {
                self.report(
                    "deviceRouteProtocol",
                    "81",
                    "marks learnt routes; 80 is used",
                );
                Protocol::PLANNED
            }
            Some(2) => {
                self.report(
                    "deviceRouteProtocol",
                    "2",
                    "marks the kernel's own routes; 80 is used",
                );
                Protocol::PLANNED
            }
            Some(other) => Protocol(other),
        }
    }

    fn parse<T: std::str::FromStr>(
        &mut self,
        field: &'static str,
        value: Option<&str>,
    ) -> Option<T> {
        let text = value.filter(|text| !text.is_empty())?;
        let parsed = text.parse().ok();
        if parsed.is_none() {
            self.report(field, text, "is no address; none is used");
        }
        parsed
    }

    fn nets(&mut self, list: &[String]) -> Vec<IpNet> {
        let mut nets = Vec::new();
        for text in list {
            let net = text
                .parse::<IpNet>()
                .ok()
                .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
            match net {
                Some(net) => nets.push(net.trunc()),
                None => self.report("externalNodesList", text, "is no prefix; it is left out"),
            }
        }
        nets
    }

    fn ports(&mut self, value: Option<&api::Port>) -> Option<(u16, u16)> {
        match value? {
            api::Port::Number(port) => Some((port.get(), port.get())),
            api::Port::Range(first, last) => Some((first.get(), last.get())),
            api::Port::Name(text) | api::Port::Invalid(text) => {
                self.report("natPortRange", text, "is no port range; the kernel chooses");
                None
            }
        }
    }

    fn interface(&mut self, value: Option<&str>) -> Option<String> {
        let text = value.filter(|text| !text.is_empty())?;
        // iptables' own wildcard: a trailing plus.
        let name = text.strip_suffix('+').unwrap_or(text);
        if name.is_empty() || IfName::parse(name).is_err() {
            self.report(
                "iptablesNATOutgoingInterfaceFilter",
                text,
                "is no interface name; every interface counts",
            );
            return None;
        }
        Some(text.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_values_are_calicos() {
        let settings = Settings::new(Bgp::On);
        assert_eq!((settings.vxlan_vni, settings.vxlan_port), (4096, 4789));
        assert_eq!(
            (settings.priority_v4, settings.route_protocol),
            (1024, Protocol::PLANNED)
        );
        assert!(settings.mtu_pattern.is_match("ens3") && !settings.mtu_pattern.is_match("cali1"));
    }

    #[test]
    fn bad_fields_are_named_and_take_their_default() {
        let spec = FelixConfigurationSpec {
            vxlan_vni: Some(1 << 24),
            mtu_iface_pattern: Some("(".into()),
            device_route_protocol: Some(81),
            external_nodes_list: vec!["10.0.0.0/8".into(), "ten".into()],
            nat_outgoing_address: Some("x".into()),
            ..FelixConfigurationSpec::default()
        };
        let (settings, bad) = Settings::read(Bgp::On, &spec);
        let fields: Vec<_> = bad.iter().map(|error| error.field).collect();
        assert_eq!(
            fields,
            [
                "vxlanVNI",
                "mtuIfacePattern",
                "deviceRouteProtocol",
                "externalNodesList",
                "natOutgoingAddress"
            ]
        );
        assert_eq!(settings.external_nodes.len(), 1);
        assert_eq!(settings.vxlan_vni, DEFAULT_VNI);
    }
}
