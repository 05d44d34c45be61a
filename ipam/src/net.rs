//! Arithmetic on prefixes: blocks of a pool by number, addresses of a block by ordinal.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::block::SIZE_MAX;

/// IP version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of a prefix.
    pub fn of(net: IpNet) -> Self {
        match net {
            IpNet::V4(_) => Self::V4,
            IpNet::V6(_) => Self::V6,
        }
    }

    /// The family of an address.
    pub fn of_address(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(_) => Self::V4,
            IpAddr::V6(_) => Self::V6,
        }
    }
}

impl std::fmt::Display for Family {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// Number of addresses of a block; `None` when host bits are set or it is larger than any block may be.
pub(crate) fn block_size(cidr: IpNet) -> Option<u32> {
    let host_bits = u32::from(cidr.max_prefix_len() - cidr.prefix_len());
    let size = 1_u32.checked_shl(host_bits).filter(|_| host_bits < 32)?;
    (cidr == cidr.trunc() && size <= SIZE_MAX).then_some(size)
}

/// The address `ordinal` places after `base`.
pub(crate) fn nth(base: IpAddr, ordinal: u32) -> IpAddr {
    match base {
        IpAddr::V4(base) => IpAddr::V4(Ipv4Addr::from_bits(base.to_bits().wrapping_add(ordinal))),
        IpAddr::V6(base) => IpAddr::V6(Ipv6Addr::from_bits(
            base.to_bits().wrapping_add(ordinal.into()),
        )),
    }
}

/// The place of an address in a block; `None` outside.
pub(crate) fn ordinal(cidr: IpNet, address: IpAddr) -> Option<u32> {
    if !cidr.contains(&address) {
        return None;
    }
    u32::try_from(bits(address) - bits(cidr.network())).ok()
}

/// The block of prefix length `len` that holds an address.
pub(crate) fn block_of(address: IpAddr, len: u8) -> Option<IpNet> {
    IpNet::new(address, len).ok().map(|net| net.trunc())
}

/// Number of blocks of prefix length `len` in a pool; 0 when a block would be larger than the pool.
pub(crate) fn block_count(pool: IpNet, len: u8) -> u128 {
    match len.checked_sub(pool.prefix_len()) {
        Some(bits) if bits < 128 => 1_u128 << bits,
        Some(_) | None => 0,
    }
}

/// The `index`-th block of a pool, ascending; `None` past the end.
pub(crate) fn block_at(pool: IpNet, len: u8, index: u128) -> Option<IpNet> {
    if index >= block_count(pool, len) {
        return None;
    }
    let shift = u32::from(pool.max_prefix_len().checked_sub(len)?);
    let offset = index.checked_shl(shift)?;
    match pool {
        IpNet::V4(pool) => {
            let base = pool
                .network()
                .to_bits()
                .checked_add(u32::try_from(offset).ok()?)?;
            Ipv4Net::new(Ipv4Addr::from_bits(base), len)
                .ok()
                .map(IpNet::V4)
        }
        IpNet::V6(pool) => {
            let base = pool.network().to_bits().checked_add(offset)?;
            Ipv6Net::new(Ipv6Addr::from_bits(base), len)
                .ok()
                .map(IpNet::V6)
        }
    }
}

/// Which block of a pool this is; `None` when it is none of the pool's.
pub(crate) fn block_index(pool: IpNet, len: u8, block: IpNet) -> Option<u128> {
    if block.prefix_len() != len || !pool.contains(&block) {
        return None;
    }
    let shift = u32::from(pool.max_prefix_len().checked_sub(len)?);
    Some((bits(block.network()) - bits(pool.network())) >> shift)
}

/// An address as a number of its own family.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => address.to_bits(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_numbered_from_the_start_of_the_pool() {
        for (pool, len, index, block) in [
            ("10.65.0.0/16", 26, 0, "10.65.0.0/26"),
            ("10.65.0.0/16", 26, 1023, "10.65.255.192/26"),
            ("10.65.0.0/26", 26, 0, "10.65.0.0/26"),
            ("fd00::/48", 122, 1 << 73, "fd00:0:0:8000::/122"),
            ("0.0.0.0/0", 32, u128::from(u32::MAX), "255.255.255.255/32"),
        ] {
            let (pool, block): (IpNet, IpNet) = (pool.parse().unwrap(), block.parse().unwrap());
            assert_eq!(block_at(pool, len, index), Some(block));
            assert_eq!(block_index(pool, len, block), Some(index));
        }
    }

    #[test]
    fn nothing_lies_past_the_end_of_a_pool() {
        let pool: IpNet = "10.65.0.0/24".parse().unwrap();
        assert_eq!(block_at(pool, 26, 4), None);
        assert_eq!(block_at(pool, 20, 0), None, "a block larger than the pool");
        assert_eq!(block_index(pool, 26, "10.66.0.0/26".parse().unwrap()), None);
    }

    #[test]
    fn block_sizes_end_at_4096_addresses() {
        for (cidr, size) in [
            ("10.0.0.0/32", Some(1)),
            ("10.0.0.0/20", Some(4096)),
            ("10.0.0.0/19", None),
            ("fd00::/116", Some(4096)),
            ("fd00::/64", None),
            ("0.0.0.0/0", None),
        ] {
            assert_eq!(block_size(cidr.parse().unwrap()), size, "{cidr}");
        }
        assert_eq!(
            block_size("10.0.0.1/26".parse().unwrap()),
            None,
            "host bits"
        );
    }
}
