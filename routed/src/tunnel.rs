//! Tunnel addresses of this node: taken from IPAM while a pool wants a tunnel, given back when none does.
//!
//! Other nodes read the address from the Node's annotation, so it is published only after it is ours, and taken back before it
//! is released.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use ::ipam::handle::TunnelKind;
use dataplane::host::Host;
use dataplane::plan::pools::{Encap, Family, Pools};
use ipnet::IpNet;
use model::node::annotation;
use tokio::sync::watch;

use crate::ipam::IpamHandle;
use crate::kube::node::NodeFacts;

/// First and longest wait after a tunnel stayed without its address.
const RETRY: (Duration, Duration) = (Duration::from_secs(2), Duration::from_mins(1));

/// Tunnels that can be had, and the annotation that tells of each.
const KINDS: [(TunnelKind, &str); 3] = [
    (TunnelKind::Vxlan, annotation::IPV4_VXLAN_TUNNEL),
    (TunnelKind::VxlanV6, annotation::IPV6_VXLAN_TUNNEL),
    (TunnelKind::Ipip, annotation::IPV4_IPIP_TUNNEL),
];

/// Tunnels the pools ask for, each with the pools that do: a change of theirs is a reason to look at the address again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TunnelsWanted(BTreeMap<TunnelKind, BTreeSet<IpNet>>);

impl TunnelsWanted {
    /// What the pools ask for and this host can do.
    pub fn read(pools: &Pools, host: &Host, ipv6: bool) -> Self {
        let mut wanted: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for pool in pools.iter().filter(|pool| !pool.load_balancer_only) {
            let kind = match (pool.encap, Family::of_net(pool.cidr)) {
                (Encap::Vxlan(_), Family::V4) if host.lacks.vxlan.is_none() => TunnelKind::Vxlan,
                (Encap::Vxlan(_), Family::V6) if host.lacks.vxlan.is_none() && ipv6 => {
                    TunnelKind::VxlanV6
                }
                (Encap::Ipip(_), Family::V4) if host.lacks.ipip.is_none() => TunnelKind::Ipip,
                (Encap::None | Encap::Vxlan(_) | Encap::Ipip(_), Family::V4 | Family::V6) => {
                    continue;
                }
            };
            wanted.entry(kind).or_default().insert(pool.cidr);
        }
        Self(wanted)
    }

    fn pools(&self, kind: TunnelKind) -> Option<&BTreeSet<IpNet>> {
        self.0.get(&kind)
    }
}

/// Keeps addresses and annotations equal to what is wanted, until told to stop.
pub async fn keep(
    node: String,
    ipam: IpamHandle,
    mut wanted: watch::Receiver<Option<TunnelsWanted>>,
    facts: watch::Sender<NodeFacts>,
    mut stop: watch::Receiver<bool>,
) {
    let mut done: Option<TunnelsWanted> = None;
    let mut wait = RETRY.0;
    loop {
        let now = wanted.borrow_and_update().clone();
        if let Some(now) = &now
            && done.as_ref() != Some(now)
        {
            let mut settled = true;
            for (kind, key) in KINDS {
                settled &= settle(&node, &ipam, &facts, (kind, key), now.pools(kind)).await;
            }
            if settled {
                done = Some(now.clone());
                wait = RETRY.0;
            }
        }
        let retry = now.is_some() && now != done;
        tokio::select! {
            changed = wanted.changed() => {
                if changed.is_err() { return }
                wait = RETRY.0;
            }
            () = tokio::time::sleep(wait), if retry => wait = (wait * 2).min(RETRY.1),
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Brings one tunnel to the wanted state; false = try again.
async fn settle(
    node: &str,
    ipam: &IpamHandle,
    facts: &watch::Sender<NodeFacts>,
    (kind, key): (TunnelKind, &'static str),
    pools: Option<&BTreeSet<IpNet>>,
) -> bool {
    if pools.is_some() {
        match ipam.tunnel_address(kind).await {
            Ok(address) => {
                publish(facts, key, Some(address));
                true
            }
            Err(error) => {
                tracing::warn!(%error, ?kind, "no tunnel address yet, trying again");
                false
            }
        }
    } else {
        publish(facts, key, None);
        match ipam.release_tunnel_address(node, kind).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, ?kind, "tunnel address not released, trying again");
                false
            }
        }
    }
}

fn publish(facts: &watch::Sender<NodeFacts>, key: &'static str, address: Option<IpAddr>) {
    facts.send_modify(|facts| facts.annotate(key, address.map(|address| address.to_string())));
}

#[cfg(test)]
mod tests {
    use api::EncapMode::{self, Always, CrossSubnet, Never};
    use model::{Event, World};

    use super::*;

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

    fn wanted(pools: &[Event], host: &Host, ipv6: bool) -> TunnelsWanted {
        let mut world = World::new("a1".into());
        for pool in pools {
            world.apply(pool.clone());
        }
        TunnelsWanted::read(&Pools::read(&world).0, host, ipv6)
    }

    #[test]
    fn each_encapsulation_wants_the_address_of_its_own_device() {
        let pools = [
            pool("10.1.0.0/16", Always, Never),
            pool("10.2.0.0/16", Never, CrossSubnet),
            pool("10.3.0.0/16", Never, Never),
            pool("fd00::/64", CrossSubnet, Never),
        ];
        let kinds =
            |host: &Host, ipv6| wanted(&pools, host, ipv6).0.into_keys().collect::<Vec<_>>();
        let (vxlan, six, ipip) = (TunnelKind::Vxlan, TunnelKind::VxlanV6, TunnelKind::Ipip);
        assert_eq!(kinds(&Host::default(), true), [ipip, vxlan, six]);
        assert_eq!(kinds(&Host::default(), false), [ipip, vxlan]);
        let mut host = Host::default();
        host.lacks.ipip = Some("Unknown device type".into());
        assert_eq!(
            kinds(&host, true),
            [vxlan, six],
            "no address without a device"
        );
    }

    #[test]
    fn a_tunnel_that_moves_to_another_pool_is_looked_at_again() {
        let before = wanted(
            &[pool("10.1.0.0/16", Always, Never)],
            &Host::default(),
            true,
        );
        let after = wanted(
            &[pool("10.2.0.0/16", Always, Never)],
            &Host::default(),
            true,
        );
        assert_ne!(before, after);
    }
}
