use proptest::prelude::*;

use super::*;
use crate::wire::capability::GracefulRestart;
use crate::wire::message::HEADER;
use crate::{Family, FamilySet};

fn open() -> Open {
    Open {
        asn: Asn(64512),
        hold_time: 90,
        identifier: Ipv4Addr::new(10, 0, 0, 1),
        capabilities: Capabilities::default(),
    }
}

/// A body with these optional parameters, length octet included.
fn body(parameters: &[u8]) -> Vec<u8> {
    let mut body = open().encode().split_off(HEADER);
    body.truncate(9);
    body.extend_from_slice(parameters);
    body
}

fn fault(body: &[u8]) -> Fault {
    Open::parse(body).unwrap_err().fault
}

fn capabilities() -> impl Strategy<Value = Capabilities> {
    let families = || proptest::collection::vec(proptest::sample::select(&Family::ALL[..]), 0..3);
    let restart = (
        any::<(bool, bool)>(),
        0..=GracefulRestart::MAX_TIME,
        families(),
        families(),
    );
    let restart = restart.prop_map(|((restarting, notification), time, families, forwarding)| {
        let families: FamilySet = families.into_iter().collect();
        let forwarding = forwarding
            .into_iter()
            .collect::<FamilySet>()
            .intersection(families);
        GracefulRestart {
            restarting,
            notification,
            time,
            families,
            forwarding,
        }
    });
    let listed = families().prop_map(|list| list.into_iter().collect::<FamilySet>());
    let some = listed.prop_filter("an empty set is encoded as absent", |set| !set.is_empty());
    let asn = (1u32..).prop_map(Asn);
    (
        proptest::option::of(some),
        any::<bool>(),
        proptest::option::of(asn),
        proptest::option::of(restart),
    )
        .prop_map(
            |(families, route_refresh, four_octet_as, graceful_restart)| Capabilities {
                families,
                route_refresh,
                four_octet_as,
                graceful_restart,
            },
        )
}

proptest! {
    #[test]
    fn opens_decode_as_encoded(capabilities in capabilities(), hold_time: u16, id: u32, small in 1u16..) {
        let asn = capabilities.four_octet_as.unwrap_or(Asn(u32::from(small)));
        let open = Open { asn, hold_time, identifier: id.into(), capabilities };
        let octets = open.encode();
        let (parsed, faults) = Open::parse(&octets[HEADER..]).unwrap();
        prop_assert!(faults.is_empty());
        prop_assert_eq!(parsed, open);
    }

    #[test]
    fn any_octets_parse_or_not(octets in proptest::collection::vec(any::<u8>(), 0..120)) {
        let _ = Open::parse(&octets);
        let mut with_head = body(&[]);
        with_head.extend_from_slice(&octets);
        let _ = Open::parse(&with_head);
    }
}

#[test]
fn another_version_is_refused_with_ours_as_data() {
    let mut body = body(&[0]);
    body[0] = 3;
    let error = Open::parse(&body).unwrap_err();
    assert_eq!(error.fault, Fault::Version);
    assert_eq!(&*error.notification.data, [0, 4]);
}

#[test]
fn as_numbers_must_agree() {
    let mut zero = body(&[0]);
    zero[1..3].copy_from_slice(&[0, 0]);
    assert_eq!(fault(&zero), Fault::PeerAs);
    let other = [8, 2, 6, 65, 4, 0, 0, 0, 7];
    assert_eq!(fault(&body(&other)), Fault::FourOctetAs);
    let mut trans = body(&other);
    trans[1..3].copy_from_slice(&Asn::TRANS.two_octets().to_be_bytes());
    assert_eq!(Open::parse(&trans).unwrap().0.asn, Asn(7));
}

#[test]
fn parameters_must_fit() {
    assert_eq!(
        fault(&body(&[4, 2, 2, 2])),
        Fault::Parameters,
        "shorter than it says"
    );
    assert_eq!(
        fault(&body(&[0, 1])),
        Fault::Parameters,
        "octets behind the parameters"
    );
    assert_eq!(
        fault(&body(&[3, 2, 9, 2])),
        Fault::Parameters,
        "a parameter overruns"
    );
    assert_eq!(fault(&body(&[2, 1, 0])), Fault::ParameterType);
    assert_eq!(fault(&body(&[4, 2, 2, 2, 9])), Fault::CapabilityOverrun);
    assert_eq!(
        fault(&body(&[255, 255, 0, 9, 2, 0, 2, 2, 0])),
        Fault::Parameters,
        "RFC 9072 inner length"
    );
}

#[test]
fn extended_parameters_are_read() {
    let (open, _) = Open::parse(&body(&[255, 255, 0, 5, 2, 0, 2, 2, 0])).unwrap();
    assert!(open.capabilities.route_refresh);
}

#[test]
fn a_known_capability_of_wrong_length_counts_as_absent() {
    let (open, faults) = Open::parse(&body(&[7, 2, 5, 65, 3, 0, 0, 7])).unwrap();
    assert!(faults.contains(Fault::CapabilityLength));
    assert_eq!(open.capabilities.four_octet_as, None);
}

#[test]
fn repeated_and_unknown_capabilities_are_united_or_ignored() {
    let twice = [16, 2, 14, 1, 4, 0, 1, 0, 1, 1, 4, 0, 2, 0, 1, 99, 0];
    let (open, _) = Open::parse(&body(&twice)).unwrap();
    assert_eq!(open.capabilities.families, Some(FamilySet::ALL));
    let foreign = [8, 2, 6, 1, 4, 0, 25, 0, 70];
    assert_eq!(
        Open::parse(&body(&foreign))
            .unwrap()
            .0
            .capabilities
            .families,
        Some(FamilySet::EMPTY)
    );
}
