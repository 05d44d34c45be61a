//! Limits of a pod's traffic.

use std::str::FromStr;

use super::{Quantity, Reader};

/// Burst where a bandwidth is given without one, in bits.
const DEFAULT_BURST: u64 = 4 << 30;
/// Burst where a packet rate is given without one, in packets.
const DEFAULT_PACKET_BURST: u64 = 5;

/// Limits of a pod's traffic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shaping {
    /// To the pod.
    pub ingress: Limits,
    /// From the pod.
    pub egress: Limits,
    /// The class its packets are marked with (RFC 2474).
    pub dscp: Option<Dscp>,
}

/// Limits of one direction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bits a second, 1,000 to 10^15.
    pub bandwidth: Option<u64>,
    /// Bits that may exceed it at once; set where bandwidth is.
    pub burst: Option<u64>,
    /// Bits a second within a burst; above bandwidth.
    pub peak_rate: Option<u64>,
    /// Bits that may exceed the peak rate at once.
    pub min_burst: Option<u64>,
    /// Packets a second, 1 to 10,000.
    pub packet_rate: Option<u64>,
    /// Packets that may exceed it at once; set where the packet rate is.
    pub packet_burst: Option<u64>,
    /// Connections at one time, at least 1.
    pub connections: Option<u64>,
}

/// A class of traffic, 0 to 63.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dscp(pub u8);

/// Names of classes (RFC 2474, 2597, 3246, 5865).
const CLASSES: [(&str, u8); 23] = [
    ("DF", 0),
    ("CS0", 0),
    ("LE", 1),
    ("CS1", 8),
    ("AF11", 10),
    ("AF12", 12),
    ("AF13", 14),
    ("CS2", 16),
    ("AF21", 18),
    ("AF22", 20),
    ("AF23", 22),
    ("CS3", 24),
    ("AF31", 26),
    ("AF32", 28),
    ("AF33", 30),
    ("CS4", 32),
    ("AF41", 34),
    ("AF42", 36),
    ("AF43", 38),
    ("CS5", 40),
    ("EF", 46),
    ("CS6", 48),
    ("CS7", 56),
];

impl FromStr for Dscp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let named = CLASSES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(text))
            .map(|(_, value)| *value);
        named
            .or_else(|| text.parse().ok().filter(|value| *value <= 63))
            .map(Self)
            .ok_or_else(|| {
                format!("{text:?} is no class of traffic, write 0 to 63 or a name such as EF")
            })
    }
}

impl Shaping {
    pub(super) fn read(reader: &mut Reader<'_>) -> Self {
        Self {
            ingress: limits(reader, "ingress"),
            egress: limits(reader, "egress"),
            dscp: reader.own("qos.projectcalico.org/dscp", str::parse),
        }
    }
}

/// A whole number within bounds.
fn bounded(least: u64, most: u64) -> impl Fn(&str) -> Result<u64, String> {
    move |text| {
        let Quantity(value) = text
            .parse()
            .map_err(|why: super::QuantityError| why.to_string())?;
        if (least..=most).contains(&value) {
            Ok(value)
        } else {
            Err(format!("{text} is out of range, write {least} to {most}"))
        }
    }
}

fn limits(reader: &mut Reader<'_>, side: &str) -> Limits {
    let bandwidth_key = format!("qos.projectcalico.org/{side}Bandwidth");
    let plain_key = format!("kubernetes.io/{side}-bandwidth");
    let rate = || bounded(1_000, 1_000_000_000_000_000);
    let volume = || bounded(1_000, 34_359_738_360);
    let own = reader.own.contains_key(&bandwidth_key);
    let bandwidth = if own {
        reader.own(&bandwidth_key, rate())
    } else {
        reader.own(&plain_key, rate())
    };
    let mut of = |name: &str, read: &dyn Fn(&str) -> Result<u64, String>| {
        reader.own(&format!("qos.projectcalico.org/{side}{name}"), read)
    };
    let burst = of("Burst", &volume());
    let peak_rate = of("Peakrate", &rate());
    let min_burst = of("Minburst", &volume());
    let packet_rate = of("PacketRate", &bounded(1, 10_000));
    let packet_burst = of("PacketBurst", &bounded(1, 10_000));
    let connections = of("MaxConnections", &bounded(1, u64::MAX));
    let above = peak_rate.filter(|peak| bandwidth.is_some_and(|bandwidth| *peak > bandwidth));
    if peak_rate.is_some() && above.is_none() {
        let key = format!("qos.projectcalico.org/{side}Peakrate");
        reader.fault(&key, "a peak rate must be above the bandwidth".to_owned());
    }
    Limits {
        bandwidth,
        burst: bandwidth.map(|_| burst.unwrap_or(DEFAULT_BURST)),
        peak_rate: above,
        min_burst,
        packet_rate,
        packet_burst: packet_rate.map(|_| packet_burst.unwrap_or(DEFAULT_PACKET_BURST)),
        connections,
    }
}
