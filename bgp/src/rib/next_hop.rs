//! Next hops, outside of attribute sets: one record flips, all paths through it follow.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::speaker::Resolution;

/// Name of a next hop. Names are kept for the life of the speaker: their number is that of routers, not of routes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NhId(u32);

/// All next hops and what is known about them.
#[derive(Debug, Default)]
pub struct NextHops {
    records: Vec<(IpAddr, Resolution)>,
    index: BTreeMap<IpAddr, NhId>,
}

impl NextHops {
    /// The name of an address; a new one counts as resolved until told otherwise.
    pub fn id(&mut self, address: IpAddr) -> NhId {
        if let Some(id) = self.index.get(&address) {
            return *id;
        }
        let id = NhId(
            u32::try_from(self.records.len()).expect("fewer than 2^32 next hops fit into memory"),
        );
        self.records
            .push((address, Resolution::Resolved { metric: 0 }));
        self.index.insert(address, id);
        id
    }

    /// Its address.
    pub fn address(&self, id: NhId) -> IpAddr {
        self.record(id).0
    }

    /// What is known about it.
    pub fn resolution(&self, id: NhId) -> Resolution {
        self.record(id).1
    }

    /// Learns about an address; its name when that changed something.
    pub fn learn(&mut self, address: IpAddr, resolution: Resolution) -> Option<NhId> {
        let id = self.id(address);
        let record = self.records.get_mut(id.0 as usize)?;
        let changed = record.1 != resolution;
        record.1 = resolution;
        changed.then_some(id)
    }

    fn record(&self, id: NhId) -> &(IpAddr, Resolution) {
        self.records
            .get(id.0 as usize)
            .expect("names are never taken back")
    }
}
