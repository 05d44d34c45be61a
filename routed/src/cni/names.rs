//! Names derived from who is attached; pure.
//!
//! They equal Calico's wherever a tool or a takeover relies on it: `cali` + 11 hex digits of SHA-1(`namespace.pod`), and the
//! handle `<network>.<container id>`.

use cni_plugin::spec::is_dns_subdomain;
use data_encoding::HEXLOWER;
use model::{AttachmentId, PodRef};
use sha1::{Digest, Sha1};
use sha2::Sha256;

/// The interface that carries the default network of a container.
pub(super) const PRIMARY: &str = "eth0";

/// The kernel's IFNAMSIZ without the closing zero.
const LONGEST: usize = 15;
/// Digits of the hash in a host interface name, where the prefix leaves room.
const DIGITS: usize = 11;
/// Fewer digits than these would collide on a full node, so a longer prefix is cut.
const FEWEST_DIGITS: usize = 7;

/// Name of the host end.
pub(super) fn host_interface(prefix: &str, pod: Option<&PodRef>, id: &AttachmentId) -> String {
    let prefix: String = prefix
        .chars()
        .filter(char::is_ascii)
        .take(LONGEST - FEWEST_DIGITS)
        .collect();
    let room = DIGITS.min(LONGEST - prefix.len());
    let primary = &*id.ifname == PRIMARY;
    let tail: String = match pod {
        Some(pod) if primary => sha1_hex(&format!("{}.{}", pod.namespace, pod.name)),
        // Calico names every interface of a pod alike, so a second one deletes the first.
        Some(pod) => sha1_hex(&format!("{}.{}.{}", pod.namespace, pod.name, id.ifname)),
        None if primary => id.container_id.to_string(),
        None => sha1_hex(&format!("{}.{}", id.container_id, id.ifname)),
    };
    format!("{prefix}{}", tail.chars().take(room).collect::<String>())
}

/// The mark on the host end (`ifalias`): whose it is, for adoption without a journal and for people.
pub(super) fn alias(pod: Option<&PodRef>, id: &AttachmentId) -> String {
    match pod {
        Some(pod) => format!("margay {pod} {}", id.container_id),
        None => format!("margay - {}", id.container_id),
    }
}

/// Reads [`alias`] back: the pod, and the container id.
pub(super) fn parse_alias(alias: &str) -> Option<(Option<PodRef>, &str)> {
    let (owner, container_id) = alias.strip_prefix("margay ")?.split_once(' ')?;
    if owner == "-" {
        return Some((None, container_id));
    }
    let (namespace, name) = owner.split_once('/')?;
    Some((Some(PodRef::new(namespace, name)), container_id))
}

/// The handle that owns the addresses of an attachment in IPAM.
///
/// Its object is named by it in lower case, so it must be a DNS subdomain; an id that cannot be part of one is hashed.
pub(super) fn handle(id: &AttachmentId) -> String {
    let of = |container: &str| match &*id.ifname {
        PRIMARY => format!("{}.{container}", id.network),
        other => format!("{}.{container}.{other}", id.network),
    };
    let plain = of(&id.container_id);
    if is_dns_subdomain(&plain) {
        return plain;
    }
    let hashed = of(&sha256_hex(&id.container_id));
    if is_dns_subdomain(&hashed) {
        return hashed;
    }
    format!(
        "margay.{}",
        sha256_hex(&format!(
            "{}\0{}\0{}",
            id.network, id.container_id, id.ifname
        ))
    )
}

fn sha1_hex(text: &str) -> String {
    HEXLOWER.encode(&Sha1::digest(text.as_bytes()))
}

fn sha256_hex(text: &str) -> String {
    HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId {
            network: "k8s-pod-network".into(),
            container_id: container_id.into(),
            ifname: ifname.into(),
        }
    }

    #[test]
    fn the_host_name_of_a_pod_is_calicos() {
        let pod = PodRef::new("default", "web");
        // printf default.web | sha1sum
        let wanted = format!("cali{}", &sha1_hex("default.web")[..11]);
        assert_eq!(
            host_interface("cali", Some(&pod), &id("c0ffee", "eth0")),
            wanted
        );
        assert_eq!(wanted.len(), 15);
        assert_ne!(
            host_interface("cali", Some(&pod), &id("c0ffee", "net1")),
            wanted
        );
        assert_eq!(
            host_interface("cali", None, &id("0123456789abcdef", "eth0")),
            "cali0123456789a"
        );
    }

    #[test]
    fn every_prefix_leaves_a_legal_name() {
        let pod = PodRef::new("default", "web");
        for prefix in ["", "c", "cali", "verylongprefix-of-someone"] {
            let name = host_interface(prefix, Some(&pod), &id("c0ffee", "eth0"));
            assert!((FEWEST_DIGITS..=LONGEST).contains(&name.len()), "{name}");
        }
    }

    #[test]
    fn an_alias_reads_back() {
        let pod = PodRef::new("default", "web");
        assert_eq!(
            parse_alias(&alias(Some(&pod), &id("c0ffee", "eth0"))),
            Some((Some(pod), "c0ffee"))
        );
        assert_eq!(
            parse_alias(&alias(None, &id("c0ffee", "eth0"))),
            Some((None, "c0ffee"))
        );
        assert_eq!(parse_alias("somebody else's"), None);
    }

    #[test]
    fn a_handle_is_always_a_dns_subdomain() {
        assert_eq!(handle(&id("c0ffee", "eth0")), "k8s-pod-network.c0ffee");
        assert_eq!(handle(&id("c0ffee", "net1")), "k8s-pod-network.c0ffee.net1");
        for odd in ["Upper", "under_score", &"x".repeat(256)] {
            assert!(is_dns_subdomain(&handle(&id(odd, "eth0"))), "{odd}");
        }
        let odd_network = AttachmentId {
            network: "My_Net".into(),
            ..id("c0ffee", "eth0")
        };
        assert!(is_dns_subdomain(&handle(&odd_network)));
    }
}
