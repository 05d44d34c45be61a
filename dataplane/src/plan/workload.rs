//! The recipe of a pod: one veth pair, plumbed on both sides so that no packet needs ARP, a subnet or a bridge.
//!
//! ```text
//!   sandbox                                   host
//!   eth0  10.244.1.5/32                       cali0123456789a   ee:ee:ee:ee:ee:ee
//!     169.254.1.1 dev eth0 scope link           10.244.1.5 lladdr <eth0> permanent
//!     default via 169.254.1.1                   (the route is the planner's)
//!     169.254.1.1 lladdr ee:ee:… permanent      down until policy stands
//! ```
//!
//! What is done and in which order is data; `io::workload` performs it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use data_encoding::HEXLOWER;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use model::PodRef;
use sha1::{Digest, Sha1};

use crate::link::{BadIfName, IfName, Mac};
use crate::sysctl::{Ipv6Key, Ipv6Scope, Sysctl};

/// Hardware address of every host end.
pub const HOST_MAC: Mac = Mac([0xee; 6]);
/// The gateway every pod sees, IPv4.
pub const GATEWAY_V4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The gateway every pod sees, IPv6: what EUI-64 makes of [`HOST_MAC`].
pub const GATEWAY_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0xecee, 0xeeff, 0xfeee, 0xeeee);
/// Start of the alias on every device of ours.
pub const ALIAS: &str = "margay";
/// The kernel's limit is 256 with the terminating zero (`IFALIASZ`).
const ALIAS_MAX: usize = 255;
const NAME_MAX: usize = 15;
const HASH_DIGITS: usize = 11;
const HASH_DIGITS_LEAST: usize = 7;
/// The interface that gets Calico's name on the host.
const FIRST_INTERFACE: &str = "eth0";

/// Whose interface it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner<'a> {
    /// A pod.
    Pod(&'a PodRef),
    /// A container of which the runtime told no pod.
    Container(&'a str),
}

/// Why an attachment cannot be planned.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadError {
    /// The prefix leaves no room for a hash.
    #[error("interfacePrefix {0:?} is longer than 8 octets or empty")]
    Prefix(String),
    /// A name that the kernel cannot have.
    #[error(transparent)]
    Name(#[from] BadIfName),
    /// Two addresses of one family, or none at all.
    #[error("an interface takes one or two addresses, of different families; got {0}")]
    Addresses(usize),
}

/// Name of the host end, by Calico's rule for a pod's `eth0`, so that tools and a takeover find it.
///
/// # Errors
/// [`WorkloadError::Prefix`] when fewer than 7 digits of the hash would fit.
pub fn host_name(prefix: &str, owner: Owner<'_>, ifname: &str) -> Result<IfName, WorkloadError> {
    let room = NAME_MAX.saturating_sub(prefix.len()).min(HASH_DIGITS);
    if prefix.is_empty() || room < HASH_DIGITS_LEAST {
        return Err(WorkloadError::Prefix(prefix.chars().take(64).collect()));
    }
    let first = ifname == FIRST_INTERFACE;
    let text = match owner {
        Owner::Pod(pod) if first => sha1_hex(&format!("{}.{}", pod.namespace, pod.name)),
        Owner::Pod(pod) => sha1_hex(&format!("{}.{}.{ifname}", pod.namespace, pod.name)),
        Owner::Container(id) if first => id.to_owned(),
        Owner::Container(id) => sha1_hex(&format!("{id}.{ifname}")),
    };
    let suffix: String = text.chars().take(room).collect();
    Ok(IfName::parse(&format!("{prefix}{suffix}"))?)
}

/// Alias of the host end: whose it is, readable by people and by the next daemon.
pub fn alias(owner: Owner<'_>, container: &str) -> String {
    let text = match owner {
        Owner::Pod(pod) => format!("{ALIAS} {pod} {container}"),
        Owner::Container(_) => format!("{ALIAS} - {container}"),
    };
    text.chars()
        .filter(char::is_ascii)
        .take(ALIAS_MAX)
        .collect()
}

/// Reads an alias back: pod as `namespace/name` (`None` without one) and container id, which may be cut short.
pub fn parse_alias(text: &str) -> Option<(Option<PodRef>, &str)> {
    let mut words = text.split(' ');
    if words.next()? != ALIAS {
        return None;
    }
    let pod = words.next()?;
    let container = words.next()?;
    if pod == "-" {
        return Some((None, container));
    }
    let (namespace, name) = pod.split_once('/')?;
    Some((Some(PodRef::new(namespace, name)), container))
}

/// Whether the sandbox gets a default route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefaultRoute {
    /// Unless the sandbox has one in that family.
    IfNone,
    /// Always.
    Always,
    /// Never; `routes` say what is reachable.
    Never,
}

/// What the runtime and the configuration want.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attachment {
    /// Host end.
    pub host: IfName,
    /// Sandbox end.
    pub sandbox: IfName,
    /// Alias of the host end, see [`alias`].
    pub alias: String,
    /// One address, or one of each family.
    pub addresses: Vec<IpAddr>,
    /// Both ends, octets.
    pub mtu: u32,
    /// Whether the sandbox forwards packets.
    pub forwarding: Forwarding,
    /// Default routes.
    pub default_route: DefaultRoute,
    /// Further destinations through the gateway of their family.
    pub routes: Vec<IpNet>,
}

/// Whether a sandbox forwards packets between its interfaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forwarding {
    /// It does.
    On,
    /// It does not.
    Off,
}

impl Forwarding {
    fn value(self) -> u32 {
        match self {
            Self::On => 1,
            Self::Off => 0,
        }
    }
}

/// What to do, in order: the pair, then everything in the sandbox, then the host's side. Undone by deleting the pair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The pair, made in one request with its far end inside the sandbox.
    pub veth: Veth,
    /// In the sandbox.
    pub sandbox: Vec<SandboxStep>,
    /// On the host.
    pub host: Vec<HostStep>,
}

/// The pair; the host end stays down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Veth {
    /// Host end.
    pub host: IfName,
    /// Sandbox end.
    pub sandbox: IfName,
    /// Hardware address of the host end; the other is the kernel's choice.
    pub host_mac: Mac,
    /// Both ends, octets.
    pub mtu: u32,
    /// Alias of the host end.
    pub alias: String,
}

/// One act inside the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxStep {
    /// Writes a setting.
    Sysctl(Setting),
    /// Adds an address; IPv6 without duplicate detection.
    Address(IpNet),
    /// Adds a permanent neighbour.
    Neighbour(IpAddr, Mac),
    /// Brings the sandbox end up.
    Up,
    /// Adds a route straight to the link.
    LinkRoute(IpNet),
    /// Adds a route over a gateway.
    Route {
        /// Destination.
        destination: IpNet,
        /// Gateway.
        via: IpAddr,
        /// What to do when the destination already has a route.
        existing: Existing,
    },
}

/// What becomes of a route that is already there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Existing {
    /// It stays and ours is not added.
    Keep,
    /// It is replaced.
    Replace,
}

/// One act on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HostStep {
    /// IPv4 settings of the host end, told over netlink: `forwarding`, `proxy_arp`, `route_localnet` 1, `proxy_delay` 0.
    Ipv4,
    /// Writes a setting.
    Sysctl(Setting),
    /// Adds the link-local gateway address, without duplicate detection.
    LinkLocal(Ipv6Net),
    /// Adds the pod as a permanent neighbour, with the hardware address its end got.
    PodNeighbour(IpAddr),
}

/// A setting and what to do where the kernel does not have it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The key.
    pub key: Sysctl,
    /// The value.
    pub value: u32,
    /// A kernel without IPv6 has no such key.
    pub missing: Missing,
}

/// What a missing key means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Missing {
    /// What the key would switch off is not there either.
    Harmless,
    /// The attachment cannot work.
    Fails,
}

/// Plans an attachment.
///
/// # Errors
/// [`WorkloadError::Addresses`] unless there is one address, or one of each family.
pub fn plan(attachment: &Attachment) -> Result<Recipe, WorkloadError> {
    let v4 = attachment
        .addresses
        .iter()
        .filter(|address| address.is_ipv4())
        .count();
    let v6 = attachment.addresses.len() - v4;
    if v4 > 1 || v6 > 1 || v4 + v6 == 0 {
        return Err(WorkloadError::Addresses(attachment.addresses.len()));
    }
    let mut addresses = attachment.addresses.clone();
    addresses.sort();
    let mut sandbox = sandbox_settings(attachment, v6 > 0);
    for &address in &addresses {
        sandbox.push(SandboxStep::Address(address.into()));
        sandbox.push(SandboxStep::Neighbour(gateway(address), HOST_MAC));
    }
    sandbox.push(SandboxStep::Up);
    for &address in &addresses {
        sandbox_routes(attachment, address, &mut sandbox);
    }
    Ok(Recipe {
        veth: Veth {
            host: attachment.host.clone(),
            sandbox: attachment.sandbox.clone(),
            host_mac: HOST_MAC,
            mtu: attachment.mtu,
            alias: attachment.alias.clone(),
        },
        sandbox,
        host: host_steps(attachment, &addresses, v6 > 0),
    })
}

fn sandbox_settings(attachment: &Attachment, v6: bool) -> Vec<SandboxStep> {
    let forwarding = attachment.forwarding.value();
    let mut settings = vec![setting(Sysctl::Ipv4Forward, forwarding, Missing::Fails)];
    if v6 {
        for scope in [Ipv6Scope::All, Ipv6Scope::Default, Ipv6Scope::Loopback] {
            settings.push(setting(Sysctl::DisableIpv6(scope), 0, Missing::Fails));
        }
        let dad = Sysctl::Ipv6Device(attachment.sandbox.clone(), Ipv6Key::AcceptDad);
        settings.push(setting(dad, 0, Missing::Fails));
        // Its routes are given; nobody on the link tells it others.
        let routers = Sysctl::Ipv6Device(attachment.sandbox.clone(), Ipv6Key::AcceptRa);
        settings.push(setting(routers, 0, Missing::Fails));
        settings.push(setting(
            Sysctl::Ipv6AllForwarding,
            forwarding,
            Missing::Fails,
        ));
    }
    settings.into_iter().map(SandboxStep::Sysctl).collect()
}

fn sandbox_routes(attachment: &Attachment, address: IpAddr, steps: &mut Vec<SandboxStep>) {
    let via = gateway(address);
    if address.is_ipv4() {
        steps.push(SandboxStep::LinkRoute(via.into()));
    }
    let everything = match address {
        IpAddr::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpAddr::V6(_) => IpNet::V6(Ipv6Net::default()),
    };
    let existing = match attachment.default_route {
        DefaultRoute::IfNone => Some(Existing::Keep),
        DefaultRoute::Always => Some(Existing::Replace),
        DefaultRoute::Never => None,
    };
    if let Some(existing) = existing {
        steps.push(SandboxStep::Route {
            destination: everything,
            via,
            existing,
        });
    }
    for &destination in &attachment.routes {
        if destination.addr().is_ipv4() == address.is_ipv4() && destination != everything {
            steps.push(SandboxStep::Route {
                destination,
                via,
                existing: Existing::Replace,
            });
        }
    }
}

fn host_steps(attachment: &Attachment, addresses: &[IpAddr], v6: bool) -> Vec<HostStep> {
    let device = |key| Sysctl::Ipv6Device(attachment.host.clone(), key);
    // Also for pods without IPv6: a pod must not be able to talk the host into a route (CVE-2020-13597).
    let mut steps = vec![
        HostStep::Ipv4,
        HostStep::Sysctl(setting(device(Ipv6Key::AcceptRa), 0, Missing::Harmless)),
    ];
    if v6 {
        for (key, value) in [
            (Ipv6Key::Disable, 0),
            (Ipv6Key::AcceptDad, 0),
            (Ipv6Key::Forwarding, 1),
            (Ipv6Key::ProxyNdp, 1),
        ] {
            steps.push(HostStep::Sysctl(setting(
                device(key),
                value,
                Missing::Fails,
            )));
        }
        steps.push(HostStep::LinkLocal(gateway_v6()));
    }
    steps.extend(addresses.iter().copied().map(HostStep::PodNeighbour));
    steps
}

fn setting(key: Sysctl, value: u32, missing: Missing) -> Setting {
    Setting {
        key,
        value,
        missing,
    }
}

/// The address every host end of an IPv6 pod carries.
pub(crate) fn gateway_v6() -> Ipv6Net {
    Ipv6Net::new_assert(GATEWAY_V6, 64)
}

fn gateway(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V4(_) => GATEWAY_V4.into(),
        IpAddr::V6(_) => GATEWAY_V6.into(),
    }
}

fn sha1_hex(text: &str) -> String {
    HEXLOWER.encode(&Sha1::digest(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attachment(addresses: &[&str]) -> Attachment {
        Attachment {
            host: IfName::parse("cali0123456789a").unwrap(),
            sandbox: IfName::parse("eth0").unwrap(),
            alias: "margay a/b c".into(),
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mtu: 1450,
            forwarding: Forwarding::Off,
            default_route: DefaultRoute::IfNone,
            routes: Vec::new(),
        }
    }

    #[test]
    fn host_names_are_calicos_for_the_first_interface() {
        let pod = PodRef::new("kube-system", "coredns-5d78c9869d-x7lq2");
        let name = host_name("cali", Owner::Pod(&pod), "eth0").unwrap();
        let digest = sha1_hex("kube-system.coredns-5d78c9869d-x7lq2");
        assert_eq!(name.as_str(), format!("cali{}", &digest[..11]));
        assert_ne!(host_name("cali", Owner::Pod(&pod), "net1").unwrap(), name);
        let id = "0123456789abcdef0123";
        assert_eq!(
            host_name("cali", Owner::Container(id), "eth0")
                .unwrap()
                .as_str(),
            "cali0123456789a"
        );
    }

    #[test]
    fn a_long_prefix_shortens_the_hash_down_to_seven_digits() {
        let pod = PodRef::new("a", "b");
        assert_eq!(
            host_name("longones", Owner::Pod(&pod), "eth0")
                .unwrap()
                .as_str()
                .len(),
            15
        );
        assert!(matches!(
            host_name("ninechars", Owner::Pod(&pod), "eth0"),
            Err(WorkloadError::Prefix(_))
        ));
        assert!(host_name("", Owner::Pod(&pod), "eth0").is_err());
    }

    #[test]
    fn an_alias_is_read_back() {
        let pod = PodRef::new("web", "front-1");
        let text = alias(Owner::Pod(&pod), "abc123");
        assert_eq!(parse_alias(&text), Some((Some(pod), "abc123")));
        assert_eq!(
            parse_alias(&alias(Owner::Container("x"), "x")),
            Some((None, "x"))
        );
        assert_eq!(parse_alias("somebody else"), None);
        assert!(alias(Owner::Container("x"), &"y".repeat(300)).len() <= ALIAS_MAX);
    }

    #[test]
    fn the_order_is_settings_addresses_up_routes() {
        let recipe = plan(&attachment(&["10.244.1.5"])).unwrap();
        let via = IpAddr::from(GATEWAY_V4);
        assert_eq!(
            recipe.sandbox,
            [
                SandboxStep::Sysctl(setting(Sysctl::Ipv4Forward, 0, Missing::Fails)),
                SandboxStep::Address("10.244.1.5/32".parse().unwrap()),
                SandboxStep::Neighbour(via, HOST_MAC),
                SandboxStep::Up,
                SandboxStep::LinkRoute("169.254.1.1/32".parse().unwrap()),
                SandboxStep::Route {
                    destination: "0.0.0.0/0".parse().unwrap(),
                    via,
                    existing: Existing::Keep,
                },
            ]
        );
        assert_eq!(
            recipe.host.len(),
            3,
            "IPv4 settings, accept_ra, the neighbour"
        );
    }

    #[test]
    fn dual_stack_is_both_columns_ipv4_first() {
        let recipe = plan(&attachment(&["fd00::5", "10.244.1.5"])).unwrap();
        let addresses: Vec<_> = recipe
            .sandbox
            .iter()
            .filter_map(|step| {
                if let SandboxStep::Address(net) = step {
                    Some(net.to_string())
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(addresses, ["10.244.1.5/32", "fd00::5/128"]);
        assert!(
            recipe
                .host
                .iter()
                .any(|step| matches!(step, HostStep::LinkLocal(_)))
        );
    }

    #[test]
    fn only_one_address_of_a_family_is_taken() {
        assert!(plan(&attachment(&[])).is_err());
        assert!(plan(&attachment(&["10.0.0.1", "10.0.0.2"])).is_err());
    }
}
