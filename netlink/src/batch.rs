//! Encoded messages on their way to the kernel in one send.

use crate::attr::{Encoder, align};
use crate::flags;
use crate::message::HEADER;

/// `NFNL_MSG_BATCH_BEGIN` and `_END` (`linux/netfilter/nfnetlink.h`).
const NFNL_BATCH_BEGIN: u16 = 0x10;
const NFNL_BATCH_END: u16 = 0x11;
const NFNL_BATCH_GENID: u16 = 1;

/// Generation of the nftables rule set, as `NFT_MSG_GETGEN` tells it. A transaction that names a stale one is refused with
/// `ERESTART`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GenerationId(pub u32);

/// Whether the kernel takes the messages one by one or all or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Plain,
    Transaction { subsystem: u8 },
}

/// A row of messages for one send.
///
/// Plain batches (routes, links) are taken message by message: those before and after a refused one take effect. A transaction
/// (nftables) is taken whole or not at all, and every refused message is named.
#[derive(Debug)]
pub struct Batch {
    encoder: Encoder,
    /// Where each message of the caller starts.
    starts: Vec<usize>,
    framing: Framing,
    sealed: bool,
}

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// An empty batch of independent messages.
    pub fn new() -> Self {
        Self {
            encoder: Encoder::new(),
            starts: Vec::new(),
            framing: Framing::Plain,
            sealed: false,
        }
    }

    /// An empty netfilter transaction for a subsystem (`NFNL_SUBSYS_NFTABLES` = 10). With a generation it is refused (`ERESTART`)
    /// when somebody else changed the rules since.
    pub fn transaction(subsystem: u8, generation: Option<GenerationId>) -> Self {
        let mut batch = Self {
            framing: Framing::Transaction { subsystem },
            ..Self::new()
        };
        frame(
            &mut batch.encoder,
            NFNL_BATCH_BEGIN,
            flags::REQUEST,
            |enc| {
                enc.raw(&nfgenmsg(subsystem));
                if let Some(GenerationId(id)) = generation {
                    enc.put_be32(NFNL_BATCH_GENID, id);
                }
            },
        );
        batch
    }

    /// Appends a message. `kind` and `extra_flags` go into its header (`REQUEST` is always set, `ACK` is set on the last by the
    /// socket); `body` writes family header and attributes.
    pub fn push(&mut self, kind: u16, extra_flags: u16, body: impl FnOnce(&mut Encoder)) {
        self.unseal();
        self.starts.push(self.encoder.len());
        frame(&mut self.encoder, kind, flags::REQUEST | extra_flags, body);
    }

    /// Number of messages of the caller; begin and end of a transaction do not count.
    pub fn len(&self) -> usize {
        self.starts.len()
    }

    /// True when no message was pushed.
    pub fn is_empty(&self) -> bool {
        self.starts.is_empty()
    }

    /// Octets so far, to be held against [`crate::Socket::send_capacity`].
    pub fn octets(&self) -> usize {
        self.encoder.len()
    }

    /// True when an attribute did not fit its length field; such a batch is never sent.
    pub fn is_oversized(&self) -> bool {
        self.encoder.is_oversized()
    }

    /// Empties the batch and keeps its memory; a transaction becomes a plain batch.
    pub fn clear(&mut self) {
        self.encoder.clear();
        self.starts.clear();
        self.framing = Framing::Plain;
        self.sealed = false;
    }

    /// Numbers the messages from `base + 1` on (the begin of a transaction gets `base`), asks for an acknowledgement of the last
    /// one and closes a transaction. Returns the bytes to send.
    pub(crate) fn seal(&mut self, base: u32) -> &[u8] {
        if !self.sealed {
            self.close_transaction();
            self.sealed = true;
        }
        let starts = std::mem::take(&mut self.starts);
        if let Framing::Transaction { .. } = self.framing {
            self.number(0, base);
        }
        let mut seq = base;
        for &start in &starts {
            seq = seq.wrapping_add(1);
            self.number(start, seq);
        }
        if let Some(&last) = starts.last() {
            self.or_flags(last, flags::ACK);
        }
        self.starts = starts;
        self.encoder.as_bytes()
    }

    /// Offset of the end message, if this is a transaction.
    fn close_transaction(&mut self) {
        if let Framing::Transaction { subsystem } = self.framing {
            frame(&mut self.encoder, NFNL_BATCH_END, flags::REQUEST, |enc| {
                enc.raw(&nfgenmsg(subsystem));
            });
        }
    }

    /// Takes the end message off again, so that more can be pushed after a send.
    fn unseal(&mut self) {
        if self.sealed {
            self.sealed = false;
            if let Framing::Transaction { .. } = self.framing {
                let end = self.encoder.len() - (HEADER + nfgenmsg(0).len());
                self.encoder.truncate(end);
            }
            if let Some(&last) = self.starts.last() {
                self.clear_flags(last, flags::ACK);
            }
        }
    }

    fn number(&mut self, start: usize, seq: u32) {
        self.encoder.patch(start + 8, &seq.to_ne_bytes());
    }

    fn or_flags(&mut self, start: usize, flags: u16) {
        let now = self.flags_at(start) | flags;
        self.encoder.patch(start + 6, &now.to_ne_bytes());
    }

    fn clear_flags(&mut self, start: usize, flags: u16) {
        let now = self.flags_at(start) & !flags;
        self.encoder.patch(start + 6, &now.to_ne_bytes());
    }

    fn flags_at(&self, start: usize) -> u16 {
        match self.encoder.as_bytes().get(start + 6..start + 8) {
            Some(&[a, b]) => u16::from_ne_bytes([a, b]),
            _ => 0,
        }
    }
}

/// `struct nfgenmsg`: family unspecified, version 0, resource id = subsystem in network order.
fn nfgenmsg(subsystem: u8) -> [u8; 4] {
    [0, 0, 0, subsystem]
}

/// Writes one message: header with a length that is right once `body` has run.
pub(crate) fn frame(encoder: &mut Encoder, kind: u16, flags: u16, body: impl FnOnce(&mut Encoder)) {
    let start = encoder.len();
    let mut header = [0_u8; HEADER];
    let [k0, k1] = kind.to_ne_bytes();
    let [f0, f1] = flags.to_ne_bytes();
    header[4..8].copy_from_slice(&[k0, k1, f0, f1]);
    encoder.raw(&header);
    body(encoder);
    // A message is at most as long as its attributes, each below 64 KiB, and a send below 4 GiB.
    let length = u32::try_from(align(encoder.len() - start)).unwrap_or(u32::MAX);
    encoder.patch(start, &length.to_ne_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message;

    fn headers(bytes: &[u8]) -> Vec<(u16, u16, u32)> {
        message::parse(bytes)
            .map(|m| (m.kind, m.flags, m.seq))
            .collect()
    }

    #[test]
    fn only_the_last_message_asks_for_an_answer() {
        let mut batch = Batch::new();
        for kind in 20..23 {
            batch.push(kind, flags::CREATE, |enc| enc.put_u32(1, 5));
        }
        let sent = headers(batch.seal(100));
        assert_eq!(sent, [(20, 0x401, 101), (21, 0x401, 102), (22, 0x405, 103)]);
    }

    #[test]
    fn a_transaction_is_framed_and_its_frame_is_not_counted() {
        let mut batch = Batch::transaction(10, Some(GenerationId(7)));
        batch.push(0xa00, 0, |enc| enc.raw(&[1, 0, 0, 0]));
        assert_eq!(batch.len(), 1);
        let sent = headers(batch.seal(9));
        assert_eq!(sent, [(0x10, 1, 9), (0xa00, 5, 10), (0x11, 1, 0)]);
    }

    #[test]
    fn a_sent_batch_can_grow_and_be_sent_again() {
        let mut batch = Batch::transaction(10, None);
        batch.push(0xa00, 0, |enc| enc.raw(&[1, 0, 0, 0]));
        let _ = batch.seal(1);
        batch.push(0xa03, 0, |enc| enc.raw(&[1, 0, 0, 0]));
        let sent = headers(batch.seal(5));
        assert_eq!(
            sent,
            [(0x10, 1, 5), (0xa00, 1, 6), (0xa03, 5, 7), (0x11, 1, 0)]
        );
    }
}
