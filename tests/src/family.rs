//! Address families: which ones a cluster speaks, and which one is meant.

use std::fmt;
use std::net::IpAddr;

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// Both, IPv4 first.
    pub const BOTH: [Self; 2] = [Self::V4, Self::V6];

    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv6() {
            Self::V6
        } else {
            Self::V4
        }
    }

    /// The flag by which `ip` is told which family is meant.
    pub fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a cluster speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Families {
    /// IPv4 alone. Its hosts have IPv6 addresses as well, as hosts do, and Kubernetes does not know of them.
    #[default]
    Ipv4,
    /// IPv6 alone: no host has an IPv4 address.
    Ipv6,
    /// Both; IPv4 is the first, which single-stack services get.
    Dual,
}

impl Families {
    /// The families, the first one first.
    pub fn iter(self) -> impl Iterator<Item = Family> {
        Family::BOTH
            .into_iter()
            .filter(move |family| self.has(*family))
    }

    /// The family of what has only one.
    pub fn first(self) -> Family {
        match self {
            Self::Ipv4 | Self::Dual => Family::V4,
            Self::Ipv6 => Family::V6,
        }
    }

    /// Whether the cluster speaks it.
    pub fn has(self, family: Family) -> bool {
        match self {
            Self::Ipv4 => family == Family::V4,
            Self::Ipv6 => family == Family::V6,
            Self::Dual => true,
        }
    }

    /// Something of each family, as Kubernetes' flags take it: `10.96.0.0/16,fd00:96::/112`.
    pub fn list<T: fmt::Display>(self, of: impl Fn(Family) -> T) -> String {
        let words: Vec<String> = self.iter().map(|family| of(family).to_string()).collect();
        words.join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_name_the_first_family_first() {
        let list = |families: Families| families.list(Family::flag);
        assert_eq!(
            [Families::Ipv4, Families::Ipv6, Families::Dual].map(list),
            ["-4", "-6", "-4,-6"]
        );
        assert_eq!(Families::Dual.first(), Family::V4);
        assert_eq!(Families::Ipv6.first(), Family::V6);
    }
}
