//! Capabilities (RFC 5492).
//!
//! ```text
//!   +------+--------+---------
//!   | code | length | value …
//!   +------+--------+---------
//! ```

use std::time::Duration;

use super::{Fault, FaultSet, Reader};
use crate::{Asn, Family, FamilySet};

mod codes {
    pub(super) const MULTIPROTOCOL: u8 = 1;
    pub(super) const ROUTE_REFRESH: u8 = 2;
    pub(super) const GRACEFUL_RESTART: u8 = 64;
    pub(super) const FOUR_OCTET_AS: u8 = 65;
}

/// What a speaker can do, as far as this one understands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Capabilities {
    /// Families offered; `None` when the capability is absent, which means IPv4 unicast (RFC 4760 §8).
    pub families: Option<FamilySet>,
    /// Route refresh (RFC 2918).
    pub route_refresh: bool,
    /// The 4-octet AS number (RFC 6793).
    pub four_octet_as: Option<Asn>,
    /// Graceful restart (RFC 4724).
    pub graceful_restart: Option<GracefulRestart>,
}

/// The graceful restart capability.
///
/// ```text
///   +-+-+-+-+-----------------------+
///   |R|N|0 0| restart time (12 bit) |
///   +-+-+-+-+-----------------------+---------------
///   | AFI (16)      | SAFI (8)      |F| 0 (7) | …      F: forwarding state preserved
///   +---------------+---------------+---------------
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GracefulRestart {
    /// R: the sender has just restarted.
    pub restarting: bool,
    /// N: NOTIFICATIONs keep routes too (RFC 8538).
    pub notification: bool,
    /// Seconds the receiver shall wait; at most 4095.
    pub time: u16,
    /// Families whose routes survive a restart.
    pub families: FamilySet,
    /// F: families whose forwarding state was preserved over the last restart.
    pub forwarding: FamilySet,
}

impl GracefulRestart {
    /// Largest restart time that fits 12 bits.
    pub const MAX_TIME: u16 = 0x0FFF;

    /// The restart time.
    pub fn duration(&self) -> Duration {
        Duration::from_secs(u64::from(self.time))
    }
}

impl Capabilities {
    /// Parses the value of one capabilities parameter into `self`; repeated capabilities are united.
    ///
    /// # Errors
    /// [`Fault::CapabilityOverrun`] when a capability does not end with the parameter.
    pub fn parse_into(&mut self, value: &[u8], faults: &mut FaultSet) -> Result<(), Fault> {
        let mut reader = Reader::new(value);
        while !reader.is_empty() {
            let code = reader.u8().ok_or(Fault::CapabilityOverrun)?;
            let value = reader.block8().ok_or(Fault::CapabilityOverrun)?;
            if self.parse_one(code, value).is_none() {
                faults.insert(Fault::CapabilityLength);
            }
        }
        Ok(())
    }

    /// `None` when a known capability has a wrong length.
    fn parse_one(&mut self, code: u8, value: &[u8]) -> Option<()> {
        let mut reader = Reader::new(value);
        match code {
            codes::MULTIPROTOCOL => {
                let (afi, _, safi) = (reader.u16()?, reader.u8()?, reader.u8()?);
                let families = self.families.get_or_insert_default();
                if let Some(family) = Family::from_codes(afi, safi) {
                    families.insert(family);
                }
            }
            codes::ROUTE_REFRESH => self.route_refresh = true,
            codes::FOUR_OCTET_AS => self.four_octet_as = Some(Asn(reader.u32()?)),
            codes::GRACEFUL_RESTART => {
                self.graceful_restart = Some(parse_graceful_restart(&mut reader)?);
            }
            _ => return Some(()),
        }
        reader.is_empty().then_some(())
    }

    /// Families in force when both sides offered these.
    pub fn offered_families(&self) -> FamilySet {
        self.families.unwrap_or(FamilySet::IPV4)
    }

    /// Appends all capabilities.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for family in self.families.into_iter().flat_map(FamilySet::iter) {
            let (afi, safi) = family.codes();
            let [high, low] = afi.to_be_bytes();
            out.extend_from_slice(&[codes::MULTIPROTOCOL, 4, high, low, 0, safi]);
        }
        if self.route_refresh {
            out.extend_from_slice(&[codes::ROUTE_REFRESH, 0]);
        }
        if let Some(asn) = self.four_octet_as {
            out.extend_from_slice(&[codes::FOUR_OCTET_AS, 4]);
            out.extend_from_slice(&asn.0.to_be_bytes());
        }
        if let Some(restart) = self.graceful_restart {
            encode_graceful_restart(restart, out);
        }
    }
}

fn parse_graceful_restart(reader: &mut Reader<'_>) -> Option<GracefulRestart> {
    let head = reader.u16()?;
    let mut restart = GracefulRestart {
        restarting: head & 0x8000 != 0,
        notification: head & 0x4000 != 0,
        time: head & GracefulRestart::MAX_TIME,
        families: FamilySet::EMPTY,
        forwarding: FamilySet::EMPTY,
    };
    while !reader.is_empty() {
        let (afi, safi, flags) = (reader.u16()?, reader.u8()?, reader.u8()?);
        if let Some(family) = Family::from_codes(afi, safi) {
            restart.families.insert(family);
            if flags & 0x80 != 0 {
                restart.forwarding.insert(family);
            }
        }
    }
    Some(restart)
}

fn encode_graceful_restart(restart: GracefulRestart, out: &mut Vec<u8>) {
    let count = restart.families.iter().count();
    let length = u8::try_from(2 + 4 * count).expect("two families at most");
    let flags = u16::from(restart.restarting) << 15 | u16::from(restart.notification) << 14;
    out.extend_from_slice(&[codes::GRACEFUL_RESTART, length]);
    out.extend_from_slice(&(flags | restart.time.min(GracefulRestart::MAX_TIME)).to_be_bytes());
    for family in restart.families.iter() {
        let (afi, safi) = family.codes();
        let forwarding = u8::from(restart.forwarding.contains(family)) << 7;
        out.extend_from_slice(&afi.to_be_bytes());
        out.extend_from_slice(&[safi, forwarding]);
    }
}
