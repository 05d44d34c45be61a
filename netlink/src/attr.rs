//! Attributes: the type-length-value units every netlink payload is made of.
//!
//! ```text
//!   0        2        4
//!   ├────────┼────────┼───────────────┬─────────┤
//!   │ length │  type  │ payload …     │ padding │   length counts header and payload, not the padding to 4
//!   └────────┴────────┴───────────────┴─────────┘   type: bit 15 nested, bit 14 network byte order
//! ```

const HEADER: usize = 4;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;

/// Writes message payloads: family headers as raw bytes, attributes with header and padding.
///
/// An attribute whose payload does not fit its 16-bit length is not written; the encoder remembers it and
/// [`crate::Socket::submit`] refuses the batch with [`crate::Error::Oversized`].
#[derive(Debug, Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    oversized: bool,
}

impl Encoder {
    /// An encoder with nothing written.
    pub fn new() -> Self {
        Self::default()
    }

    /// What was written so far.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Number of octets written so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// True when nothing was written.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// True when an attribute was too long for its length field.
    pub fn is_oversized(&self) -> bool {
        self.oversized
    }

    /// Appends raw octets, for example the fixed header of a family, and pads to 4.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.pad();
    }

    /// Appends `len` zero octets, padded to 4, and gives the unpadded part to `fill`; meant for foreign emitters that write into
    /// a slice.
    pub fn emit(&mut self, len: usize, fill: impl FnOnce(&mut [u8])) {
        let start = self.bytes.len();
        self.bytes.resize(start + len, 0);
        if let Some(slice) = self.bytes.get_mut(start..) {
            fill(slice);
        }
        self.pad();
    }

    /// One attribute with its payload.
    pub fn put(&mut self, kind: u16, payload: &[u8]) {
        let Ok(length) = u16::try_from(HEADER + payload.len()) else {
            self.oversized = true;
            return;
        };
        self.bytes.extend_from_slice(&length.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(payload);
        self.pad();
    }

    /// An attribute without payload, whose presence is its meaning.
    pub fn put_flag(&mut self, kind: u16) {
        self.put(kind, &[]);
    }

    /// One octet.
    pub fn put_u8(&mut self, kind: u16, value: u8) {
        self.put(kind, &[value]);
    }

    /// 16 bits in host order.
    pub fn put_u16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// 32 bits in host order.
    pub fn put_u32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// 64 bits in host order.
    pub fn put_u64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_ne_bytes());
    }

    /// 16 bits in network order.
    pub fn put_be16(&mut self, kind: u16, value: u16) {
        self.put(kind, &value.to_be_bytes());
    }

    /// 32 bits in network order (what nftables wants nearly everywhere).
    pub fn put_be32(&mut self, kind: u16, value: u32) {
        self.put(kind, &value.to_be_bytes());
    }

    /// 64 bits in network order.
    pub fn put_be64(&mut self, kind: u16, value: u64) {
        self.put(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero. A zero inside the text ends it for the kernel.
    pub fn put_str(&mut self, kind: u16, text: &str) {
        let mut bytes = Vec::with_capacity(text.len() + 1);
        bytes.extend_from_slice(text.as_bytes());
        bytes.push(0);
        self.put(kind, &bytes);
    }

    /// A nested attribute, marked as such; `fill` writes its content.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        self.nest_plain(kind | NESTED, fill);
    }

    /// A nested attribute without the nested mark, for the old route families that predate it.
    pub fn nest_plain(&mut self, kind: u16, fill: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        fill(self);
        if let Ok(length) = u16::try_from(self.bytes.len() - start) {
            self.patch(start, &length.to_ne_bytes());
        } else {
            self.bytes.truncate(start);
            self.oversized = true;
        }
    }

    /// Overwrites octets written before.
    pub(crate) fn patch(&mut self, at: usize, with: &[u8]) {
        if let Some(slot) = self.bytes.get_mut(at..at + with.len()) {
            slot.copy_from_slice(with);
        }
    }

    /// Cuts back to an earlier length.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    /// Forgets everything, keeps the memory.
    pub(crate) fn clear(&mut self) {
        self.bytes.clear();
        self.oversized = false;
    }

    fn pad(&mut self) {
        let padded = align(self.bytes.len());
        self.bytes.resize(padded, 0);
    }
}

/// One decoded attribute.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attribute<'a> {
    /// Type without the nested and byte-order bits.
    pub kind: u16,
    /// Payload without header and padding.
    pub payload: &'a [u8],
}

impl<'a> Attribute<'a> {
    /// One octet.
    pub fn u8(&self) -> Option<u8> {
        self.payload.first().copied()
    }

    /// 16 bits in host order.
    pub fn u16(&self) -> Option<u16> {
        Some(u16::from_ne_bytes(self.array()?))
    }

    /// 32 bits in host order.
    pub fn u32(&self) -> Option<u32> {
        Some(u32::from_ne_bytes(self.array()?))
    }

    /// 64 bits in host order.
    pub fn u64(&self) -> Option<u64> {
        Some(u64::from_ne_bytes(self.array()?))
    }

    /// 16 bits in network order.
    pub fn be16(&self) -> Option<u16> {
        Some(u16::from_be_bytes(self.array()?))
    }

    /// 32 bits in network order.
    pub fn be32(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.array()?))
    }

    /// 64 bits in network order.
    pub fn be64(&self) -> Option<u64> {
        Some(u64::from_be_bytes(self.array()?))
    }

    /// Text up to the first zero, if it is UTF-8.
    pub fn str(&self) -> Option<&'a str> {
        let end = self
            .payload
            .iter()
            .position(|&b| b == 0)
            .unwrap_or(self.payload.len());
        std::str::from_utf8(self.payload.get(..end)?).ok()
    }

    /// The payload read as attributes.
    pub fn nested(&self) -> Attributes<'a> {
        parse(self.payload)
    }

    /// The first octets as an array, `None` when there are fewer.
    pub fn array<const N: usize>(&self) -> Option<[u8; N]> {
        self.payload.first_chunk().copied()
    }
}

/// Reads attributes one after another; see [`parse`].
#[derive(Debug, Clone)]
pub struct Attributes<'a> {
    rest: &'a [u8],
}

impl<'a> Attributes<'a> {
    /// The first attribute of this type.
    pub fn find(mut self, kind: u16) -> Option<Attribute<'a>> {
        Iterator::find(&mut self, |a| a.kind == kind)
    }
}

/// Reads a payload as a row of attributes. The row ends at the first attribute whose length is impossible.
pub fn parse(payload: &[u8]) -> Attributes<'_> {
    Attributes { rest: payload }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = Attribute<'a>;

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.first_chunk::<HEADER>()?;
        let [l0, l1, k0, k1] = *header;
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let Some(payload) = self.rest.get(HEADER..length) else {
            self.rest = &[];
            return None;
        };
        self.rest = self.rest.get(align(length)..).unwrap_or(&[]);
        Some(Attribute {
            kind: u16::from_ne_bytes([k0, k1]) & TYPE_MASK,
            payload,
        })
    }
}

/// Rounds up to the next multiple of four.
pub(crate) const fn align(length: usize) -> usize {
    (length + 3) & !3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_put_is_read_back() {
        let mut enc = Encoder::new();
        enc.put_u8(1, 7);
        enc.put_be16(2, 0x1234);
        enc.put_be32(3, 0x0a00_0001);
        enc.put_str(4, "cali0123456789a");
        enc.nest(5, |enc| {
            enc.put_u32(1, 42);
            enc.put_flag(2);
        });
        let all: Vec<_> = parse(enc.as_bytes()).collect();
        assert_eq!(all.len(), 5);
        assert_eq!(all[0].u8(), Some(7));
        assert_eq!(all[1].be16(), Some(0x1234));
        assert_eq!(all[2].be32(), Some(0x0a00_0001));
        assert_eq!(all[3].str(), Some("cali0123456789a"));
        let nested: Vec<_> = all[4].nested().collect();
        assert_eq!(nested[0].u32(), Some(42));
        assert_eq!(
            nested[1],
            Attribute {
                kind: 2,
                payload: &[]
            }
        );
    }

    #[test]
    fn every_attribute_is_padded_to_four() {
        let mut enc = Encoder::new();
        enc.put_u8(1, 1);
        assert_eq!(enc.as_bytes(), [5, 0, 1, 0, 1, 0, 0, 0]);
    }

    #[test]
    fn too_long_a_payload_is_remembered_not_written() {
        let mut enc = Encoder::new();
        enc.put(1, &vec![0; 65_532]);
        assert!(enc.is_oversized());
        assert!(enc.is_empty());
        let mut enc = Encoder::new();
        enc.nest(1, |enc| {
            enc.put(1, &vec![0; 40_000]);
            enc.put(1, &vec![0; 40_000]);
        });
        assert!(enc.is_oversized());
        assert!(enc.is_empty());
    }

    #[test]
    fn malformed_rows_end_without_panic() {
        for bytes in [
            &[][..],
            &[1],
            &[0, 0, 0, 0],
            &[3, 0, 1, 0, 9],
            &[200, 0, 1, 0, 9, 9, 9, 9],
            &[4, 0, 1],
        ] {
            assert_eq!(parse(bytes).count(), 0, "{bytes:?}");
        }
        // The last attribute may lack its padding.
        assert_eq!(parse(&[5, 0, 1, 0, 9]).count(), 1);
    }
}
