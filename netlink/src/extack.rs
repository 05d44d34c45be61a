//! Answers of the kernel: acknowledgement, or error with its own words.

use std::fmt;

use nix::errno::Errno;

use crate::message::{HEADER, Message};
use crate::{attr, flags};

const ATTR_TEXT: u16 = 1;
const ATTR_OFFSET: u16 = 2;
const ATTR_MISSING_TYPE: u16 = 5;

/// One message the kernel refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// Which message of the batch, counted from 0; `None` when the batch as a whole was refused (stale generation, failed
    /// commit) or the answer belongs to a single request.
    pub index: Option<usize>,
    /// The kernel's error number.
    pub errno: Errno,
    /// The kernel's own words, when it had any.
    pub text: Option<String>,
    /// Octet offset, from the start of the message's header, of the attribute the kernel objects to.
    pub offset: Option<u32>,
    /// Type of an attribute the kernel missed.
    pub missing: Option<u32>,
}

impl Failure {
    /// A transaction that named a generation which is no longer current: list again and retry.
    pub fn is_stale_generation(&self) -> bool {
        self.errno == Errno::ERESTART
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "message {index}: ")?;
        }
        write!(f, "{}", self.errno.desc())?;
        if let Some(text) = &self.text {
            write!(f, " ({text})")?;
        }
        if let Some(offset) = self.offset {
            write!(f, " at octet {offset}")?;
        }
        if let Some(missing) = self.missing {
            write!(f, ", attribute {missing} is missing")?;
        }
        Ok(())
    }
}

/// Reads an `NLMSG_ERROR`: `None` is an acknowledgement.
pub(crate) fn parse_error(message: &Message<'_>) -> Option<Failure> {
    // i32 error, header of the offending message, then (capped acks) attributes at once.
    parse_status(message, 4 + HEADER)
}

/// Reads an `NLMSG_DONE`: `None` is a dump that ended well.
pub(crate) fn parse_done(message: &Message<'_>) -> Option<Failure> {
    parse_status(message, 4)
}

fn parse_status(message: &Message<'_>, attributes_at: usize) -> Option<Failure> {
    let code = message
        .body
        .first_chunk::<4>()
        .map_or(0, |c| i32::from_ne_bytes(*c));
    if code == 0 {
        return None;
    }
    let mut failure = Failure {
        index: None,
        errno: Errno::from_raw(code.saturating_neg()),
        text: None,
        offset: None,
        missing: None,
    };
    if message.flags & flags::ACK_TLVS != 0 {
        let tail = message.body.get(attributes_at..).unwrap_or(&[]);
        for attribute in attr::parse(tail) {
            match attribute.kind {
                ATTR_TEXT => failure.text = attribute.str().map(str::to_owned),
                ATTR_OFFSET => failure.offset = attribute.u32(),
                ATTR_MISSING_TYPE => failure.missing = attribute.u32(),
                _ => {}
            }
        }
    }
    Some(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Encoder;
    use crate::message::ERROR;

    fn answer(code: i32, tlvs: impl FnOnce(&mut Encoder)) -> Encoder {
        let mut enc = Encoder::new();
        enc.raw(&code.to_ne_bytes());
        enc.raw(&[0; HEADER]);
        tlvs(&mut enc);
        enc
    }

    fn message(body: &Encoder, flags: u16) -> Message<'_> {
        Message {
            kind: ERROR,
            flags,
            seq: 1,
            port: 0,
            body: body.as_bytes(),
        }
    }

    #[test]
    fn zero_is_an_acknowledgement() {
        let body = answer(0, |_| {});
        assert_eq!(parse_error(&message(&body, flags::CAPPED)), None);
    }

    #[test]
    fn the_kernels_words_and_the_place_are_kept() {
        let body = answer(-101, |enc| {
            enc.put_str(ATTR_TEXT, "Nexthop has invalid gateway");
            enc.put_u32(ATTR_OFFSET, 36);
        });
        let failure = parse_error(&message(&body, flags::CAPPED | flags::ACK_TLVS)).unwrap();
        assert_eq!(failure.errno, Errno::ENETUNREACH);
        assert_eq!(failure.text.as_deref(), Some("Nexthop has invalid gateway"));
        assert_eq!(
            failure.to_string(),
            "Network is unreachable (Nexthop has invalid gateway) at octet 36"
        );
    }

    #[test]
    fn truncated_answers_do_not_panic() {
        let message = Message {
            kind: ERROR,
            flags: flags::ACK_TLVS,
            seq: 1,
            port: 0,
            body: &[0xff, 0xff, 0xff, 0xff, 1],
        };
        assert_eq!(parse_error(&message).unwrap().errno, Errno::EPERM);
        let least = Message {
            body: &i32::MIN.to_ne_bytes(),
            ..message
        };
        assert_eq!(parse_error(&least).unwrap().errno, Errno::UnknownErrno);
    }
}
