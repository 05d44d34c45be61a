//! Routes as the kernel keys them, with what they lead to.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::sync::Arc;

use ipnet::IpNet;

use crate::link::IfName;
use crate::nexthop::NexthopId;

/// The main routing table.
pub const TABLE_MAIN: u32 = 254;
/// The metric the kernel gives an IPv6 route that asks for none.
pub const METRIC_IPV6_DEFAULT: u32 = 1024;

/// Who put a route there (`rtm_protocol`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Protocol(pub u8);

impl Protocol {
    /// Addresses and connected prefixes of the kernel itself.
    pub const KERNEL: Self = Self(2);
    /// Put by the kernel on the word of an IPv6 router (`RTPROT_RA`).
    pub const ROUTER: Self = Self(9);
    /// Planned from the World; the number Calico uses, so either takes the other's routes for its own.
    pub const PLANNED: Self = Self(80);
    /// Learnt by BGP. Also the mark of our next-hop objects.
    pub const LEARNT: Self = Self(81);
}

/// What makes two routes the same one for the kernel. Build it with [`RouteKey::new`], which normalises.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct RouteKey {
    /// Routing table.
    pub table: u32,
    /// Destination, host bits zero.
    pub prefix: IpNet,
    /// Type of service; ours are always 0.
    pub tos: u8,
    /// Metric; lower wins.
    pub metric: u32,
}

impl RouteKey {
    /// A key in the main table. Host bits are cut off; for IPv6, metric 0 becomes 1024 as in the kernel.
    pub fn new(prefix: IpNet, metric: u32) -> Self {
        let metric = match prefix {
            IpNet::V6(_) if metric == 0 => METRIC_IPV6_DEFAULT,
            IpNet::V4(_) | IpNet::V6(_) => metric,
        };
        Self {
            table: TABLE_MAIN,
            prefix: prefix.trunc(),
            tos: 0,
            metric,
        }
    }
}

impl fmt::Display for RouteKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} metric {}", self.prefix, self.metric)?;
        if self.table != TABLE_MAIN {
            write!(f, " table {}", self.table)?;
        }
        Ok(())
    }
}

/// A route without its key. `T` is [`Target`] in plans and [`KernelTarget`] once next-hop objects are chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route<T = Target> {
    /// Where packets go.
    pub target: T,
    /// Whose it is.
    pub protocol: Protocol,
    /// Preferred source of packets of this host.
    pub source: Option<IpAddr>,
    /// Path MTU in octets, `None` = the device's.
    pub mtu: Option<u32>,
}

/// One gateway over one device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hop {
    /// The gateway; may be IPv6 for an IPv4 route (RFC 8950).
    pub gateway: IpAddr,
    /// Device it is reached by.
    pub device: IfName,
    /// The gateway counts as on the link although no connected prefix covers it.
    pub onlink: bool,
}

/// Where a planned route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Target {
    /// Straight to the device: the destination answers there.
    Device(IfName),
    /// Over one gateway that many routes share (a remote node).
    Hop(Hop),
    /// Over a set of gateways that may shrink and grow; also used for a set of one, so that losing or gaining a gateway is one
    /// message whatever the number of routes.
    Group(Group),
    /// Nowhere: dropped in silence.
    Blackhole,
}

/// A set of gateways with weights, never empty. Cheap to clone: a hundred thousand learnt routes share a handful of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Group(Arc<BTreeMap<Hop, NonZeroU8>>);

impl Group {
    /// Gateways with equal weight. `None` when there are none.
    pub fn try_new(hops: impl IntoIterator<Item = Hop>) -> Option<Self> {
        Self::try_weighted(hops.into_iter().map(|hop| (hop, NonZeroU8::MIN)))
    }

    /// Gateways with weights (1 to 255, relative). `None` when there are none.
    pub fn try_weighted(hops: impl IntoIterator<Item = (Hop, NonZeroU8)>) -> Option<Self> {
        let hops: BTreeMap<_, _> = hops.into_iter().collect();
        (!hops.is_empty()).then(|| Self(Arc::new(hops)))
    }

    /// The gateways and their weights, ordered.
    pub fn hops(&self) -> impl Iterator<Item = (&Hop, NonZeroU8)> {
        self.0.iter().map(|(hop, weight)| (hop, *weight))
    }
}

/// Where a route leads as the kernel holds it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum KernelTarget {
    /// Straight to the device, scope link.
    Device(IfName),
    /// Over a next-hop object.
    Object(NexthopId),
    /// Over gateways written into the route: the form for kernels without objects.
    Inline(Group),
    /// Dropped in silence.
    Blackhole,
    /// A shape we never write; only ever read.
    Other,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_normalised_as_the_kernel_does() {
        let v6 = RouteKey::new("fd00::1/64".parse().unwrap(), 0);
        assert_eq!(v6.prefix, "fd00::/64".parse::<IpNet>().unwrap());
        assert_eq!(v6.metric, 1024);
        assert_eq!(RouteKey::new("10.0.0.0/26".parse().unwrap(), 0).metric, 0);
    }
}
