//! VXLAN over IPv4 in a real kernel: on, switched live, broken and mended, off.

use crate::racks::{Racks, without_tunnel_addresses};
use crate::world::pool;
use api::EncapMode::{self, Always, CrossSubnet, Never};
use dataplane::io::{Config, Driver};
use model::Event;

fn pools(mode: EncapMode) -> [Event; 1] {
    [pool("default", "10.244.0.0/16", mode, true)]
}

#[tokio::test]
async fn vxlan_carries_pods_between_subnets_and_a_restart_sends_nothing() {
    let mut racks = Racks::new().await;
    let (sent, _) = racks.apply(&pools(Always));
    assert!(sent.sent > 0);
    assert_eq!(racks.ping(), Ok(()));
    racks.transfer(0);
    racks.assert_only("vxlan4");
    let device = racks.a1.host.ip("-d link show vxlan.calico");
    for part in [
        "id 4096",
        "local 10.1.0.11 dev eth0",
        "dstport 4789",
        "nolearning",
        "mtu 1450",
        "alias margay",
    ] {
        assert!(device.contains(part), "{part}: {device}");
    }
    assert!(
        racks
            .a1
            .host
            .ip("addr show vxlan.calico")
            .contains("inet 10.244.1.0/32")
    );
    let routes = racks.a1.host.ip("route show 10.244.3.0/26");
    assert!(
        routes.contains("nhid") && routes.contains("mtu 1450"),
        "{routes}"
    );
    assert!(
        racks
            .a1
            .host
            .ip("neigh show dev vxlan.calico")
            .contains("10.244.3.0 lladdr 66:")
    );
    assert!(
        racks
            .a1
            .host
            .run("bridge", "fdb show dev vxlan.calico")
            .contains("dst 10.2.0.11")
    );
    assert!(
        racks
            .a1
            .host
            .ip("route show type blackhole")
            .contains("10.244.1.0/26")
    );

    let (one, two) = racks.apply(&pools(Always));
    assert_eq!((one.sent, two.sent), (0, 0));
    racks.a1.driver = Driver::open_in(&racks.a1.host.fd, Config::default()).unwrap();
    assert_eq!(
        racks.a1.apply(&pools(Always)).sent,
        0,
        "adoption changes nothing"
    );
}

#[tokio::test]
async fn the_mode_of_a_pool_is_switched_live() {
    let mut racks = Racks::new().await;
    racks.apply(&pools(Always));
    racks.ping().unwrap();
    // Both nodes lie in different subnets, so CrossSubnet keeps the tunnel and everything in it.
    let (one, two) = racks.apply(&pools(CrossSubnet));
    assert_eq!((one.sent, two.sent), (0, 0));

    let (off, _) = racks.apply(&pools(Never));
    assert!(off.sent > 0);
    assert!(!racks.a1.host.ip("route").contains("10.244.3.0/26"));
    assert_eq!(racks.a1.host.ip("nexthop").trim(), "");
    assert!(racks.ping().is_err(), "nobody routes it now");
    // The other node may still send through the tunnel while it tells an address of it.
    assert!(racks.a1.host.ip("link").contains("vxlan.calico"));
    assert!(
        !racks
            .a1
            .host
            .run("bridge", "fdb show dev vxlan.calico")
            .contains("dst 10.2.0.11")
    );
    racks.apply(&[pools(Never).to_vec(), without_tunnel_addresses()].concat());
    assert!(!racks.a1.host.ip("link").contains("vxlan.calico"));

    racks.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
}

#[tokio::test]
async fn sizes_follow_the_uplink_live() {
    let mut racks = Racks::new().await;
    let both = [
        pool("default", "10.244.0.0/16", Always, true),
        pool("six", "fd00:10::/64", Always, true),
    ];
    racks.apply(&both);
    for (uplink, four, six) in [(1400, 1350, 1330), (1500, 1450, 1430)] {
        racks.set_mtu(uplink);
        racks.apply(&both);
        for (device, route, mtu) in [
            ("vxlan.calico", "route show 10.244.3.0/26", four),
            ("vxlan-v6.calico", "-6 route show fd00:10::300/122", six),
        ] {
            let mtu = format!("mtu {mtu}");
            let link = racks.a1.host.ip(&format!("link show {device}"));
            assert!(link.contains(&mtu), "{mtu}: {link}");
            let route = racks.a1.host.ip(route);
            assert!(route.contains(&mtu), "{mtu}: {route}");
        }
        // Pods keep the size they were given; what is too large for the way is told to them.
        racks.transfer(0);
        racks.transfer(1);
        let (one, two) = racks.apply(&both);
        assert_eq!((one.sent, two.sent), (0, 0));
    }
}

#[tokio::test]
async fn what_somebody_breaks_is_put_back() {
    let mut racks = Racks::new().await;
    racks.apply(&pools(Always));
    racks.a1.host.ip("neigh del 10.244.3.0 dev vxlan.calico");
    racks.a1.host.ip("addr flush dev vxlan.calico");
    racks.a1.host.ip("link set cali1 down");
    racks.a1.host.ip("link set vxlan.calico mtu 1300");
    for table in dataplane::Table::ALL {
        racks.a1.driver.forget(table);
    }
    assert!(racks.a1.apply(&pools(Always)).sent > 0);
    assert_eq!(racks.ping(), Ok(()));
    racks.a1.host.ip("link del vxlan.calico");
    racks.a1.driver.forget(dataplane::Table::Links);
    racks.a1.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
    assert_eq!(racks.a1.apply(&pools(Always)).sent, 0);
}

#[tokio::test]
async fn a_device_of_calico_is_adopted_and_a_foreign_one_replaced() {
    let mut racks = Racks::new().await;
    let mac =
        dataplane::plan::tunnels::derive_mac(&"a1".into(), dataplane::plan::pools::Family::V4);
    racks.a1.host.ip(&format!(
        "link add vxlan.calico address {mac} mtu 1450 type vxlan id 4096 local 10.1.0.11 dev eth0 dstport 4789 nolearning"
    ));
    racks.a1.host.ip("link set vxlan.calico up");
    let before = racks.a1.host.ip("-o link show vxlan.calico");
    racks.apply(&pools(Always));
    let after = racks.a1.host.ip("-o link show vxlan.calico");
    let index = |line: &str| line.split(':').next().unwrap().to_owned();
    assert_eq!(index(&before), index(&after), "not made again");
    racks.ping().unwrap();

    racks.a1.host.ip("link del vxlan.calico");
    racks
        .a1
        .host
        .ip("link add vxlan.calico type vxlan id 7 dstport 4789 dev eth0");
    racks.a1.driver.forget(dataplane::Table::Links);
    racks.a1.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
}
