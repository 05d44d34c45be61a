//! The routers' BGP: BIRD in one rack, FRR in the other, both with graceful restart, and what they say about their
//! sessions and routes.
//!
//! Both announce their own links to each other, take pod routes from their nodes, and pass pod routes on. A node's route
//! is accepted only inside the pod pools. Each family has sessions of its own, over its own addresses, as Calico's
//! nodes expect it.

mod bird;
mod frr;

use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;

use crate::fabric::{Rack, pod_pool, spine_end};
use crate::family::{Families, Family};
use crate::machine::{Machine, Service};
use crate::wait;

/// Which BGP implementation a router runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Software {
    /// BIRD 2.
    Bird,
    /// FRR: `zebra` and `bgpd`.
    Frr,
}

/// A top-of-rack router.
#[derive(Debug)]
pub struct Tor {
    /// The rack it serves.
    pub rack: Rack,
    /// The families it speaks BGP in.
    pub families: Families,
    /// The router itself.
    pub machine: Arc<Machine>,
    daemons: Vec<Service>,
}

/// Whether a router's kernel may still hold the routes of a daemon before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// It holds none.
    Fresh,
    /// It does: they are kept until the neighbours have sent theirs again.
    AfterCrash,
}

/// A router's neighbour over the spine.
#[derive(Clone, Copy, Debug)]
pub struct Neighbour {
    /// Its address on the spine link.
    pub address: IpAddr,
    /// Its autonomous system.
    pub remote_as: u32,
}

/// A BGP session as its router shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The neighbour's address.
    pub neighbour: String,
    /// The neighbour's autonomous system.
    pub remote_as: String,
    /// `Established`, or the router's word for what it is instead.
    pub state: String,
    /// Prefixes taken from the neighbour.
    pub received: usize,
}

impl Tor {
    pub(crate) fn new(rack: Rack, families: Families, machine: Arc<Machine>) -> Self {
        Self {
            rack,
            families,
            machine,
            daemons: Vec::new(),
        }
    }

    /// The router's name, software and autonomous system, for people.
    pub fn title(&self) -> String {
        let software = match self.rack.software {
            Some(Software::Bird) => "BIRD",
            Some(Software::Frr) => "FRR",
            None => "no BGP",
        };
        format!(
            "{} ({software}, AS {})",
            self.rack.router(),
            self.rack.router_as
        )
    }

    /// Its BGP sessions with nodes and the other router.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn sessions(&self) -> Result<Vec<Session>> {
        match self.rack.software {
            Some(Software::Bird) => bird::sessions(self),
            Some(Software::Frr) => frr::sessions(self),
            None => Ok(Vec::new()),
        }
    }

    /// The kernel's routes inside the pod pools, as `ip route` shows them.
    ///
    /// # Errors
    /// `ip` fails.
    pub fn pod_routes(&self) -> Result<String> {
        let mut routes = String::new();
        for family in self.families.iter() {
            let words = [
                "ip",
                family.flag(),
                "route",
                "show",
                "root",
                pod_pool(family),
            ];
            routes.push_str(&self.machine.exec(&words)?);
        }
        Ok(routes)
    }

    /// What the daemon itself shows of a prefix: path, communities, stale marks.
    ///
    /// # Errors
    /// The daemon does not answer.
    pub fn explain(&self, prefix: &str) -> Result<String> {
        match self.rack.software {
            Some(Software::Bird) => self.machine.exec(&[
                "birdc",
                "-r",
                "-s",
                "/run/bird/bird.ctl",
                "show",
                "route",
                "all",
                "for",
                prefix,
            ]),
            Some(Software::Frr) => {
                let family = if prefix.contains(':') { "ipv6" } else { "ipv4" };
                self.machine.exec(&[
                    "vtysh",
                    "-c",
                    &format!("show bgp {family} unicast {prefix}"),
                ])
            }
            None => Ok(String::new()),
        }
    }

    /// Waits until `count` sessions with nodes are established.
    ///
    /// # Errors
    /// After `limit`, with the sessions as they are.
    pub fn wait_established(&self, count: usize, limit: Duration) -> Result<()> {
        wait::until(
            &format!("{count} BGP sessions of {} with its nodes", self.title()),
            limit,
            || {
                let sessions = self.sessions()?;
                let up = sessions
                    .iter()
                    .filter(|session| session.state == "Established")
                    .filter(|session| self.is_node(&session.neighbour))
                    .count();
                if up >= count {
                    return Ok(Some(()));
                }
                anyhow::bail!("{}", table(&sessions).trim_end())
            },
        )
    }

    fn is_node(&self, neighbour: &str) -> bool {
        let inside = |address: IpAddr| self.rack.subnet_of(Family::of(address)).contains(&address);
        neighbour.parse().is_ok_and(inside)
    }

    /// Stops the router's BGP as a crash would: no NOTIFICATION, no withdrawal.
    pub fn kill(&mut self) {
        for daemon in &mut self.daemons {
            daemon.kill();
        }
        self.daemons.clear();
    }

    /// Starts the router's BGP.
    ///
    /// # Errors
    /// The configuration cannot be written or a daemon cannot be started.
    pub fn start(&mut self, neighbours: &[Neighbour], beginning: Start) -> Result<()> {
        self.daemons = match self.rack.software {
            Some(Software::Bird) => bird::start(self, neighbours, beginning)?,
            Some(Software::Frr) => frr::start(self, neighbours, beginning)?,
            None => Vec::new(),
        };
        Ok(())
    }

    /// The daemons, for their logs.
    pub fn daemons(&mut self) -> &mut [Service] {
        &mut self.daemons
    }
}

/// Sessions as a table of fixed columns.
pub fn table(sessions: &[Session]) -> String {
    let mut text = format!(
        "{:<18}{:<8}{:<14}{}\n",
        "NEIGHBOUR", "AS", "STATE", "ROUTES"
    );
    for session in sessions {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{:<18}{:<8}{:<14}{}",
            session.neighbour, session.remote_as, session.state, session.received
        );
    }
    text
}

/// The spine neighbours of each router, in the routers' order.
pub fn neighbours(racks: &[Rack], families: Families) -> Vec<Vec<Neighbour>> {
    match racks {
        [left, right] => {
            let at = |number, rack: &Rack| {
                let neighbour = |family| Neighbour {
                    address: spine_end(number, family),
                    remote_as: rack.router_as,
                };
                families.iter().map(neighbour).collect()
            };
            vec![at(1, right), at(0, left)]
        }
        _ => vec![Vec::new(); racks.len()],
    }
}

/// Starts all routers; with two racks, waits until they know each other's links.
pub(crate) fn start(tors: &mut [Tor]) -> Result<()> {
    let racks: Vec<Rack> = tors.iter().map(|tor| tor.rack.clone()).collect();
    let families = tors.first().map(|tor| tor.families).unwrap_or_default();
    for (tor, neighbours) in tors.iter_mut().zip(neighbours(&racks, families)) {
        tor.start(&neighbours, Start::Fresh)?;
    }
    let [left, right] = tors else { return Ok(()) };
    for (tor, there) in [(&mut *left, &racks.get(1)), (&mut *right, &racks.first())] {
        let Some(there) = there else { continue };
        for family in families.iter() {
            learns(tor, &there.subnet_of(family).to_string(), family)?;
        }
    }
    Ok(())
}

/// Waits until a router has a route to a subnet of the other rack.
fn learns(tor: &mut Tor, subnet: &str, family: Family) -> Result<()> {
    wait::until(
        &format!("{} to learn {subnet} over the spine", tor.title()),
        Duration::from_secs(30),
        || {
            for daemon in tor.daemons() {
                daemon.check()?;
            }
            let words = ["ip", family.flag(), "route", "show", subnet];
            Ok((!tor.machine.exec(&words)?.is_empty()).then_some(()))
        },
    )
}
