//! The CNI specification as types: verbs, versions, environment, network configuration, results and error codes.
//!
//! Everything here is pure and total: any bytes a runtime may send end in a value or in a [`Failure`] with the code the
//! specification (or `101`–`104`, ours) gives it. Both sides of the socket use it, so a request is checked twice by one rule.

mod config;
mod environment;
mod failure;
mod result;
mod verb;
mod version;

pub use config::{Attachments, Config, DefaultRoute, Families, MAX_STDIN, StatusMode};
pub use environment::{Arguments, Environment, PodArguments, is_dns_subdomain};
pub use failure::{Code, Failure};
pub use result::{Interface, Ip, Outcome, Route};
pub use verb::Verb;
pub use version::{Version, version_answer};
