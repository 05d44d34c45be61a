//! The standard chain: the reference plugins `ptp` and `host-local` with static routes. It proves the test bed without
//! Margay, and it is what Margay's figures stand beside.

use std::net::Ipv4Addr;

use anyhow::{Context, Result};

use crate::lab::Lab;

/// Where Debian's `containernetworking-plugins` puts them; on the nodes they go to `/opt/cni/bin`.
const PLUGINS: &str = "/usr/lib/cni";

/// The network configuration of a node with pods in `subnet`.
pub fn conflist(subnet: &str) -> String {
    format!(
        r#"{{"cniVersion": "1.0.0", "name": "rival", "plugins": [{{
  "type": "ptp", "ipMasq": false, "mtu": 1500,
  "ipam": {{"type": "host-local", "ranges": [[{{"subnet": "{subnet}"}}]], "routes": [{{"dst": "0.0.0.0/0"}}], "dataDir": "/run/cni/networks"}}
}}]}}"#
    )
}

/// The pods' subnet of a node, by its place in the topology.
pub fn subnet(index: usize) -> String {
    format!("10.244.{index}.0/24")
}

/// Installs the chain on every node; nodes become Ready by it.
///
/// # Errors
/// The plugins are not installed on this machine, or a node cannot be configured.
pub fn install(lab: &Lab) -> Result<()> {
    for (index, node) in lab.nodes().iter().enumerate() {
        node.machine.shell(&format!(
            "cp {PLUGINS}/ptp {PLUGINS}/host-local /opt/cni/bin/"
        ))?;
        route(lab, index, &node.rack, node.plan.address)?;
        node.write(
            "/etc/cni/net.d/10-rival.conflist",
            &conflist(&subnet(index)),
        )?;
    }
    Ok(())
}

/// Static routes on the routers: to the node in its rack, over the spine from the other. The nodes have their default.
fn route(lab: &Lab, index: usize, rack: &str, address: Ipv4Addr) -> Result<()> {
    for (number, tor) in lab.fabric.tors.iter().enumerate() {
        let here = tor.rack.name == rack;
        let spine = lab.fabric.tors.len() - 1 - number;
        let via = if here {
            address
        } else {
            Ipv4Addr::new(10, 0, 0, u8::try_from(spine).context("two racks at most")?)
        };
        tor.machine
            .ip(&format!("route replace {} via {via}\n", subnet(index)))?;
    }
    Ok(())
}
