//! What the node remembers of one attachment.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::endpoint::Labels;
use model::{AttachmentId, LocalEndpoint, PodRef};

use super::names;

/// One address of an attachment, with what its release needs so that a late one cannot hit the next owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// The address.
    pub address: IpAddr,
    /// Where its owner is written; absent when the record was rebuilt from the kernel.
    pub place: Option<Place>,
}

/// Where an address is written in IPAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// CIDR of the block.
    pub block: IpNet,
    /// Position in the block, from 0.
    pub ordinal: u32,
    /// The block's sequence number for this allocation.
    pub sequence: u64,
}

/// A MAC address; prints as the kernel's tools do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, octet) in self.0.iter().enumerate() {
            if at > 0 {
                f.write_str(":")?;
            }
            write!(f, "{octet:02x}")?;
        }
        Ok(())
    }
}

/// Identity of a network namespace: device and inode of its file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sandbox {
    /// `st_dev`.
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

/// How far an attachment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// ADD has begun; nothing was promised to the runtime.
    Intent,
    /// ADD has succeeded.
    Attached,
    /// A newer sandbox of the same pod took the interface; the address stays until this one's DEL.
    Replaced,
    /// DEL has begun.
    Leaving,
    /// All is gone but the address, which could not be released yet.
    Owed,
}

/// One attachment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Number of this record in the journal; two attachments of one key never share it.
    pub serial: u64,
    /// Key of the attachment.
    pub id: AttachmentId,
    /// The pod, if the runtime is Kubernetes.
    pub pod: Option<PodRef>,
    /// UID of that pod.
    pub pod_uid: Option<Arc<str>>,
    /// `CNI_NETNS`, as the runtime named it.
    pub netns: Arc<str>,
    /// The namespace behind that path at ADD; absent when rebuilt from the kernel.
    pub sandbox: Option<Sandbox>,
    /// Name of the host end.
    pub host: Arc<str>,
    /// Interface index of the host end, 0 until it exists.
    pub ifindex: u32,
    /// MAC of the sandbox's end, once known.
    pub mac: Option<Mac>,
    /// Handle in IPAM.
    pub handle: Arc<str>,
    /// Addresses, IPv4 first.
    pub claims: Vec<Claim>,
    /// Labels of the configuration, for endpoints without a pod.
    pub labels: Labels,
    /// How far it is.
    pub state: State,
    /// Seconds since the epoch at ADD; GC spares what is younger than its request.
    pub since: u64,
}

impl Record {
    /// The endpoint the World plans route and policy for.
    pub fn endpoint(&self) -> LocalEndpoint {
        LocalEndpoint {
            id: self.id.clone(),
            pod: self.pod.clone(),
            pod_uid: self.pod_uid.clone(),
            interface: Arc::clone(&self.host),
            ifindex: self.ifindex,
            mac: self.mac.map(|mac| mac.0),
            addresses: self.claims.iter().map(|claim| claim.address).collect(),
            labels: self.labels.clone(),
        }
    }

    /// The mark its host end carries.
    pub fn alias(&self) -> String {
        names::alias(self.pod.as_ref(), &self.id)
    }

    /// True while the interface is, or may be, this record's.
    pub fn holds_interface(&self) -> bool {
        match self.state {
            State::Intent | State::Attached | State::Leaving => true,
            State::Replaced | State::Owed => false,
        }
    }
}
