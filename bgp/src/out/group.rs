//! A group of peers that are told the same.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use super::bitmap::Bitmap;
use super::bundle::{Bundle, Chunk};
use super::export::{Class, Exporter, Locals};
use crate::filter::Compiled;
use crate::rib::{Cursor, DestId, PeerId, Rib};
use crate::speaker::NextHopMode;
use crate::wire::attribute::AsnWidth;
use crate::{Asn, Family};

/// Everything that changes what is sent. Deliberately without the peer's AS, its timers, password and import rules.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// Family of the routes.
    pub family: Family,
    /// Kind of session.
    pub class: Class,
    /// AS number presented.
    pub local_as: Asn,
    /// Export rules, by content.
    pub export: u32,
    /// Next hop mode.
    pub next_hop: NextHopMode,
    /// Our address of the sessions, of the family's kind.
    pub own_address: Option<IpAddr>,
    /// Our cluster id.
    pub cluster_id: Ipv4Addr,
    /// Octets of AS numbers.
    pub width: AsnWidth,
}

/// An update group.
#[derive(Debug)]
pub struct Group {
    /// What its members have in common.
    pub key: GroupKey,
    /// Their export rules.
    pub filter: Arc<Compiled>,
    /// Its members.
    pub members: Vec<PeerId>,
    cursor: Cursor,
    sent: Bitmap,
}

impl Group {
    /// A group without members. Its first flush, before any member joins, fills its bits.
    pub fn new(key: GroupKey, filter: Arc<Compiled>) -> Self {
        Self {
            key,
            filter,
            members: Vec::new(),
            cursor: Cursor::START,
            sent: Bitmap::default(),
        }
    }

    /// Destinations its members are told.
    pub fn sent(&self) -> &Bitmap {
        &self.sent
    }

    /// Takes in everything that changed; what to tell the members.
    pub fn flush(&mut self, rib: &mut Rib, locals: &Locals) -> Vec<Chunk> {
        let mut changed = Vec::new();
        let table = rib.table_mut(self.key.family);
        table.read(
            &mut self.cursor,
            crate::rib::Interest::Best,
            usize::MAX,
            &mut changed,
        );
        let table = rib.table(self.key.family);
        let exporter = Exporter {
            rib,
            key: &self.key,
            filter: &self.filter,
            locals,
        };
        let mut bundle = Bundle::default();
        for id in changed {
            let Some(dest) = table.dest(id) else {
                continue;
            };
            let told = self.sent.contains(id);
            let tells = bundle.add(&exporter, dest, told);
            self.sent.set(id, tells);
        }
        if self.members.is_empty() {
            Vec::new()
        } else {
            bundle.encode(&self.key)
        }
    }

    /// What one member is told of the destinations from `next` on, `limit` of them at most, and where to go on.
    /// `forget`: destinations it may have been told before and must be told to forget otherwise.
    pub fn walk(
        &self,
        rib: &Rib,
        locals: &Locals,
        next: u32,
        limit: u32,
        forget: &Forget,
    ) -> (Vec<Chunk>, Option<u32>) {
        let table = rib.table(self.key.family);
        let end = next.saturating_add(limit).min(table.end());
        let exporter = Exporter {
            rib,
            key: &self.key,
            filter: &self.filter,
            locals,
        };
        let mut bundle = Bundle::default();
        for id in (next..end).map(DestId) {
            let Some(dest) = table.dest(id) else {
                continue;
            };
            let told = forget.covers(id);
            if told || self.sent.contains(id) {
                bundle.add(&exporter, dest, told);
            }
        }
        (bundle.encode(&self.key), (end < table.end()).then_some(end))
    }
}

/// What a member may have been told before a walk.
#[derive(Clone, Debug)]
pub enum Forget {
    /// Nothing: a new session.
    Nothing,
    /// These: it comes from another group.
    Told(Box<Bitmap>),
    /// Anything: part of its queue was dropped.
    Anything,
}

impl Forget {
    fn covers(&self, id: DestId) -> bool {
        match self {
            Self::Nothing => false,
            Self::Told(told) => told.contains(id),
            Self::Anything => true,
        }
    }
}
