//! The node's own addresses at the mouth of a tunnel: whether one is wanted, from where, and whether the one there
//! is may stay.

use std::collections::BTreeSet;
use std::sync::Arc;

use api::PoolUse;

use crate::handle::TunnelKind;
use crate::index::{Held, Index};
use crate::net::Family;
use crate::pool::{Labels, Named, Pool};
use crate::request::{Addresses, Assign, Release, Taken, Want};

/// What to do about a tunnel address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Plan {
    /// None is wanted and none is there.
    Nothing,
    /// This one is right.
    Keep(Held),
    /// Give back what is there, if anything, and take one.
    Take(Option<Release>, Box<Assign>),
    /// The encapsulation is gone: give it back.
    Release(Release),
}

/// Decides from the index. An address is kept while it is this node's by type and still inside a wanted pool.
pub fn plan(index: &Index, kind: TunnelKind) -> Plan {
    let handle = kind.handle(index.node());
    let there: Vec<Held> = index.of_handle(&handle).collect();
    let release = || {
        let taken = |held: &Held| Taken {
            block: held.block,
            ordinal: held.ordinal,
            sequence: held.sequence,
        };
        let addresses = Addresses::Exactly(there.iter().map(taken).collect());
        (!there.is_empty()).then(|| Release {
            handle: handle.clone(),
            addresses,
        })
    };
    let wanted = wanted(index, kind);
    if wanted.is_empty() {
        return release().map_or(Plan::Nothing, Plan::Release);
    }
    let whole = |held: &&Held| {
        held.attributes
            .get("type")
            .is_some_and(|tag| tag == kind.type_attribute())
    };
    let inside = |held: &&Held| wanted.iter().any(|pool| pool.cidr.contains(&held.address));
    match there.as_slice() {
        [held] if whole(&held) && inside(&held) => Plan::Keep(held.clone()),
        _ => Plan::Take(release(), Box::new(request(index, kind, handle, &wanted))),
    }
}

/// The pools a tunnel address may come from; none = none is wanted.
fn wanted(index: &Index, kind: TunnelKind) -> Vec<&Pool> {
    let family = if kind.is_v6() { Family::V6 } else { Family::V4 };
    let no_namespace = Labels::new();
    let asker = index.asker(family, PoolUse::Tunnel, Some(&no_namespace));
    let (fit, _) = index.pools().automatic(&asker);
    let names: BTreeSet<_> = fit
        .iter()
        .filter(|pool| carries(pool, kind))
        .map(|pool| Arc::clone(&pool.name))
        .collect();
    index
        .pools()
        .iter()
        .map(|pool| &**pool)
        .filter(|pool| names.contains(&pool.name))
        .collect()
}

fn carries(pool: &Pool, kind: TunnelKind) -> bool {
    match kind {
        TunnelKind::Ipip => pool.ipip,
        TunnelKind::Vxlan | TunnelKind::VxlanV6 => pool.vxlan,
        TunnelKind::Wireguard | TunnelKind::WireguardV6 => true,
    }
}

fn request(index: &Index, kind: TunnelKind, handle: String, wanted: &[&Pool]) -> Assign {
    let family = if kind.is_v6() { Family::V6 } else { Family::V4 };
    let pools = wanted
        .iter()
        .map(|pool| Named::Name(Arc::clone(&pool.name)))
        .collect();
    Assign {
        handle,
        usage: PoolUse::Tunnel,
        wants: vec![Want {
            family,
            address: None,
            pools,
        }],
        namespace_labels: Labels::new(),
        attributes: kind.attributes(index.node()),
        supersedes: BTreeSet::new(),
    }
}
