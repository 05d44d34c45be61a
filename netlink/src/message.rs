//! The message header, and walking what one receive brought.
//!
//! ```text
//!   0               4       6       8               12              16
//!   ├───────────────┼───────┼───────┼───────────────┼───────────────┤
//!   │ length        │ type  │ flags │ sequence      │ port          │   host order; length includes this header
//!   └───────────────┴───────┴───────┴───────────────┴───────────────┘
//! ```

use crate::attr::align;

/// Length of the header in octets.
pub(crate) const HEADER: usize = 16;
pub(crate) const NOOP: u16 = 1;
pub(crate) const ERROR: u16 = 2;
pub(crate) const DONE: u16 = 3;
pub(crate) const OVERRUN: u16 = 4;

/// One message from the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Message<'a> {
    /// Type: for routes `RTM_*`, for netfilter subsystem and message in one number.
    pub kind: u16,
    /// Header flags, see [`crate::flags`].
    pub flags: u16,
    /// Number of the request it answers; 0 in notifications.
    pub seq: u32,
    /// Port of the socket that caused it.
    pub port: u32,
    /// Family header and attributes.
    pub body: &'a [u8],
}

/// Walks the messages of one receive; ends at the first impossible length.
pub(crate) fn parse(bytes: &[u8]) -> Messages<'_> {
    Messages { rest: bytes }
}

#[derive(Debug)]
pub(crate) struct Messages<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let &[
            l0,
            l1,
            l2,
            l3,
            k0,
            k1,
            f0,
            f1,
            s0,
            s1,
            s2,
            s3,
            p0,
            p1,
            p2,
            p3,
        ] = self.rest.first_chunk::<HEADER>()?;
        let length = usize::try_from(u32::from_ne_bytes([l0, l1, l2, l3])).ok()?;
        let Some(body) = self.rest.get(HEADER..length) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some(Message {
            kind: u16::from_ne_bytes([k0, k1]),
            flags: u16::from_ne_bytes([f0, f1]),
            seq: u32::from_ne_bytes([s0, s1, s2, s3]),
            port: u32::from_ne_bytes([p0, p1, p2, p3]),
            body,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_lengths_end_the_walk() {
        assert_eq!(parse(&[0; 15]).count(), 0);
        assert_eq!(parse(&[0; 16]).count(), 0);
        let mut short = [0_u8; 20];
        short[0] = 24;
        assert_eq!(parse(&short).count(), 0);
        short[0] = 20;
        assert_eq!(parse(&short).map(|m| m.body.len()).collect::<Vec<_>>(), [4]);
    }
}
