//! NOTIFICATION (RFC 4271 §4.5), with Cease texts (RFC 9003) and Hard Reset (RFC 8538).
//!
//! ```text
//!    0               1               2
//!   +---------------+---------------+----------------
//!   | error code    | subcode       | data …
//!   +---------------+---------------+----------------
//! ```

use std::fmt;

use serde::{Deserialize, Serialize};

/// Error codes (RFC 4271 §4.5, RFC 7313, RFC 9687).
pub mod code {
    /// Message header error.
    pub const HEADER: u8 = 1;
    /// OPEN message error.
    pub const OPEN: u8 = 2;
    /// UPDATE message error.
    pub const UPDATE: u8 = 3;
    /// Hold timer expired.
    pub const HOLD_TIMER: u8 = 4;
    /// Finite state machine error.
    pub const FSM: u8 = 5;
    /// Cease.
    pub const CEASE: u8 = 6;
    /// ROUTE-REFRESH message error (RFC 7313).
    pub const ROUTE_REFRESH: u8 = 7;
    /// Send hold timer expired (RFC 9687).
    pub const SEND_HOLD: u8 = 8;
}

/// Subcodes of Cease (RFC 4486, RFC 8538, RFC 9384).
pub mod cease {
    /// Maximum Number of Prefixes Reached.
    pub const MAX_PREFIXES: u8 = 1;
    /// Administrative Shutdown.
    pub const ADMIN_SHUTDOWN: u8 = 2;
    /// Peer De-configured.
    pub const DECONFIGURED: u8 = 3;
    /// Administrative Reset.
    pub const ADMIN_RESET: u8 = 4;
    /// Connection Rejected.
    pub const REJECTED: u8 = 5;
    /// Other Configuration Change.
    pub const CONFIG_CHANGE: u8 = 6;
    /// Connection Collision Resolution.
    pub const COLLISION: u8 = 7;
    /// Out of Resources.
    pub const OUT_OF_RESOURCES: u8 = 8;
    /// Hard Reset: retain no routes whatever was agreed.
    pub const HARD_RESET: u8 = 9;
    /// BFD Down.
    pub const BFD_DOWN: u8 = 10;
}

/// Why a session ends, as one side tells the other.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Notification {
    /// Error code.
    pub code: u8,
    /// Subcode; its meaning depends on the code.
    pub subcode: u8,
    /// What was wrong, or a text.
    pub data: Box<[u8]>,
}

impl Notification {
    /// Most octets of a Cease text (RFC 9003 §2).
    pub const MAX_TEXT: usize = 255;

    /// A notification without data.
    pub fn new(code: u8, subcode: u8) -> Self {
        Self {
            code,
            subcode,
            data: Box::default(),
        }
    }

    /// A notification with data.
    pub fn with_data(code: u8, subcode: u8, data: &[u8]) -> Self {
        Self {
            code,
            subcode,
            data: data.into(),
        }
    }

    /// A Cease.
    pub fn cease(subcode: u8) -> Self {
        Self::new(code::CEASE, subcode)
    }

    /// A Cease with a text for the other operator, cut to 255 octets at a character boundary (RFC 9003).
    pub fn cease_with_text(subcode: u8, text: &str) -> Self {
        let mut end = text.len().min(Self::MAX_TEXT);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let octets = text.as_bytes().get(..end).unwrap_or_default();
        let mut data = vec![u8::try_from(octets.len()).unwrap_or(u8::MAX)];
        data.extend_from_slice(octets);
        Self {
            code: code::CEASE,
            subcode,
            data: data.into(),
        }
    }

    /// The same inside a Cease/Hard Reset (RFC 8538 §3).
    #[must_use]
    pub fn into_hard_reset(self) -> Self {
        let mut data = vec![self.code, self.subcode];
        data.extend_from_slice(&self.data);
        Self {
            code: code::CEASE,
            subcode: cease::HARD_RESET,
            data: data.into(),
        }
    }

    /// Whether it forbids to keep routes although RFC 8538 was agreed.
    pub fn is_hard_reset(&self) -> bool {
        self.code == code::CEASE && self.subcode == cease::HARD_RESET
    }

    /// The text of a Cease, with what is not printable replaced; `None` when there is none or it is malformed.
    pub fn text(&self) -> Option<String> {
        let speaks = self.code == code::CEASE
            && matches!(self.subcode, cease::ADMIN_SHUTDOWN | cease::ADMIN_RESET);
        let (length, rest) = self.data.split_first()?;
        let octets = rest.get(..usize::from(*length))?;
        let text = String::from_utf8_lossy(octets);
        let clean: String = text
            .chars()
            .map(|c| if c.is_control() { '\u{FFFD}' } else { c })
            .collect();
        (speaks && !clean.is_empty()).then_some(clean)
    }

    /// Parses the body of a NOTIFICATION message; `None` when it has no two octets. Anything else is accepted: a
    /// NOTIFICATION is never answered.
    pub fn parse(body: &[u8]) -> Option<Self> {
        let (&[code, subcode], data) = body.split_first_chunk::<2>()?;
        Some(Self {
            code,
            subcode,
            data: data.into(),
        })
    }

    /// Code and subcode in words.
    pub fn name(&self) -> String {
        let code = match self.code {
            code::HEADER => "Message Header Error",
            code::OPEN => "OPEN Message Error",
            code::UPDATE => "UPDATE Message Error",
            code::HOLD_TIMER => return "Hold Timer Expired".into(),
            code::FSM => "Finite State Machine Error",
            code::CEASE => "Cease",
            code::ROUTE_REFRESH => "ROUTE-REFRESH Message Error",
            code::SEND_HOLD => return "Send Hold Timer Expired".into(),
            _ => return format!("code {}/{}", self.code, self.subcode),
        };
        match self.subcode_name() {
            Some(subcode) => format!("{code}/{subcode}"),
            None if self.subcode == 0 => code.into(),
            None => format!("{code}/{}", self.subcode),
        }
    }

    fn subcode_name(&self) -> Option<&'static str> {
        Some(match (self.code, self.subcode) {
            (1, 1) => "Connection Not Synchronized",
            (1, 2) => "Bad Message Length",
            (1, 3) => "Bad Message Type",
            (2, 1) => "Unsupported Version Number",
            (2, 2) => "Bad Peer AS",
            (2, 3) => "Bad BGP Identifier",
            (2, 4) => "Unsupported Optional Parameter",
            (2, 6) => "Unacceptable Hold Time",
            (2, 7) => "Unsupported Capability",
            (2, 11) => "Role Mismatch",
            (3, 1) => "Malformed Attribute List",
            (3, 2) => "Unrecognized Well-known Attribute",
            (3, 9) => "Optional Attribute Error",
            (3, 10) => "Invalid Network Field",
            (5, 1) => "Unexpected Message in OpenSent State",
            (5, 2) => "Unexpected Message in OpenConfirm State",
            (5, 3) => "Unexpected Message in Established State",
            (6, cease::MAX_PREFIXES) => "Maximum Number of Prefixes Reached",
            (6, cease::ADMIN_SHUTDOWN) => "Administrative Shutdown",
            (6, cease::DECONFIGURED) => "Peer De-configured",
            (6, cease::ADMIN_RESET) => "Administrative Reset",
            (6, cease::REJECTED) => "Connection Rejected",
            (6, cease::CONFIG_CHANGE) => "Other Configuration Change",
            (6, cease::COLLISION) => "Connection Collision Resolution",
            (6, cease::OUT_OF_RESOURCES) => "Out of Resources",
            (6, cease::HARD_RESET) => "Hard Reset",
            (6, cease::BFD_DOWN) => "BFD Down",
            (7, 1) => "Invalid Message Length",
            _ => return None,
        })
    }
}

impl fmt::Display for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())?;
        match self.text() {
            Some(text) => write!(f, ": {text:?}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notification({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_cut_at_a_character_boundary() {
        let notification = Notification::cease_with_text(cease::ADMIN_SHUTDOWN, &"ä".repeat(200));
        assert_eq!(notification.data.len(), 255);
        assert_eq!(notification.text().unwrap().chars().count(), 127);
    }

    #[test]
    fn texts_with_control_characters_or_bad_utf8_are_cleaned() {
        let notification = Notification::with_data(6, 2, &[3, b'a', 0x1B, 0xFF]);
        assert_eq!(notification.text().unwrap(), "a\u{FFFD}\u{FFFD}");
        assert_eq!(Notification::with_data(6, 2, &[9, b'a']).text(), None);
    }

    #[test]
    fn every_octet_string_of_two_parses() {
        assert_eq!(Notification::parse(&[6]), None);
        assert_eq!(
            Notification::parse(&[99, 7]).unwrap().to_string(),
            "code 99/7"
        );
    }
}
