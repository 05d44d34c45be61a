//! CHECK: what ADD said, what the journal remembers, and what stands in kernel and IPAM, must be one.

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::{Code, Config, DefaultRoute, Failure, Outcome};
use ipnet::IpNet;
use tokio::time::{Instant, sleep};

use super::Server;
use crate::cni::call::Call;
use crate::cni::cancel::Cancel;
use crate::cni::names::PRIMARY;
use crate::cni::record::{Record, Sandbox, State};
use crate::cni::sandbox as namespaces;
use crate::cni::seams::{HostLink, SandboxLink};

/// How long a difference may last: CRI-O checks right after ADD.
const CONVERGE: Duration = Duration::from_secs(2);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

impl Server {
    /// Compares; a difference that outlives [`CONVERGE`] is a failure that lists each one.
    pub(super) async fn check(
        &self,
        call: &Call,
        sandbox: Option<OwnedFd>,
        cancel: &Cancel,
    ) -> Result<(), Failure> {
        let sandbox = sandbox.ok_or_else(|| {
            Failure::new(
                Code::UnknownContainer,
                format!("the sandbox {} is gone", call.environment.netns),
            )
        })?;
        let end = Instant::now() + CONVERGE;
        loop {
            let differences = cancel.unless(self.differences(call, &sandbox)).await??;
            if differences.is_empty() {
                return Ok(());
            }
            if Instant::now() >= end {
                return Err(Failure::new(
                    Code::Differs,
                    format!(
                        "the interface {} of {} is not as ADD left it",
                        call.id.ifname, call.id.container_id
                    ),
                )
                .because(differences.join("; ")));
            }
            cancel.unless(sleep(LOOK)).await?;
        }
    }

    async fn differences(&self, call: &Call, sandbox: &OwnedFd) -> Result<Vec<String>, Failure> {
        let broken = |what: &str| {
            let msg = format!("{what} cannot be read");
            move |why: String| Failure::new(Code::Internal, msg).because(why)
        };
        let Some(record) = self.book.find(&call.id) else {
            return Ok(vec!["this node does not know the attachment".into()]);
        };
        let identity = namespaces::identify(sandbox)
            .map_err(|error| broken("the sandbox")(error.to_string()))?;
        let copy = sandbox
            .try_clone()
            .map_err(|error| broken("the sandbox")(error.to_string()))?;
        let inside = self
            .rooms
            .kernel
            .inspect(copy, Arc::clone(&record.id.ifname))
            .await
            .map_err(broken("the sandbox"))?;
        let host = self
            .rooms
            .kernel
            .link(Arc::clone(&record.host))
            .await
            .map_err(broken("the host interface"))?;
        let prefix = self.rooms.cluster.settings().interface_prefix;
        let mut routed = self
            .rooms
            .kernel
            .routed(&prefix)
            .await
            .map_err(broken("the node's routes"))?;
        let host = host.map(|link| {
            let routed = routed.remove(&link.ifindex).unwrap_or_default();
            (link, routed)
        });
        let seen = Seen {
            sandbox: identity,
            inside,
            host,
        };
        let mut found = compare(&record, &Said::by(&call.config, &call.id.ifname), &seen);
        found.extend(self.lost_addresses(&record).await);
        Ok(found)
    }

    /// Addresses that IPAM gave to somebody else. While IPAM cannot be asked, it did not.
    async fn lost_addresses(&self, record: &Record) -> Vec<String> {
        let Ok(holdings) = self.rooms.addresses.holdings().await else {
            return Vec::new();
        };
        let held = |address| {
            holdings
                .iter()
                .any(|holding| holding.handle == record.handle && holding.claim.address == address)
        };
        record
            .claims
            .iter()
            .filter(|claim| !held(claim.address))
            .map(|claim| format!("IPAM does not hold {} for {}", claim.address, record.handle))
            .collect()
    }
}

/// What ADD was asked for and answered.
struct Said<'a> {
    previous: Option<&'a Outcome>,
    /// Whether a default route must stand.
    default_route: bool,
}

impl<'a> Said<'a> {
    fn by(config: &'a Config, ifname: &str) -> Self {
        Self {
            previous: config.previous.as_ref(),
            default_route: match config.default_route {
                DefaultRoute::Always => true,
                // Another interface may have had it first.
                DefaultRoute::Auto => ifname == PRIMARY,
                DefaultRoute::Never => false,
            },
        }
    }
}

/// What stands now.
struct Seen {
    sandbox: Sandbox,
    inside: Option<SandboxLink>,
    /// With the addresses routed over it.
    host: Option<(HostLink, Vec<IpAddr>)>,
}

/// All differences, each one phrase. Tolerated: other routes, sysctls, a lower MTU, further addresses.
fn compare(record: &Record, said: &Said<'_>, seen: &Seen) -> Vec<String> {
    let mut found = Vec::new();
    if record.state != State::Attached {
        found.push(format!(
            "the attachment is {:?}, not attached",
            record.state
        ));
    }
    if record
        .sandbox
        .is_some_and(|recorded| recorded != seen.sandbox)
    {
        found.push("the sandbox is another namespace than at ADD".into());
    }
    match &seen.inside {
        None => found.push(format!(
            "{} does not exist in the sandbox",
            record.id.ifname
        )),
        Some(link) => found.extend(compare_inside(record, said, link)),
    }
    match &seen.host {
        None => found.push(format!("the host interface {} does not exist", record.host)),
        Some((link, routed)) => found.extend(compare_host(record, link, routed)),
    }
    if let Some(previous) = said.previous {
        let told: Vec<IpAddr> = previous.ips.iter().map(|ip| ip.address.addr()).collect();
        let untold = record
            .claims
            .iter()
            .filter(|claim| !told.contains(&claim.address));
        found.extend(
            untold.map(|claim| format!("prevResult does not have the address {}", claim.address)),
        );
    }
    found
}

fn compare_inside(record: &Record, said: &Said<'_>, link: &SandboxLink) -> Vec<String> {
    let mut found = Vec::new();
    let ifname = &record.id.ifname;
    if !link.up {
        found.push(format!("{ifname} is down"));
    }
    let mac = link.mac.to_string();
    if let Some(wanted) = said
        .previous
        .and_then(|previous| previous.sandbox_interface(ifname)?.mac.as_deref())
        .filter(|wanted| !wanted.eq_ignore_ascii_case(&mac))
    {
        found.push(format!("{ifname} has the MAC {mac}, ADD said {wanted}"));
    }
    for claim in &record.claims {
        if !link.addresses.contains(&IpNet::from(claim.address)) {
            found.push(format!("{ifname} lacks the address {}", claim.address));
        }
        let gateway = match claim.address {
            IpAddr::V4(_) => link.gateway_v4,
            // Unlike the IPv4 gateway, which has a route of its own, this one is seen only in the default route.
            IpAddr::V6(_) => link.gateway_v6 || !said.default_route,
        };
        if !gateway {
            found.push(format!(
                "{ifname} lacks the route to the gateway of {}",
                claim.address
            ));
        }
    }
    found
}

fn compare_host(record: &Record, link: &HostLink, routed: &[IpAddr]) -> Vec<String> {
    let mut found = Vec::new();
    if link.ifindex != record.ifindex {
        found.push(format!(
            "{} has the index {}, at ADD it was {}",
            record.host, link.ifindex, record.ifindex
        ));
    }
    if !link.up {
        found.push(format!(
            "{} is down, so its policy is not in force",
            record.host
        ));
    }
    for claim in record
        .claims
        .iter()
        .filter(|claim| !routed.contains(&claim.address))
    {
        found.push(format!(
            "no route leads to {} over {}",
            claim.address, record.host
        ));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cni::journal::tests::record;
    use crate::cni::record::Mac;

    fn inside() -> SandboxLink {
        SandboxLink {
            up: true,
            mac: Mac([2, 0, 0, 0, 0, 1]),
            addresses: vec![
                "10.65.0.7/32".parse().unwrap(),
                "fe80::1/64".parse().unwrap(),
            ],
            gateway_v4: true,
            gateway_v6: false,
        }
    }

    fn host() -> (HostLink, Vec<IpAddr>) {
        let link = HostLink {
            ifindex: 8,
            alias: "margay shop/web-1 c1".into(),
            up: true,
        };
        (link, vec!["10.65.0.7".parse().unwrap()])
    }

    fn previous() -> Outcome {
        serde_json::from_str::<serde_json::Value>(
            r#"{"interfaces":[{"name":"cali1"},{"name":"eth0","mac":"02:00:00:00:00:01","sandbox":"/x"}],"ips":[{"address":"10.65.0.7/32","interface":1}]}"#,
        )
        .map(|value| Outcome::parse(&value, cni_plugin::spec::Version::V1_0_0).unwrap())
        .unwrap()
    }

    fn found(record: &Record, previous: &Outcome, seen: &Seen) -> Vec<String> {
        let said = Said {
            previous: Some(previous),
            default_route: true,
        };
        compare(record, &said, seen)
    }

    fn seen(record: &Record) -> Seen {
        Seen {
            sandbox: record.sandbox.unwrap(),
            inside: Some(inside()),
            host: Some(host()),
        }
    }

    #[test]
    fn what_add_left_has_no_difference() {
        let record = record(1, State::Attached);
        assert_eq!(
            found(&record, &previous(), &seen(&record)),
            Vec::<String>::new()
        );
    }

    type Change = fn(&mut SandboxLink, &mut (HostLink, Vec<IpAddr>));

    #[test]
    fn each_difference_is_named() {
        let record = record(1, State::Attached);
        let table: [(Change, &str); 7] = [
            (|inside, _| inside.up = false, "eth0 is down"),
            (|inside, _| inside.mac = Mac::default(), "MAC"),
            (|inside, _| inside.addresses.clear(), "lacks the address"),
            (|inside, _| inside.gateway_v4 = false, "gateway"),
            (|_, host| host.0.up = false, "policy"),
            (|_, host| host.0.ifindex = 99, "index"),
            (|_, host| host.1.clear(), "no route leads"),
        ];
        for (change, named) in table {
            let mut seen = seen(&record);
            change(seen.inside.as_mut().unwrap(), seen.host.as_mut().unwrap());
            let found = found(&record, &previous(), &seen).join("; ");
            assert!(found.contains(named), "{named}: {found}");
        }
        let other = Seen {
            sandbox: Sandbox {
                device: 4,
                inode: 1,
            },
            inside: None,
            host: None,
        };
        assert_eq!(found(&record, &Outcome::default(), &other).len(), 4);
    }

    #[test]
    fn the_ipv6_gateway_is_wanted_only_where_the_default_route_is() {
        let mut record = record(1, State::Attached);
        record.claims = vec![crate::cni::record::Claim {
            address: "fd00::7".parse().unwrap(),
            place: None,
        }];
        let mut seen = seen(&record);
        seen.inside
            .as_mut()
            .unwrap()
            .addresses
            .push("fd00::7/128".parse().unwrap());
        seen.host
            .as_mut()
            .unwrap()
            .1
            .push("fd00::7".parse().unwrap());
        for (default_route, differences) in [(true, 1), (false, 0)] {
            let said = Said {
                previous: None,
                default_route,
            };
            assert_eq!(compare(&record, &said, &seen).len(), differences);
        }
    }
}
