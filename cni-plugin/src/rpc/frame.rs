//! Length-prefixed frames; pure.

use prost::Message;
use thiserror::Error;

/// The longest message accepted, in bytes.
pub const MAX_FRAME: usize = 1024 * 1024;

/// Bytes of the length field.
const HEADER: usize = 4;

/// Why bytes are not a frame.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length field, or the message to send, is beyond [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than the {MAX_FRAME} accepted")]
    TooLong(usize),
    /// The message is not the protobuf it should be.
    #[error("the frame holds no message of ours: {0}")]
    Message(String),
    /// More bytes came than the one frame.
    #[error("{0} bytes follow the one frame of a call")]
    Trailing(usize),
}

/// Frames a message.
///
/// # Errors
/// [`FrameError::TooLong`].
pub fn encode(message: &impl Message) -> Result<Vec<u8>, FrameError> {
    let length = message.encoded_len();
    let field = u32::try_from(length)
        .ok()
        .filter(|_| length <= MAX_FRAME)
        .ok_or(FrameError::TooLong(length))?;
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(&field.to_be_bytes());
    message
        .encode(&mut bytes)
        .map_err(|error| FrameError::Message(error.to_string()))?;
    Ok(bytes)
}

/// Collects the bytes of one frame as they come.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
}

impl Decoder {
    /// Takes more bytes; `Some` once the message is whole.
    ///
    /// # Errors
    /// Any [`FrameError`]; the connection is of no more use then.
    pub fn push<M: Message + Default>(&mut self, more: &[u8]) -> Result<Option<M>, FrameError> {
        self.bytes.extend_from_slice(more);
        let Some((header, body)) = self.bytes.split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let length = usize::try_from(u32::from_be_bytes(*header)).unwrap_or(usize::MAX);
        if length > MAX_FRAME {
            return Err(FrameError::TooLong(length));
        }
        if body.len() < length {
            return Ok(None);
        }
        if body.len() > length {
            return Err(FrameError::Trailing(body.len() - length));
        }
        M::decode(body)
            .map(Some)
            .map_err(|error| FrameError::Message(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::{Reply, Request};
    use crate::spec::Environment;
    use proptest::prelude::*;

    fn request(stdin: &[u8], args: &str) -> Request {
        let environment = Environment {
            command: "ADD".into(),
            args: args.into(),
            ..Environment::default()
        };
        Request::new(&environment, stdin)
    }

    #[test]
    fn a_frame_beyond_the_limit_is_refused_before_it_is_read() {
        let mut decoder = Decoder::default();
        let refused = decoder.push::<Request>(&[0xff; 4]);
        assert_eq!(refused, Err(FrameError::TooLong(0xffff_ffff)));
    }

    #[test]
    fn bytes_after_the_frame_are_an_error() {
        let mut bytes = encode(&request(b"{}", "")).unwrap();
        bytes.push(0);
        assert_eq!(
            Decoder::default().push::<Request>(&bytes),
            Err(FrameError::Trailing(1))
        );
    }

    #[test]
    fn fields_of_a_newer_plugin_are_ignored() {
        let mut payload = request(b"{}", "").encode_to_vec();
        payload.extend_from_slice(&[0xfa, 0x06, 0x03, b'n', b'e', b'w']); // field 111, length 3
        assert_eq!(
            Request::decode(payload.as_slice()).unwrap(),
            request(b"{}", "")
        );
    }

    proptest! {
        #[test]
        fn a_frame_cut_anywhere_comes_together(stdin in proptest::collection::vec(any::<u8>(), 0..300), args in ".{0,40}", at in any::<prop::sample::Index>()) {
            let wanted = request(&stdin, &args);
            let bytes = encode(&wanted).unwrap();
            let (first, second) = bytes.split_at(at.index(bytes.len()));
            let mut decoder = Decoder::default();
            prop_assert_eq!(decoder.push::<Request>(first).unwrap(), None);
            prop_assert_eq!(decoder.push::<Request>(second).unwrap(), Some(wanted));
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = Decoder::default().push::<Request>(&bytes);
            let _ = Decoder::default().push::<Reply>(&bytes);
            let mut framed = u32::try_from(bytes.len()).unwrap().to_be_bytes().to_vec();
            framed.extend_from_slice(&bytes);
            let _ = Decoder::default().push::<Request>(&framed);
        }
    }
}
