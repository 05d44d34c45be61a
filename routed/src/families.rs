//! Which address families pods of this node get when their network configuration names none. Pure.

use api::PoolUse;
use cni_plugin::spec::Families;
use model::World;

/// Before anything is known of the cluster.
pub const UNKNOWN: Families = Families {
    ipv4: true,
    ipv6: false,
};

/// The families that the kubelet speaks for this node and that some pool gives addresses of. Where there is no such family, those
/// of the node: what an ADD is then refused with names the pool that is missing.
pub fn of_pods(world: &World) -> Families {
    let Some(node) = world.this_node() else {
        return UNKNOWN;
    };
    let speaks = |v6| {
        let mut internal = node.internal_ips.iter();
        internal.any(|address| address.is_ipv6() == v6)
    };
    let serves = |v6| {
        world.pools().values().any(|pool| {
            let range = pool.spec.network();
            !pool.spec.disabled
                && pool.spec.serves(PoolUse::Workload)
                && range.is_some_and(|range| range.addr().is_ipv6() == v6)
        })
    };
    let node = Families {
        ipv4: speaks(false),
        ipv6: speaks(true),
    };
    let served = Families {
        ipv4: node.ipv4 && serves(false),
        ipv6: node.ipv6 && serves(true),
    };
    [served, node]
        .into_iter()
        .find(|families| families.ipv4 || families.ipv6)
        .unwrap_or(UNKNOWN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use api::IPPool;
    use model::{Event, Node};
    use serde_json::json;

    use super::*;

    /// Addresses of the node, pools and whether they are disabled, families that follow.
    type Case = (
        &'static [&'static str],
        &'static [(&'static str, bool)],
        (bool, bool),
    );

    const FOUR: &str = "10.1.0.11";
    const SIX: &str = "fd01::11";
    const V4: &str = "10.244.0.0/16";
    const V6: &str = "fd00:244::/48";

    fn world(internal_ips: &[&str], pools: &[(&str, bool)]) -> World {
        let mut world = World::new("n1".into());
        let addresses = internal_ips.iter().map(|ip| ip.parse().unwrap()).collect();
        let (node, _) = Node::parse(
            &"n1".into(),
            String::new(),
            BTreeMap::new(),
            &BTreeMap::new(),
            addresses,
        );
        world.apply(Event::upsert(node));
        for (place, (cidr, disabled)) in pools.iter().enumerate() {
            let pool: IPPool = serde_json::from_value(json!({
                "apiVersion": "projectcalico.org/v3", "kind": "IPPool",
                "metadata": { "name": format!("pool-{place}") },
                "spec": { "cidr": cidr, "disabled": disabled },
            }))
            .unwrap();
            world.apply(Event::upsert(pool));
        }
        world
    }

    #[test]
    fn pods_get_what_the_node_speaks_and_a_pool_gives() {
        let cases: [Case; 8] = [
            (&[FOUR], &[(V4, false)], (true, false)),
            (&[FOUR], &[(V4, false), (V6, false)], (true, false)),
            (&[SIX], &[(V6, false)], (false, true)),
            (&[SIX], &[(V4, false), (V6, false)], (false, true)),
            (&[FOUR, SIX], &[(V4, false), (V6, false)], (true, true)),
            (&[FOUR, SIX], &[(V4, false), (V6, true)], (true, false)),
            (&[SIX], &[(V4, false)], (false, true)),
            (&[], &[(V6, false)], (true, false)),
        ];
        for (addresses, pools, (ipv4, ipv6)) in cases {
            assert_eq!(
                of_pods(&world(addresses, pools)),
                Families { ipv4, ipv6 },
                "{addresses:?} {pools:?}"
            );
        }
    }
}
