//! Reading an object field by field, so that one bad value costs one field and not the object.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::validate::{Finding, Severity, UNREADABLE};

/// Reads a configuration spec; a field whose value does not fit its type is left at its default and reported.
///
/// Configuration kinds have a next value in precedence for every field (api: `node.<name>`, selector, `default`,
/// built-in), so a typo in one setting must not undo all the others. Unknown fields are ignored.
pub fn tolerant<T: DeserializeOwned + Default>(spec: &Map<String, Value>) -> (T, Vec<Finding>) {
    if let Ok(whole) = T::deserialize(Value::Object(spec.clone())) {
        return (whole, Vec::new());
    }
    let mut good = Map::new();
    let mut findings = Vec::new();
    for (name, value) in spec {
        let alone = Map::from_iter([(name.clone(), value.clone())]);
        match T::deserialize(Value::Object(alone)) {
            Ok(_) => {
                good.insert(name.clone(), value.clone());
            }
            Err(why) => findings.push(Finding {
                rule: UNREADABLE,
                path: format!("spec.{name}"),
                message: format!("{why}; the next value in precedence is used"),
                severity: Severity::Refuse,
            }),
        }
    }
    match T::deserialize(Value::Object(good)) {
        Ok(spec) => (spec, findings),
        Err(why) => {
            findings.push(Finding {
                rule: UNREADABLE,
                path: "spec".to_owned(),
                message: why.to_string(),
                severity: Severity::Refuse,
            });
            (T::default(), findings)
        }
    }
}
