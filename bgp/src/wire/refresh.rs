//! ROUTE-REFRESH (RFC 2918).
//!
//! ```text
//!   +--------+---------+------+
//!   | AFI 16 | subtype | SAFI |      subtype 0: please send again (RFC 7313 adds 1 and 2)
//!   +--------+---------+------+
//! ```

use super::Reader;
use super::message::{self, Kind};
use crate::Family;

/// The family a body asks for; `None` when it is none of ours or not a plain request (both ignored, RFC 7313 §5).
pub fn parse(body: &[u8]) -> Option<Family> {
    let mut reader = Reader::new(body);
    let (afi, subtype, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
    Family::from_codes(afi, safi).filter(|_| subtype == 0)
}

/// A request for the routes of `family`.
pub fn encode(family: Family) -> Vec<u8> {
    let (afi, safi) = family.codes();
    let mut out = Vec::new();
    message::put(&mut out, Kind::RouteRefresh, |out| {
        out.extend_from_slice(&afi.to_be_bytes());
        out.extend_from_slice(&[0, safi]);
    });
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_parse_as_encoded() {
        for family in Family::ALL {
            assert_eq!(parse(&encode(family)[message::HEADER..]), Some(family));
        }
        assert_eq!(parse(&[0, 1, 1, 1]), None, "BoRR is not a request");
        assert_eq!(parse(&[0, 3, 0, 1]), None);
    }
}
