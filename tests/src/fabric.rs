//! The cables, addresses and routers of the datacentre.
//!
//! Racks are subnets; each has a top-of-rack router (ToR) that bridges its nodes and is their gateway. Two racks are
//! joined by a spine link. The control plane and a host "outside" hang behind the routers. No link ends in the
//! namespace of the user's own machine.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result};
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::family::{Families, Family};
use crate::guest::{self, Guest};
use crate::machine::Machine;
use crate::peers::{self, Software, Tor};
use crate::run::Run;
use crate::wait;

/// The addresses that pods get; the ToRs accept routes of the nodes inside it, and nothing else.
pub const POD_POOL: &str = "10.244.0.0/16";
/// The same, IPv6.
pub const POD_POOL6: &str = "fd00:244::/48";
/// The address of the API server.
pub const CONTROL: Ipv4Addr = Ipv4Addr::new(10, 0, 1, 10);
/// Its IPv6 address.
pub const CONTROL6: Ipv6Addr = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 0x10);
/// The host behind the routers, for traffic that leaves the cluster.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
/// Its IPv6 address.
pub const OUTSIDE6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x10);

/// The addresses that pods get, of one family.
pub fn pod_pool(family: Family) -> &'static str {
    match family {
        Family::V4 => POD_POOL,
        Family::V6 => POD_POOL6,
    }
}

/// The API server's address of one family.
pub fn control(family: Family) -> IpAddr {
    match family {
        Family::V4 => CONTROL.into(),
        Family::V6 => CONTROL6.into(),
    }
}

/// The address of the host behind the routers, of one family.
pub fn outside(family: Family) -> IpAddr {
    match family {
        Family::V4 => OUTSIDE.into(),
        Family::V6 => OUTSIDE6.into(),
    }
}

/// What is to be built.
#[derive(Clone, Debug)]
pub struct Topology {
    /// The racks, in order; one or two.
    pub racks: Vec<Rack>,
    /// What the cluster speaks; the routers speak BGP in these families.
    pub families: Families,
    /// Whether the nodes live in a guest, on a kernel of their own; routers, control plane and outside never do.
    pub in_guest: bool,
    /// What the disks of nodes in a guest hold from the beginning: filled in by [`crate::Lab`].
    pub images: Option<PathBuf>,
}

/// One subnet with its router and nodes.
#[derive(Clone, Debug)]
pub struct Rack {
    /// One letter; nodes are called `a1`, `a2`, … and the router `tor-a`.
    pub name: String,
    /// Node subnet; its first host address is the router.
    pub subnet: Ipv4Net,
    /// Node subnet, IPv6.
    pub subnet6: Ipv6Net,
    /// The BGP software of the router; `None`: the router speaks no BGP.
    pub software: Option<Software>,
    /// The router's autonomous system.
    pub router_as: u32,
    /// The autonomous system of the rack's nodes.
    pub node_as: u32,
    /// Its nodes.
    pub nodes: Vec<NodePlan>,
}

/// A node's name and addresses.
#[derive(Clone, Debug)]
pub struct NodePlan {
    /// Kubernetes name and host name.
    pub name: String,
    /// Address in the rack's subnet.
    pub address: Ipv4Addr,
    /// Address in the rack's IPv6 subnet.
    pub address6: Ipv6Addr,
}

impl Topology {
    /// Two racks of two nodes: rack A behind BIRD (AS 65001), rack B behind FRR (AS 65002).
    pub fn two_racks() -> Self {
        Self {
            racks: vec![
                rack("a", 1, Some(Software::Bird), 2),
                rack("b", 2, Some(Software::Frr), 2),
            ],
            families: Families::default(),
            in_guest: false,
            images: None,
        }
    }

    /// One subnet of `nodes` nodes behind a router that speaks no BGP: for a full mesh.
    pub fn one_subnet(nodes: u8) -> Self {
        Self {
            racks: vec![rack("n", 1, None, nodes)],
            families: Families::default(),
            in_guest: false,
            images: None,
        }
    }

    /// Two nodes in rack A and one in rack B, in a guest: the fewest that have a neighbour in the same subnet and one in
    /// another.
    pub fn guest_racks() -> Self {
        Self {
            racks: vec![
                rack("a", 1, Some(Software::Bird), 2),
                rack("b", 2, Some(Software::Frr), 1),
            ],
            in_guest: true,
            images: None,
            families: Families::default(),
        }
    }

    /// The same racks, speaking these families.
    #[must_use]
    pub fn speaking(self, families: Families) -> Self {
        Self { families, ..self }
    }

    /// All nodes with their racks.
    pub fn nodes(&self) -> impl Iterator<Item = (&Rack, &NodePlan)> {
        self.racks
            .iter()
            .flat_map(|rack| rack.nodes.iter().map(move |node| (rack, node)))
    }
}

fn rack(name: &str, number: u8, software: Option<Software>, nodes: u8) -> Rack {
    let (subnet, subnet6) = (
        Ipv4Addr::new(10, number, 0, 0),
        Ipv6Addr::new(0xfd00 | u16::from(number), 0, 0, 0, 0, 0, 0, 0),
    );
    let plan = |index: u8| NodePlan {
        name: format!("{name}{index}"),
        address: Ipv4Addr::new(10, number, 0, 10 + index),
        address6: Ipv6Addr::new(
            0xfd00 | u16::from(number),
            0,
            0,
            0,
            0,
            0,
            0,
            u16::from(0x10 + index),
        ),
    };
    Rack {
        name: name.to_owned(),
        subnet: Ipv4Net::new_assert(subnet, 24),
        subnet6: Ipv6Net::new_assert(subnet6, 64),
        software,
        router_as: 65_000 + u32::from(number),
        node_as: 64_511 + u32::from(number),
        nodes: (1..=nodes).map(plan).collect(),
    }
}

impl NodePlan {
    /// Its address of one family.
    pub fn of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.address.into(),
            Family::V6 => self.address6.into(),
        }
    }
}

impl Rack {
    /// The nodes' subnet of one family.
    pub fn subnet_of(&self, family: Family) -> IpNet {
        match family {
            Family::V4 => self.subnet.into(),
            Family::V6 => self.subnet6.into(),
        }
    }

    /// The router's address in the rack, of one family.
    pub fn gateway_of(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => self.gateway().into(),
            Family::V6 => self.gateway6().into(),
        }
    }

    /// The router's address in the rack.
    pub fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(u32::from(self.subnet.network()) + 1)
    }

    /// The router's IPv6 address in the rack.
    pub fn gateway6(&self) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.subnet6.network()) + 1)
    }

    /// The router's name.
    pub fn router(&self) -> String {
        format!("tor-{}", self.name)
    }
}

/// The running network: routers with their BGP daemons, and the machines that nodes and control plane live in.
#[derive(Debug)]
pub struct Fabric {
    /// What it was built from.
    pub topology: Topology,
    /// Where etcd, the API server, the controllers and the scheduler run.
    pub control: Arc<Machine>,
    /// The host behind the routers.
    pub outside: Arc<Machine>,
    /// One router per rack, in the racks' order.
    pub tors: Vec<Tor>,
    /// One machine per node, in the order of [`Topology::nodes`].
    pub nodes: Vec<Arc<Machine>>,
    tools: Vec<PathBuf>,
}

impl Fabric {
    /// Boots and cables everything and starts the routers' BGP daemons.
    ///
    /// # Errors
    /// A machine cannot be booted or configured.
    pub fn build(run: &Arc<Run>, topology: Topology, tools: &[PathBuf]) -> Result<Self> {
        let names: Vec<String> = ["control".to_owned(), "outside".to_owned()]
            .into_iter()
            .chain(topology.racks.iter().map(Rack::router))
            .collect();
        let nodes = Self::boot_nodes(run, &topology, tools);
        let mut machines =
            wait::together(&names, |name| Machine::boot(run, name, tools).map(Arc::new))?
                .into_iter();
        let mut next = || machines.next().context("as many machines as names");
        let (control, outside) = (next()?, next()?);
        let routers = topology
            .racks
            .iter()
            .map(|_| next())
            .collect::<Result<Vec<_>>>()?;
        let nodes = nodes?;
        let families = topology.families;
        for (rack, router) in topology.racks.iter().zip(&routers) {
            route_for(rack, router, families)?;
        }
        let (first, last) = (
            routers.first().context("no rack")?,
            routers.last().context("no rack")?,
        );
        spine(&topology, &routers)?;
        behind(first, "control", &control, control_link(), families)?;
        behind(last, "outside", &outside, outside_link(), families)?;
        let tors = topology
            .racks
            .iter()
            .zip(routers)
            .map(|(rack, machine)| Tor::new(rack.clone(), families, machine))
            .collect();
        let mut fabric = Self {
            topology,
            control,
            outside,
            tors,
            nodes,
            tools: tools.to_vec(),
        };
        for index in 0..fabric.nodes.len() {
            fabric.plug_in(index)?;
        }
        peers::start(&mut fabric.tors)?;
        Ok(fabric)
    }

    fn boot_nodes(
        run: &Arc<Run>,
        topology: &Topology,
        tools: &[PathBuf],
    ) -> Result<Vec<Arc<Machine>>> {
        let names: Vec<String> = topology
            .nodes()
            .map(|(_, node)| node.name.clone())
            .collect();
        if !topology.in_guest {
            return wait::together(&names, |name| Machine::boot(run, name, tools).map(Arc::new));
        }
        let options = guest::Options {
            processors: 2,
            memory: 3072,
            disk: Some(8192),
            tree: topology.images.clone(),
            ports: names.clone(),
            ..guest::Options::new("guest")
        };
        let guest = Guest::boot(run, options)?;
        wait::together(&names, |name| {
            Machine::boot_in(&guest, name, tools).map(Arc::new)
        })
    }

    /// The guest that the nodes live in.
    ///
    /// # Errors
    /// They live in none.
    pub fn guest(&self) -> Result<&Arc<Guest>> {
        let mut guests = self.nodes.iter().filter_map(|node| node.guest());
        guests.next().context("the nodes live in no guest")
    }

    /// Gives a freshly booted node its cable, addresses and default routes.
    fn plug_in(&self, index: usize) -> Result<()> {
        let (rack, plan) = self.topology.nodes().nth(index).context("no such node")?;
        let node = self.nodes.get(index).context("no such node")?;
        let tor = self
            .tors
            .iter()
            .find(|tor| tor.rack.name == rack.name)
            .context("no such rack")?;
        let port = format!("p-{}", plan.name);
        node.cable("eth0", &tor.machine, &port)?;
        tor.machine
            .ip(&format!("link set {port} master rack up\n"))?;
        let mut batch = "link set eth0 up\n".to_owned();
        for family in hosts_have(self.topology.families) {
            batch.push_str(&address(
                plan.of(family),
                rack.subnet_of(family).prefix_len(),
                "eth0",
            ));
            // Writing to a string cannot fail.
            let _ = writeln!(batch, "route add default via {}", rack.gateway_of(family));
        }
        node.ip(&batch)?;
        // As every installer of Kubernetes sets it.
        node.sysctl(&[
            "net.ipv4.ip_forward=1",
            "net.ipv6.conf.all.forwarding=1",
            "net.ipv6.conf.all.accept_ra=0",
        ])
    }

    /// Cuts a node's power and boots it again with its old disk; nothing is started on it.
    ///
    /// # Errors
    /// The machine cannot be booted or configured.
    pub fn reboot(&self, index: usize) -> Result<()> {
        let node = self.nodes.get(index).context("no such node")?;
        node.reboot(&self.tools)?;
        self.plug_in(index)
    }

    /// The router of a rack, by the rack's name.
    ///
    /// # Errors
    /// There is no such rack.
    pub fn tor(&self, rack: &str) -> Result<&Tor> {
        self.tors
            .iter()
            .find(|tor| tor.rack.name == rack)
            .with_context(|| format!("no rack {rack}"))
    }
}

/// The families that hosts have addresses of: IPv6 always, IPv4 unless the cluster is to do without.
fn hosts_have(families: Families) -> impl Iterator<Item = Family> {
    Family::BOTH
        .into_iter()
        .filter(move |family| *family == Family::V6 || families.has(Family::V4))
}

/// The line for `ip -batch` that gives a device an address, usable at once.
fn address(address: IpAddr, length: u8, device: &str) -> String {
    let nodad = if address.is_ipv6() { " nodad" } else { "" };
    format!("addr add {address}/{length} dev {device}{nodad}\n")
}

/// A router forwards, and sends no redirects: a node would learn a shortcut that BGP did not announce.
fn route_for(rack: &Rack, router: &Machine, families: Families) -> Result<()> {
    router.sysctl(&[
        "net.ipv4.ip_forward=1",
        "net.ipv6.conf.all.forwarding=1",
        "net.ipv4.conf.all.send_redirects=0",
        "net.ipv4.conf.default.send_redirects=0",
        "net.ipv4.conf.all.rp_filter=0",
        "net.ipv4.conf.default.rp_filter=0",
    ])?;
    let mut batch =
        "link add rack type bridge forward_delay 0 stp_state 0\nlink set rack up\n".to_owned();
    for family in hosts_have(families) {
        batch.push_str(&address(
            rack.gateway_of(family),
            rack.subnet_of(family).prefix_len(),
            "rack",
        ));
    }
    router.ip(&batch)
}

/// A router's end of the spine link, which is 10.0.0.0/31 and `fd00:10::/127`: 0 in the first rack, 1 in the second.
pub(crate) fn spine_end(rack: u8, family: Family) -> IpAddr {
    match family {
        Family::V4 => Ipv4Addr::new(10, 0, 0, rack).into(),
        Family::V6 => Ipv6Addr::new(0xfd00, 0x10, 0, 0, 0, 0, 0, rack.into()).into(),
    }
}

/// The link between the routers of two racks.
fn spine(topology: &Topology, routers: &[Arc<Machine>]) -> Result<()> {
    let ([left, right], [_, _]) = (routers, topology.racks.as_slice()) else {
        return Ok(());
    };
    left.cable("spine", right, "spine")?;
    for (router, number) in [(left, 0), (right, 1)] {
        let mut batch = "link set spine up\n".to_owned();
        for family in hosts_have(topology.families) {
            let length = if family == Family::V4 { 31 } else { 127 };
            batch.push_str(&address(spine_end(number, family), length, "spine"));
        }
        router.ip(&batch)?;
    }
    Ok(())
}

/// A host's address, its router's, and the length of their prefix.
type Link = fn(Family) -> (IpAddr, IpAddr, u8);

fn control_link() -> Link {
    |family| match family {
        Family::V4 => (control(family), Ipv4Addr::new(10, 0, 1, 1).into(), 24),
        Family::V6 => {
            let gateway = Ipv6Addr::new(0xfd00, 1, 0, 0, 0, 0, 0, 1);
            (control(family), gateway.into(), 64)
        }
    }
}

fn outside_link() -> Link {
    |family| match family {
        Family::V4 => (outside(family), Ipv4Addr::new(192, 0, 2, 1).into(), 24),
        Family::V6 => {
            let gateway = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1);
            (outside(family), gateway.into(), 64)
        }
    }
}

/// A host behind a router, on a link of its own.
fn behind(
    router: &Machine,
    port: &str,
    host: &Machine,
    link: Link,
    families: Families,
) -> Result<()> {
    router.cable(port, host, "eth0")?;
    let mut here = format!("link set {port} up\n");
    let mut there = "link set eth0 up\n".to_owned();
    for family in hosts_have(families) {
        let (own, gateway, length) = link(family);
        here.push_str(&address(gateway, length, port));
        there.push_str(&address(own, length, "eth0"));
        // Writing to a string cannot fail.
        let _ = writeln!(there, "route add default via {gateway}");
    }
    router.ip(&here)?;
    host.ip(&there)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_racks_have_the_addresses_of_the_plan() {
        let topology = Topology::two_racks();
        let nodes: Vec<String> = topology
            .nodes()
            .map(|(rack, node)| {
                format!(
                    "{} {} {} {}",
                    node.name, node.address, node.address6, rack.node_as
                )
            })
            .collect();
        assert_eq!(
            nodes,
            [
                "a1 10.1.0.11 fd01::11 64512",
                "a2 10.1.0.12 fd01::12 64512",
                "b1 10.2.0.11 fd02::11 64513",
                "b2 10.2.0.12 fd02::12 64513"
            ]
        );
        let racks: Vec<String> = topology
            .racks
            .iter()
            .map(|rack| format!("{} {} {}", rack.router(), rack.gateway(), rack.router_as))
            .collect();
        assert_eq!(racks, ["tor-a 10.1.0.1 65001", "tor-b 10.2.0.1 65002"]);
    }
}
