//! What every object must keep: its name, labels and annotations.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::name::{is_dns_subdomain, is_label_value, is_qualified_name};
use super::{Check, Report, Severity};

/// Most octets the annotations of one object may have together.
pub(super) const MAX_ANNOTATIONS: usize = 256 * 1024;

pub(super) const METADATA: &[Check<ObjectMeta>] = &[
    Check {
        id: "name",
        severity: Severity::Refuse,
        judge: name,
    },
    Check {
        id: "labels",
        severity: Severity::Refuse,
        judge: metadata_labels,
    },
    Check {
        id: "annotations",
        severity: Severity::Refuse,
        judge: metadata_annotations,
    },
];

fn name(metadata: &ObjectMeta, report: &mut Report<'_>) {
    let path = "metadata.name";
    match (metadata.name.as_deref(), metadata.generate_name.as_deref()) {
        (None | Some(""), None | Some("")) => report.say(path, "the object needs a name"),
        (Some(name), _) if !name.is_empty() && !is_dns_subdomain(name) => report.say(
            path,
            "a name is at most 253 of a-z, 0-9, - and ., each part begins and ends with a letter or digit",
        ),
        _ => {}
    }
}

fn metadata_labels(metadata: &ObjectMeta, report: &mut Report<'_>) {
    if let Some(given) = &metadata.labels {
        labels(given, "metadata.labels", report);
    }
}

fn metadata_annotations(metadata: &ObjectMeta, report: &mut Report<'_>) {
    if let Some(given) = &metadata.annotations {
        annotations(given, "metadata.annotations", report);
    }
}

/// Checks labels: `prefix/name` keys, values of at most 63.
pub(super) fn labels(given: &BTreeMap<String, String>, path: &str, report: &mut Report<'_>) {
    for (key, value) in given {
        if !is_qualified_name(key) {
            report.say(
                path,
                format!("{key:?} is not the key of a label: at most 63 of letters, digits, -, _ and ., before it a DNS name and / if need be"),
            );
        }
        if !is_label_value(value) {
            report.say(
                path,
                format!("{value:?} is not the value of a label: at most 63 of letters, digits, -, _ and ., beginning and ending with a letter or digit"),
            );
        }
    }
}

/// Checks annotations: `prefix/name` keys, 256 KiB together.
pub(super) fn annotations(given: &BTreeMap<String, String>, path: &str, report: &mut Report<'_>) {
    for key in given.keys() {
        // Kubernetes judges them in lower case.
        if !is_qualified_name(&key.to_ascii_lowercase()) {
            report.say(path, format!("{key:?} is not the key of an annotation"));
        }
    }
    let octets: usize = given
        .iter()
        .map(|(key, value)| key.len() + value.len())
        .sum();
    report.say_if(
        octets > MAX_ANNOTATIONS,
        path,
        "annotations are at most 256 KiB together",
    );
}
