//! One comparison of a selector.

use std::fmt::{self, Write};

use super::Labels;

/// One comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Leaf {
    /// `all()`.
    All,
    /// `global()`.
    Global,
    /// `has(label)`.
    Has(Box<str>),
    /// `label test "value"`.
    Compare {
        label: Box<str>,
        test: Test,
        value: Box<str>,
    },
    /// `label in {…}` or `label not in {…}`; values are sorted and unique.
    Within {
        label: Box<str>,
        inside: bool,
        values: Box<[Box<str>]>,
    },
}

/// How a label's value is compared with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Test {
    Equals,
    Differs,
    Contains,
    StartsWith,
    EndsWith,
}

impl Test {
    /// The operator in canonical form.
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Equals => "==",
            Self::Differs => "!=",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
            Self::EndsWith => "ends with",
        }
    }
}

impl Leaf {
    pub(super) fn compare(label: &str, test: Test, value: &str) -> Self {
        Self::Compare {
            label: label.into(),
            test,
            value: value.into(),
        }
    }

    pub(super) fn within<'a>(
        label: &str,
        inside: bool,
        values: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let mut values: Vec<Box<str>> = values.into_iter().map(Into::into).collect();
        values.sort_unstable();
        values.dedup();
        Self::Within {
            label: label.into(),
            inside,
            values: values.into(),
        }
    }

    /// Whether the comparison holds.
    pub(super) fn holds(&self, labels: &(impl Labels + ?Sized)) -> bool {
        match self {
            Self::All | Self::Global => true,
            Self::Has(label) => labels.get(label).is_some(),
            Self::Compare { label, test, value } => match (labels.get(label), test) {
                (None, test) => *test == Test::Differs,
                (Some(actual), Test::Equals) => actual == &**value,
                (Some(actual), Test::Differs) => actual != &**value,
                (Some(actual), Test::Contains) => actual.contains(&**value),
                (Some(actual), Test::StartsWith) => actual.starts_with(&**value),
                (Some(actual), Test::EndsWith) => actual.ends_with(&**value),
            },
            Self::Within {
                label,
                inside,
                values,
            } => {
                let found = labels
                    .get(label)
                    .is_some_and(|actual| values.binary_search_by(|v| (**v).cmp(actual)).is_ok());
                found == *inside
            }
        }
    }

    /// The same comparison of another label, `prefix` before the name.
    pub(super) fn prefixed(&self, prefix: &str) -> Self {
        let rename = |label: &str| format!("{prefix}{label}").into_boxed_str();
        match self {
            Self::All => Self::All,
            Self::Global => Self::Global,
            Self::Has(label) => Self::Has(rename(label)),
            Self::Compare { label, test, value } => Self::Compare {
                label: rename(label),
                test: *test,
                value: value.clone(),
            },
            Self::Within {
                label,
                inside,
                values,
            } => Self::Within {
                label: rename(label),
                inside: *inside,
                values: values.clone(),
            },
        }
    }
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all()"),
            Self::Global => f.write_str("global()"),
            Self::Has(label) => write!(f, "has({label})"),
            Self::Compare { label, test, value } => {
                write!(f, "{label} {} ", test.as_str())?;
                quoted(f, value)
            }
            Self::Within {
                label,
                inside,
                values,
            } => {
                write!(f, "{label} {} {{", if *inside { "in" } else { "not in" })?;
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        f.write_str(", ")?;
                    }
                    quoted(f, value)?;
                }
                f.write_char('}')
            }
        }
    }
}

/// Writes a value in double quotes, or in single ones when it holds a double one. No value read holds both.
fn quoted(f: &mut fmt::Formatter<'_>, value: &str) -> fmt::Result {
    let quote = if value.contains('"') { '\'' } else { '"' };
    write!(f, "{quote}{value}{quote}")
}
