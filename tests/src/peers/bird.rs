//! BIRD: configuration, start, `birdc`.

use std::fmt::Write;

use anyhow::Result;

use super::{Neighbour, Session, Start, Tor};
use crate::fabric::pod_pool;
use crate::family::Family;
use crate::machine::Service;

const CONFIG: &str = "/etc/margay-lab-bird.conf";

/// BIRD's word for the channel of a family.
fn channel(family: Family) -> &'static str {
    match family {
        Family::V4 => "ipv4",
        Family::V6 => "ipv6",
    }
}

/// The whole configuration of a router. Its id is a number, also where nothing has an IPv4 address.
fn render(tor: &Tor, neighbours: &[Neighbour]) -> String {
    let rack = &tor.rack;
    let mut text = format!(
        "log stderr all;
router id {gateway};
graceful restart wait 20;
protocol device {{ scan time 2; }}
template bgp neighbour {{
  local as {router_as};
  graceful restart on;
  graceful restart time 120;
  connect delay time 1;
  connect retry time 2;
  error wait time 1, 4;
  hold time 90;
}}
",
        gateway = rack.gateway(),
        router_as = rack.router_as,
    );
    for family in tor.families.iter() {
        let (channel, pool) = (channel(family), pod_pool(family));
        let _ = write!(
            text,
            "filter pods_{channel} {{ if net ~ [ {pool}+ ] then accept; reject; }}
protocol direct direct_{channel} {{ {channel}; interface \"rack\", \"control\", \"outside\"; }}
protocol kernel kernel_{channel} {{ {channel} {{ import none; export where source = RTS_BGP; }}; graceful restart on; persist; }}
"
        );
        for node in &rack.nodes {
            // Pod routes only, in both directions: a node's way to everything else is its default route.
            let _ = write!(
                text,
                "protocol bgp {name}_{channel} from neighbour {{
  neighbor {address} as {node_as};
  {channel} {{ import filter pods_{channel}; export filter pods_{channel}; }};
}}
",
                name = node.name,
                address = node.of(family),
                node_as = rack.node_as,
            );
        }
    }
    for neighbour in neighbours {
        let channel = channel(Family::of(neighbour.address));
        let _ = write!(
            text,
            "protocol bgp spine_{channel} from neighbour {{
  neighbor {address} as {remote_as};
  {channel} {{ import all; export where source ~ [ RTS_DEVICE, RTS_BGP ]; }};
}}
",
            address = neighbour.address,
            remote_as = neighbour.remote_as,
        );
    }
    text
}

pub(super) fn start(tor: &Tor, neighbours: &[Neighbour], beginning: Start) -> Result<Vec<Service>> {
    tor.machine.exec_with(
        &["sh", "-c", &format!("cat > {CONFIG}")],
        &render(tor, neighbours),
    )?;
    // -R: after a crash the kernel's routes are kept until the neighbours have sent theirs again.
    let recover: &[&str] = match beginning {
        Start::Fresh => &[],
        Start::AfterCrash => &["-R"],
    };
    let words = [
        &["bird", "-f", "-c", CONFIG, "-s", "/run/bird/bird.ctl"],
        recover,
    ]
    .concat();
    Ok(vec![tor.machine.spawn("bird", &words)?])
}

pub(super) fn sessions(tor: &Tor) -> Result<Vec<Session>> {
    Ok(parse(&tor.machine.exec(&[
        "birdc",
        "-r",
        "-s",
        "/run/bird/bird.ctl",
        "show",
        "protocols",
        "all",
    ])?))
}

/// Reads `show protocols all`: one paragraph per protocol, its first line unindented.
fn parse(text: &str) -> Vec<Session> {
    let mut sessions: Vec<Session> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        if !line.starts_with(' ') {
            let words: Vec<&str> = line.split_whitespace().collect();
            inside = words.get(1) == Some(&"BGP");
            if inside {
                sessions.push(Session {
                    neighbour: String::new(),
                    remote_as: String::new(),
                    state: String::new(),
                    received: 0,
                });
            }
            continue;
        }
        let (Some(session), true, Some((key, value))) =
            (sessions.last_mut(), inside, line.trim().split_once(':'))
        else {
            continue;
        };
        let value = value.trim();
        match key {
            "BGP state" => value.clone_into(&mut session.state),
            "Neighbor address" => value.clone_into(&mut session.neighbour),
            "Neighbor AS" => value.clone_into(&mut session.remote_as),
            "Routes" => {
                session.received += value
                    .split_whitespace()
                    .next()
                    .and_then(|count| count.parse().ok())
                    .unwrap_or(0);
            }
            _ => {}
        }
    }
    sessions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sessions_are_read_from_show_protocols_all() {
        let text = "BIRD 2.0.12 ready.
Access restricted
Name       Proto      Table      State  Since         Info
direct1    Direct     ---        up     12:00:00.000
  Channel ipv4
    Routes:         2 imported, 0 exported, 2 preferred
a1         BGP        ---        up     12:00:02.123  Established
  BGP state:          Established
    Neighbor address: 10.1.0.11
    Neighbor AS:      64512
  Channel ipv4
    State:          UP
    Routes:         1 imported, 2 exported, 1 preferred
";
        let expected = Session {
            neighbour: "10.1.0.11".into(),
            remote_as: "64512".into(),
            state: "Established".into(),
            received: 1,
        };
        assert_eq!(parse(text), [expected]);
    }
}
