//! Prefixes on the wire (RFC 4271 §4.3).
//!
//! ```text
//!   +----------------+--------------------------
//!   | length in bits | as many octets as needed      host bits are ignored
//!   +----------------+--------------------------
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use super::Reader;
use crate::Family;

/// A checked field of prefixes of one family: iterating cannot fail.
#[derive(Clone, Copy, Debug)]
pub struct Nlri<'a> {
    family: Family,
    octets: &'a [u8],
    count: usize,
}

impl<'a> Nlri<'a> {
    /// No prefixes.
    pub fn empty(family: Family) -> Self {
        Self {
            family,
            octets: &[],
            count: 0,
        }
    }

    /// Checks a field; `None` when a prefix is too long for its family or overruns the field.
    pub fn parse(family: Family, octets: &'a [u8]) -> Option<Self> {
        let most = max_length(family);
        let mut reader = Reader::new(octets);
        let mut count = 0;
        while let Some(bits) = reader.u8() {
            if bits > most {
                return None;
            }
            reader.take(usize::from(bits.div_ceil(8)))?;
            count += 1;
        }
        Some(Self {
            family,
            octets,
            count,
        })
    }

    /// Family of all prefixes.
    pub fn family(&self) -> Family {
        self.family
    }

    /// Number of prefixes.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The prefixes in order, host bits cleared.
    pub fn iter(&self) -> impl Iterator<Item = IpNet> + use<'a> {
        let (family, mut reader) = (self.family, Reader::new(self.octets));
        std::iter::from_fn(move || next(&mut reader, family))
    }
}

fn max_length(family: Family) -> u8 {
    match family {
        Family::Ipv4Unicast => 32,
        Family::Ipv6Unicast => 128,
    }
}

fn next(reader: &mut Reader<'_>, family: Family) -> Option<IpNet> {
    let bits = reader.u8()?;
    let octets = reader.take(usize::from(bits.div_ceil(8)))?;
    match family {
        Family::Ipv4Unicast => {
            let address = u32::from_be_bytes(padded(octets)?);
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            Ipv4Net::new(Ipv4Addr::from(address & mask), bits)
                .ok()
                .map(IpNet::V4)
        }
        Family::Ipv6Unicast => {
            let address = u128::from_be_bytes(padded(octets)?);
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            Ipv6Net::new(Ipv6Addr::from(address & mask), bits)
                .ok()
                .map(IpNet::V6)
        }
    }
}

fn padded<const N: usize>(octets: &[u8]) -> Option<[u8; N]> {
    let mut full = [0; N];
    full.get_mut(..octets.len())?.copy_from_slice(octets);
    Some(full)
}

/// Appends one prefix.
pub fn put(out: &mut Vec<u8>, prefix: &IpNet) {
    let bits = prefix.prefix_len();
    let count = usize::from(bits.div_ceil(8));
    out.push(bits);
    match prefix {
        IpNet::V4(net) => out.extend(net.network().octets().iter().take(count)),
        IpNet::V6(net) => out.extend(net.network().octets().iter().take(count)),
    }
}

/// Octets a prefix takes.
pub fn size(prefix: &IpNet) -> usize {
    1 + usize::from(prefix.prefix_len().div_ceil(8))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn prefixes() -> impl Strategy<Value = Vec<IpNet>> {
        let v4 = (any::<u32>(), 0u8..=32).prop_map(|(address, bits)| {
            IpNet::V4(Ipv4Net::new(address.into(), bits).unwrap().trunc())
        });
        proptest::collection::vec(v4, 0..40)
    }

    fn prefixes6() -> impl Strategy<Value = Vec<IpNet>> {
        let v6 = (any::<u128>(), 0u8..=128).prop_map(|(address, bits)| {
            IpNet::V6(Ipv6Net::new(address.into(), bits).unwrap().trunc())
        });
        proptest::collection::vec(v6, 0..40)
    }

    proptest! {
        #[test]
        fn prefixes_decode_as_encoded(v4 in prefixes(), v6 in prefixes6()) {
            for (family, list) in [(Family::Ipv4Unicast, v4), (Family::Ipv6Unicast, v6)] {
                let mut octets = Vec::new();
                for prefix in &list {
                    put(&mut octets, prefix);
                }
                prop_assert_eq!(octets.len(), list.iter().map(size).sum::<usize>());
                let field = Nlri::parse(family, &octets).unwrap();
                prop_assert_eq!(field.len(), list.len());
                prop_assert_eq!(field.iter().collect::<Vec<_>>(), list);
            }
        }

        #[test]
        fn any_octets_parse_or_not_and_agree_on_the_count(octets in proptest::collection::vec(any::<u8>(), 0..64)) {
            for family in Family::ALL {
                if let Some(field) = Nlri::parse(family, &octets) {
                    prop_assert_eq!(field.iter().count(), field.len());
                }
            }
        }
    }

    #[test]
    fn host_bits_are_masked() {
        let field = Nlri::parse(Family::Ipv4Unicast, &[9, 10, 0xFF]).unwrap();
        assert_eq!(
            field.iter().collect::<Vec<_>>(),
            ["10.128.0.0/9".parse::<IpNet>().unwrap()]
        );
    }

    #[test]
    fn long_and_cut_prefixes_are_refused() {
        assert!(Nlri::parse(Family::Ipv4Unicast, &[33, 1, 2, 3, 4, 5]).is_none());
        assert!(Nlri::parse(Family::Ipv4Unicast, &[24, 10, 0]).is_none());
        assert!(Nlri::parse(Family::Ipv6Unicast, &[129]).is_none());
    }
}
