//! Pods attached and detached in a real kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::netns::{Ns, echo, name, reaches};
use dataplane::io::{
    AttachError, Attached, Config, Conntrack, Detacher, Driver, SysctlRoot, Workloads,
};
use dataplane::link::{Mac, WorkloadLink};
use dataplane::plan::workload::{Attachment, DefaultRoute, Forwarding, Recipe, SandboxStep, plan};
use dataplane::route::{Protocol, Route, RouteKey, Target};
use dataplane::{Desired, NeighbourKey, Retain, Strangers, Table};

fn recipe(host: &str, addresses: &[&str]) -> Recipe {
    plan(&Attachment {
        host: name(host),
        sandbox: name("eth0"),
        alias: format!("margay default/{host} c0ffee"),
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        mtu: 1400,
        forwarding: Forwarding::Off,
        default_route: DefaultRoute::IfNone,
        routes: Vec::new(),
    })
    .unwrap()
}

/// What the planner wants for attached pods.
fn desired(pods: &[(&Attached, &[&str])]) -> Desired {
    let mut desired = Desired::default();
    for (pod, addresses) in pods {
        let device = pod.host.name.clone();
        desired
            .workloads
            .insert(device.clone(), WorkloadLink { up: true });
        for address in *addresses {
            let address: IpAddr = address.parse().unwrap();
            let key = NeighbourKey {
                device: device.clone(),
                address,
            };
            desired.neighbours.insert(key, pod.sandbox.mac);
            let route = Route {
                target: Target::Device(device.clone()),
                protocol: Protocol::PLANNED,
                source: None,
                mtu: None,
            };
            desired
                .routes
                .insert(RouteKey::new(address.into(), 1024), route);
        }
    }
    desired
}

fn forwarding_host() -> Ns {
    let host = Ns::new();
    let write = |path: &'static str| {
        netlink::netns::run_in(&host.fd, || std::fs::write(path, "1"))
            .unwrap()
            .unwrap();
    };
    write("/proc/sys/net/ipv4/ip_forward");
    write("/proc/sys/net/ipv6/conf/all/forwarding");
    host
}

#[tokio::test]
async fn pods_reach_each_other_and_the_host_without_arp_and_without_a_default_route() {
    let host = forwarding_host();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let (one, two) = (Ns::new(), Ns::new());
    let a = workloads
        .attach(recipe("cali1", &["10.244.1.1", "fd00:1::1"]), one.fd())
        .await
        .unwrap();
    let b = workloads
        .attach(recipe("cali2", &["10.244.1.2", "fd00:1::2"]), two.fd())
        .await
        .unwrap();
    assert_eq!(a.host.mac, Mac([0xee; 6]));
    assert_eq!((a.host.mtu, a.sandbox.mtu), (1400, 1400));
    assert_ne!(a.sandbox.mac, b.sandbox.mac);

    let link = workloads.find(name("cali1")).await.unwrap().unwrap();
    assert!(!link.up, "down until policy stands");
    assert_eq!(link.alias.as_deref(), Some("margay default/cali1 c0ffee"));
    assert!(
        one.ip("-4 neigh show dev eth0")
            .contains("169.254.1.1 lladdr ee:ee:ee:ee:ee:ee PERMANENT")
    );
    assert_eq!(one.read("/proc/sys/net/ipv4/ip_forward"), "0");
    for key in ["forwarding", "proxy_arp", "route_localnet"] {
        assert_eq!(
            host.read(&format!("/proc/sys/net/ipv4/conf/cali1/{key}")),
            "1",
            "{key}"
        );
    }
    assert_eq!(host.read("/proc/sys/net/ipv4/neigh/cali1/proxy_delay"), "0");
    for (key, value) in [
        ("accept_ra", "0"),
        ("accept_dad", "0"),
        ("forwarding", "1"),
        ("proxy_ndp", "1"),
    ] {
        assert_eq!(
            host.read(&format!("/proc/sys/net/ipv6/conf/cali1/{key}")),
            value,
            "{key}"
        );
    }
    let links = host.ip("-6 addr show dev cali1");
    assert!(links.contains("fe80::ecee:eeff:feee:eeee/64"), "{links}");
    assert!(!links.contains("tentative"), "{links}");

    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    let wanted = desired(&[
        (&a, &["10.244.1.1", "fd00:1::1"]),
        (&b, &["10.244.1.2", "fd00:1::2"]),
    ]);
    let report = driver.apply(wanted.clone(), Retain::NOTHING).unwrap();
    assert_eq!(report.refused, []);
    assert_eq!(
        reaches(&one.udp("10.244.1.1"), &two.udp("10.244.1.2")),
        Ok(())
    );
    assert_eq!(
        reaches(&one.udp("fd00:1::1"), &two.udp("fd00:1::2")),
        Ok(())
    );
    host.ip("addr add 192.0.2.1/32 dev lo");
    assert_eq!(
        reaches(&host.udp("192.0.2.1"), &two.udp("10.244.1.2")),
        Ok(())
    );

    assert_eq!(
        driver.apply(wanted.clone(), Retain::NOTHING).unwrap().sent,
        0,
        "nothing left to do"
    );
    let mut restarted = Driver::open_in(&host.fd, Config::default()).unwrap();
    assert_eq!(
        restarted.apply(wanted, Retain::EVERYTHING).unwrap().sent,
        0,
        "a restart changes nothing"
    );
}

#[tokio::test]
async fn the_first_datagram_of_a_settled_pod_arrives() {
    const ROUNDS: usize = 40;
    let host = forwarding_host();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    host.ip("addr add 192.0.2.1/32 dev lo");
    let server = host.udp("192.0.2.1");
    let mut waits = Vec::new();
    for n in 0..ROUNDS {
        let (link, address) = (format!("cali{n}"), format!("10.244.1.{n}"));
        let pod = Ns::new();
        let attached = workloads
            .attach(recipe(&link, &[&address]), pod.fd())
            .await
            .unwrap();
        let client = pod.udp(&address);
        let up = desired(&[(&attached, &[&address])]);
        driver.apply(up, Retain::NOTHING).unwrap();
        let start = Instant::now();
        let settled = workloads
            .settled(pod.fd(), name("eth0"), Duration::from_secs(2))
            .await;
        waits.push(start.elapsed());
        assert!(settled.unwrap());
        assert_eq!(echo(&client, &server), Ok(()), "round {n}");
    }
    waits.sort();
    println!(
        "settled: p50 {:?}, max {:?}",
        waits[ROUNDS / 2],
        waits[ROUNDS - 1]
    );
}

#[tokio::test]
async fn a_failing_step_leaves_nothing_behind() {
    let host = Ns::new();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let pod = Ns::new();
    let mut bad = recipe("cali1", &["10.244.1.1"]);
    bad.sandbox.push(SandboxStep::Route {
        destination: "10.9.0.0/16".parse().unwrap(),
        via: "192.0.2.77".parse().unwrap(),
        existing: dataplane::plan::workload::Existing::Replace,
    });
    let error = workloads.attach(bad, pod.fd()).await.unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("192.0.2.77") && text.contains("invalid gateway"),
        "{text}"
    );
    assert_eq!(workloads.find(name("cali1")).await.unwrap(), None);
    assert!(!pod.ip("link").contains("eth0"));
    // And the name is free.
    workloads
        .attach(recipe("cali1", &["10.244.1.1"]), pod.fd())
        .await
        .unwrap();
}

#[tokio::test]
async fn names_in_use_and_wrong_namespaces_are_told_apart() {
    let host = Ns::new();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let (one, two) = (Ns::new(), Ns::new());
    workloads
        .attach(recipe("cali1", &["10.244.1.1"]), one.fd())
        .await
        .unwrap();

    let taken = workloads
        .attach(recipe("cali1", &["10.244.1.2"]), two.fd())
        .await
        .unwrap_err();
    assert!(
        matches!(taken, AttachError::HostNameTaken { alias: Some(_), .. }),
        "{taken}"
    );
    let taken = workloads
        .attach(recipe("cali2", &["10.244.1.2"]), one.fd())
        .await
        .unwrap_err();
    assert!(
        matches!(taken, AttachError::SandboxNameTaken { .. }),
        "{taken}"
    );
    let own = workloads
        .attach(recipe("cali3", &["10.244.1.3"]), host.fd())
        .await
        .unwrap_err();
    assert!(matches!(own, AttachError::HostNamespace), "{own}");
    let (pipe, _writer) = nix::unistd::pipe().unwrap();
    let wrong = workloads
        .attach(recipe("cali4", &["10.244.1.4"]), pipe)
        .await
        .unwrap_err();
    assert!(!wrong.to_string().is_empty());
    assert_eq!(workloads.list(vec!["cali".into()]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_sandbox_as_a_runtime_makes_it_has_no_table_yet() {
    let (host, pod) = (Ns::untouched(), Ns::untouched());
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let attached = workloads
        .attach(recipe("cali1", &["10.244.1.1"]), pod.fd())
        .await
        .unwrap();
    let inside = workloads
        .inspect(pod.fd(), name("eth0"))
        .await
        .unwrap()
        .unwrap();
    assert!(inside.up);
    assert_eq!(inside.end, attached.sandbox);
    assert!(inside.addresses.contains(&"10.244.1.1/32".parse().unwrap()));
    let gateway = Some("169.254.1.1".parse().unwrap());
    assert!(
        inside
            .routes
            .contains(&("0.0.0.0/0".parse().unwrap(), gateway))
    );
    assert_eq!(
        workloads.inspect(pod.fd(), name("net1")).await.unwrap(),
        None
    );

    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    driver
        .apply(desired(&[(&attached, &["10.244.1.1"])]), Retain::NOTHING)
        .unwrap();
    let standing = workloads.standing(vec!["cali".into()]).await.unwrap();
    assert_eq!(
        standing[0].addresses,
        ["10.244.1.1".parse::<IpAddr>().unwrap()]
    );
    assert!(standing[0].link.up);
}

#[tokio::test]
async fn a_default_route_of_another_plugin_is_kept() {
    let host = Ns::new();
    let pod = Ns::new();
    pod.ip("link add other type veth peer name far");
    pod.ip("link set other up");
    pod.ip("addr add 192.0.2.2/24 dev other");
    pod.ip("route add default via 192.0.2.1 metric 50");
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    workloads
        .attach(recipe("cali1", &["10.244.1.1"]), pod.fd())
        .await
        .unwrap();
    let routes = pod.ip("route show default");
    assert_eq!(routes.lines().count(), 1, "{routes}");
    assert!(routes.contains("metric 50"), "{routes}");
}

#[tokio::test]
async fn dying_links_go_together() {
    const PODS: usize = 60;
    let host = Ns::new();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let detacher = Detacher::open_in(host.fd()).unwrap();
    let mut pods = Vec::new();
    for n in 0..PODS + 3 {
        let pod = Ns::new();
        workloads
            .attach(
                recipe(&format!("cali{n}"), &[&format!("10.244.1.{n}")]),
                pod.fd(),
            )
            .await
            .unwrap();
        pods.push(pod);
    }
    let mut single = Vec::new();
    for n in PODS..PODS + 3 {
        let start = Instant::now();
        detacher.detach(name(&format!("cali{n}"))).await.unwrap();
        single.push(start.elapsed());
    }
    let start = Instant::now();
    let all: Vec<_> = (0..PODS)
        .map(|n| {
            let detacher = detacher.clone();
            tokio::spawn(async move { detacher.detach(name(&format!("cali{n}"))).await })
        })
        .collect();
    for one in all {
        one.await.unwrap().unwrap();
    }
    println!(
        "detach: single {single:?}, {PODS} together {:?}",
        start.elapsed()
    );
    assert_eq!(workloads.list(vec!["cali".into()]).await.unwrap(), []);
    detacher.detach(name("cali0")).await.expect("gone is fine");
}

#[tokio::test]
async fn attaching_is_fast() {
    let host = Ns::new();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let mut times = Vec::new();
    let mut pods = Vec::new();
    for n in 0..30 {
        let pod = Ns::new();
        let start = Instant::now();
        workloads
            .attach(
                recipe(&format!("cali{n}"), &[&format!("10.244.1.{n}")]),
                pod.fd(),
            )
            .await
            .unwrap();
        times.push(start.elapsed());
        pods.push(pod);
    }
    times.sort();
    println!(
        "attach: p50 {:?}, max {:?}",
        times[times.len() / 2],
        times[times.len() - 1]
    );
}

#[tokio::test]
async fn settings_reach_another_namespace_through_a_mount_elsewhere() {
    // In its container the daemon sees its own /proc/sys read-only and the host's /proc/sys/net mounted elsewhere. The mounts of
    // this test are seen by this thread and those it starts, by nobody else.
    nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
    let private = nix::mount::MsFlags::MS_REC | nix::mount::MsFlags::MS_PRIVATE;
    nix::mount::mount(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
    let place = tempfile::tempdir().unwrap();
    let net = place.path().join("net");
    std::fs::create_dir(&net).unwrap();
    let bind = nix::mount::MsFlags::MS_BIND;
    nix::mount::mount(
        Some("/proc/sys/net"),
        &net,
        None::<&str>,
        bind,
        None::<&str>,
    )
    .unwrap();
    let (host, pod) = (Ns::new(), Ns::new());
    let before = host.read("/proc/sys/net/ipv4/ip_forward");
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::new(place.path())).unwrap();
    let mut wanted = recipe("cali1", &["10.244.1.1"]);
    for step in &mut wanted.sandbox {
        if let SandboxStep::Sysctl(setting) = step {
            setting.value = 1;
        }
    }
    workloads.attach(wanted, pod.fd()).await.unwrap();
    assert_eq!(pod.read("/proc/sys/net/ipv4/ip_forward"), "1");
    assert_eq!(
        host.read("/proc/sys/net/ipv4/ip_forward"),
        before,
        "the host's own value is untouched"
    );
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/cali1/accept_ra"), "0");
    nix::mount::umount(&net).unwrap();
}

#[tokio::test]
async fn routes_of_a_former_network_leave_host_ends() {
    let host = forwarding_host();
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let pod = Ns::new();
    let attached = workloads
        .attach(recipe("cali1", &["10.244.1.1", "fd00:1::1"]), pod.fd())
        .await
        .unwrap();
    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    let wanted = |strangers| Desired {
        strangers,
        ..desired(&[(&attached, &["10.244.1.1", "fd00:1::1"])])
    };
    driver
        .apply(wanted(Strangers::Keep), Retain::NOTHING)
        .unwrap();
    // As another network made them: the same pod under another metric, and one that nothing here explains.
    host.ip("route add 10.244.1.1 dev cali1 scope link proto 3");
    host.ip("-6 route add fd00:1::1 dev cali1 metric 512 proto 3");
    host.ip("route add 192.0.2.0/24 dev cali1 scope link proto static");
    let mut again = |strangers, retain| {
        driver.forget(Table::Routes);
        let report = driver.apply(wanted(strangers), retain).unwrap();
        assert_eq!(report.refused, []);
        report.sent
    };
    assert_eq!(again(Strangers::Keep, Retain::NOTHING), 0);
    assert_eq!(again(Strangers::Remove, Retain::EVERYTHING), 0);
    assert_eq!(again(Strangers::Remove, Retain::NOTHING), 2);
    let four = host.ip("route show 10.244.1.1");
    assert!(
        four.contains("proto 80") && four.lines().count() == 1,
        "{four}"
    );
    let six = host.ip("-6 route show fd00:1::1");
    assert!(
        six.contains("proto 80") && six.lines().count() == 1,
        "{six}"
    );
    assert!(host.ip("route").contains("192.0.2.0/24"), "its grace runs");
}

#[tokio::test]
async fn connections_of_an_address_are_forgotten_and_others_kept() {
    let host = forwarding_host();
    host.run("nft", "add table inet track");
    host.run(
        "nft",
        "add chain inet track seen { type filter hook forward priority 0 ; }",
    );
    host.run(
        "nft",
        "add rule inet track seen ct state new counter accept",
    );
    let workloads = Workloads::open_in(host.fd(), SysctlRoot::default()).unwrap();
    let pods = [Ns::new(), Ns::new(), Ns::new()];
    let addresses = ["10.244.1.1", "10.244.1.2", "10.244.1.3"];
    let mut attached = Vec::new();
    for (n, pod) in pods.iter().enumerate() {
        attached.push(
            workloads
                .attach(recipe(&format!("cali{n}"), &[addresses[n]]), pod.fd())
                .await
                .unwrap(),
        );
    }
    let singles: Vec<_> = addresses.iter().map(|address| [*address]).collect();
    let wanted: Vec<_> = attached
        .iter()
        .zip(&singles)
        .map(|(pod, one)| (pod, &one[..]))
        .collect();
    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    driver.apply(desired(&wanted), Retain::NOTHING).unwrap();
    let sockets: Vec<_> = pods
        .iter()
        .zip(addresses)
        .map(|(pod, address)| pod.udp(address))
        .collect();
    reaches(&sockets[0], &sockets[1]).unwrap();
    reaches(&sockets[1], &sockets[2]).unwrap();
    assert_eq!(
        connections(&host),
        BTreeMap::from([("10.244.1.1", 1), ("10.244.1.2", 1)].map(owned))
    );

    let conntrack = Conntrack::open_in(&host.fd).unwrap();
    conntrack
        .forget(vec!["10.244.1.9".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(
        connections(&host).len(),
        2,
        "an address without connections"
    );
    conntrack
        .forget(vec!["10.244.1.1".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(
        connections(&host),
        BTreeMap::from([owned(("10.244.1.2", 1))])
    );
    conntrack
        .forget(vec!["10.244.1.3".parse().unwrap()])
        .await
        .unwrap();
    assert_eq!(
        connections(&host),
        BTreeMap::new(),
        "the answering side counts too"
    );
}

fn owned((address, count): (&str, usize)) -> (IpAddr, usize) {
    (address.parse().unwrap(), count)
}

/// Original source → number of connections.
fn connections(host: &Ns) -> BTreeMap<IpAddr, usize> {
    let mut socket = netlink::Socket::open_in(&host.fd, netlink::Protocol::Netfilter).unwrap();
    let sources = socket
        .dump(
            0x101,
            |enc| enc.raw(&[2, 0, 0, 0]),
            |message| {
                let original = netlink::attr::parse(message.body.get(4..)?).find(1)?;
                let source = original.nested().find(1)?.nested().find(1)?;
                source.array::<4>().map(IpAddr::from)
            },
        )
        .unwrap();
    let mut counted = BTreeMap::new();
    for source in sources {
        *counted.entry(source).or_default() += 1;
    }
    counted
}
