//! What `ask` and `agent` say to each other over one TCP connection: frames of a kind, a length and a body.
//!
//! ```text
//!  0      1                   5
//!  +------+-------------------+-------------
//!  | kind | length, big endian| body
//!  +------+-------------------+-------------
//! ```
//! The client begins with [`START`]; then both sides speak as they like until [`EXIT`] or [`REFUSED`] ends it.

use std::io::{Error, ErrorKind, Read, Result, Write};

/// Client: what to run, as JSON of [`Start`].
pub(crate) const START: u8 = 0;
/// Client: bytes for standard input; an empty body ends it.
pub(crate) const INPUT: u8 = 1;
/// Client: a signal's number as four octets.
pub(crate) const SIGNAL: u8 = 2;
/// Agent: bytes of standard output.
pub(crate) const OUTPUT: u8 = 3;
/// Agent: bytes of standard error.
pub(crate) const ERRORS: u8 = 4;
/// Agent: the program has ended; its code as four octets, 128 and the signal's number where one ended it.
pub(crate) const EXIT: u8 = 5;
/// Agent: the program could not be started; the reason as text.
pub(crate) const REFUSED: u8 = 6;

/// No frame is longer.
const LIMIT: u32 = 1 << 20;
/// The first process of a machine that has none of its own: the guest itself.
pub(crate) const WHOLE_GUEST: u32 = 1;

/// What to run, where, in which environment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// The first process of the machine to enter, or [`WHOLE_GUEST`].
    pub(crate) machine: u32,
    /// Program and arguments.
    pub(crate) words: Vec<String>,
    /// The environment, whole.
    pub(crate) environment: Vec<(String, String)>,
    /// The directory to run in, as far as it exists there.
    pub(crate) directory: String,
}

impl Start {
    /// The body of its frame.
    pub(crate) fn render(&self) -> Vec<u8> {
        serde_json::json!([self.machine, self.words, self.environment, self.directory])
            .to_string()
            .into_bytes()
    }

    /// The reverse of [`Start::render`].
    pub(crate) fn parse(body: &[u8]) -> Result<Self> {
        let (machine, words, environment, directory) =
            serde_json::from_slice(body).map_err(Error::from)?;
        Ok(Self {
            machine,
            words,
            environment,
            directory,
        })
    }
}

/// Writes one frame.
pub(crate) fn write(to: &mut impl Write, kind: u8, body: &[u8]) -> Result<()> {
    let length = u32::try_from(body.len())
        .ok()
        .filter(|length| *length <= LIMIT)
        .ok_or_else(|| Error::new(ErrorKind::InvalidInput, "a frame is too long"))?;
    let mut frame = Vec::with_capacity(body.len() + 5);
    frame.push(kind);
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(body);
    to.write_all(&frame)
}

/// Reads one frame.
pub(crate) fn read(from: &mut impl Read) -> Result<(u8, Vec<u8>)> {
    let (mut kind, mut length) = ([0_u8; 1], [0_u8; 4]);
    from.read_exact(&mut kind)?;
    from.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length);
    if length > LIMIT {
        return Err(Error::new(ErrorKind::InvalidData, "a frame is too long"));
    }
    let mut body = vec![0; length as usize];
    from.read_exact(&mut body)?;
    let [kind] = kind;
    Ok((kind, body))
}

/// Copies everything from a pipe into frames of one kind; an empty frame says that it ended.
pub(crate) fn pump(
    mut from: impl Read,
    kind: u8,
    to: &std::sync::Mutex<std::net::TcpStream>,
) -> Result<()> {
    let mut buffer = vec![0_u8; 32_768];
    loop {
        let read = match from.read(&mut buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            other => other?,
        };
        let mut stream = to.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        write(&mut *stream, kind, buffer.get(..read).unwrap_or_default())?;
        if read == 0 {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_read_as_they_were_written() {
        let mut stream = Vec::new();
        write(&mut stream, INPUT, b"text").unwrap();
        write(&mut stream, EXIT, &7_i32.to_be_bytes()).unwrap();
        let mut rest = stream.as_slice();
        assert_eq!(read(&mut rest).unwrap(), (INPUT, b"text".to_vec()));
        assert_eq!(read(&mut rest).unwrap(), (EXIT, vec![0, 0, 0, 7]));
        assert!(read(&mut rest).is_err());
    }

    #[test]
    fn a_start_survives_the_wire() {
        let start = Start {
            machine: 42,
            words: vec!["ip".to_owned(), "link".to_owned()],
            environment: vec![("PATH".to_owned(), "/bin".to_owned())],
            directory: "/".to_owned(),
        };
        assert_eq!(Start::parse(&start.render()).unwrap(), start);
        assert!(Start::parse(b"[1]").is_err());
    }

    #[test]
    fn a_frame_of_an_absurd_length_is_refused_unread() {
        assert!(read(&mut [OUTPUT, 0xff, 0xff, 0xff, 0xff].as_slice()).is_err());
    }
}
