//! Routes and next-hop objects in a real kernel: adoption, few messages, foreign routes, many routes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::netns::{Ns, name};
use dataplane::io::{Config, Driver, Monitor};
use dataplane::route::{Group, Hop, Protocol, Route, RouteKey, Target};
use dataplane::{Desired, NexthopMode, Retain, Table};

const RTNLGRP_IPV4_ROUTE: u32 = 7;
const RTNLGRP_NEXTHOP: u32 = 32;

/// A host with one uplink whose far end answers nobody.
fn host() -> (Ns, Ns) {
    let (host, far) = (Ns::new(), Ns::new());
    let fd = std::os::fd::AsRawFd::as_raw_fd(&far.fd);
    let pid = std::process::id();
    host.ip(&format!(
        "link add eth0 type veth peer name eth0 netns /proc/{pid}/fd/{fd}"
    ));
    far.ip("link set eth0 up");
    host.ip("addr add 10.1.0.11/24 dev eth0");
    host.ip("link set eth0 up");
    (host, far)
}

fn hop(n: u8) -> Hop {
    Hop {
        gateway: [10, 1, 0, n].into(),
        device: name("eth0"),
        onlink: false,
    }
}

fn via(hops: &[u8]) -> Target {
    Target::Group(Group::try_new(hops.iter().copied().map(hop)).unwrap())
}

fn learnt(count: u32, target: &Target) -> Desired {
    let mut routes = BTreeMap::new();
    for n in 0..count {
        let net = ipnet::Ipv4Net::new(Ipv4Addr::from(0x0b00_0000 + (n << 6)), 26).unwrap();
        let route = Route {
            target: target.clone(),
            protocol: Protocol::LEARNT,
            source: None,
            mtu: None,
        };
        routes.insert(RouteKey::new(net.into(), 1024), route);
    }
    Desired {
        routes,
        ..Desired::default()
    }
}

fn open(host: &Ns) -> Driver {
    Driver::open_in(&host.fd, Config::default()).unwrap()
}

/// Tells the driver what the monitor heard, until it is quiet.
async fn listen(driver: &mut Driver, monitor: &mut Monitor) {
    let quiet = Duration::from_millis(200);
    while let Ok(changed) = tokio::time::timeout(quiet, monitor.changed()).await {
        driver.note(&changed.unwrap());
    }
}

/// Notifications of routes and objects until it is quiet.
async fn count(monitor: &mut netlink::Monitor) -> usize {
    let mut heard = 0;
    while let Ok(next) =
        tokio::time::timeout(Duration::from_millis(100), monitor.hear(|_| heard += 1)).await
    {
        next.unwrap();
    }
    heard
}

#[tokio::test]
async fn a_restart_adopts_and_the_kernel_hears_nothing() {
    let (host, _far) = host();
    let desired = learnt(1_000, &via(&[1, 2]));
    open(&host).apply(desired.clone(), Retain::NOTHING).unwrap();
    let mut monitor = netlink::Monitor::open_in(
        &host.fd,
        netlink::Protocol::Route,
        &[RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP],
    )
    .unwrap();
    let report = open(&host).apply(desired, Retain::EVERYTHING).unwrap();
    assert_eq!(report.sent, 0);
    assert_eq!(count(&mut monitor).await, 0);
}

#[tokio::test]
async fn losing_a_router_is_one_message_and_at_most_two_notifications() {
    let (host, _far) = host();
    let mut driver = open(&host);
    driver
        .apply(learnt(1_000, &via(&[1, 2])), Retain::NOTHING)
        .unwrap();
    let mut monitor = netlink::Monitor::open_in(
        &host.fd,
        netlink::Protocol::Route,
        &[RTNLGRP_IPV4_ROUTE, RTNLGRP_NEXTHOP],
    )
    .unwrap();
    let start = Instant::now();
    let report = driver
        .apply(learnt(1_000, &via(&[2])), Retain::NOTHING)
        .unwrap();
    println!("1,000 routes moved off a router in {:?}", start.elapsed());
    // The group, and the object of the lost router.
    assert_eq!((report.sent, report.refused), (2, vec![]));
    assert!(count(&mut monitor).await <= 3);
    let route = host.ip("-d route get 11.0.0.1");
    assert!(route.contains("via 10.1.0.2"), "{route}");
    assert_eq!(host.ip("route show proto 81").lines().count(), 1_000);
}

#[tokio::test]
async fn foreign_routes_are_left_alone_and_ours_replace_what_stands_in_their_place() {
    let (host, _far) = host();
    host.ip("route add 192.0.2.0/24 via 10.1.0.9 proto static");
    host.ip("route add 11.0.0.0/26 via 10.1.0.9 metric 1024 proto static");
    let mut driver = open(&host);
    driver
        .apply(learnt(2, &via(&[1])), Retain::NOTHING)
        .unwrap();
    assert_eq!(
        host.ip("route show 11.0.0.0/26").lines().count(),
        1,
        "replaced, not added beside"
    );
    driver.apply(Desired::default(), Retain::NOTHING).unwrap();
    assert_eq!(host.ip("route show proto 81"), "");
    assert_eq!(host.ip("nexthop"), "");
    assert!(host.ip("route").contains("192.0.2.0/24 via 10.1.0.9"));
}

#[test]
fn the_source_of_outer_headers_is_the_kernels_choice_and_can_be_asked() {
    let (host, _far) = host();
    host.ip("addr add 192.0.2.7/32 dev lo");
    host.ip("addr add fd01::11/64 dev eth0 nodad");
    host.ip("route add 10.2.0.0/24 via 10.1.0.1");
    host.ip("route add 10.3.0.0/24 via 10.1.0.1 src 192.0.2.7");
    let mut driver = open(&host);
    for (towards, source) in [
        ("10.2.0.11", Some("10.1.0.11")),
        ("10.3.0.11", Some("192.0.2.7")),
        ("10.4.0.11", None),
        ("fd01::12", Some("fd01::11")),
        ("fd02::12", None),
    ] {
        let chosen = driver.source_towards(towards.parse().unwrap()).unwrap();
        assert_eq!(
            chosen,
            source.map(|text| text.parse().unwrap()),
            "{towards}"
        );
    }
}

#[tokio::test]
async fn learnt_routes_are_kept_while_bgp_converges() {
    let (host, _far) = host();
    open(&host)
        .apply(learnt(10, &via(&[1, 2])), Retain::NOTHING)
        .unwrap();
    let mut driver = open(&host);
    let retain = Retain {
        planned: false,
        learnt: true,
    };
    let report = driver.apply(learnt(4, &via(&[1])), retain).unwrap();
    assert_eq!(report.refused, []);
    assert_eq!(host.ip("route show proto 81").lines().count(), 10);
    driver
        .apply(learnt(4, &via(&[1])), Retain::NOTHING)
        .unwrap();
    assert_eq!(host.ip("route show proto 81").lines().count(), 4);
}

#[tokio::test]
async fn an_uplink_that_flaps_gets_its_routes_back() {
    let (host, _far) = host();
    let mut driver = open(&host);
    let mut monitor = Monitor::open_in(&host.fd, [driver.port().unwrap()]).unwrap();
    driver
        .apply(learnt(50, &via(&[1])), Retain::NOTHING)
        .unwrap();
    host.ip("link set eth0 down");
    host.ip("link set eth0 up");
    listen(&mut driver, &mut monitor).await;
    driver
        .apply(learnt(50, &via(&[1])), Retain::NOTHING)
        .unwrap();
    assert_eq!(host.ip("route show proto 81").lines().count(), 50);
}

#[tokio::test]
async fn a_pulled_cable_takes_the_objects_and_a_plugged_one_brings_them_back() {
    let (host, far) = host();
    let mut driver = open(&host);
    let mut monitor = Monitor::open_in(&host.fd, [driver.port().unwrap()]).unwrap();
    driver
        .apply(learnt(50, &via(&[1])), Retain::NOTHING)
        .unwrap();
    far.ip("link set eth0 down");
    // The kernel tells of carriers once a second at most.
    let lost = async {
        loop {
            let changed = monitor.changed().await.unwrap();
            driver.note(&changed);
            if changed.lost.contains(&name("eth0")) {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), lost)
        .await
        .expect("told within seconds");
    let report = driver
        .apply(learnt(50, &via(&[1])), Retain::NOTHING)
        .unwrap();
    assert!(report.wants_retry(), "{report:?}");
    assert!(
        report.refused.iter().any(|r| r.reason.contains("arrier")),
        "{report:?}"
    );
    far.ip("link set eth0 up");
    listen(&mut driver, &mut monitor).await;
    driver
        .apply(learnt(50, &via(&[1])), Retain::NOTHING)
        .unwrap();
    assert_eq!(host.ip("route show proto 81").lines().count(), 50);
}

#[tokio::test]
async fn the_monitor_does_not_tell_what_the_driver_did_itself() {
    let (host, _far) = host();
    let mut driver = open(&host);
    let mut monitor = Monitor::open_in(&host.fd, [driver.port().unwrap()]).unwrap();
    // The devices made above still have news of their own.
    listen(&mut driver, &mut monitor).await;
    driver
        .apply(learnt(20, &via(&[1, 2])), Retain::NOTHING)
        .unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(200), monitor.changed()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    host.ip("route add 192.0.2.0/24 via 10.1.0.9");
    assert!(
        monitor
            .changed()
            .await
            .unwrap()
            .tables
            .contains(&Table::Routes)
    );
}

#[tokio::test]
async fn an_unreachable_gateway_is_named_and_hinders_nobody() {
    let (host, _far) = host();
    let mut desired = learnt(3, &via(&[1]));
    let lost = Hop {
        gateway: [192, 0, 2, 7].into(),
        ..hop(1)
    };
    let route = Route {
        target: Target::Group(Group::try_new([lost]).unwrap()),
        protocol: Protocol::LEARNT,
        source: None,
        mtu: None,
    };
    desired
        .routes
        .insert(RouteKey::new("12.0.0.0/8".parse().unwrap(), 1024), route);
    let report = open(&host).apply(desired, Retain::NOTHING).unwrap();
    assert!(report.wants_retry());
    assert!(
        report
            .refused
            .iter()
            .any(|r| r.reason.contains("invalid gateway")),
        "{:?}",
        report.refused
    );
    assert_eq!(host.ip("route show proto 81").lines().count(), 3);
}

#[tokio::test]
async fn a_kernel_without_objects_gets_gateways_in_routes() {
    let (host, _far) = host();
    let config = Config {
        nexthops: NexthopMode::Inline,
        ..Config::default()
    };
    let mut driver = Driver::open_in(&host.fd, config.clone()).unwrap();
    let mut desired = learnt(3, &via(&[1, 2]));
    let single = Route {
        target: Target::Hop(hop(3)),
        protocol: Protocol::PLANNED,
        source: Some([10, 1, 0, 11].into()),
        mtu: Some(1400),
    };
    desired
        .routes
        .insert(RouteKey::new("12.0.0.0/8".parse().unwrap(), 0), single);
    driver.apply(desired.clone(), Retain::NOTHING).unwrap();
    assert_eq!(host.ip("nexthop"), "");
    assert!(
        host.ip("route show 11.0.0.0/26")
            .contains("nexthop via 10.1.0.2 dev eth0 weight 1")
    );
    let mut restarted = Driver::open_in(&host.fd, config).unwrap();
    assert_eq!(
        restarted
            .apply(desired.clone(), Retain::NOTHING)
            .unwrap()
            .sent,
        0
    );
    // And over to objects, in place.
    let report = open(&host).apply(desired, Retain::NOTHING).unwrap();
    assert_eq!(report.refused, []);
    assert!(host.ip("route show 11.0.0.0/26").contains("nhid"));
}

#[tokio::test]
async fn ten_thousand_routes() {
    let (host, _far) = host();
    let desired = learnt(10_000, &via(&[1, 2]));
    let mut driver = open(&host);
    let start = Instant::now();
    driver.apply(desired.clone(), Retain::NOTHING).unwrap();
    let install = start.elapsed();
    let mut restarted = open(&host);
    let start = Instant::now();
    assert_eq!(
        restarted
            .apply(desired.clone(), Retain::NOTHING)
            .unwrap()
            .sent,
        0
    );
    let adopt = start.elapsed();
    let start = Instant::now();
    restarted.apply(desired, Retain::NOTHING).unwrap();
    let idle = start.elapsed();
    let start = Instant::now();
    restarted
        .apply(Desired::default(), Retain::NOTHING)
        .unwrap();
    println!(
        "10,000 routes: install {install:?}, list and compare {adopt:?}, nothing to do {idle:?}, remove {:?}",
        start.elapsed()
    );
    assert_eq!(host.ip("route show proto 81"), "");
}

#[test]
fn features_are_probed_in_a_namespace_of_their_own() {
    let features = dataplane::io::probe().unwrap();
    println!("{features:?}");
    assert_eq!(features.nexthop_objects, Ok(()));
    assert_eq!(features.nexthop_groups, Ok(()));
    assert_eq!(features.vxlan, Ok(()));
}
