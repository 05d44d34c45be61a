//! FRR: configuration, start, `vtysh`.

use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Neighbour, Session, Start, Tor};
use crate::fabric::pod_pool;
use crate::family::Family;
use crate::machine::Service;
use crate::wait;

const CONFIG: &str = "/etc/frr/margay-lab.conf";
/// Debian keeps the daemons out of the path.
const DAEMONS: &str = "/usr/lib/frr";

/// The configuration of bgpd. zebra needs none.
fn render(tor: &Tor, neighbours: &[Neighbour], beginning: Start) -> String {
    let rack = &tor.rack;
    // bgpd takes every start for a restart and holds its routes back until all neighbours have sent theirs, or this long.
    let deferral = match beginning {
        Start::Fresh => 1,
        Start::AfterCrash => 20,
    };
    let mut text = format!(
        "frr defaults datacenter
{lists}route-map links permit 10
 match interface rack
route-map links permit 20
 match interface control
route-map links permit 30
 match interface outside
router bgp {router_as}
 bgp router-id {gateway}
 no bgp ebgp-requires-policy
 no bgp default ipv4-unicast
 bgp graceful-restart
 bgp graceful-restart restart-time 120
 bgp graceful-restart preserve-fw-state
 bgp graceful-restart select-defer-time {deferral}
 timers bgp 30 90
",
        lists = prefix_lists(tor),
        router_as = rack.router_as,
        gateway = rack.gateway(),
    );
    let nodes = tor.families.iter().flat_map(|family| {
        let nodes = rack.nodes.iter();
        nodes.map(move |node| (node.of(family), rack.node_as, Side::Node))
    });
    let spine = neighbours
        .iter()
        .map(|neighbour| (neighbour.address, neighbour.remote_as, Side::Spine));
    let peers: Vec<(IpAddr, u32, Side)> = nodes.chain(spine).collect();
    for (address, remote_as, _side) in &peers {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            " neighbor {address} remote-as {remote_as}\n neighbor {address} timers connect 2"
        );
    }
    for family in tor.families.iter() {
        let (word, list) = words(family);
        let _ = writeln!(
            text,
            " address-family {word} unicast\n  redistribute connected route-map links"
        );
        let peers = peers
            .iter()
            .filter(|(address, _, _)| Family::of(*address) == family);
        for (address, _remote_as, side) in peers {
            let _ = writeln!(text, "  neighbor {address} activate");
            if *side == Side::Node {
                // Pod routes only, in both directions: a node's way to everything else is its default route.
                let _ = writeln!(
                    text,
                    "  neighbor {address} prefix-list {list} in\n  neighbor {address} prefix-list {list} out"
                );
            }
        }
        text.push_str(" exit-address-family\n");
    }
    text
}

/// On which side of the router a neighbour is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Node,
    Spine,
}

/// FRR's word for a family, and the name of its list of pod prefixes.
fn words(family: Family) -> (&'static str, &'static str) {
    match family {
        Family::V4 => ("ipv4", "pods"),
        Family::V6 => ("ipv6", "pods6"),
    }
}

fn prefix_lists(tor: &Tor) -> String {
    let list = |family| {
        let (_, name) = words(family);
        let (word, longest) = match family {
            Family::V4 => ("ip", 32),
            Family::V6 => ("ipv6", 128),
        };
        format!(
            "{word} prefix-list {name} seq 5 permit {} le {longest}\n",
            pod_pool(family)
        )
    };
    tor.families.iter().map(list).collect()
}

pub(super) fn start(tor: &Tor, neighbours: &[Neighbour], beginning: Start) -> Result<Vec<Service>> {
    let machine = &tor.machine;
    machine.exec_with(&["sh", "-c", &format!("mkdir -p /etc/frr && cat > {CONFIG} && : > /etc/frr/vtysh.conf && chmod 755 /etc/frr && chmod 644 {CONFIG} /etc/frr/vtysh.conf")], &render(tor, neighbours, beginning))?;
    machine.shell("chown frr:frr /run/frr && mkdir -p /var/lib/frr /var/log/frr && chown frr:frr /var/lib/frr /var/log/frr")?;
    let daemon = |name: &str| format!("{DAEMONS}/{name}");
    // Started again after a crash, zebra takes over the routes that bgpd had put into the kernel.
    let zebra = machine.spawn(
        "zebra",
        &[
            &daemon("zebra"),
            "--log",
            "stdout",
            "-A",
            "127.0.0.1",
            "-K",
            "120",
            "-f",
            "/dev/null",
        ],
    )?;
    wait::until("zebra's socket", Duration::from_secs(10), || {
        Ok(machine.exec(&["test", "-S", "/run/frr/zserv.api"]).ok())
    })
    .with_context(|| zebra.tail(8))?;
    let bgpd = machine.spawn(
        "bgpd",
        &[
            &daemon("bgpd"),
            "--log",
            "stdout",
            "-A",
            "127.0.0.1",
            "-f",
            CONFIG,
        ],
    )?;
    Ok(vec![bgpd, zebra])
}

pub(super) fn sessions(tor: &Tor) -> Result<Vec<Session>> {
    parse(
        &tor.machine
            .exec(&["vtysh", "-c", "show bgp summary json"])?,
    )
}

/// Reads `show bgp summary json`: address family → peers, by address.
fn parse(text: &str) -> Result<Vec<Session>> {
    let summary: serde_json::Value = serde_json::from_str(text).context("read FRR's summary")?;
    let mut sessions: Vec<Session> = Vec::new();
    for family in summary
        .as_object()
        .into_iter()
        .flatten()
        .map(|(_name, family)| family)
    {
        for (neighbour, peer) in family
            .get("peers")
            .and_then(serde_json::Value::as_object)
            .into_iter()
            .flatten()
        {
            let number = |key: &str| {
                peer.get(key)
                    .and_then(serde_json::Value::as_u64)
                    .unwrap_or(0)
            };
            let received = usize::try_from(number("pfxRcd")).unwrap_or(usize::MAX);
            match sessions
                .iter_mut()
                .find(|session| session.neighbour == *neighbour)
            {
                Some(session) => session.received += received,
                None => sessions.push(Session {
                    neighbour: neighbour.clone(),
                    remote_as: number("remoteAs").to_string(),
                    state: peer
                        .get("state")
                        .and_then(serde_json::Value::as_str)
                        .unwrap_or("unknown")
                        .to_owned(),
                    received,
                }),
            }
        }
    }
    Ok(sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_from_the_summary() {
        let text = r#"{"ipv4Unicast":{"peers":{"10.2.0.11":{"remoteAs":64513,"state":"Established","pfxRcd":2}}},
                       "ipv6Unicast":{"peers":{"10.2.0.11":{"remoteAs":64513,"state":"Established","pfxRcd":1}}}}"#;
        let expected = Session {
            neighbour: "10.2.0.11".into(),
            remote_as: "64513".into(),
            state: "Established".into(),
            received: 3,
        };
        assert_eq!(parse(text).unwrap(), [expected]);
    }
}
