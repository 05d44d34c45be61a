use std::num::{NonZeroU8, NonZeroU16};
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn read<T: de::DeserializeOwned>(json: Value) -> Result<T, String> {
    serde_json::from_value(json).map_err(|why| why.to_string())
}

#[test]
fn as_numbers_are_integers_or_text() {
    let cases = [
        (json!(0), 0),
        (json!(4_294_967_295_u32), u32::MAX),
        (json!("65000"), 65000),
        (json!("1.10"), 65546),
    ];
    for (json, number) in cases {
        assert_eq!(read::<AsNumber>(json).unwrap(), AsNumber(number));
    }
    for bad in [
        json!(-1),
        json!(4_294_967_296_u64),
        json!("1.65536"),
        json!("1.2.3"),
        json!("AS1"),
        json!(""),
        json!(1.5),
        json!(null),
    ] {
        assert!(read::<AsNumber>(bad.clone()).is_err(), "{bad}");
    }
    assert_eq!(serde_json::to_value(AsNumber(65546)).unwrap(), json!(65546));
}

#[test]
fn protocols_are_names_or_numbers() {
    let other = Protocol::Number(NonZeroU8::new(47).unwrap());
    let cases = [
        (json!("TCP"), Protocol::Tcp, Some(6)),
        (json!("tcp"), Protocol::Tcp, Some(6)),
        (json!(6), Protocol::Tcp, Some(6)),
        (json!("6"), Protocol::Tcp, Some(6)),
        (json!("udp"), Protocol::Udp, Some(17)),
        (json!("icmpv6"), Protocol::IcmpV6, Some(58)),
        (json!(1), Protocol::Icmp, Some(1)),
        (json!(132), Protocol::Sctp, Some(132)),
        (json!("UDPLITE"), Protocol::UdpLite, Some(136)),
        (json!(47), other, Some(47)),
        (json!(0), Protocol::Unknown("0".to_owned()), None),
        (json!(256), Protocol::Unknown("256".to_owned()), None),
        (json!(-6), Protocol::Unknown("-6".to_owned()), None),
        (json!("FOO"), Protocol::Unknown("FOO".to_owned()), None),
        (json!(""), Protocol::Unknown(String::new()), None),
    ];
    for (json, protocol, number) in cases {
        let read: Protocol = read(json.clone()).unwrap();
        assert_eq!((&read, read.number()), (&protocol, number), "{json}");
    }
    assert_eq!(
        serde_json::to_value(Protocol::parse("icmpv6")).unwrap(),
        json!("ICMPv6")
    );
    assert_eq!(
        serde_json::to_value(Protocol::parse("47")).unwrap(),
        json!(47)
    );
}

#[test]
fn ports_are_numbers_ranges_or_names() {
    let n = |n| NonZeroU16::new(n).unwrap();
    let cases = [
        (json!(80), Port::Number(n(80))),
        (json!("80"), Port::Number(n(80))),
        (json!("80:90"), Port::Range(n(80), n(90))),
        (json!("80:80"), Port::Number(n(80))),
        (json!("http"), Port::Name("http".to_owned())),
        (json!("a_b.c-8"), Port::Name("a_b.c-8".to_owned())),
        (json!("65535"), Port::Number(n(65535))),
    ];
    for (json, port) in cases {
        assert_eq!(read::<Port>(json.clone()).unwrap(), port, "{json}");
    }
    for bad in [
        json!(0),
        json!(-1),
        json!(65536),
        json!("0"),
        json!("65536"),
        json!("90:80"),
        json!("0:9"),
        json!("1:"),
        json!("a:b"),
        json!("1:2:3"),
        json!("+80"),
        json!("a b"),
        json!(""),
    ] {
        assert!(
            matches!(read::<Port>(bad.clone()).unwrap(), Port::Invalid(_)),
            "{bad}"
        );
    }
    assert!(matches!(Port::parse(&"a".repeat(129)), Port::Invalid(_)));
}

#[test]
fn durations_have_gos_form() {
    let cases = [
        ("0", 0, "0s"),
        ("0s", 0, "0s"),
        ("90s", 90_000_000_000, "1m30s"),
        ("1m30s", 90_000_000_000, "1m30s"),
        ("1.5s", 1_500_000_000, "1.5s"),
        (".5s", 500_000_000, "500ms"),
        ("1.s", 1_000_000_000, "1s"),
        ("100ms", 100_000_000, "100ms"),
        ("1h", 3_600_000_000_000, "1h0m0s"),
        ("1h2m3.004s", 3_723_004_000_000, "1h2m3.004s"),
        ("1.000000001s", 1_000_000_001, "1.000000001s"),
        ("7us", 7_000, "7\u{b5}s"),
        ("1.25ms", 1_250_000, "1.25ms"),
        ("5ns", 5, "5ns"),
    ];
    for (text, nanos, canonical) in cases {
        let duration: GoDuration = text.parse().unwrap();
        assert_eq!(duration, GoDuration(Duration::from_nanos(nanos)), "{text}");
        assert_eq!(duration.to_string(), canonical, "{text}");
    }
    for bad in [
        "",
        "90",
        "s",
        "1x",
        "-1s",
        "1 s",
        "1m30",
        ".s",
        "99999999999999999999h",
    ] {
        assert!(bad.parse::<GoDuration>().is_err(), "{bad}");
    }
}

#[test]
fn words_are_read_in_any_letter_case() {
    assert_eq!(read::<Switch>(json!("ENABLED")), Ok(Switch::Enabled));
    assert_eq!(
        read::<Switch>(json!("on")),
        Err("\"on\" is not one of Enabled, Disabled".to_owned())
    );
    assert_eq!(
        serde_json::to_value(Switch::Disabled).unwrap(),
        json!("Disabled")
    );
}

proptest! {
    #[test]
    fn every_duration_is_read_back(nanos in 0..=i64::MAX.unsigned_abs()) {
        let duration = GoDuration(Duration::from_nanos(nanos));
        prop_assert_eq!(duration.to_string().parse(), Ok(duration));
    }

    #[test]
    fn no_text_panics(text in "\\PC{0,30}|[0-9.:hmsun]{0,30}") {
        let _ = text.parse::<GoDuration>();
        let _ = text.parse::<AsNumber>();
        let port = Port::parse(&text);
        prop_assert_eq!(read::<Port>(serde_json::to_value(&port).unwrap()), Ok(port));
        let protocol = Protocol::parse(&text);
        prop_assert_eq!(read::<Protocol>(serde_json::to_value(&protocol).unwrap()), Ok(protocol));
    }
}
