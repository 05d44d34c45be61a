//! The form in which rules run.

use std::sync::Arc;

/// Names of the rules that matched, in order, for `explain`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Trace(pub Vec<Arc<str>>);
