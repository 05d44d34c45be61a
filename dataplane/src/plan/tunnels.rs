//! Every tunnel of this node: VXLAN of either family, IP-in-IP.

mod ipip;
mod vxlan;

use model::{TunnelSource, World};

use super::Finding;
use super::mtu::Mtus;
use super::pools::Pools;
use super::settings::Settings;
use crate::host::Host;
use crate::link::IfName;
use crate::tables::Desired;

pub use ipip::Ipip;
pub use vxlan::{Overlay, Vtep, Vteps, derive_mac};

/// Names under which tunnels of ours stand; Calico's, so that a takeover re-creates nothing.
pub fn device_names() -> [IfName; 3] {
    let [four, six] = super::pools::Family::BOTH.map(vxlan::device_name);
    [four, six, ipip::device_name()]
}

/// The tunnels of this node, each only when a pool needs it and everything it takes is known.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tunnels {
    /// VXLAN, by family.
    pub vxlan: Vteps,
    /// IP-in-IP, which carries IPv4 only.
    pub ipip: Option<Ipip>,
}

impl Tunnels {
    /// Reads what the World and the host say of them.
    pub fn read(
        world: &World,
        host: &Host,
        settings: &Settings,
        pools: &Pools,
        mtus: &Mtus,
    ) -> (Self, Vec<Finding>) {
        let (vxlan, mut findings) = Vteps::read(world, host, settings, pools, mtus);
        let ipip = match Ipip::read(world, host, pools, mtus) {
            Ok(ipip) => ipip,
            Err(finding) => {
                findings.push(finding);
                None
            }
        };
        findings.extend(pools.lacking(host));
        (Self { vxlan, ipip }, findings)
    }

    /// Adds devices and what belongs on them.
    pub fn add_to(&self, desired: &mut Desired) {
        self.vxlan.add_to(desired);
        if let Some(ipip) = &self.ipip {
            ipip.add_to(desired);
        }
    }

    /// What address translation needs to know of the tunnels.
    pub fn sources(&self) -> Vec<TunnelSource> {
        let ipip = self.ipip.as_ref().map(Ipip::source);
        self.vxlan.sources().chain(ipip).collect()
    }
}
