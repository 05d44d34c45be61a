//! The rules the kinds must keep.

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// The object is accepted and does something its author may not expect.
    Warn,
    /// The object, or the part the path names, does not count.
    Refuse,
}

/// One broken rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// JSON path from the object's root, such as `spec.ingress[2].source.selector`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub message: String,
    /// How bad it is.
    pub severity: Severity,
}
