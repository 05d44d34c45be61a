//! Kubernetes label selectors as programs.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, LabelSelectorRequirement};

use super::leaf::{Leaf, Test};
use super::parser::is_label;
use super::{MAX_LABEL, Op};

/// Why a Kubernetes label selector cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LabelSelectorError {
    /// The key is no label name.
    #[error("{0:?} is not a label name")]
    Key(String),
    /// The value holds characters no label value can have.
    #[error("{value:?} is not a value of label {key}")]
    Value {
        /// The label.
        key: String,
        /// What it should be compared with.
        value: String,
    },
    /// The operator is not one of Kubernetes'.
    #[error(
        "operator {operator:?} on label {key} is unknown: use In, NotIn, Exists or DoesNotExist"
    )]
    Operator {
        /// The label.
        key: String,
        /// What was written.
        operator: String,
    },
    /// In or `NotIn` without values, or Exists or `DoesNotExist` with values.
    #[error("operator {operator} on label {key} has the wrong number of values")]
    Values {
        /// The label.
        key: String,
        /// The operator.
        operator: String,
    },
}

/// All requirements joined by `&&`: `matchLabels` in key order, then `matchExpressions` as written.
pub(super) fn compile(selector: &LabelSelector) -> Result<Vec<Op>, LabelSelectorError> {
    let mut ops = Vec::new();
    let mut operands = 0;
    for (key, value) in selector.match_labels.iter().flatten() {
        check_key(key)?;
        check_value(key, value)?;
        ops.push(Op::Leaf(Leaf::compare(key, Test::Equals, value)));
        operands += 1;
    }
    for requirement in selector.match_expressions.iter().flatten() {
        expression(requirement, &mut ops)?;
        operands += 1;
    }
    match operands {
        0 => ops.push(Op::Leaf(Leaf::All)),
        1 => {}
        n => ops.push(Op::And(n)),
    }
    Ok(ops)
}

fn expression(
    requirement: &LabelSelectorRequirement,
    ops: &mut Vec<Op>,
) -> Result<(), LabelSelectorError> {
    let LabelSelectorRequirement {
        key,
        operator,
        values,
    } = requirement;
    check_key(key)?;
    let values = values.as_deref().unwrap_or_default();
    for value in values {
        check_value(key, value)?;
    }
    let texts = || values.iter().map(String::as_str);
    match (operator.as_str(), values.is_empty()) {
        ("In", false) => ops.push(Op::Leaf(Leaf::within(key, true, texts()))),
        ("NotIn", false) => ops.push(Op::Leaf(Leaf::within(key, false, texts()))),
        ("Exists", true) => ops.push(Op::Leaf(Leaf::Has(key.as_str().into()))),
        ("DoesNotExist", true) => ops.extend([Op::Leaf(Leaf::Has(key.as_str().into())), Op::Not]),
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {
            return Err(LabelSelectorError::Values {
                key: key.clone(),
                operator: operator.clone(),
            });
        }
        _ => {
            return Err(LabelSelectorError::Operator {
                key: key.clone(),
                operator: operator.clone(),
            });
        }
    }
    Ok(())
}

fn check_key(key: &str) -> Result<(), LabelSelectorError> {
    let fits = !key.is_empty() && key.len() <= MAX_LABEL && key.bytes().all(is_label);
    if fits {
        Ok(())
    } else {
        Err(LabelSelectorError::Key(key.to_owned()))
    }
}

/// Any text that can stand in quotes passes; Kubernetes allows far less.
fn check_value(key: &str, value: &str) -> Result<(), LabelSelectorError> {
    if value.contains('"') && value.contains('\'') {
        return Err(LabelSelectorError::Value {
            key: key.to_owned(),
            value: value.to_owned(),
        });
    }
    Ok(())
}
