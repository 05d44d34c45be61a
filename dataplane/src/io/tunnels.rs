//! Tunnel devices and the host ends of pods.

use std::collections::BTreeMap;
use std::net::IpAddr;

use netlink::{Batch, attr};
use netlink_packet_route::link::{InfoKind, LinkAttribute, LinkInfo};
use rtnetlink::{LinkUnspec, LinkVxlan};

use super::devices::{Devices, Listed, address};
use super::rtm;
use crate::link::{IfName, Shape, Tunnel, Vxlan, WorkloadLink};
use crate::plan::workload::ALIAS;

const IFLA_VXLAN_ID: u16 = 1;
const IFLA_VXLAN_GROUP: u16 = 2;
const IFLA_VXLAN_LINK: u16 = 3;
const IFLA_VXLAN_LOCAL: u16 = 4;
const IFLA_VXLAN_LEARNING: u16 = 7;
const IFLA_VXLAN_L2MISS: u16 = 13;
const IFLA_VXLAN_L3MISS: u16 = 14;
const IFLA_VXLAN_PORT: u16 = 15;
const IFLA_VXLAN_GROUP6: u16 = 16;
const IFLA_VXLAN_LOCAL6: u16 = 17;
const IFLA_VXLAN_GBP: u16 = 23;
const IFLA_VXLAN_COLLECT_METADATA: u16 = 25;

const IFLA_IPTUN_LOCAL: u16 = 2;
const IFLA_IPTUN_REMOTE: u16 = 3;
const IFLA_IPTUN_COLLECT_METADATA: u16 = 19;

/// Devices under the names of our tunnels.
pub(crate) fn tunnels(
    links: &[Listed],
    devices: &Devices,
    names: &[IfName],
) -> BTreeMap<IfName, Tunnel> {
    let ours = links.iter().filter(|link| names.contains(&link.name));
    ours.map(|link| (link.name.clone(), tunnel(link, devices)))
        .collect()
}

/// Devices whose name begins like a pod's host end.
pub(crate) fn workloads(links: &[Listed], prefixes: &[String]) -> BTreeMap<IfName, WorkloadLink> {
    let ours = links
        .iter()
        .filter(|link| is_workload(&link.name, prefixes));
    ours.map(|link| (link.name.clone(), WorkloadLink { up: link.up() }))
        .collect()
}

pub(crate) fn is_workload(name: &IfName, prefixes: &[String]) -> bool {
    prefixes
        .iter()
        .any(|prefix| name.as_str().starts_with(prefix.as_str()))
}

fn tunnel(link: &Listed, devices: &Devices) -> Tunnel {
    let shape = match link.kind.as_deref() {
        Some("vxlan") => vxlan(link, devices).map_or(Shape::Foreign, Shape::Vxlan),
        Some("ipip") if is_for_any_peer(link) => Shape::Ipip,
        Some(_) | None => Shape::Foreign,
    };
    Tunnel {
        shape,
        mtu: link.mtu,
        up: link.up(),
        marked: is_marked(link),
    }
}

/// Carries our alias.
pub(crate) fn is_marked(link: &Listed) -> bool {
    let alias = link.alias.as_deref();
    alias.is_some_and(|alias| alias.starts_with(ALIAS))
}

/// No end of the tunnel is fixed.
fn is_for_any_peer(link: &Listed) -> bool {
    attr::parse(&link.data).all(|attribute| match attribute.kind {
        IFLA_IPTUN_LOCAL | IFLA_IPTUN_REMOTE => {
            address(attribute.payload).is_some_and(|end| end.is_unspecified())
        }
        IFLA_IPTUN_COLLECT_METADATA => false,
        _ => true,
    })
}

/// `None` for a VXLAN device that does something ours never does.
fn vxlan(link: &Listed, devices: &Devices) -> Option<Vxlan> {
    let mut vni = None;
    let mut port = None;
    let mut local = None;
    let mut parent = None;
    for attribute in attr::parse(&link.data) {
        match attribute.kind {
            IFLA_VXLAN_ID => vni = attribute.u32(),
            IFLA_VXLAN_PORT => port = attribute.be16(),
            IFLA_VXLAN_LOCAL | IFLA_VXLAN_LOCAL6 => local = address(attribute.payload),
            IFLA_VXLAN_LINK => parent = attribute.u32(),
            IFLA_VXLAN_GROUP | IFLA_VXLAN_GROUP6 | IFLA_VXLAN_GBP => return None,
            IFLA_VXLAN_LEARNING
            | IFLA_VXLAN_L2MISS
            | IFLA_VXLAN_L3MISS
            | IFLA_VXLAN_COLLECT_METADATA
                if attribute.u8() != Some(0) =>
            {
                return None;
            }
            _ => {}
        }
    }
    Some(Vxlan {
        vni: vni?,
        port: port?,
        local: local?,
        parent: devices.name(parent?),
        mac: link.mac?,
    })
}

/// Makes a device. `None` when the parent is not there.
pub(crate) fn push_make(
    batch: &mut Batch,
    name: &IfName,
    tunnel: &Tunnel,
    devices: &Devices,
) -> Option<()> {
    match &tunnel.shape {
        Shape::Vxlan(vxlan) => push_make_vxlan(batch, name, vxlan, tunnel.mtu, devices),
        Shape::Ipip => {
            push_make_ipip(batch, name);
            Some(())
        }
        Shape::Foreign => None,
    }
}

fn push_make_vxlan(
    batch: &mut Batch,
    name: &IfName,
    vxlan: &Vxlan,
    mtu: u32,
    devices: &Devices,
) -> Option<()> {
    let builder = LinkVxlan::new(name.as_str(), vxlan.vni)
        .dev(devices.index(&vxlan.parent)?)
        .port(vxlan.port)
        .learning(false)
        .address(vxlan.mac.0.to_vec())
        .mtu(mtu);
    let builder = match vxlan.local {
        IpAddr::V4(local) => builder.local(local),
        IpAddr::V6(local) => builder.local6(local),
    };
    let flags = netlink::flags::CREATE | netlink::flags::EXCL;
    rtm::push(batch, rtm::NEWLINK, flags, &builder.build());
    Some(())
}

/// Asking for a device of the kind makes the kernel load its module, which brings `tunl0` along; so it may be there before it can be
/// made, and that is no failure. Where the module makes none by itself (other namespaces, by a setting of the host) this makes it.
pub(super) fn push_make_ipip(batch: &mut Batch, name: &IfName) {
    let kind = LinkAttribute::LinkInfo(vec![LinkInfo::Kind(InfoKind::IpIp)]);
    let link = LinkUnspec::new_with_name(name.as_str())
        .append_extra_attribute(kind)
        .build();
    rtm::push(batch, rtm::NEWLINK, netlink::flags::CREATE, &link);
}

/// Takes our mark off a device that cannot be deleted.
pub(crate) fn push_release(batch: &mut Batch, index: u32) {
    let message = LinkUnspec::new_with_index(index).alias("").build();
    rtm::push(batch, rtm::NEWLINK, 0, &message);
}

/// Changes what can be changed on a device that stands: MTU, alias, up. By name, so that it may follow [`push_make`] in a batch.
pub(crate) fn push_change(batch: &mut Batch, name: &IfName, tunnel: &Tunnel) {
    let builder = LinkUnspec::new_with_name(name.as_str())
        .mtu(tunnel.mtu)
        .alias(ALIAS)
        .up();
    rtm::push(batch, rtm::NEWLINK, 0, &builder.build());
}

pub(crate) fn push_up(batch: &mut Batch, index: u32) {
    let message = LinkUnspec::new_with_index(index).up().build();
    rtm::push(batch, rtm::NEWLINK, 0, &message);
}

pub(crate) fn push_down(batch: &mut Batch, index: u32) {
    let message = LinkUnspec::new_with_index(index).down().build();
    rtm::push(batch, rtm::NEWLINK, 0, &message);
}

pub(crate) fn push_delete(batch: &mut Batch, index: u32) {
    let message = LinkUnspec::new_with_index(index).build();
    rtm::push(batch, rtm::DELLINK, 0, &message);
}
