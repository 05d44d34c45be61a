use super::*;

fn stand(node: &str, rack: &str, number: u8, client: bool) -> Stand {
    let address = |text: String| vec![text.parse().unwrap()];
    Stand {
        node: node.into(),
        rack: rack.into(),
        host: address(format!("10.1.0.{number}")),
        server: address(format!("10.244.{number}.1")),
        service: address(format!("10.96.0.{number}")),
        client: client.then(|| Client {
            name: format!("client-{node}"),
            addresses: address(format!("10.244.{number}.2")),
        }),
    }
}

fn all() -> Vec<Cell> {
    let stands = [
        stand("a1", "a", 1, true),
        stand("a2", "a", 2, false),
        stand("b1", "b", 3, false),
    ];
    cells(&stands, Family::V4, "192.0.2.10".parse().unwrap())
}

fn cell(kind: Kind, distance: Distance) -> Cell {
    let mut cells = all().into_iter();
    cells
        .find(|cell| (cell.kind, cell.distance) == (kind, distance))
        .unwrap()
}

#[test]
fn every_kind_has_every_distance() {
    assert_eq!(all().len(), 4 * 3 + 1);
    let service = cell(Kind::PodToService, Distance::AcrossSubnets);
    assert_eq!(service.dialled[0].to_string(), "10.96.0.3:8081");
    assert_eq!(service.on_wire[1].to_string(), "10.244.3.1:8");
    let outside = cell(Kind::PodToOutside, Distance::Outside);
    assert_eq!(outside.seen_as, Some("10.1.0.1".parse().unwrap()));
}

#[test]
fn what_the_wire_must_carry() {
    use Distance::{AcrossSubnets, Outside, SameNode, SameSubnet};
    use Encapsulation::{IpipAlways, IpipCrossSubnet, Never, VxlanAlways, VxlanCrossSubnet};
    use Kind::{HostToPod, PodToHost, PodToOutside, PodToPod, PodToService};
    let (plain, vxlan, ipip) = (Some(Wrap::Plain), Some(Wrap::Vxlan), Some(Wrap::Ipip));
    let cases = [
        (PodToPod, SameNode, VxlanAlways, None),
        (PodToPod, SameSubnet, Never, plain),
        (PodToPod, SameSubnet, VxlanAlways, vxlan),
        (PodToPod, SameSubnet, VxlanCrossSubnet, plain),
        (HostToPod, AcrossSubnets, VxlanCrossSubnet, vxlan),
        (PodToService, AcrossSubnets, Never, plain),
        (PodToService, SameSubnet, IpipAlways, ipip),
        (PodToService, SameSubnet, IpipCrossSubnet, plain),
        (PodToPod, AcrossSubnets, IpipCrossSubnet, ipip),
        (PodToHost, AcrossSubnets, VxlanAlways, plain),
        (PodToOutside, Outside, IpipAlways, plain),
    ];
    for (kind, distance, encapsulation, expected) in cases {
        assert_eq!(
            cell(kind, distance).expected(encapsulation),
            expected,
            "{kind} {distance} {encapsulation:?}"
        );
    }
}

#[test]
fn an_outcome_says_what_is_wrong() {
    let good = Outcome {
        cell: cell(Kind::PodToPod, Distance::AcrossSubnets),
        answers: [
            "yes server-b1 10.244.1.2:40000".into(),
            "yes 60000 octets came back".into(),
        ],
        seen: BTreeSet::from([Wrap::Vxlan]),
    };
    let complaints = |outcome: &Outcome| outcome.complaints(Encapsulation::VxlanAlways);
    assert_eq!(complaints(&good), Vec::<String>::new());
    let mut translated = good.clone();
    translated.answers[0] = "yes server-b1 10.1.0.1:40000".into();
    assert!(complaints(&translated)[0].contains("saw 10.1.0.1 instead of 10.244.1.2"));
    let mut silent = good.clone();
    silent.answers[1] = "no large 10.244.3.1:7: timed out".into();
    assert!(complaints(&silent)[0].contains("60 kB transfer: large 10.244.3.1:7: timed out"));
    let mut leaked = good.clone();
    leaked.seen.insert(Wrap::Plain);
    assert!(complaints(&leaked)[0].contains("on the wire"));
    assert!(render(&[good], Encapsulation::VxlanAlways).contains("vxlan"));
}
