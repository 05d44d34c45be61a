//! Message numbers of rtnetlink, and pushing typed messages into a batch.

use netlink::{Batch, Errno, Error};
use netlink_packet_core::Emitable;

pub(crate) const NEWLINK: u16 = 16;
pub(crate) const DELLINK: u16 = 17;
pub(crate) const GETLINK: u16 = 18;
pub(crate) const NEWADDR: u16 = 20;
pub(crate) const DELADDR: u16 = 21;
pub(crate) const GETADDR: u16 = 22;
pub(crate) const NEWROUTE: u16 = 24;
pub(crate) const DELROUTE: u16 = 25;
pub(crate) const GETROUTE: u16 = 26;
pub(crate) const NEWNEIGH: u16 = 28;
pub(crate) const DELNEIGH: u16 = 29;
pub(crate) const GETNEIGH: u16 = 30;
pub(crate) const SETNEIGHTBL: u16 = 67;
pub(crate) const NEWNEXTHOP: u16 = 104;
pub(crate) const DELNEXTHOP: u16 = 105;
pub(crate) const GETNEXTHOP: u16 = 106;

/// `AF_INET`, `AF_INET6`, `AF_BRIDGE`, as they stand in a family header.
pub(crate) const AF_INET: u8 = 2;
pub(crate) const AF_INET6: u8 = 10;
pub(crate) const AF_BRIDGE: u8 = 7;

/// Create, or replace what is there: the only way we ever put something.
pub(crate) const PUT: u16 = netlink::flags::CREATE | netlink::flags::REPLACE;

/// Appends a message of `netlink-packet-route`.
pub(crate) fn push<M: Emitable>(batch: &mut Batch, kind: u16, flags: u16, message: &M) {
    batch.push(kind, flags, |enc| {
        enc.emit(message.buffer_len(), |bytes| message.emit(bytes));
    });
}

/// What a listing of one table means: a table into which nothing was ever put does not exist, and the kernel refuses to list it
/// (`ENOENT`, "FIB table does not exist"). A sandbox that a runtime has just made has none.
pub(crate) fn no_such_table_is_empty<T>(listed: Result<Vec<T>, Error>) -> Result<Vec<T>, Error> {
    match listed {
        Err(error) if error.errno() == Some(Errno::ENOENT) => Ok(Vec::new()),
        listed => listed,
    }
}
