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

/// Every object of the corpus.
fn all() -> Vec<Value> {
    let texts = [
        include_str!("corpus/accepted.yaml"),
        include_str!("corpus/kinds.yaml"),
        include_str!("corpus/documented.yaml"),
        include_str!("corpus/refused.yaml"),
        include_str!("corpus/kinds-refused.yaml"),
    ];
    texts.into_iter().flat_map(documents).collect()
}

/// The path an object must be refused at; good objects have none.
fn expected(object: &Value) -> Option<&str> {
    object
        .pointer("/metadata/annotations/corpus~1path")
        .and_then(Value::as_str)
}

fn accepted() -> Vec<Value> {
    let all = all().into_iter();
    all.filter(|object| expected(object).is_none()).collect()
}

fn refused() -> Vec<Value> {
    let all = all().into_iter();
    all.filter(|object| expected(object).is_some()).collect()
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
    let mut wrong = Vec::new();
    for object in refused() {
        let kind = object["kind"].as_str().expect("a kind");
        let mut paths: Vec<String> = validate_object(kind, &object)
            .into_iter()
            .filter(|f| f.severity == Severity::Refuse)
            .map(|f| f.path)
            .collect();
        paths.dedup();
        if paths.iter().map(String::as_str).ne(expected(&object)) {
            wrong.push(format!("{paths:?}: {}", name(&object)));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_corpus_covers_every_kind_both_ways() {
    let kinds = |objects: Vec<Value>| -> std::collections::BTreeSet<String> {
        let kind = |object: Value| object["kind"].as_str().expect("a kind").to_owned();
        objects.into_iter().map(kind).collect()
    };
    let defined = api::crds()
        .into_iter()
        .map(|crd| crd.spec.names.kind)
        .collect();
    assert_eq!(kinds(accepted()), defined);
    // What only the daemon writes is judged by `ipam`.
    let judged: std::collections::BTreeSet<String> = defined
        .into_iter()
        .filter(|kind| !["BlockAffinity", "IPAMBlock", "IPAMHandle"].contains(&kind.as_str()))
        .collect();
    assert_eq!(kinds(refused()), judged);
    assert!(all().len() >= 150);
}

#[test]
fn where_the_api_server_accepts_the_corpus_says_why() {
    for object in refused() {
        let annotations = &object["metadata"]["annotations"];
        match annotations["corpus/server"].as_str() {
            Some("refuses") => assert!(annotations["corpus/why"].is_null(), "{}", name(&object)),
            Some("accepts") => assert!(annotations["corpus/why"].is_string(), "{}", name(&object)),
            other => panic!("{}: {other:?}", name(&object)),
        }
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

/// Words are read in any letter case and written in one, durations in one form; flags that are off need not be written.
fn lower_case_words(value: Value) -> Value {
    match value {
        Value::String(text) => Value::String(match text.parse::<api::GoDuration>() {
            Ok(time) => time.to_string(),
            Err(_) => text.to_ascii_lowercase(),
        }),
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
            "BGPFilter" => round_trip::<api::BGPFilter>(&object),
            "NetworkSet" => round_trip::<api::NetworkSet>(&object),
            "GlobalNetworkSet" => round_trip::<api::GlobalNetworkSet>(&object),
            "HostEndpoint" => round_trip::<api::HostEndpoint>(&object),
            "ClusterInformation" => round_trip::<api::ClusterInformation>(&object),
            "KubeControllersConfiguration" => {
                round_trip::<api::KubeControllersConfiguration>(&object);
            }
            "CalicoNodeStatus" => round_trip::<api::CalicoNodeStatus>(&object),
            "StagedNetworkPolicy" => round_trip::<api::StagedNetworkPolicy>(&object),
            "StagedGlobalNetworkPolicy" => round_trip::<api::StagedGlobalNetworkPolicy>(&object),
            "StagedKubernetesNetworkPolicy" => {
                round_trip::<api::StagedKubernetesNetworkPolicy>(&object);
            }
            other => panic!("no kind {other}"),
        }
    }
}
