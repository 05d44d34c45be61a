//! Import and export rules: an ordered list, the first match decides, everything is explainable.
//!
//! A [`Filter`] is what users of the library write; [`Compiled`] is what runs. Filters are compared by content, so
//! peers with equal rules share one update group whoever made the rules.

mod compile;
mod rule;

pub use compile::{Compiled, Outcome, Rewrites, Rewritten, Subject, Trace};
pub use rule::{
    Action, Filter, LearntFrom, Lengths, Match, PrefixMatch, Rule, Verdict, default_routes,
    martians,
};
