//! Sizes by uplink, encapsulation and configuration.

use std::collections::BTreeMap;

use api::EncapMode::{self, Always, CrossSubnet, Never};
use model::{Event, Node, node::annotation};

use super::*;
use crate::host::Device;
use crate::plan::settings::Bgp;

fn node() -> Event {
    let annotations = BTreeMap::from([
        (
            annotation::IPV4_ADDRESS.to_owned(),
            "10.1.0.11/24".to_owned(),
        ),
        (
            annotation::IPV6_ADDRESS.to_owned(),
            "fd01::11/64".to_owned(),
        ),
    ]);
    let empty = BTreeMap::new();
    let (node, _) = Node::parse(&"a1".into(), String::new(), empty, &annotations, Vec::new());
    Event::upsert(node)
}

fn pool(cidr: &str, vxlan: EncapMode, ipip: EncapMode) -> Event {
    let spec = api::IPPoolSpec {
        cidr: cidr.to_owned(),
        vxlan_mode: Some(vxlan),
        ipip_mode: Some(ipip),
        ..api::IPPoolSpec::default()
    };
    let name = cidr.replace(['.', ':', '/'], "-");
    Event::upsert(api::IPPool::new(&name, spec))
}

fn device(mtu: u32, running: bool, addresses: &[&str]) -> Device {
    Device {
        mtu,
        running,
        addresses: addresses.iter().map(|net| net.parse().unwrap()).collect(),
        ..Device::default()
    }
}

fn host(devices: &[(&str, Device)]) -> Host {
    let named = devices
        .iter()
        .map(|(name, device)| (IfName::parse(name).unwrap(), device.clone()));
    Host {
        devices: named.collect(),
        ..Host::default()
    }
}

fn uplink(mtu: u32) -> Host {
    host(&[("eth0", device(mtu, true, &["10.1.0.11/24", "fd01::11/64"]))])
}

fn sizes(
    host: &Host,
    events: Vec<Event>,
    spec: &api::FelixConfigurationSpec,
) -> (Mtus, Vec<Finding>) {
    let mut world = World::new("a1".into());
    for event in [node()].into_iter().chain(events) {
        world.apply(event);
    }
    let (pools, _) = Pools::read(&world);
    let (settings, _) = Settings::read(Bgp::On, spec);
    plan(&world, host, &settings, &pools)
}

fn built_in() -> api::FelixConfigurationSpec {
    api::FelixConfigurationSpec::default()
}

#[test]
fn pods_get_the_smallest_of_the_encapsulations_in_use() {
    let four = |vxlan, ipip| pool("10.244.0.0/16", vxlan, ipip);
    let six = |vxlan| pool("fd00::/64", vxlan, Never);
    for (events, pod) in [
        (vec![four(Never, Never)], 1500),
        (vec![four(Never, Always)], 1480),
        (vec![four(Never, CrossSubnet)], 1480),
        (vec![four(Always, Never)], 1450),
        (vec![four(CrossSubnet, Never)], 1450),
        (vec![six(Never)], 1500),
        (vec![six(CrossSubnet)], 1430),
        (vec![four(Never, Always), six(Always)], 1430),
        (
            vec![four(Never, Always), pool("10.245.0.0/16", Always, Never)],
            1450,
        ),
    ] {
        let (mtus, findings) = sizes(&uplink(1500), events.clone(), &built_in());
        assert_eq!(mtus.pod, pod, "{events:?}");
        assert_eq!((mtus.ipip, mtus.vxlan, mtus.vxlan_v6), (1480, 1450, 1430));
        assert_eq!(findings, []);
    }
}

#[test]
fn the_smallest_running_uplink_of_the_pattern_counts() {
    let uplinks = host(&[
        ("eth0", device(9000, true, &["10.1.0.11/24"])),
        ("eth1", device(1400, true, &[])),
        ("eth2", device(1300, false, &[])),
        ("docker0", device(1200, true, &[])),
    ]);
    let (mtus, findings) = sizes(
        &uplinks,
        vec![pool("10.244.0.0/16", Always, Never)],
        &built_in(),
    );
    assert_eq!((mtus.host, mtus.pod), (1400, 1350));
    assert_eq!(findings, []);
}

#[test]
fn without_a_device_of_the_pattern_the_parent_counts_and_that_is_told() {
    let uplinks = host(&[("bond7", device(9000, true, &["10.1.0.11/24"]))]);
    let (mtus, findings) = sizes(
        &uplinks,
        vec![pool("10.244.0.0/16", Never, Never)],
        &built_in(),
    );
    assert_eq!((mtus.host, mtus.pod), (9000, 9000));
    let parent = IfName::parse("bond7").unwrap();
    assert_eq!(findings, [Finding::NoMtuDevice { parent }]);
    let (mtus, findings) = sizes(&Host::default(), Vec::new(), &built_in());
    assert_eq!((mtus.host, findings), (FALLBACK, vec![]));
}

#[test]
fn a_tunnel_never_gets_more_than_its_own_parent_carries() {
    // The kernel refuses such a VXLAN device.
    let uplinks = host(&[
        ("bond0.7", device(1500, true, &["10.1.0.11/24"])),
        ("eth0", device(9000, true, &[])),
    ]);
    let (mtus, _) = sizes(
        &uplinks,
        vec![pool("10.244.0.0/16", Always, Never)],
        &built_in(),
    );
    assert_eq!((mtus.host, mtus.vxlan, mtus.pod), (9000, 1450, 1450));
}

#[test]
fn configured_sizes_are_used_unless_they_cannot_be() {
    let spec = api::FelixConfigurationSpec {
        ipip_mtu: Some(1400),
        vxlan_mtu: Some(1490),
        vxlan_mtuv6: Some(1300),
        ..built_in()
    };
    let events = vec![
        pool("10.244.0.0/16", Always, Never),
        pool("10.245.0.0/16", Never, Always),
        pool("fd00::/64", Always, Never),
    ];
    let (mtus, findings) = sizes(&uplink(1500), events, &spec);
    assert_eq!(
        (mtus.ipip, mtus.vxlan, mtus.vxlan_v6, mtus.pod),
        (1400, 1450, 1300, 1300)
    );
    let told = Finding::MtuTooLarge {
        field: "vxlanMTU",
        value: 1490,
        used: 1450,
    };
    assert_eq!(findings, [told]);
    let (_, findings) = sizes(
        &uplink(1500),
        vec![pool("10.244.0.0/16", Never, Never)],
        &spec,
    );
    assert_eq!(findings, [], "nobody uses it");
}

#[test]
fn wireguard_keeps_its_room() {
    let spec = api::FelixConfigurationSpec {
        wireguard_enabled: Some(true),
        ..built_in()
    };
    let native = || vec![pool("10.244.0.0/16", Never, Never)];
    assert_eq!(sizes(&uplink(1500), native(), &spec).0.pod, 1440);
    let spec = api::FelixConfigurationSpec {
        wireguard_enabled_v6: Some(true),
        wireguard_mtu: Some(1300),
        ..spec
    };
    assert_eq!(sizes(&uplink(1500), native(), &spec).0.pod, 1300);
}

#[test]
fn what_is_too_small_for_ipv6_is_told() {
    let small = |events| sizes(&uplink(1340), events, &built_in());
    let (mtus, findings) = small(vec![pool("fd00::/64", Always, Never)]);
    assert_eq!(mtus.pod, 1270);
    assert_eq!(findings, [Finding::MtuBelowIpv6 { mtu: 1270 }]);
    let (mtus, findings) = small(vec![pool("10.244.0.0/16", Always, Never)]);
    assert_eq!((mtus.pod, findings), (1290, vec![]));
}
