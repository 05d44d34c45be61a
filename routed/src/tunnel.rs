//! Tunnel addresses of this node: taken from IPAM while a pool wants a tunnel, given back when none does.
//!
//! Other nodes read the address from the Node's annotation, so it is published only after it is ours, and taken back before it
//! is released.

use std::net::IpAddr;
use std::time::Duration;

use model::node::annotation;
use tokio::sync::watch;

use crate::ipam::IpamHandle;
use crate::kube::node::NodeFacts;

const RETRY: Duration = Duration::from_secs(2);

/// Which tunnels the pools ask for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TunnelsWanted {
    /// `vxlan.calico`.
    pub vxlan_ipv4: bool,
    /// `vxlan-v6.calico`.
    pub vxlan_ipv6: bool,
}

/// Keeps address and annotation equal to what is wanted, until told to stop.
pub async fn keep(
    node: String,
    ipam: IpamHandle,
    mut wanted: watch::Receiver<Option<TunnelsWanted>>,
    facts: watch::Sender<NodeFacts>,
    mut stop: watch::Receiver<bool>,
) {
    let mut done: Option<TunnelsWanted> = None;
    loop {
        let now = *wanted.borrow_and_update();
        if let Some(now) = now
            && done != Some(now)
        {
            let four = settle(&node, &ipam, &facts, false, now.vxlan_ipv4).await;
            let six = settle(&node, &ipam, &facts, true, now.vxlan_ipv6).await;
            if four && six {
                done = Some(now);
            }
        }
        let retry = now.is_some() && now != done;
        tokio::select! {
            changed = wanted.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(RETRY), if retry => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}

/// Brings one family to the wanted state; false = try again.
async fn settle(
    node: &str,
    ipam: &IpamHandle,
    facts: &watch::Sender<NodeFacts>,
    v6: bool,
    wanted: bool,
) -> bool {
    let key = if v6 {
        annotation::IPV6_VXLAN_TUNNEL
    } else {
        annotation::IPV4_VXLAN_TUNNEL
    };
    if wanted {
        match ipam.vxlan_address(node, v6).await {
            Ok(address) => {
                publish(facts, key, Some(address));
                true
            }
            Err(error) => {
                tracing::warn!(%error, v6, "no tunnel address yet, trying again");
                false
            }
        }
    } else {
        publish(facts, key, None);
        match ipam.release_vxlan_address(node, v6).await {
            Ok(()) => true,
            Err(error) => {
                tracing::warn!(%error, v6, "tunnel address not released, trying again");
                false
            }
        }
    }
}

fn publish(facts: &watch::Sender<NodeFacts>, key: &'static str, address: Option<IpAddr>) {
    facts.send_modify(|facts| facts.annotate(key, address.map(|address| address.to_string())));
}
