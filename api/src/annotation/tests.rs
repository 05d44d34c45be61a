use super::*;

fn annotations(pairs: &[(&str, &str)]) -> Annotations {
    pairs
        .iter()
        .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
        .collect()
}

fn pod(pairs: &[(&str, &str)]) -> (PodRequest, Vec<Fault>) {
    PodRequest::parse(&annotations(pairs), &Annotations::new())
}

/// Keys of the faults of a pod.
fn faults(pairs: &[(&str, &str)]) -> Vec<String> {
    pod(pairs).1.into_iter().map(|fault| fault.key).collect()
}

#[test]
fn a_pod_beats_its_namespace_and_inherits_the_rest() {
    let own = annotations(&[(
        "cni.projectcalico.org/ipv4pools",
        r#"["blue", "10.0.0.0/8"]"#,
    )]);
    let namespace = annotations(&[
        ("cni.projectcalico.org/ipv4pools", r#"["red"]"#),
        ("cni.projectcalico.org/ipFamilies", r#"["IPv6", "IPv4"]"#),
        ("cni.projectcalico.org/ipAddrs", r#"["10.0.0.1"]"#),
    ]);
    let (request, faults) = PodRequest::parse(&own, &namespace);
    assert_eq!(faults, []);
    let range = "10.0.0.0/8".parse().unwrap();
    let pools = vec![PoolName::Name("blue".to_owned()), PoolName::Range(range)];
    assert_eq!(request.pools_v4, Some(pools));
    assert_eq!(request.families, Some(vec![Family::V6, Family::V4]));
    assert_eq!(request.addresses, None, "addresses are the pod's alone");
}

#[test]
fn what_cannot_be_read_is_named_and_the_rest_stands() {
    let (request, faults) = pod(&[
        ("cni.projectcalico.org/ipAddrs", "10.0.0.1"),
        ("cni.projectcalico.org/hwAddr", "02:00:00:00:00:0a"),
    ]);
    assert_eq!(request.addresses, None);
    assert_eq!(request.mac, Some(Mac([2, 0, 0, 0, 0, 10])));
    assert_eq!(faults.len(), 1);
    assert_eq!(faults[0].key, "cni.projectcalico.org/ipAddrs");
    assert!(
        faults[0].message.contains("JSON list"),
        "{}",
        faults[0].message
    );
}

#[test]
fn each_key_has_its_form() {
    let bad = [
        ("cni.projectcalico.org/ipv4pools", r#"["fd00::/64"]"#),
        ("cni.projectcalico.org/ipv6pools", r#"[""]"#),
        ("cni.projectcalico.org/ipFamilies", "[]"),
        ("cni.projectcalico.org/ipFamilies", r#"["IPv4", "IPv4"]"#),
        ("cni.projectcalico.org/ipFamilies", r#"["IPX"]"#),
        (
            "cni.projectcalico.org/ipAddrs",
            r#"["10.0.0.1", "10.0.0.2"]"#,
        ),
        ("cni.projectcalico.org/ipAddrs", "[]"),
        ("cni.projectcalico.org/ipAddrs", "[1]"),
        ("cni.projectcalico.org/hwAddr", "02:00:00:00:00"),
        ("cni.projectcalico.org/hwAddr", "01:00:00:00:00:00"),
        ("cni.projectcalico.org/hwAddr", "+2:00:00:00:00:00"),
        (
            "cni.projectcalico.org/allowedSourcePrefixes",
            r#"["10.0.0.0"]"#,
        ),
        ("cni.projectcalico.org/floatingIPs", r#"["x"]"#),
        ("qos.projectcalico.org/ingressBandwidth", "10"),
        ("qos.projectcalico.org/egressBandwidth", "2P"),
        ("qos.projectcalico.org/ingressPacketRate", "0"),
        ("qos.projectcalico.org/ingressPacketRate", "10001"),
        ("qos.projectcalico.org/egressMaxConnections", "-1"),
        ("qos.projectcalico.org/egressPeakrate", "1M"),
        ("qos.projectcalico.org/dscp", "64"),
        ("qos.projectcalico.org/dscp", "GOLD"),
        ("kubernetes.io/ingress-bandwidth", "fast"),
    ];
    for (key, text) in bad {
        assert_eq!(faults(&[(key, text)]), [key], "{text}");
    }
}

#[test]
fn limits_have_defaults_and_the_longer_key_wins() {
    let (request, faults) = pod(&[
        ("kubernetes.io/ingress-bandwidth", "1M"),
        ("qos.projectcalico.org/ingressBandwidth", "10M"),
        ("qos.projectcalico.org/ingressPeakrate", "20M"),
        ("kubernetes.io/egress-bandwidth", "1G"),
        ("qos.projectcalico.org/egressPacketRate", "100"),
        ("qos.projectcalico.org/dscp", "ef"),
    ]);
    assert_eq!(faults, []);
    let Shaping {
        ingress,
        egress,
        dscp,
    } = request.shaping;
    assert_eq!(ingress.bandwidth, Some(10_000_000));
    assert_eq!(ingress.burst, Some(4_294_967_296));
    assert_eq!(ingress.peak_rate, Some(20_000_000));
    assert_eq!(egress.bandwidth, Some(1_000_000_000));
    assert_eq!(egress.packet_burst, Some(5));
    assert_eq!(dscp, Some(Dscp(46)));
}

#[test]
fn addresses_with_and_without_management_exclude_each_other() {
    let (request, faults) = pod(&[
        (
            "cni.projectcalico.org/ipAddrs",
            r#"["10.0.0.1", "fd00::1"]"#,
        ),
        ("cni.projectcalico.org/ipAddrsNoIpam", r#"["10.0.0.2"]"#),
    ]);
    assert_eq!(faults.len(), 1);
    assert_eq!(request.addresses_unmanaged, None);
    assert_eq!(request.addresses.map(|list| list.len()), Some(2));
}

#[test]
fn services_are_read_and_foreign_keys_are_named() {
    let (request, faults) = ServiceRequest::parse(&annotations(&[
        ("projectcalico.org/ipv4pools", r#"["lb"]"#),
        ("projectcalico.org/loadBalancerIPs", r#"["192.0.2.1"]"#),
        ("projectcalico.org/natExcludeService", "true"),
    ]));
    assert_eq!(
        request.pools_v4,
        Some(vec![PoolName::Name("lb".to_owned())])
    );
    assert_eq!(request.addresses, Some(vec!["192.0.2.1".parse().unwrap()]));
    assert_eq!(faults.len(), 1);
}

#[test]
fn quantities_are_those_of_kubernetes() {
    let good = [
        ("0", 0),
        ("1500", 1500),
        ("10M", 10_000_000),
        ("1.5k", 1500),
        ("1Gi", 1 << 30),
        ("0.5Ki", 512),
        ("1e3", 1000),
        ("1E3", 1000),
        ("1E", 1_000_000_000_000_000_000),
        ("100m", 1),
        ("+5", 5),
        ("-0", 0),
        (".5k", 500),
    ];
    for (text, value) in good {
        assert_eq!(text.parse(), Ok(Quantity(value)), "{text}");
    }
    for text in [
        "", "k", "1.2.3", "1K", "1 M", "1e", "1e99", "20E", "--1", "1Zi",
    ] {
        assert!(text.parse::<Quantity>().is_err(), "{text}");
    }
    assert_eq!(
        "-1".parse::<Quantity>(),
        Err(QuantityError::Negative("-1".to_owned()))
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text in ".{0,60}") {
        let _ = text.parse::<Quantity>();
        let _ = text.parse::<Dscp>();
        let _ = text.parse::<Mac>();
        let keys = ["ipv4pools", "ipFamilies", "ipAddrs", "allowedSourcePrefixes"];
        for key in keys {
            let _ = pod(&[(&format!("cni.projectcalico.org/{key}"), &text)]);
        }
    }

    #[test]
    fn whole_quantities_are_read_back(value: u64) {
        proptest::prop_assert_eq!(value.to_string().parse(), Ok(Quantity(value)));
    }
}
