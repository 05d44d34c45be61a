//! Names and labels of the stored objects. The encodings never change: look-up is by name.

use data_encoding::BASE32_NOPAD;
use ipnet::IpNet;
use sha2::{Digest as _, Sha256};
use sha3::Sha3_256;

/// Label of an affinity: hash of the node name ([`node_hash`]).
pub const LABEL_HOSTNAME_HASH: &str = "projectcalico.org/hostname-hash";
/// Label of an affinity: `host` or `virtual`.
pub const LABEL_AFFINITY_TYPE: &str = "projectcalico.org/affinity-type";
/// Label of an affinity: `4` or `6`.
pub const LABEL_IP_VERSION: &str = "projectcalico.org/ip-version";
/// Label of a handle object: hash of the node that writes it ([`node_hash`]); admission binds the node's token to it.
pub const LABEL_NODE_HASH: &str = "margay.io/node-hash";

/// Longest name of a Kubernetes object, in bytes.
const NAME_MAX: usize = 253;
/// Hex digits of the hash that stands in for the cut part of a long node name.
const HASH_DIGITS: usize = 11;

/// Name of the block object of a CIDR: `10.65.0.64/26` becomes `10-65-0-64-26`.
pub fn block(cidr: IpNet) -> String {
    cidr.to_string().replace(['.', ':', '/'], "-")
}

/// Name of the affinity object of a node and a block.
///
/// From 253 characters on the node part is cut and 11 hex digits of SHA-256 of `<node>+<block name>` are appended.
pub fn affinity(node: &str, cidr: IpNet) -> String {
    let block = block(cidr);
    let plain = format!("{node}-{block}");
    if plain.len() < NAME_MAX {
        return plain;
    }
    let digest = Sha256::digest(format!("{node}+{block}"));
    let hash = data_encoding::HEXLOWER.encode(&digest);
    let hash = hash.get(..HASH_DIGITS).unwrap_or(&hash);
    let room = NAME_MAX.saturating_sub(block.len() + hash.len() + 2);
    let cut = node
        .char_indices()
        .map(|(at, _)| at)
        .take_while(|at| *at <= room)
        .last();
    let node = cut.and_then(|cut| node.get(..cut)).unwrap_or_default();
    format!("{node}-{block}-{hash}")
}

/// Name of the handle object of a handle id.
pub fn handle(handle_id: &str) -> String {
    handle_id.to_lowercase()
}

/// Value of the node hash labels: base32 (upper case, no padding) of SHA3-256 of the node name.
pub fn node_hash(node: &str) -> String {
    BASE32_NOPAD.encode(&Sha3_256::digest(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().unwrap()
    }

    #[test]
    fn block_names_are_the_canonical_cidr_with_dashes() {
        for (cidr, name) in [
            ("10.65.0.64/26", "10-65-0-64-26"),
            ("10.65.0.0/32", "10-65-0-0-32"),
            ("fd00:10:0:1::40/122", "fd00-10-0-1--40-122"),
            ("::/122", "---122"),
        ] {
            assert_eq!(block(net(cidr)), name);
        }
    }

    #[test]
    fn short_node_names_stay_whole_in_affinity_names() {
        assert_eq!(
            affinity("node-a", net("10.65.0.64/26")),
            "node-a-10-65-0-64-26"
        );
    }

    #[test]
    fn very_long_node_names_are_cut_and_hashed() {
        let block = net("10.65.0.64/26");
        let edge = "n".repeat(252 - "-10-65-0-64-26".len());
        assert_eq!(affinity(&edge, block), format!("{edge}-10-65-0-64-26"));
        let (long, twin) = ("n".repeat(250), format!("{}m", "n".repeat(249)));
        let name = affinity(&long, block);
        assert_eq!(name.len(), 253);
        assert!(name.contains("-10-65-0-64-26-"));
        assert_ne!(
            name,
            affinity(&twin, block),
            "nodes that share the kept part stay apart"
        );
        assert_eq!(name, affinity(&long, block));
    }

    #[test]
    fn hash_label_is_base32_of_sha3_256() {
        // Independently computed: sha3-256("node-a"), base32 without padding.
        let hash = node_hash("node-a");
        assert_eq!(hash.len(), 52);
        assert!(
            hash.bytes()
                .all(|b| b.is_ascii_uppercase() || (b'2'..=b'7').contains(&b))
        );
        assert_eq!(hash, GOLDEN);
    }

    const GOLDEN: &str = "PY3TQE2E3XMTETLM2MJO3UITKPFB27YUJ4T4E5XGPEJON3SM4QAA";
}
