//! OPEN (RFC 4271 §4.2), with extended optional parameters (RFC 9072).
//!
//! ```text
//!   +---------+-------+-----------+----------------+-----------+--------------
//!   | version | AS 16 | hold time | BGP identifier | length  8 | parameters …
//!   +---------+-------+-----------+----------------+-----------+--------------
//!   RFC 9072: length = 255, then type 255 and a 16-bit length; inner lengths have 16 bits
//! ```

use std::net::Ipv4Addr;

use super::capability::Capabilities;
use super::message::{self, Kind, Malformed};
use super::{Fault, FaultSet, Reader};
use crate::Asn;

const VERSION: u8 = 4;
const CAPABILITIES: u8 = 2;
const EXTENDED: u8 = 255;

/// An OPEN message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The sender's AS number: the 4-octet one when present.
    pub asn: Asn,
    /// Hold time offered, in seconds.
    pub hold_time: u16,
    /// BGP identifier.
    pub identifier: Ipv4Addr,
    /// Capabilities.
    pub capabilities: Capabilities,
}

impl Open {
    /// Parses the body of an OPEN message. The returned faults did no harm.
    ///
    /// # Errors
    /// [`Malformed`] with the NOTIFICATION to send.
    pub fn parse(body: &[u8]) -> Result<(Self, FaultSet), Malformed> {
        let short = || Malformed::new(Fault::MessageLength, &[]);
        let mut faults = FaultSet::default();
        let mut reader = Reader::new(body);
        let version = reader.u8().ok_or_else(short)?;
        if version != VERSION {
            return Err(Malformed::new(Fault::Version, &[0, VERSION]));
        }
        let asn = reader.u16().ok_or_else(short)?;
        let hold_time = reader.u16().ok_or_else(short)?;
        let identifier = reader.ipv4().ok_or_else(short)?;
        let capabilities = parse_parameters(reader, &mut faults)?;
        let asn = full_asn(asn, &capabilities)?;
        Ok((
            Self {
                asn,
                hold_time,
                identifier,
                capabilities,
            },
            faults,
        ))
    }

    /// The whole message.
    pub fn encode(&self) -> Vec<u8> {
        let mut capabilities = Vec::new();
        self.capabilities.encode(&mut capabilities);
        let mut out = Vec::new();
        message::put(&mut out, Kind::Open, |out| {
            out.push(VERSION);
            out.extend_from_slice(&self.asn.two_octets().to_be_bytes());
            out.extend_from_slice(&self.hold_time.to_be_bytes());
            out.extend_from_slice(&self.identifier.octets());
            put_parameters(out, &capabilities);
        });
        out
    }
}

/// All capabilities in one parameter; the extended form only when they need it.
fn put_parameters(out: &mut Vec<u8>, capabilities: &[u8]) {
    match (
        u8::try_from(capabilities.len()),
        u8::try_from(capabilities.len() + 2),
    ) {
        (Ok(0), _) => out.push(0),
        (Ok(inner), Ok(outer)) if outer < EXTENDED => {
            out.extend_from_slice(&[outer, CAPABILITIES, inner]);
        }
        _ => {
            let inner =
                u16::try_from(capabilities.len()).expect("an OPEN has at most 4,096 octets");
            out.extend_from_slice(&[EXTENDED, EXTENDED]);
            out.extend_from_slice(&(inner + 3).to_be_bytes());
            out.push(CAPABILITIES);
            out.extend_from_slice(&inner.to_be_bytes());
        }
    }
    out.extend_from_slice(capabilities);
}

fn parse_parameters(
    mut reader: Reader<'_>,
    faults: &mut FaultSet,
) -> Result<Capabilities, Malformed> {
    let overrun = || Malformed::new(Fault::Parameters, &[]);
    let length = reader.u8().ok_or_else(overrun)?;
    let extended = length == EXTENDED && reader.rest().first() == Some(&EXTENDED);
    let section = if extended {
        reader.u8();
        reader.block16()
    } else {
        reader.take(usize::from(length))
    };
    let mut parameters = Reader::new(section.ok_or_else(overrun)?);
    if !reader.is_empty() {
        return Err(overrun());
    }
    let mut capabilities = Capabilities::default();
    while let Some(kind) = parameters.u8() {
        let value = if extended {
            parameters.block16()
        } else {
            parameters.block8()
        };
        let value = value.ok_or_else(overrun)?;
        if kind != CAPABILITIES {
            return Err(Malformed::new(Fault::ParameterType, &[]));
        }
        capabilities
            .parse_into(value, faults)
            .map_err(|fault| Malformed::new(fault, &[]))?;
    }
    Ok(capabilities)
}

/// The AS number the peer means (RFC 6793 §4.2.2, RFC 7607).
fn full_asn(field: u16, capabilities: &Capabilities) -> Result<Asn, Malformed> {
    let asn = match capabilities.four_octet_as {
        Some(asn) if asn.two_octets() == field || u32::from(field) == Asn::TRANS.0 => asn,
        Some(_) => return Err(Malformed::new(Fault::FourOctetAs, &[])),
        None => Asn(u32::from(field)),
    };
    if asn.0 == 0 {
        return Err(Malformed::new(Fault::PeerAs, &[]));
    }
    Ok(asn)
}

#[cfg(test)]
mod tests;
