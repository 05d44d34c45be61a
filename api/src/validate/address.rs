//! Addresses and ranges in fields.

use std::net::{IpAddr, SocketAddr};

use ipnet::IpNet;

use super::Report;
use crate::scalar::IpVersion;

/// Reads a range; a bare address is a /32 or /128.
pub(super) fn range(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

/// The family of a range.
pub(super) fn family(net: &IpNet) -> IpVersion {
    match net {
        IpNet::V4(_) => IpVersion::V4,
        IpNet::V6(_) => IpVersion::V6,
    }
}

/// Reads `ip`, `v4:port` or `[v6]:port`.
pub(super) fn peer(text: &str) -> Option<IpAddr> {
    let with_port = || {
        text.parse::<SocketAddr>()
            .ok()
            .filter(|peer| peer.port() != 0)
            .map(|peer| peer.ip())
    };
    text.parse().ok().or_else(with_port)
}

/// Checks that a text is a range with a prefix length; an absent or empty one is none.
pub(super) fn check_cidr(text: &str, path: impl Into<String>, report: &mut Report<'_>) {
    if text.parse::<IpNet>().is_err() {
        report.say(
            path,
            format!("{text:?} is not a range of addresses, write for instance 10.0.0.0/8"),
        );
    }
}

/// Checks that a text, if there is one, is an address of a family.
pub(super) fn check_address(
    text: Option<&str>,
    version: IpVersion,
    path: &str,
    report: &mut Report<'_>,
) {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return;
    };
    let fits = text
        .parse::<IpAddr>()
        .is_ok_and(|ip| ip.is_ipv4() == (version == IpVersion::V4));
    if !fits {
        report.say(
            path,
            format!("{text:?} is not an IPv{} address", version.number()),
        );
    }
}
