//! Whether another hand touched our table.
//!
//! An owned table cannot be touched. A plain one can, by anybody's `nft flush ruleset`, and so can the one that a kernel without
//! `persist` leaves us with. A notification is only a hint: it says "list".

use std::os::fd::AsFd;

use netlink::attr;
use netlink::{Error, Heard, Message, OpenError, Protocol};

use crate::ruleset::TABLE;

/// `NFNLGRP_NFTABLES`.
const GROUP: u32 = 7;
/// `struct nfgenmsg`.
const HEADER: usize = 4;
/// In messages about tables the name, in all others the table's name.
const NAME: u16 = 1;

/// Listens for changes of our table that are not our own.
#[derive(Debug)]
pub struct Monitor {
    inner: netlink::Monitor,
    /// Port of the driver's socket, whose changes are known.
    own: u32,
}

impl Monitor {
    /// Listens in the calling thread's namespace. Must run inside a tokio runtime.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket.
    pub fn open(own: u32) -> Result<Self, OpenError> {
        let inner = netlink::Monitor::open(Protocol::Netfilter, &[GROUP])?;
        Ok(Self { inner, own })
    }

    /// The same inside another namespace.
    ///
    /// # Errors
    /// [`OpenError`] when there is no socket or the namespace cannot be entered.
    pub fn open_in(namespace: impl AsFd, own: u32) -> Result<Self, OpenError> {
        let inner = netlink::Monitor::open_in(namespace, Protocol::Netfilter, &[GROUP])?;
        Ok(Self { inner, own })
    }

    /// Waits until our table was touched, or until nobody knows whether it was. Cancel safe.
    ///
    /// # Errors
    /// [`Error::Receive`] when the socket itself fails.
    pub async fn touched(&mut self) -> Result<(), Error> {
        loop {
            let (own, mut ours) = (self.own, false);
            let heard = self
                .inner
                .hear(|message| ours |= concerns_us(&message, own))
                .await?;
            if ours || heard == Heard::Overrun {
                return Ok(());
            }
        }
    }
}

fn concerns_us(message: &Message<'_>, own: u32) -> bool {
    let name = message
        .body
        .get(HEADER..)
        .and_then(|body| attr::parse(body).find(NAME));
    message.port != own && name.is_some_and(|name| name.str() == Some(TABLE))
}
