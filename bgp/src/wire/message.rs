//! Framing (RFC 4271 §4.1).
//!
//! ```text
//!    0 … 15            16       18
//!   +-----------------+--------+------+--------
//!   | marker: 16 × FF | length | type | body …      length counts from the marker
//!   +-----------------+--------+------+--------
//! ```

use super::{Fault, Notification};

/// Octets of marker, length and type.
pub const HEADER: usize = 19;
/// Longest message without RFC 8654.
pub const MAX: usize = 4096;

/// Type of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Type 1.
    Open,
    /// Type 2.
    Update,
    /// Type 3.
    Notification,
    /// Type 4.
    Keepalive,
    /// Type 5 (RFC 2918).
    RouteRefresh,
}

impl Kind {
    /// Every type, in code order.
    pub const ALL: [Self; 5] = [
        Self::Open,
        Self::Update,
        Self::Notification,
        Self::Keepalive,
        Self::RouteRefresh,
    ];

    /// The code on the wire.
    pub fn code(self) -> u8 {
        match self {
            Self::Open => 1,
            Self::Update => 2,
            Self::Notification => 3,
            Self::Keepalive => 4,
            Self::RouteRefresh => 5,
        }
    }

    /// The type of a code.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.code() == code)
    }

    /// Lengths a message of this type may have, header included.
    fn fits(self, length: usize) -> bool {
        match self {
            Self::Open => (29..=MAX).contains(&length),
            Self::Update => length >= 23,
            Self::Notification => length >= 21,
            Self::Keepalive => length == HEADER,
            Self::RouteRefresh => length == 23,
        }
    }
}

/// A framed message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Message<'a> {
    /// Its type.
    pub kind: Kind,
    /// What follows the header.
    pub body: &'a [u8],
}

/// A framing fault with the NOTIFICATION it causes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Malformed {
    /// What was wrong.
    pub fault: Fault,
    /// What to tell the peer.
    pub notification: Notification,
}

impl Malformed {
    /// A fault that ends the session.
    pub fn new(fault: Fault, data: &[u8]) -> Self {
        let notification = fault
            .notification(data)
            .expect("only faults that reset are raised as errors");
        Self {
            fault,
            notification,
        }
    }
}

/// Takes the first message off `octets`: `None` when more octets are needed, else the message and its whole length.
///
/// # Errors
/// [`Malformed`] when the octets cannot be framed; `max` is the longest length agreed on.
pub fn split(octets: &[u8], max: usize) -> Result<Option<(Message<'_>, usize)>, Malformed> {
    let marker = octets.get(..octets.len().min(16)).unwrap_or_default();
    if marker.iter().any(|octet| *octet != 0xFF) {
        return Err(Malformed::new(Fault::Marker, &[]));
    }
    let Some((header, _)) = octets.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let [.., high, low, code] = *header;
    let field = [high, low];
    let length = usize::from(u16::from_be_bytes(field));
    if length < HEADER || length > max {
        return Err(Malformed::new(Fault::HeaderLength, &field));
    }
    let Some(kind) = Kind::from_code(code) else {
        return Err(Malformed::new(Fault::MessageType, &[code]));
    };
    if !kind.fits(length) {
        return Err(Malformed::new(Fault::MessageLength, &field));
    }
    Ok(octets
        .get(HEADER..length)
        .map(|body| (Message { kind, body }, length)))
}

/// Appends a message whose body `write` appends. A body that does not fit 65,535 octets is cut off by the caller's bounds.
pub fn put(out: &mut Vec<u8>, kind: Kind, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0xFF; 16]);
    out.extend_from_slice(&[0, 0, kind.code()]);
    write(out);
    let length = u16::try_from(out.len() - start).expect("writers keep bodies below 65,516 octets");
    if let Some(field) = out.get_mut(start + 16..start + 18) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// A KEEPALIVE.
pub fn keepalive() -> Vec<u8> {
    let mut out = Vec::with_capacity(HEADER);
    put(&mut out, Kind::Keepalive, |_| ());
    out
}

/// A NOTIFICATION.
pub fn notification(notification: &Notification) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out, Kind::Notification, |out| {
        out.extend_from_slice(&[notification.code, notification.subcode]);
        let most = MAX - HEADER - 2;
        out.extend(notification.data.iter().take(most));
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn framed(length: u16, code: u8) -> Vec<u8> {
        let mut octets = vec![0xFF; 16];
        octets.extend_from_slice(&length.to_be_bytes());
        octets.push(code);
        octets.resize(usize::from(length).max(HEADER), 0);
        octets
    }

    fn fault(octets: &[u8]) -> Fault {
        split(octets, MAX).unwrap_err().fault
    }

    #[test]
    fn a_broken_marker_is_seen_at_its_first_octet() {
        assert_eq!(fault(&[0xFF, 0xFE]), Fault::Marker);
    }

    #[test]
    fn lengths_are_checked_against_bounds_and_type() {
        assert_eq!(fault(&framed(18, 4)), Fault::HeaderLength);
        assert_eq!(fault(&framed(4097, 2)), Fault::HeaderLength);
        for (length, code) in [(20, 4), (22, 2), (28, 1), (20, 3), (24, 5)] {
            assert_eq!(
                fault(&framed(length, code)),
                Fault::MessageLength,
                "length {length} type {code}"
            );
        }
        assert_eq!(fault(&framed(19, 9)), Fault::MessageType);
        let error = split(&framed(18, 4), MAX).unwrap_err();
        assert_eq!(&*error.notification.data, [0, 18]);
    }

    #[test]
    fn a_partial_message_waits_for_the_rest() {
        let whole = framed(23, 2);
        for cut in 0..whole.len() {
            assert_eq!(split(&whole[..cut], MAX), Ok(None), "cut at {cut}");
        }
        let (message, length) = split(&whole, MAX).unwrap().unwrap();
        assert_eq!(
            (message.kind, message.body.len(), length),
            (Kind::Update, 4, 23)
        );
    }
}
