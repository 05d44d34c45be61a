//! Looking at attached pods: for CHECK, for garbage collection and for adoption without a journal.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;

use ipnet::IpNet;
use netlink::netns;
use netlink::{Errno, Protocol as Family, Socket};

use super::devices::{self, Devices};
use super::workload::{AttachError, End, HostLink, Workloads, at};
use super::{addresses, routes, rtm, tunnels};
use crate::link::IfName;
use crate::route::{KernelTarget, Protocol, TABLE_MAIN};

/// Calico's default for routes to pods: `RTPROT_BOOT`.
const CALICO_DEVICE_ROUTES: Protocol = Protocol(3);
const ROUTE_HEADER: usize = 12;

/// What stands inside a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspected {
    /// The interface.
    pub end: End,
    /// Administratively up.
    pub up: bool,
    /// Its addresses, link-local ones included.
    pub addresses: Vec<IpNet>,
    /// Routes of the main table over it: destination and gateway.
    pub routes: Vec<(IpNet, Option<IpAddr>)>,
}

/// A host end that stands, with the addresses that our (or Calico's) routes send to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The link.
    pub link: HostLink,
    /// Pod addresses routed to it.
    pub addresses: Vec<IpAddr>,
}

impl Workloads {
    /// Looks at an interface inside a sandbox; `None` when it is not there.
    ///
    /// # Errors
    /// [`AttachError::Sandbox`] when the namespace cannot be entered, [`AttachError::Step`] when listing failed.
    pub async fn inspect(
        &self,
        sandbox: OwnedFd,
        name: IfName,
    ) -> Result<Option<Inspected>, AttachError> {
        tokio::task::spawn_blocking(move || netns::run_in(sandbox, || look(&name))?)
            .await
            .unwrap_or(Err(AttachError::Panicked))
    }

    /// Every host end with the addresses routed to it.
    ///
    /// # Errors
    /// [`AttachError::Step`] when listing failed.
    pub async fn standing(&self, prefixes: Vec<String>) -> Result<Vec<Standing>, AttachError> {
        self.on_host(move |socket| standing(socket, &prefixes))
            .await
    }
}

fn standing(socket: &mut Socket, prefixes: &[String]) -> Result<Vec<Standing>, AttachError> {
    let links = devices::list(socket).map_err(at("list links".to_owned()))?;
    let devices = Devices::new(&links);
    let protocols = [Protocol::PLANNED, CALICO_DEVICE_ROUTES];
    let routes = routes::list(socket, &devices, |listed| {
        protocols.contains(&listed.route.protocol)
    });
    let mut by_device: BTreeMap<IfName, Vec<IpAddr>> = BTreeMap::new();
    for (key, route) in routes.map_err(at("list routes".to_owned()))?.ours {
        if let KernelTarget::Device(device) = route.target
            && key.prefix.prefix_len() == key.prefix.max_prefix_len()
        {
            by_device.entry(device).or_default().push(key.prefix.addr());
        }
    }
    let ours = links
        .into_iter()
        .filter(|link| tunnels::is_workload(&link.name, prefixes));
    Ok(ours
        .map(|link| Standing {
            addresses: by_device.remove(&link.name).unwrap_or_default(),
            link: link.into(),
        })
        .collect())
}

/// Runs on a thread inside the sandbox.
fn look(name: &IfName) -> Result<Option<Inspected>, AttachError> {
    let mut socket = Socket::open(Family::Route)?;
    let link = match devices::find(&mut socket, name) {
        Ok(link) => link,
        Err(error) if error.errno() == Some(Errno::ENODEV) => return Ok(None),
        Err(error) => return Err(at(format!("look up {name}"))(error)),
    };
    let index = link.index;
    let up = link.up();
    let listed = addresses::list_all(&mut socket).map_err(at("list addresses".to_owned()))?;
    let mut routes = Vec::new();
    for family in [rtm::AF_INET, rtm::AF_INET6] {
        routes.extend(routes_over(&mut socket, family, index)?);
    }
    Ok(Some(Inspected {
        end: super::workload::end(link)?,
        up,
        addresses: listed
            .into_iter()
            .filter(|listed| listed.index == index)
            .map(|listed| listed.net)
            .collect(),
        routes,
    }))
}

fn routes_over(
    socket: &mut Socket,
    family: u8,
    index: u32,
) -> Result<Vec<(IpNet, Option<IpAddr>)>, AttachError> {
    const RTA_DST: u16 = 1;
    const RTA_OIF: u16 = 4;
    const RTA_GATEWAY: u16 = 5;
    const RTA_TABLE: u16 = 15;
    let any = if family == rtm::AF_INET {
        IpAddr::from([0; 4])
    } else {
        IpAddr::from([0; 16])
    };
    let found = socket.dump(
        rtm::GETROUTE,
        |enc| {
            enc.raw(&[family, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
            enc.put_u32(RTA_TABLE, TABLE_MAIN);
            enc.put_u32(RTA_OIF, index);
        },
        |message| {
            let &[_, length, ..] = message.body.first_chunk::<ROUTE_HEADER>()?;
            let row = netlink::attr::parse(message.body.get(ROUTE_HEADER..)?);
            let address = |kind| {
                row.clone()
                    .find(kind)
                    .and_then(|a| devices::address(a.payload))
            };
            let destination = IpNet::new(address(RTA_DST).unwrap_or(any), length).ok()?;
            Some((destination, address(RTA_GATEWAY)))
        },
    );
    rtm::no_such_table_is_empty(found).map_err(at("list routes of the sandbox".to_owned()))
}
