use super::*;

/// Calls `see` with the path and value of every schema in a definition.
fn walk(schema: &Value, path: &str, see: &mut impl FnMut(&str, &serde_json::Map<String, Value>)) {
    let Some(fields) = schema.as_object() else {
        return;
    };
    see(path, fields);
    for (name, property) in fields
        .get("properties")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
    {
        walk(property, &format!("{path}.{name}"), see);
    }
    for below in ["items", "additionalProperties"] {
        if let Some(schema) = fields.get(below) {
            walk(schema, &format!("{path}[]"), see);
        }
    }
}

fn root(crd: &Value) -> &Value {
    &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
}

#[test]
fn manifest_is_what_the_types_say() {
    let manifest = include_str!("../../../manifests/crds.yaml");
    assert!(
        crds_yaml() == manifest,
        "run `cargo run -p api --example crds > manifests/crds.yaml` and review the difference"
    );
}

#[test]
fn every_schema_is_structural() {
    for crd in values() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
        walk(root(&crd), &kind, &mut |path, schema| {
            let free = schema.contains_key("x-kubernetes-int-or-string");
            assert_eq!(
                schema.contains_key("type"),
                !free,
                "{path}: a type, or int-or-string, and not both"
            );
            for word in ["anyOf", "oneOf", "allOf", "not", "$ref", "$schema"] {
                assert!(!schema.contains_key(word), "{path}: {word}");
            }
            assert!(
                !schema.contains_key("nullable") || path == "IPAMBlock.spec.allocations[]",
                "{path}: nullable"
            );
            assert!(
                path == kind
                    || schema.contains_key("description")
                    || path.ends_with("[]")
                    || path.matches('.').count() == 1,
                "{path}: no description"
            );
        });
    }
}

#[test]
fn every_default_of_the_table_is_in_a_schema() {
    let all = values();
    for default in DEFAULTS {
        let crd = all
            .iter()
            .find(|crd| crd["spec"]["names"]["kind"] == default.kind)
            .unwrap();
        let field = default
            .path
            .iter()
            .fold(root(crd), |schema, name| &schema["properties"][*name]);
        assert_eq!(
            field["default"],
            (default.value)(),
            "{} {:?}",
            default.kind,
            default.path
        );
    }
}

#[test]
fn felix_configuration_has_all_fields_of_calico() {
    let all = values();
    let crd = all
        .iter()
        .find(|crd| crd["spec"]["names"]["kind"] == "FelixConfiguration")
        .unwrap();
    let fields: Vec<&str> = root(crd)["properties"]["spec"]["properties"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect();
    let calico: Vec<&str> = include_str!("felix-fields.txt").lines().collect();
    assert_eq!(calico.len(), 188);
    let ours: Vec<&str> = fields
        .into_iter()
        .filter(|field| *field != "margay")
        .collect();
    assert_eq!(ours, calico);
}

#[test]
fn status_is_a_subresource_of_what_users_write() {
    let bookkeeping = [
        "BlockAffinity",
        "ClusterInformation",
        "IPAMBlock",
        "IPAMHandle",
    ];
    for crd in values() {
        let kind = crd["spec"]["names"]["kind"].as_str().unwrap();
        let status = &crd["spec"]["versions"][0]["subresources"]["status"];
        assert_eq!(status.is_object(), !bookkeeping.contains(&kind), "{kind}");
    }
}
