//! Everything that talks to the API server.

pub mod client;
pub mod lease;
pub mod lenient;
pub mod node;
pub mod objects;
pub mod pulse;
pub mod report;
pub mod secrets;
pub mod store;
pub mod watch;
