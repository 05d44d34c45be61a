//! A live flow: listed from connection tracking by `dataplane`, judged by `policy-iptables`.

use std::net::IpAddr;

/// What connection tracking knows of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// As its first packet came in.
    pub original: Tuple,
    /// As the answers come back: their source is where the flow really goes, whatever address its first packet named.
    pub reply: Tuple,
    /// Its mark.
    pub mark: u32,
}

/// One direction of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Sender.
    pub source: IpAddr,
    /// Receiver.
    pub destination: IpAddr,
    /// IP protocol number.
    pub protocol: u8,
    /// What tells flows of the same ends apart.
    pub detail: Detail,
}

/// What tells flows of the same ends and protocol apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Ports of a transport protocol.
    Ports {
        /// Source port.
        source: u16,
        /// Destination port.
        destination: u16,
    },
    /// A question or an answer of ICMP, of either version.
    Icmp {
        /// Its type.
        kind: u8,
        /// Its code.
        code: u8,
    },
    /// Nothing we know.
    None,
}
