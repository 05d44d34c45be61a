//! Names derived from who is attached; pure. Those of the kernel are the recipe's (`dataplane::plan::workload`).

use std::sync::Arc;

use cni_plugin::spec::is_dns_subdomain;
use data_encoding::HEXLOWER;
use dataplane::plan::workload::{self, Owner, WorkloadError};
use model::{AttachmentId, PodRef};
use sha2::{Digest, Sha256};

/// The interface that carries the default network of a container.
pub(super) const PRIMARY: &str = "eth0";

/// Name of the host end.
///
/// # Errors
/// `interfacePrefix` leaves no room for a hash.
pub(super) fn host_interface(
    prefix: &str,
    pod: Option<&PodRef>,
    id: &AttachmentId,
) -> Result<Arc<str>, WorkloadError> {
    workload::host_name(prefix, owner(pod, id), &id.ifname).map(|name| name.as_str().into())
}

/// The mark on the host end (`ifalias`): whose it is, for adoption without a journal and for people.
pub(super) fn alias(pod: Option<&PodRef>, id: &AttachmentId) -> String {
    workload::alias(owner(pod, id), &id.container_id)
}

/// Whether a mark names this container; a long id is cut in it.
pub(super) fn is_alias_of(alias: &str, container_id: &str) -> bool {
    workload::parse_alias(alias)
        .is_some_and(|(_, cut)| !cut.is_empty() && container_id.starts_with(cut))
}

fn owner<'a>(pod: Option<&'a PodRef>, id: &'a AttachmentId) -> Owner<'a> {
    match pod {
        Some(pod) => Owner::Pod(pod),
        None => Owner::Container(&id.container_id),
    }
}

/// The handle that owns the addresses of an attachment in IPAM.
///
/// Its object is named by it in lower case, so it must be a DNS subdomain; an id that cannot be part of one is hashed.
pub(super) fn handle(id: &AttachmentId) -> String {
    let of = |container: &str| ::ipam::handle::attachment(&id.network, container, &id.ifname);
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
    fn a_mark_names_its_container_even_when_the_id_was_cut() {
        let pod = PodRef::new("default", "web");
        let long = "x".repeat(256);
        for container in ["c0ffee", long.as_str()] {
            let mark = alias(Some(&pod), &id(container, "eth0"));
            assert!(is_alias_of(&mark, container));
            assert!(!is_alias_of(&mark, "another"));
        }
        assert!(!is_alias_of("somebody else's", "c0ffee"));
        assert!(!is_alias_of("margay - ", "c0ffee"));
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
