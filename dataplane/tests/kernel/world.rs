//! Small clusters as event lists.

use std::collections::BTreeMap;
use std::net::IpAddr;

use model::{AttachmentId, Event, LocalEndpoint, Node, PodRef, World};

/// A node that tells these things of itself.
pub(crate) fn annotated(name: &str, told: &[(&str, &str)]) -> Event {
    let annotations = told
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect();
    let (node, errors) = Node::parse(
        &name.into(),
        format!("uid-{name}"),
        BTreeMap::new(),
        &annotations,
        Vec::new(),
    );
    assert!(errors.is_empty(), "{errors:?}");
    Event::upsert(node)
}

/// A pool; `vxlan` as users write it.
pub(crate) fn pool(name: &str, cidr: &str, vxlan: api::EncapMode, nat: bool) -> Event {
    let spec = api::IPPoolSpec {
        cidr: cidr.to_owned(),
        vxlan_mode: Some(vxlan),
        nat_outgoing: nat,
        ..api::IPPoolSpec::default()
    };
    Event::upsert(api::IPPool::new(name, spec))
}

/// A pool that travels in IP-in-IP.
pub(crate) fn ipip_pool(name: &str, cidr: &str, ipip: api::EncapMode) -> Event {
    let spec = api::IPPoolSpec {
        cidr: cidr.to_owned(),
        ipip_mode: Some(ipip),
        nat_outgoing: true,
        ..api::IPPoolSpec::default()
    };
    Event::upsert(api::IPPool::new(name, spec))
}

/// A block of a node; addresses by ordinal that other nodes use.
pub(crate) fn block(cidr: &str, owner: &str, borrowed: &[(usize, &str)]) -> Event {
    let size = borrowed
        .iter()
        .map(|(ordinal, _)| ordinal + 1)
        .max()
        .unwrap_or(0);
    let mut allocations = vec![None; size];
    let mut attributes = Vec::new();
    for (ordinal, node) in borrowed {
        allocations[*ordinal] = Some(i64::try_from(attributes.len()).unwrap());
        attributes.push(api::AllocationAttribute {
            secondary: Some(BTreeMap::from([("node".to_owned(), (*node).to_owned())])),
            ..api::AllocationAttribute::default()
        });
    }
    let spec = api::IPAMBlockSpec {
        cidr: cidr.to_owned(),
        affinity: Some(format!("host:{owner}")),
        allocations,
        attributes,
        ..api::IPAMBlockSpec::default()
    };
    Event::upsert(api::IPAMBlock::new(
        &cidr.replace(['.', '/', ':'], "-"),
        spec,
    ))
}

/// A claim of a node on a block.
pub(crate) fn affinity(cidr: &str, node: &str, state: &str) -> Event {
    let spec = api::BlockAffinitySpec {
        cidr: cidr.to_owned(),
        node: node.to_owned(),
        state: state.to_owned(),
        ..api::BlockAffinitySpec::default()
    };
    let name = format!("{node}-{}", cidr.replace(['.', '/', ':'], "-"));
    Event::upsert(api::BlockAffinity::new(&name, spec))
}

/// A pod's interface on this node; addresses with blanks between them.
pub(crate) fn endpoint(interface: &str, addresses: &str, mac: Option<[u8; 6]>) -> Event {
    let addresses = addresses.split_whitespace().map(str::parse);
    let addresses: Result<Vec<IpAddr>, _> = addresses.collect();
    Event::upsert(LocalEndpoint {
        id: AttachmentId {
            network: "k8s-pod-network".into(),
            container_id: interface.into(),
            ifname: "eth0".into(),
        },
        pod: Some(PodRef::new("default", interface)),
        pod_uid: None,
        interface: interface.into(),
        ifindex: 0,
        mac,
        addresses: addresses.unwrap(),
        labels: BTreeMap::new(),
    })
}

/// The World of a node after these events.
pub(crate) fn world(this: &str, events: impl IntoIterator<Item = Event>) -> World {
    let mut world = World::new(this.into());
    for event in events {
        world.apply(event);
    }
    world
}
