//! The node's journal of attachments; the encoding is pure, [`mod@file`] does the writing.
//!
//! ```text
//! header   "MRGYJNL1" | len u32 | crc32c u32 | boot id
//! entry                 len u32 | crc32c u32 | protobuf {put: Record} or {drop: serial}
//! entry    …
//! ```
//!
//! It lives on memory-backed storage and is not synced: it has to survive a killed process, no more. After a reboot every
//! sandbox is gone, and the boot id says so: attachments of another boot are only addresses to be released. A torn tail ends
//! the reading, and what stood before it holds. Fields of a newer daemon are ignored, as are entries of a kind not known.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use model::{AttachmentId, PodRef};
use prost::Message;

use super::record::{Claim, Mac, Place, Record, Sandbox, State};

pub mod file;

const MAGIC: &[u8; 8] = b"MRGYJNL1";
/// Bytes of length and checksum in front of each entry.
const PREFIX: usize = 8;
/// The longest entry believed; one record takes well under 4 KiB.
const LONGEST: usize = 1024 * 1024;

/// One change of the journal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A record is new, or changed.
    Put(Box<Record>),
    /// A record is closed.
    Drop(u64),
}

/// What a journal file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Boot it was written in; empty when the file is no journal.
    pub boot: String,
    /// Live records by serial.
    pub records: BTreeMap<u64, Record>,
    /// Octets that could not be read behind the last good entry.
    pub torn: usize,
}

/// The first octets of a journal.
pub fn header(boot: &str) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&framed(boot.as_bytes()));
    bytes
}

/// The octets of one entry.
pub fn encode(entry: &Entry) -> Vec<u8> {
    let stored = match entry {
        Entry::Put(record) => StoredEntry {
            put: Some(store(record)),
            drop: None,
        },
        Entry::Drop(serial) => StoredEntry {
            put: None,
            drop: Some(*serial),
        },
    };
    framed(&stored.encode_to_vec())
}

/// Reads a journal; total for any octets.
pub fn decode(bytes: &[u8]) -> Reading {
    let mut reading = Reading {
        torn: bytes.len(),
        ..Reading::default()
    };
    let Some((boot, mut rest)) = bytes.strip_prefix(MAGIC).and_then(split_frame) else {
        return reading;
    };
    reading.boot = String::from_utf8_lossy(boot).into_owned();
    while let Some((payload, behind)) = split_frame(rest) {
        rest = behind;
        let Ok(entry) = StoredEntry::decode(payload) else {
            continue;
        };
        if let Some(record) = entry.put.and_then(restore) {
            reading.records.insert(record.serial, record);
        }
        if let Some(serial) = entry.drop {
            reading.records.remove(&serial);
        }
    }
    reading.torn = rest.len();
    reading
}

fn framed(payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX);
    let mut bytes = Vec::with_capacity(PREFIX + payload.len());
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(payload).to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

fn split_frame(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<4>()?;
    let (checksum, rest) = rest.split_first_chunk::<4>()?;
    let length = usize::try_from(u32::from_be_bytes(*length))
        .ok()
        .filter(|length| *length <= LONGEST)?;
    let (payload, rest) = rest.split_at_checked(length)?;
    (crc32c::crc32c(payload) == u32::from_be_bytes(*checksum)).then_some((payload, rest))
}

#[derive(Clone, PartialEq, Message)]
struct StoredEntry {
    #[prost(message, optional, tag = "1")]
    put: Option<StoredRecord>,
    #[prost(uint64, optional, tag = "2")]
    drop: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
struct StoredRecord {
    #[prost(uint64, tag = "1")]
    serial: u64,
    #[prost(string, tag = "2")]
    network: String,
    #[prost(string, tag = "3")]
    container_id: String,
    #[prost(string, tag = "4")]
    ifname: String,
    #[prost(string, optional, tag = "5")]
    pod_namespace: Option<String>,
    #[prost(string, optional, tag = "6")]
    pod_name: Option<String>,
    #[prost(string, optional, tag = "7")]
    pod_uid: Option<String>,
    #[prost(string, tag = "8")]
    netns: String,
    #[prost(uint64, optional, tag = "9")]
    device: Option<u64>,
    #[prost(uint64, optional, tag = "10")]
    inode: Option<u64>,
    #[prost(string, tag = "11")]
    host: String,
    #[prost(uint32, tag = "12")]
    ifindex: u32,
    #[prost(bytes = "vec", tag = "13")]
    mac: Vec<u8>,
    #[prost(string, tag = "14")]
    handle: String,
    #[prost(message, repeated, tag = "15")]
    claims: Vec<StoredClaim>,
    #[prost(btree_map = "string, string", tag = "16")]
    labels: BTreeMap<String, String>,
    #[prost(uint32, tag = "17")]
    state: u32,
    #[prost(uint64, tag = "18")]
    since: u64,
}

#[derive(Clone, PartialEq, Message)]
struct StoredClaim {
    #[prost(string, tag = "1")]
    address: String,
    #[prost(string, optional, tag = "2")]
    block: Option<String>,
    #[prost(uint32, tag = "3")]
    ordinal: u32,
    #[prost(uint64, tag = "4")]
    sequence: u64,
}

const STATES: [(u32, State); 5] = [
    (1, State::Intent),
    (2, State::Attached),
    (3, State::Leaving),
    (4, State::Owed),
    (5, State::Replaced),
];

fn store(record: &Record) -> StoredRecord {
    StoredRecord {
        serial: record.serial,
        network: record.id.network.to_string(),
        container_id: record.id.container_id.to_string(),
        ifname: record.id.ifname.to_string(),
        pod_namespace: record.pod.as_ref().map(|pod| pod.namespace.to_string()),
        pod_name: record.pod.as_ref().map(|pod| pod.name.to_string()),
        pod_uid: record.pod_uid.as_deref().map(str::to_owned),
        netns: record.netns.to_string(),
        device: record.sandbox.map(|sandbox| sandbox.device),
        inode: record.sandbox.map(|sandbox| sandbox.inode),
        host: record.host.to_string(),
        ifindex: record.ifindex,
        mac: record.mac.map_or_else(Vec::new, |mac| mac.0.to_vec()),
        handle: record.handle.to_string(),
        claims: record.claims.iter().map(store_claim).collect(),
        labels: record.labels.clone(),
        state: STATES
            .iter()
            .find(|(_, state)| *state == record.state)
            .map_or(0, |(number, _)| *number),
        since: record.since,
    }
}

fn store_claim(claim: &Claim) -> StoredClaim {
    StoredClaim {
        address: claim.address.to_string(),
        block: claim.place.map(|place| place.block.to_string()),
        ordinal: claim.place.map_or(0, |place| place.ordinal),
        sequence: claim.place.map_or(0, |place| place.sequence),
    }
}

/// `None` for a record in a state this build does not know: it is left to the blocks, which are the durable truth.
fn restore(stored: StoredRecord) -> Option<Record> {
    let (_, state) = STATES
        .into_iter()
        .find(|(number, _)| *number == stored.state)?;
    let pod = stored
        .pod_namespace
        .zip(stored.pod_name)
        .map(|(namespace, name)| PodRef::new(namespace, name));
    Some(Record {
        serial: stored.serial,
        id: AttachmentId {
            network: stored.network.into(),
            container_id: stored.container_id.into(),
            ifname: stored.ifname.into(),
        },
        pod,
        pod_uid: stored.pod_uid.map(Arc::from),
        netns: stored.netns.into(),
        sandbox: stored
            .device
            .zip(stored.inode)
            .map(|(device, inode)| Sandbox { device, inode }),
        host: stored.host.into(),
        ifindex: stored.ifindex,
        mac: stored.mac.try_into().ok().map(Mac),
        handle: stored.handle.into(),
        claims: stored.claims.iter().filter_map(restore_claim).collect(),
        labels: stored.labels,
        state,
        since: stored.since,
    })
}

fn restore_claim(stored: &StoredClaim) -> Option<Claim> {
    let address: IpAddr = stored.address.parse().ok()?;
    let block: Option<IpNet> = stored.block.as_deref().and_then(|block| block.parse().ok());
    Some(Claim {
        address,
        place: block.map(|block| Place {
            block,
            ordinal: stored.ordinal,
            sequence: stored.sequence,
        }),
    })
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(in crate::cni) fn record(serial: u64, state: State) -> Record {
        Record {
            serial,
            id: AttachmentId {
                network: "k8s-pod-network".into(),
                container_id: format!("c{serial}").into(),
                ifname: "eth0".into(),
            },
            pod: Some(PodRef::new("shop", format!("web-{serial}"))),
            pod_uid: Some("uid".into()),
            netns: format!("/run/netns/{serial}").into(),
            sandbox: Some(Sandbox {
                device: 4,
                inode: 4_026_531_840 + serial,
            }),
            host: format!("cali{serial}").into(),
            ifindex: u32::try_from(serial).unwrap() + 7,
            mac: Some(Mac([2, 0, 0, 0, 0, 1])),
            handle: format!("k8s-pod-network.c{serial}").into(),
            claims: vec![Claim {
                address: "10.65.0.7".parse().unwrap(),
                place: Some(Place {
                    block: "10.65.0.0/26".parse().unwrap(),
                    ordinal: 7,
                    sequence: 99,
                }),
            }],
            labels: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
            state,
            since: 1_800_000_000,
        }
    }

    fn put(record: Record) -> Entry {
        Entry::Put(Box::new(record))
    }

    fn entries() -> Vec<Entry> {
        vec![
            put(record(1, State::Intent)),
            put(record(1, State::Attached)),
            put(record(2, State::Owed)),
            Entry::Drop(1),
            put(record(3, State::Leaving)),
            put(Record {
                pod: None,
                pod_uid: None,
                sandbox: None,
                mac: None,
                claims: Vec::new(),
                ..record(4, State::Replaced)
            }),
        ]
    }

    fn written(entries: &[Entry]) -> Vec<u8> {
        entries.iter().fold(header("boot"), |mut bytes, entry| {
            bytes.extend_from_slice(&encode(entry));
            bytes
        })
    }

    fn applied(entries: &[Entry]) -> BTreeMap<u64, Record> {
        let mut records = BTreeMap::new();
        for entry in entries {
            match entry {
                Entry::Put(record) => records.insert(record.serial, Record::clone(record)),
                Entry::Drop(serial) => records.remove(serial),
            };
        }
        records
    }

    #[test]
    fn what_was_written_reads_back() {
        let reading = decode(&written(&entries()));
        assert_eq!(
            reading,
            Reading {
                boot: "boot".into(),
                records: applied(&entries()),
                torn: 0
            }
        );
    }

    #[test]
    fn a_journal_torn_at_any_octet_keeps_every_entry_before_the_tear() {
        let all = entries();
        let bytes = written(&all);
        let ends: Vec<usize> = (0..=all.len())
            .map(|count| written(&all[..count]).len())
            .collect();
        for cut in 0..bytes.len() {
            let reading = decode(&bytes[..cut]);
            let whole = ends
                .iter()
                .filter(|end| **end <= cut)
                .count()
                .saturating_sub(1);
            assert_eq!(reading.records, applied(&all[..whole]), "cut at {cut}");
        }
    }

    #[test]
    fn a_flipped_octet_is_noticed_and_what_stood_before_holds() {
        let all = entries();
        let bytes = written(&all);
        let last = written(&all[..all.len() - 1]).len();
        for at in last..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 0x55;
            assert_eq!(
                decode(&broken).records,
                applied(&all[..all.len() - 1]),
                "flipped at {at}"
            );
        }
    }

    #[test]
    fn an_entry_of_a_newer_daemon_is_skipped() {
        let mut bytes = written(&entries()[..1]);
        bytes.extend_from_slice(&framed(&[0xfa, 0x06, 0x01, b'x']));
        bytes.extend_from_slice(&encode(&put(record(9, State::Attached))));
        assert_eq!(decode(&bytes).records.len(), 2);
    }

    proptest! {
        #[test]
        fn any_octets_decode(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = decode(&bytes);
            let mut behind_a_header = header("boot");
            behind_a_header.extend_from_slice(&bytes);
            let _ = decode(&behind_a_header);
        }
    }
}
