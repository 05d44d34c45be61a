//! IP-in-IP in a kernel that has it; elsewhere every test says why it did not run.

use crate::netns::Ns;
use crate::racks::Racks;
use crate::world::{ipip_pool, pool};
use api::EncapMode::{self, Always, CrossSubnet, Never};
use dataplane::Table;
use dataplane::io::{Config, Driver, TunnelKind, probe_tunnel};
use model::Event;

fn pools(mode: EncapMode) -> [Event; 1] {
    [ipip_pool("default", "10.244.0.0/16", mode)]
}

/// The kernel's words where it cannot do it.
async fn racks() -> Result<Racks, String> {
    probe_tunnel(TunnelKind::Ipip).unwrap()?;
    Ok(Racks::new().await)
}

#[tokio::test]
async fn ipip_carries_pods_between_subnets_and_a_restart_sends_nothing() {
    let mut racks = match racks().await {
        Ok(racks) => racks,
        Err(reason) => {
            println!("SKIPPED: this kernel has no ipip: {reason}");
            return;
        }
    };
    racks.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
    racks.transfer(0);
    racks.assert_only("ipip");
    let a1 = &racks.a1.host;
    let device = a1.ip("-d link show tunl0");
    for part in [
        "ipip",
        "remote any local any",
        "mtu 1480",
        "alias margay",
        "UP",
    ] {
        assert!(device.contains(part), "{part}: {device}");
    }
    assert!(a1.ip("addr show tunl0").contains("inet 10.244.1.1/32"));
    let route = a1.ip("-d route show 10.244.3.0/26");
    for part in [
        "nhid",
        "via 10.2.0.11 dev tunl0",
        "onlink",
        "mtu 1480",
        "proto 80",
    ] {
        assert!(route.contains(part), "{part}: {route}");
    }
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
async fn a_pool_goes_from_ipip_to_vxlan_and_back_and_off() {
    let mut racks = match racks().await {
        Ok(racks) => racks,
        Err(reason) => {
            println!("SKIPPED: this kernel has no ipip: {reason}");
            return;
        }
    };
    racks.apply(&pools(CrossSubnet));
    racks.ping().unwrap();
    racks.assert_only("ipip");
    racks.apply(&[pool("default", "10.244.0.0/16", Always, true)]);
    assert_eq!(racks.ping(), Ok(()));
    racks.assert_only("vxlan4");
    racks.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
    racks.assert_only("ipip");
    racks.apply(&pools(Never));
    assert!(racks.ping().is_err(), "nobody routes it now");
    let a1 = &racks.a1.host;
    let device = a1.ip("-d addr show tunl0");
    assert!(
        !device.contains("inet ") && !device.contains("alias margay"),
        "{device}"
    );
    assert_eq!(a1.ip("route show dev tunl0"), "");
    assert_eq!(a1.ip("nexthop").trim(), "");
    // Released, the device is everybody's.
    a1.ip("addr add 192.0.2.1/32 dev tunl0");
    a1.ip("route add 198.51.100.0/24 via 10.2.0.11 dev tunl0 onlink");
    for table in Table::ALL {
        racks.a1.driver.forget(table);
    }
    racks.a1.apply(&pools(Never));
    assert!(racks.a1.host.ip("addr show tunl0").contains("192.0.2.1"));
    assert!(racks.a1.host.ip("route").contains("198.51.100.0/24"));
}

#[tokio::test]
async fn a_device_in_use_is_taken_over_with_its_address_and_what_else_is_on_it_goes() {
    let mut racks = match racks().await {
        Ok(racks) => racks,
        Err(reason) => {
            println!("SKIPPED: this kernel has no ipip: {reason}");
            return;
        }
    };
    let a1 = &racks.a1.host;
    make_device(a1);
    a1.ip("link set tunl0 up mtu 1480");
    a1.ip("addr add 10.244.1.1/32 dev tunl0");
    a1.ip("addr add 10.244.1.9/32 dev tunl0");
    a1.ip("route add 10.244.3.0/26 via 10.2.0.11 dev tunl0 onlink proto 12");
    a1.ip("route add 10.244.9.0/26 via 10.2.0.11 dev tunl0 onlink proto 12");
    racks.apply(&pools(Always));
    assert_eq!(racks.ping(), Ok(()));
    let addresses = racks.a1.host.ip("addr show tunl0");
    assert!(
        addresses.contains("10.244.1.1") && !addresses.contains("10.244.1.9"),
        "{addresses}"
    );
    let routes = racks.a1.host.ip("route show dev tunl0");
    assert!(
        !routes.contains("10.244.9.0") && !routes.contains("proto 12"),
        "{routes}"
    );
    assert_eq!(racks.a1.apply(&pools(Always)).sent, 0);
}

/// `tunl0` may be there already, with the module.
fn make_device(ns: &Ns) {
    if !ns.ip("-o link").contains("tunl0") {
        ns.ip("link add tunl0 type ipip");
    }
}

#[tokio::test]
async fn without_the_module_the_pool_is_told_and_the_rest_works() {
    let Err(reason) = probe_tunnel(TunnelKind::Ipip).unwrap() else {
        println!("SKIPPED: this kernel has ipip");
        return;
    };
    let mut racks = Racks::new().await;
    let events = [
        ipip_pool("default", "10.244.0.0/16", Always),
        pool("six", "fd00:10::/64", Always, true),
    ];
    for machine in [&mut racks.a1, &mut racks.b1] {
        // As the daemon does: what was tried is told to the plan.
        let plan = machine.plan_lacking(&events, Some(reason.clone()));
        let text: Vec<_> = plan.findings.iter().map(ToString::to_string).collect();
        assert_eq!(text.len(), 1, "{text:?}");
        assert!(text[0].contains("pool default wants IP-in-IP") && text[0].contains(&reason));
        let report = machine
            .driver
            .apply(plan.desired, dataplane::Retain::NOTHING)
            .unwrap();
        assert_eq!(report.refused, []);
    }
    assert_eq!(racks.ping6(), Ok(()));
    assert!(racks.ping().is_err());
    assert_eq!(racks.a1.host.ip("route show 10.244.3.0/26"), "");
}
