//! What may not change, and what may stay as it was although it is wrong.

use serde_json::Value;

use super::{Finding, Severity, validate_object};

/// Judges an update: the new object, and what must stay as it was.
///
/// A finding of the new object whose field the old one had with the same value is a warning (ratcheting): a cluster that
/// was taken over can still be edited around it.
pub fn validate_update(kind: &str, old: &Value, new: &Value) -> Vec<Finding> {
    let mut findings = validate_object(kind, new);
    let before = validate_object(kind, old);
    for finding in &mut findings {
        let known = before
            .iter()
            .any(|earlier| earlier.rule == finding.rule && earlier.path == finding.path);
        if finding.severity == Severity::Refuse
            && known
            && value_at(old, &finding.path) == value_at(new, &finding.path)
        {
            finding.severity = Severity::Warn;
            finding.message.push_str(" (as it was before)");
        }
    }
    if kind == "IPPool" {
        pool(old, new, &mut findings);
    }
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    findings
}

fn pool(old: &Value, new: &Value, findings: &mut Vec<Finding>) {
    let mut say = |path: &str, message: &str| {
        findings.push(Finding {
            rule: "pool-immutable",
            path: path.to_owned(),
            message: message.to_owned(),
            severity: Severity::Refuse,
        });
    };
    let both = |path: &str| (value_at(old, path), value_at(new, path));
    let (before, after) = both("spec.cidr");
    if before.is_some() && before != after {
        say("spec.cidr", "cidr cannot be changed: make a new pool");
    }
    let (before, after) = both("spec.blockSize");
    let was_set = before.and_then(Value::as_u64).is_some_and(|size| size != 0);
    if was_set && before != after {
        say(
            "spec.blockSize",
            "blockSize cannot be changed once it is set: make a new pool",
        );
    }
    let balances = |uses: Option<&Value>| {
        uses.and_then(Value::as_array)
            .is_some_and(|uses| uses.iter().any(|one| one == "LoadBalancer"))
    };
    let (before, after) = both("spec.allowedUses");
    if balances(before) != balances(after) {
        say(
            "spec.allowedUses",
            "a pool cannot change into or out of LoadBalancer: make a new pool",
        );
    }
}

/// The value at a path of a finding, such as `spec.ingress[2].source.nets[0]`.
pub fn value_at<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    steps(path).try_fold(object, |value, step| match step {
        Step::Field(name) => value.get(name),
        Step::Entry(index) => value.get(index),
    })
}

/// One step of a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// A field of an object.
    Field(&'a str),
    /// An entry of a list, from 0.
    Entry(usize),
}

/// The steps of a path of a finding, from the root of the object.
pub fn steps(path: &str) -> impl Iterator<Item = Step<'_>> {
    path.split(['.', '['])
        .filter(|part| !part.is_empty())
        .map(|part| match part.strip_suffix(']') {
            Some(index) => index.parse().map_or(Step::Field(part), Step::Entry),
            None => Step::Field(part),
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pool_with(spec: &Value) -> Value {
        json!({ "apiVersion": "projectcalico.org/v3", "kind": "IPPool", "metadata": { "name": "p" }, "spec": spec })
    }

    #[track_caller]
    fn refused(before: &Value, after: &Value) -> Vec<String> {
        validate_update("IPPool", &pool_with(before), &pool_with(after))
            .into_iter()
            .filter(|finding| finding.severity == Severity::Refuse)
            .map(|finding| finding.path)
            .collect()
    }

    #[test]
    fn what_is_immutable_stays() {
        let v4 = json!({"cidr": "10.0.0.0/16", "blockSize": 26});
        assert_eq!(refused(&v4, &v4), [""; 0]);
        let moved = json!({"cidr": "10.1.0.0/16", "blockSize": 26});
        assert_eq!(refused(&v4, &moved), ["spec.cidr"]);
        let resized = json!({"cidr": "10.0.0.0/16", "blockSize": 27});
        assert_eq!(refused(&v4, &resized), ["spec.blockSize"]);
        let unset = json!({"cidr": "10.0.0.0/16"});
        assert_eq!(refused(&v4, &unset), ["spec.blockSize"]);
        assert_eq!(refused(&unset, &v4), [""; 0]);
        let balancing = json!({"cidr": "10.0.0.0/16", "allowedUses": ["LoadBalancer"]});
        assert_eq!(refused(&unset, &balancing), ["spec.allowedUses"]);
        assert_eq!(refused(&balancing, &unset), ["spec.allowedUses"]);
    }

    #[test]
    fn an_old_fault_may_stay_and_a_new_one_may_not() {
        let bad = json!({"cidr": "10.0.0.0/16", "nodeSelector": "rack == a"});
        let edited =
            json!({"cidr": "10.0.0.0/16", "nodeSelector": "rack == a", "natOutgoing": true});
        assert_eq!(refused(&bad, &edited), [""; 0]);
        let worse = json!({"cidr": "10.0.0.0/16", "nodeSelector": "rack == b"});
        assert_eq!(refused(&bad, &worse), ["spec.nodeSelector"]);
    }

    #[test]
    fn paths_are_walked() {
        let object = json!({"spec": {"ingress": [{"source": {"nets": ["a", "b"]}}]}});
        assert_eq!(
            value_at(&object, "spec.ingress[0].source.nets[1]"),
            Some(&json!("b"))
        );
        assert_eq!(value_at(&object, "spec.ingress[1].source"), None);
    }
}
