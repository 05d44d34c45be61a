//! The stored form of a block, field by field.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{AllocationAttribute, IPAMBlockSpec};

use super::{Attribute, Block, BlockError, Owner};
use crate::handle::Attributes;
use crate::time::Time;

const HOST: &str = "host:";
const LOAD_BALANCER: &str = "virtual:load-balancer";

/// Reads a stored block.
///
/// # Errors
/// [`BlockError`] when the object breaks the invariant of a block: it is then used for nothing, but its CIDR counts
/// as taken.
pub fn parse(spec: &IPAMBlockSpec) -> Result<Block, BlockError> {
    let mut sequences = BTreeMap::new();
    for (ordinal, sequence) in &spec.sequence_number_for_allocation {
        let ordinal = ordinal
            .parse()
            .map_err(|_not_a_number| BlockError::Ordinal(ordinal.clone()))?;
        sequences.insert(ordinal, *sequence);
    }
    let number = |n: i64| u32::try_from(n).map_err(|_negative| BlockError::Number(n));
    let slot = |slot: &Option<i64>| slot.map(number).transpose();
    let block = Block {
        cidr: spec
            .cidr
            .parse()
            .map_err(|_not_a_cidr| BlockError::Text(spec.cidr.clone()))?,
        owner: spec.affinity.as_deref().and_then(parse_owner),
        claimed_at: spec
            .affinity_claim_time
            .as_ref()
            .and_then(Time::from_stored),
        slots: spec
            .allocations
            .iter()
            .map(slot)
            .collect::<Result<_, _>>()?,
        free: spec
            .unallocated
            .iter()
            .copied()
            .map(number)
            .collect::<Result<_, _>>()?,
        attributes: spec
            .attributes
            .iter()
            .map(parse_attribute)
            .collect::<Result<_, _>>()?,
        sequence: spec.sequence_number,
        sequences,
        deleted: spec.deleted,
        strict_affinity: spec.strict_affinity,
        extra: spec.other.clone(),
    };
    block.check()?;
    Ok(block)
}

/// Writes a block as it is stored.
pub fn render(block: &Block) -> IPAMBlockSpec {
    IPAMBlockSpec {
        cidr: block.cidr.to_string(),
        affinity: block.owner.as_ref().map(render_owner),
        affinity_claim_time: block.claimed_at.and_then(Time::to_stored),
        allocations: block.slots.iter().map(|slot| slot.map(i64::from)).collect(),
        unallocated: block.free.iter().copied().map(i64::from).collect(),
        attributes: block.attributes.iter().map(render_attribute).collect(),
        sequence_number: block.sequence,
        sequence_number_for_allocation: block
            .sequences
            .iter()
            .map(|(ordinal, n)| (ordinal.to_string(), *n))
            .collect(),
        deleted: block.deleted,
        strict_affinity: block.strict_affinity,
        other: block.extra.clone(),
    }
}

fn parse_owner(text: &str) -> Option<Owner> {
    match text.strip_prefix(HOST) {
        _ if text.is_empty() => None,
        Some(node) => Some(Owner::Host(Arc::from(node))),
        None if text == LOAD_BALANCER => Some(Owner::LoadBalancer),
        None => Some(Owner::Other(Arc::from(text))),
    }
}

fn render_owner(owner: &Owner) -> String {
    match owner {
        Owner::Host(node) => format!("{HOST}{node}"),
        Owner::LoadBalancer => LOAD_BALANCER.to_owned(),
        Owner::Other(text) => text.to_string(),
    }
}

fn parse_attribute(stored: &AllocationAttribute) -> Result<Attribute, BlockError> {
    let stamp = |text: &String| Time::parse(text).ok_or_else(|| BlockError::Text(text.clone()));
    Ok(Attribute {
        handle: stored.handle_id.clone(),
        owner: stored.secondary.clone().unwrap_or_default(),
        alternate: stored.alternate_owner_attrs.clone().unwrap_or_default(),
        released_at: stored.released_at.as_ref().map(stamp).transpose()?,
        extra: stored.other.clone(),
    })
}

fn render_attribute(attribute: &Attribute) -> AllocationAttribute {
    let filled = |map: &Attributes| (!map.is_empty()).then(|| map.clone());
    AllocationAttribute {
        handle_id: attribute.handle.clone(),
        secondary: filled(&attribute.owner),
        alternate_owner_attrs: filled(&attribute.alternate),
        released_at: attribute.released_at.map(Time::to_rfc3339),
        other: attribute.extra.clone(),
    }
}
