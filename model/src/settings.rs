//! Which configuration holds on this node.
//!
//! FelixConfiguration precedence per field: `node.<name>`, then the oldest object whose `nodeSelector` takes the node, then
//! `default`, then the built-in value, which the reader of a field applies.

use std::collections::BTreeMap;

use api::selector::Selector;
use serde_json::{Map, Value};

use crate::world::World;

/// The FelixConfiguration in force on this node, merged field by field. Fields nobody set are absent.
pub fn felix(world: &World) -> api::FelixConfigurationSpec {
    let mut merged = Map::new();
    for layer in layers(world) {
        if let Ok(Value::Object(fields)) = serde_json::to_value(&layer.spec) {
            merged.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
    }
    serde_json::from_value(Value::Object(merged)).unwrap_or_default()
}

/// Objects that apply to this node, the weakest first.
fn layers(world: &World) -> impl Iterator<Item = &api::FelixConfiguration> {
    let objects = world.felix_configurations();
    let node = format!("node.{}", world.this_node_name());
    let default = objects.get("default").map(AsRef::as_ref);
    let own = objects.get(node.as_str()).map(AsRef::as_ref);
    default.into_iter().chain(scoped(world)).chain(own)
}

/// The oldest selector-scoped object that takes this node.
fn scoped(world: &World) -> Option<&api::FelixConfiguration> {
    let empty = BTreeMap::new();
    let labels = world.this_node().map_or(&empty, |node| &node.labels);
    world
        .felix_configurations()
        .iter()
        .filter(|(name, _)| name.as_str() != "default" && !name.as_str().starts_with("node."))
        .map(|(_, object)| object.as_ref())
        .filter(|object| takes(object, labels))
        .min_by_key(|object| {
            let metadata = &object.metadata;
            (
                metadata.creation_timestamp.as_ref().map(|time| time.0),
                metadata.name.clone(),
            )
        })
}

fn takes(object: &api::FelixConfiguration, labels: &BTreeMap<String, String>) -> bool {
    object
        .spec
        .node_selector
        .as_deref()
        .and_then(|text| Selector::parse(text).ok())
        .is_some_and(|selector| selector.matches(labels))
}

/// The BGPConfiguration in force: `node.<name>` over `default` for the fields that count per node.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BgpSettings {
    /// `default`, as stored.
    pub default: Option<api::BGPConfigurationSpec>,
    /// `node.<name>`, as stored: only `logSeverityScreen`, `listenPort` and `prefixAdvertisements` count.
    pub node: Option<api::BGPConfigurationSpec>,
}

/// Reads the speaker's settings for this node.
pub fn bgp(world: &World) -> BgpSettings {
    let objects = world.bgp_configurations();
    let node = format!("node.{}", world.this_node_name());
    BgpSettings {
        default: objects.get("default").map(|object| object.spec.clone()),
        node: objects.get(node.as_str()).map(|object| object.spec.clone()),
    }
}
