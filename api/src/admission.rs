//! The rules of [`crate::validate`] that CEL can say and a schema cannot: as admission policies of the API server.
//!
//! A schema pays for a rule by the longest object there could be, an admission policy by the object there is; so what looks
//! into every rule of a policy stands here. Each guard names a rule of `validate` and the field both name. A guard whose field
//! an update leaves as it was is not asked (ratcheting, api page §11.5). A guard that fails by itself lets the object pass:
//! nodes judge every object again.

use serde_json::{Value, json};

mod guards;

use guards::Group;

/// One rule in CEL.
pub(crate) struct Guard {
    /// Field of `spec` the rule is about, for ratcheting; `metadata` for the metadata.
    field: &'static str,
    /// The path the message names; `[]` stands for any entry.
    path: String,
    /// True for good objects.
    rule: String,
    /// What to write instead.
    message: &'static str,
}

impl Guard {
    fn new(
        field: &'static str,
        path: impl Into<String>,
        rule: impl Into<String>,
        message: &'static str,
    ) -> Self {
        Self {
            field,
            path: path.into(),
            rule: rule.into(),
            message,
        }
    }

    fn validation(&self) -> Value {
        let same = match self.field {
            "metadata" => "oldObject != null".to_owned(),
            field => {
                format!("(oldObject != null && object.spec.?{field} == oldObject.spec.?{field})")
            }
        };
        json!({
            "expression": format!("{same} || ({})", self.rule),
            "message": format!("{}: {}", self.path, self.message),
            "reason": "Invalid",
        })
    }
}

/// All admission policies with their bindings as YAML documents, each begun by `---`.
///
/// # Panics
/// Never on released code: JSON can be written as YAML.
pub fn admission_yaml() -> String {
    let mut text = String::new();
    for group in guards::all() {
        for document in [policy(&group), binding(group.name)] {
            text.push_str("---\n");
            text.push_str(&serde_yaml::to_string(&document).expect("JSON can be written as YAML"));
        }
    }
    text
}

fn policy(group: &Group) -> Value {
    let validations: Vec<Value> = group.guards.iter().map(Guard::validation).collect();
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicy",
        "metadata": { "name": group.name },
        "spec": {
            "failurePolicy": group.failure.as_str(),
            "matchConstraints": { "resourceRules": [{
                "apiGroups": [crate::GROUP],
                "apiVersions": [crate::VERSION],
                "operations": ["CREATE", "UPDATE"],
                "resources": group.resources,
            }]},
            "variables": guards::variables(),
            "validations": validations,
        },
    })
}

fn binding(name: &str) -> Value {
    json!({
        "apiVersion": "admissionregistration.k8s.io/v1",
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": { "name": name },
        "spec": { "policyName": name, "validationActions": ["Deny"] },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::selector::Selector;

    #[test]
    fn names_are_unique_and_every_guard_says_what_to_write() {
        let mut names = std::collections::BTreeSet::new();
        for group in guards::all() {
            assert!(names.insert(group.name), "{} twice", group.name);
            assert!(
                !group.resources.is_empty() && !group.guards.is_empty(),
                "{}",
                group.name
            );
            for guard in group.guards {
                assert!(!guard.message.is_empty() && !guard.path.is_empty());
            }
        }
    }

    /// The pattern cannot count brackets; it must never refuse what the parser takes, and agrees where brackets close.
    #[test]
    fn the_pattern_of_selectors_agrees_with_the_parser() {
        let pattern = regex::Regex::new(guards::SELECTOR).unwrap();
        let good = [
            "",
            " ",
            "all()",
            "all( )",
            "global()",
            "has(a)",
            "has( a/b.c )",
            "a == 'b'",
            "a=='b'",
            "a != \"b\"",
            "!a == 'b'",
            "!!has(x)",
            "! has(x)",
            "a in {'x', 'y',}",
            "a in{}",
            "a notin {'x'}",
            "a not in {\"x\"}",
            "a starts with 'x'",
            "a startswith 'x'",
            "a ends  with 'x' && (b contains 'y' || !(has(c)))",
            "( a == 'b' )",
            "in in {'in'}",
            "has == 'x'",
            "a == '()'",
        ];
        for text in good {
            assert!(Selector::parse(text).is_ok(), "{text:?} is good");
            assert!(pattern.is_match(text), "{text:?} must match");
        }
        let bad = [
            "a == b",
            "a",
            "== 'b'",
            "a = 'b'",
            "has()",
            "has('a')",
            "all",
            "foo()",
            "a inx {'b'}",
            "a in {b}",
            "a in {,}",
            "a == 'b' &&",
            "&& a == 'b'",
            "a == 'b' has(c)",
            "a == 'b",
            "a == 'b' & has(c)",
            "all(x)",
        ];
        for text in bad {
            assert!(Selector::parse(text).is_err(), "{text:?} is bad");
            assert!(!pattern.is_match(text), "{text:?} must not match");
        }
    }
}
