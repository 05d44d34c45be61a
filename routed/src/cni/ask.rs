//! Which addresses an attachment asks for: configuration, then namespace, then pod annotations, the last the strongest; pure.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use ::ipam::Time;
use ::ipam::handle::{self, Attributes};
use cni_plugin::spec::{Code, Failure, Families};
use model::{AttachmentId, NodeName, PodRef};

use super::call::Call;
use super::names::PRIMARY;
use super::seams::Ask;
use crate::world::PodView;

const IPV4_POOLS: &str = "cni.projectcalico.org/ipv4pools";
const IPV6_POOLS: &str = "cni.projectcalico.org/ipv6pools";
const ADDRESSES: &str = "cni.projectcalico.org/ipAddrs";
const WITHOUT_IPAM: &str = "cni.projectcalico.org/ipAddrsNoIpam";

/// On whose behalf addresses are asked for.
#[derive(Clone, Debug)]
pub(super) struct Owner<'a> {
    /// Their handle.
    pub(super) handle: Arc<str>,
    /// This node.
    pub(super) node: &'a NodeName,
    /// For the owner attribute `timestamp`.
    pub(super) now: Time,
    /// Handles of dead sandboxes of the same pod.
    pub(super) supersedes: BTreeSet<String>,
}

/// Puts the request together; `cluster` are the families of a configuration that names none.
///
/// # Errors
/// Code 104 naming the annotation that cannot be read or met.
pub(super) fn ask(
    call: &Call,
    view: Option<&PodView>,
    cluster: Families,
    owner: Owner<'_>,
) -> Result<Ask, Failure> {
    let families = call.config.families.unwrap_or(cluster);
    if annotation(view, WITHOUT_IPAM).is_some() {
        return Err(refused(
            WITHOUT_IPAM,
            "addresses outside IPAM are not served",
        ));
    }
    let mut requested: Vec<IpAddr> = call.config.requested.clone();
    if let Some(texts) = list(
        view.and_then(|view| view.pod.annotations.get(ADDRESSES)),
        ADDRESSES,
    )? {
        requested = texts
            .iter()
            .map(|text| {
                text.parse()
                    .map_err(|error| refused(ADDRESSES, format!("{text:?}: {error}")))
            })
            .collect::<Result<_, _>>()?;
    }
    for (wanted, is_family) in [
        (families.ipv4, IpAddr::is_ipv4 as fn(&IpAddr) -> bool),
        (families.ipv6, IpAddr::is_ipv6),
    ] {
        let count = requested
            .iter()
            .filter(|address| is_family(address))
            .count();
        if count > usize::from(wanted) {
            return Err(refused(
                ADDRESSES,
                format!(
                    "{count} addresses of a family of which {} is assigned",
                    u8::from(wanted)
                ),
            ));
        }
    }
    Ok(Ask {
        handle: owner.handle,
        families,
        ipv4_pools: list(annotation(view, IPV4_POOLS), IPV4_POOLS)?
            .unwrap_or_else(|| call.config.ipv4_pools.clone()),
        ipv6_pools: list(annotation(view, IPV6_POOLS), IPV6_POOLS)?
            .unwrap_or_else(|| call.config.ipv6_pools.clone()),
        namespace: view.and_then(|view| view.namespace.clone()),
        attributes: attributes(&call.id, call.pod_ref().as_ref(), owner.node, owner.now),
        requested,
        supersedes: owner.supersedes,
    })
}

/// What IPAM stores of an attachment as the owner of its addresses.
pub(super) fn attributes(
    id: &AttachmentId,
    pod: Option<&PodRef>,
    node: &NodeName,
    now: Time,
) -> Attributes {
    let node = node.as_str();
    match pod {
        Some(pod) if &*id.ifname == PRIMARY => {
            handle::pod_attributes(pod.namespace.as_str(), pod.name.as_str(), node, now)
        }
        Some(pod) => handle::secondary_attributes(
            pod.namespace.as_str(),
            pod.name.as_str(),
            &id.ifname,
            node,
            now,
        ),
        None => [
            ("node".to_owned(), node.to_owned()),
            ("timestamp".to_owned(), now.to_attribute()),
        ]
        .into(),
    }
}

fn annotation<'a>(view: Option<&'a PodView>, key: &str) -> Option<&'a String> {
    let view = view?;
    let of_namespace = || {
        view.namespace
            .as_ref()
            .and_then(|namespace| namespace.annotations.get(key))
    };
    view.pod.annotations.get(key).or_else(of_namespace)
}

/// A JSON list of texts, as Calico's annotations have it.
fn list(value: Option<&String>, key: &str) -> Result<Option<Vec<String>>, Failure> {
    match value
        .map(|text| text.trim())
        .filter(|text| !text.is_empty())
    {
        None => Ok(None),
        Some(text) => serde_json::from_str(text)
            .map(Some)
            .map_err(|error| refused(key, format!("it is not a JSON list of texts ({error})"))),
    }
}

fn refused(annotation: &str, why: impl std::fmt::Display) -> Failure {
    Failure::new(
        Code::RequestRefused,
        format!("annotation {annotation} cannot be met: {why}"),
    )
}
