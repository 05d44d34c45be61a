//! Annotations of pods, namespaces and services: read once, into types (api page §10).
//!
//! A text that cannot be read is a [`Fault`] with its key, and counts as absent; the others stand. Nothing from an annotation
//! goes anywhere unread. Whether a feature is switched on is for whoever acts on it: a key of a feature that is off is ignored
//! with an Event on the pod. Annotations of nodes are read where nodes are (crate `model`).

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::str::FromStr;

use ipnet::IpNet;

mod quantity;
mod shaping;

pub use quantity::{Quantity, QuantityError};
pub use shaping::{Dscp, Limits, Shaping};

/// Prefix of the keys about addresses.
const CNI: &str = "cni.projectcalico.org/";
/// Prefix of the keys of Services.
const SERVICE: &str = "projectcalico.org/";

/// Annotations as objects carry them.
pub type Annotations = BTreeMap<String, String>;

/// An annotation that cannot be read and counts as absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The key.
    pub key: String,
    /// What is wrong and what to write instead.
    pub message: String,
}

/// A pool as an annotation names it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolName {
    /// By the name of the object.
    Name(String),
    /// By its range.
    Range(IpNet),
}

/// A family of addresses a pod wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// An Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let odd =
            || format!("{text:?} is not an Ethernet address, write for instance 02:00:00:00:00:01");
        let mut octets = [0; 6];
        let mut parts = text.split([':', '-']);
        for octet in &mut octets {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(odd)?;
            let digits = part.bytes().all(|b| b.is_ascii_hexdigit());
            *octet = u8::from_str_radix(part, 16)
                .ok()
                .filter(|_| digits)
                .ok_or_else(odd)?;
        }
        // The lowest bit of the first octet marks a group: no interface has such an address.
        if parts.next().is_some() || octets.first().is_some_and(|first| first & 1 == 1) {
            return Err(odd());
        }
        Ok(Self(octets))
    }
}

/// What a pod asks for. Absent and unreadable are `None`: the configuration holds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PodRequest {
    /// Pools of IPv4 addresses, in order; used as they are given.
    pub pools_v4: Option<Vec<PoolName>>,
    /// Pools of IPv6 addresses, in order.
    pub pools_v6: Option<Vec<PoolName>>,
    /// Families, each once.
    pub families: Option<Vec<Family>>,
    /// These addresses, at most one of each family.
    pub addresses: Option<Vec<IpAddr>>,
    /// The Ethernet address of the pod's end.
    pub mac: Option<Mac>,
    /// Ranges the pod may send from besides its own addresses.
    pub source_prefixes: Option<Vec<IpNet>>,
    /// These addresses, without asking address management.
    pub addresses_unmanaged: Option<Vec<IpAddr>>,
    /// Addresses that are translated to the pod's.
    pub floating: Option<Vec<IpAddr>>,
    /// Limits of traffic.
    pub shaping: Shaping,
}

impl PodRequest {
    /// Reads the annotations of a pod, and those of its namespace where the pod's own say nothing.
    pub fn parse(pod: &Annotations, namespace: &Annotations) -> (Self, Vec<Fault>) {
        let mut reader = Reader {
            own: pod,
            inherited: namespace,
            faults: Vec::new(),
        };
        let mut request = Self {
            pools_v4: reader.inherited(&format!("{CNI}ipv4pools"), |text| pools(text, Family::V4)),
            pools_v6: reader.inherited(&format!("{CNI}ipv6pools"), |text| pools(text, Family::V6)),
            families: reader.inherited(&format!("{CNI}ipFamilies"), families),
            addresses: reader.own(&format!("{CNI}ipAddrs"), one_of_each),
            mac: reader.own(&format!("{CNI}hwAddr"), str::parse),
            source_prefixes: reader.own(&format!("{CNI}allowedSourcePrefixes"), ranges),
            addresses_unmanaged: reader.own(&format!("{CNI}ipAddrsNoIpam"), one_of_each),
            floating: reader.own(&format!("{CNI}floatingIPs"), addresses),
            shaping: Shaping::default(),
        };
        request.shaping = Shaping::read(&mut reader);
        if request.addresses.is_some() && request.addresses_unmanaged.is_some() {
            let message = "ipAddrs and ipAddrsNoIpam exclude each other; ipAddrs holds";
            reader.fault(&format!("{CNI}ipAddrsNoIpam"), message.to_owned());
            request.addresses_unmanaged = None;
        }
        (request, reader.faults)
    }
}

/// What a Service of type LoadBalancer asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceRequest {
    /// Pools of IPv4 addresses, in order.
    pub pools_v4: Option<Vec<PoolName>>,
    /// Pools of IPv6 addresses, in order.
    pub pools_v6: Option<Vec<PoolName>>,
    /// These addresses, at most one of each family.
    pub addresses: Option<Vec<IpAddr>>,
}

impl ServiceRequest {
    /// Reads the annotations of a Service.
    pub fn parse(service: &Annotations) -> (Self, Vec<Fault>) {
        let nothing = Annotations::new();
        let mut reader = Reader {
            own: service,
            inherited: &nothing,
            faults: Vec::new(),
        };
        let request = Self {
            pools_v4: reader.own(&format!("{SERVICE}ipv4pools"), |text| {
                pools(text, Family::V4)
            }),
            pools_v6: reader.own(&format!("{SERVICE}ipv6pools"), |text| {
                pools(text, Family::V6)
            }),
            addresses: reader.own(&format!("{SERVICE}loadBalancerIPs"), one_of_each),
        };
        for unused in [
            "projectcalico.org/natExcludeService",
            "projectcalico.org/udpConntrackCleanup",
            "lb.projectcalico.org/external-traffic-strategy",
        ] {
            if service.contains_key(unused) {
                let message = "belongs to another data plane and changes nothing here".to_owned();
                reader.fault(unused, message);
            }
        }
        (request, reader.faults)
    }
}

/// Annotations, and what was wrong with those that were read.
struct Reader<'a> {
    own: &'a Annotations,
    inherited: &'a Annotations,
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn own<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.own.get(key)?;
        self.take(key, text, read)
    }

    fn inherited<T>(&mut self, key: &str, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        let text = self.own.get(key).or_else(|| self.inherited.get(key))?;
        self.take(key, text, read)
    }

    fn take<T>(
        &mut self,
        key: &str,
        text: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        match read(text.trim()) {
            Ok(value) => Some(value),
            Err(message) => {
                self.fault(key, message);
                None
            }
        }
    }

    fn fault(&mut self, key: &str, message: String) {
        let key = key.to_owned();
        self.faults.push(Fault { key, message });
    }
}

/// A JSON list of texts, as all lists of Calico's annotations are.
fn texts(text: &str) -> Result<Vec<String>, String> {
    serde_json::from_str(text).map_err(|_why| {
        format!("{text:?} is not a JSON list of texts, write for instance [\"first\", \"second\"]")
    })
}

fn each<T>(text: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>, String> {
    texts(text)?.iter().map(|one| read(one.trim())).collect()
}

fn pools(text: &str, family: Family) -> Result<Vec<PoolName>, String> {
    let wanted = match family {
        Family::V4 => "IPv4",
        Family::V6 => "IPv6",
    };
    each(text, |one| match one.parse::<IpNet>() {
        Ok(range) if family_of(&range.addr()) == family => Ok(PoolName::Range(range.trunc())),
        Ok(range) => Err(format!("{range} is no pool of {wanted} addresses")),
        Err(_) if one.is_empty() => Err("a pool needs a name".to_owned()),
        Err(_) => Ok(PoolName::Name(one.to_owned())),
    })
}

fn family_of(address: &IpAddr) -> Family {
    match address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    }
}

fn families(text: &str) -> Result<Vec<Family>, String> {
    let list = each(text, |one| match one {
        "IPv4" | "ipv4" => Ok(Family::V4),
        "IPv6" | "ipv6" => Ok(Family::V6),
        other => Err(format!("{other:?} is not a family, write IPv4 or IPv6")),
    })?;
    match list.as_slice() {
        [] => Err("name at least one family".to_owned()),
        [first, second] if first == second => Err("each family may be listed once".to_owned()),
        [_] | [_, _] => Ok(list),
        _ => Err("there are two families".to_owned()),
    }
}

fn addresses(text: &str) -> Result<Vec<IpAddr>, String> {
    each(text, |one| {
        one.parse()
            .map_err(|_why| format!("{one:?} is not an address"))
    })
}

fn one_of_each(text: &str) -> Result<Vec<IpAddr>, String> {
    let list = addresses(text)?;
    let of = |family| list.iter().filter(|one| family_of(one) == family).count();
    if list.is_empty() {
        return Err("name at least one address".to_owned());
    }
    if of(Family::V4) > 1 || of(Family::V6) > 1 {
        return Err("at most one address of each family".to_owned());
    }
    Ok(list)
}

fn ranges(text: &str) -> Result<Vec<IpNet>, String> {
    each(text, |one| {
        one.parse::<IpNet>()
            .map(|range| range.trunc())
            .map_err(|_why| {
                format!("{one:?} is not a range of addresses, write for instance 10.0.0.0/8")
            })
    })
}

#[cfg(test)]
mod tests;
