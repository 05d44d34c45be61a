//! A corpus of objects, good and bad. The same files are applied to a real API server, which must give the verdict that
//! each object names.

use api::validate::{Severity, validate_object};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn documents(text: &str) -> Vec<Value> {
    serde_yaml::Deserializer::from_str(text)
        .map(|document| Value::deserialize(document).expect("the corpus is YAML"))
        .filter(|v| !v.is_null())
        .collect()
}

fn accepted() -> Vec<Value> {
    documents(include_str!("corpus/accepted.yaml"))
}

fn refused() -> Vec<Value> {
    documents(include_str!("corpus/refused.yaml"))
}

fn name(object: &Value) -> String {
    let part = |path| object.pointer(path).unwrap_or(&Value::Null);
    format!(
        "{} {} {}",
        part("/kind"),
        part("/metadata/name"),
        part("/spec")
    )
}

#[test]
fn good_objects_are_clean() {
    for object in accepted() {
        let kind = object["kind"].as_str().expect("a kind");
        let found = validate_object(kind, &object);
        assert!(
            found.iter().all(|f| f.severity == Severity::Unsupported),
            "{}: {found:?}",
            name(&object)
        );
    }
}

#[test]
fn bad_objects_are_refused_at_the_path_they_name() {
    for object in refused() {
        let kind = object["kind"].as_str().expect("a kind");
        let mut paths: Vec<String> = validate_object(kind, &object)
            .into_iter()
            .filter(|f| f.severity == Severity::Refuse)
            .map(|f| f.path)
            .collect();
        paths.dedup();
        assert_eq!(
            paths,
            [object["metadata"]["annotations"]["corpus/path"]
                .as_str()
                .expect("a path")],
            "{}",
            name(&object)
        );
    }
}

/// Reads and writes an object: nothing may be lost, added or renamed.
fn round_trip<T: DeserializeOwned + serde::Serialize>(object: &Value) {
    let read: T = serde_json::from_value(object.clone())
        .unwrap_or_else(|why| panic!("{}: {why}", name(object)));
    let written = serde_json::to_value(&read).expect("an object can be written");
    let canonical = |spec: Option<&Value>| lower_case_words(spec.expect("a spec").clone());
    assert_eq!(
        canonical(written.get("spec")),
        canonical(object.get("spec")),
        "{}",
        name(object)
    );
}

/// Words are read in any letter case and written in one; flags that are off need not be written.
fn lower_case_words(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(text.to_ascii_lowercase()),
        Value::Array(items) => Value::Array(items.into_iter().map(lower_case_words).collect()),
        Value::Object(fields) => Value::Object(
            fields
                .into_iter()
                .filter(|(_, v)| *v != Value::Bool(false))
                .map(|(k, v)| (k, lower_case_words(v)))
                .collect(),
        ),
        Value::Number(number) => number.as_f64().map_or(Value::Number(number), Value::from),
        Value::Null | Value::Bool(_) => value,
    }
}

#[test]
fn good_objects_survive_reading_and_writing() {
    for object in accepted() {
        match object["kind"].as_str().expect("a kind") {
            "IPPool" => round_trip::<api::IPPool>(&object),
            "IPReservation" => round_trip::<api::IPReservation>(&object),
            "IPAMConfiguration" => round_trip::<api::IPAMConfiguration>(&object),
            "IPAMBlock" => round_trip::<api::IPAMBlock>(&object),
            "BlockAffinity" => round_trip::<api::BlockAffinity>(&object),
            "IPAMHandle" => round_trip::<api::IPAMHandle>(&object),
            "BGPConfiguration" => round_trip::<api::BGPConfiguration>(&object),
            "BGPPeer" => round_trip::<api::BGPPeer>(&object),
            "Tier" => round_trip::<api::Tier>(&object),
            "NetworkPolicy" => round_trip::<api::NetworkPolicy>(&object),
            "GlobalNetworkPolicy" => round_trip::<api::GlobalNetworkPolicy>(&object),
            "FelixConfiguration" => round_trip::<api::FelixConfiguration>(&object),
            other => panic!("no kind {other}"),
        }
    }
}
