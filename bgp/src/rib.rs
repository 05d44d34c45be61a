//! The table of routes and the choice among them.

mod decision;

pub use decision::{Ineligible, Preference};
