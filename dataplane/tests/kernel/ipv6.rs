//! IPv6 in a real kernel: VXLAN over it, switched live, both families at once, hosts that live from routers.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::AsRawFd;
use std::time::Duration;

use crate::netns::{Ns, reaches};
use crate::racks::{Racks, cable, forward, without_tunnel_addresses};
use crate::world::{pool, world};
use api::EncapMode::{self, Always, CrossSubnet, Never};
use dataplane::io::{Config, Driver};
use dataplane::plan::settings::{Bgp, Settings};
use dataplane::{Retain, Table};
use model::Event;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn6, sendto, setsockopt,
    socket, sockopt,
};

fn six(mode: EncapMode) -> [Event; 1] {
    [pool("six", "fd00:10::/64", mode, true)]
}

#[tokio::test]
async fn vxlan_over_ipv6_carries_pods_between_subnets_and_a_restart_sends_nothing() {
    let mut racks = Racks::new().await;
    racks.apply(&six(Always));
    assert_eq!(racks.ping6(), Ok(()));
    racks.transfer(1);
    racks.assert_only("vxlan6");
    let a1 = &racks.a1.host;
    let device = a1.ip("-d link show vxlan-v6.calico");
    for part in [
        "id 4096",
        "local fd01:1::11 dev eth0",
        "dstport 4789",
        "nolearning",
        "mtu 1430",
        "alias margay",
    ] {
        assert!(device.contains(part), "{part}: {device}");
    }
    let address = a1.ip("-6 addr show dev vxlan-v6.calico");
    assert!(address.contains("inet6 fd00:10::101/128"), "{address}");
    assert!(
        !address
            .lines()
            .any(|line| line.contains("::101") && line.contains("tentative"))
    );
    let route = a1.ip("-6 route show fd00:10::300/122");
    for part in ["nhid", "mtu 1430", "metric 1024", "proto 80"] {
        assert!(route.contains(part), "{part}: {route}");
    }
    let hole = a1.ip("-6 route show fd00:10::100/122");
    assert!(
        hole.contains("blackhole") && hole.contains("metric 1024"),
        "{hole}"
    );
    let pod = a1.ip("-6 route show fd00:10::105");
    assert!(pod.contains("dev cali1 proto 80 metric 1024"), "{pod}");
    let neighbours = a1.ip("-6 neigh show dev vxlan-v6.calico");
    assert!(
        neighbours.contains("fd00:10::301 lladdr 66:"),
        "{neighbours}"
    );
    let forwarding = a1.run("bridge", "fdb show dev vxlan-v6.calico");
    assert!(forwarding.contains("dst fd01:2::11"), "{forwarding}");
    assert_eq!(a1.read("/proc/sys/net/ipv6/conf/all/forwarding"), "1");

    let (one, two) = racks.apply(&six(Always));
    assert_eq!((one.sent, two.sent), (0, 0));
    racks.a1.driver = Driver::open_in(&racks.a1.host.fd, Config::default()).unwrap();
    assert_eq!(
        racks.a1.apply(&six(Always)).sent,
        0,
        "adoption changes nothing"
    );
}

#[tokio::test]
async fn the_mode_of_an_ipv6_pool_is_switched_live() {
    let mut racks = Racks::new().await;
    racks.apply(&six(Always));
    racks.ping6().unwrap();
    let (one, two) = racks.apply(&six(CrossSubnet));
    assert_eq!(
        (one.sent, two.sent),
        (0, 0),
        "the nodes lie in different subnets"
    );
    let (off, _) = racks.apply(&six(Never));
    assert!(off.sent > 0);
    assert_eq!(racks.a1.host.ip("nexthop").trim(), "");
    assert!(racks.a1.host.ip("link").contains("vxlan-v6.calico"));
    racks.apply(&[six(Never).to_vec(), without_tunnel_addresses()].concat());
    assert!(!racks.a1.host.ip("link").contains("vxlan-v6.calico"));
    racks.apply(&six(Always));
    assert_eq!(racks.ping6(), Ok(()));
}

#[tokio::test]
async fn two_families_are_two_tunnels_and_neither_needs_the_other() {
    let mut racks = Racks::new().await;
    let four = pool("four", "10.244.0.0/16", Always, true);
    let [six] = six(Always);
    racks.apply(&[four.clone(), six]);
    assert_eq!((racks.ping(), racks.ping6()), (Ok(()), Ok(())));
    let carried = racks.carried();
    let kinds: Vec<_> = carried.iter().map(|(kind, _)| kind.as_str()).collect();
    assert_eq!(kinds, ["vxlan4", "vxlan6"]);
    racks.apply(&[four]);
    assert_eq!(racks.ping(), Ok(()));
    racks.assert_only("vxlan4");
}

#[tokio::test]
async fn what_somebody_breaks_of_ipv6_is_put_back() {
    let mut racks = Racks::new().await;
    racks.apply(&six(Always));
    racks.ping6().unwrap();
    let a1 = &racks.a1.host;
    a1.ip("-6 neigh del fd00:10::301 dev vxlan-v6.calico");
    // Takes every IPv6 address along, and with the link-local one of the host end the gateway of the pod.
    a1.ip("link set cali1 down");
    a1.ip("link set vxlan-v6.calico down");
    a1.ip("link set vxlan-v6.calico mtu 1300");
    assert!(!a1.ip("-6 addr show dev cali1").contains("fe80::ecee"));
    for table in Table::ALL {
        racks.a1.driver.forget(table);
    }
    racks.a1.apply(&six(Always));
    assert_eq!(racks.ping6(), Ok(()));
    let gateway = racks.a1.host.ip("-6 addr show dev cali1");
    assert!(
        gateway.contains("fe80::ecee:eeff:feee:eeee/64"),
        "{gateway}"
    );
    assert_eq!(racks.a1.apply(&six(Always)).sent, 0);
    // A pod that forgot the entry it was given asks, and is answered.
    racks.a1.pod.ip("-6 neigh flush dev eth0 nud permanent");
    assert_eq!(racks.ping6(), Ok(()));
}

#[tokio::test]
async fn an_uplink_that_lives_from_a_router_does_so_after_the_host_forwards() {
    let (router, host) = (Ns::new(), Ns::new());
    forward(&router);
    cable(&router, &host, 1);
    host.ip("-6 route del default");
    let mut driver = Driver::open_in(&host.fd, Config::default()).unwrap();
    let events = || [pool("six", "fd00:10::/64", Never, true)];
    let mut round = || {
        let seen = driver.host().unwrap();
        let plan = dataplane::plan::plan(&world("a1", events()), &seen, &Settings::new(Bgp::On));
        let report = driver.apply(plan.desired, Retain::NOTHING).unwrap();
        assert_eq!(report.refused, []);
    };
    advertise(&router, "p1");
    let default = || host.ip("-6 route show default proto ra");
    assert!(default().contains("dev eth0"), "{}", host.ip("-6 route"));
    round();
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/all/forwarding"), "1");
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/eth0/accept_ra"), "2");
    assert!(default().contains("dev eth0"), "{}", host.ip("-6 route"));
    // And it goes on hearing them.
    host.ip("-6 route flush proto ra");
    advertise(&router, "p1");
    assert!(default().contains("dev eth0"), "{}", host.ip("-6 route"));
    round();
    assert_eq!(host.read("/proc/sys/net/ipv6/conf/eth0/accept_ra"), "2");
    assert_eq!(
        reaches(&host.udp("fd01:1::11"), &router.udp("fd01:1::1")),
        Ok(())
    );
}

/// Sends one router advertisement, and waits a moment.
fn advertise(router: &Ns, port: &str) {
    // RFC 4861 §4.2: type, code, checksum (the kernel's), hop limit, flags, lifetime in seconds, two timers left alone.
    let mut message = vec![134, 0, 0, 0, 64, 0];
    message.extend_from_slice(&1800_u16.to_be_bytes());
    message.extend_from_slice(&[0; 8]);
    // Two, because the port of a router that was just cabled may lose the first.
    for _ in 0..2 {
        router.inside(|| {
            let flags = SockFlag::SOCK_CLOEXEC;
            let raw = socket(
                AddressFamily::Inet6,
                SockType::Raw,
                flags,
                SockProtocol::IcmpV6,
            );
            let raw = raw.unwrap();
            setsockopt(&raw, sockopt::Ipv6MulticastHops, &255).unwrap();
            let scope = nix::net::if_::if_nametoindex(port).unwrap();
            let everybody: Ipv6Addr = "ff02::1".parse().unwrap();
            let to = SockaddrIn6::from(SocketAddrV6::new(everybody, 0, 0, scope));
            // The link-local address, from which a router must speak, is checked for duplicates first.
            std::thread::sleep(Duration::from_millis(1500));
            sendto(raw.as_raw_fd(), &message, &to, MsgFlags::empty()).unwrap();
        });
    }
    std::thread::sleep(Duration::from_millis(100));
}
