//! One peer's state machine.

mod state;

pub use state::{ConnId, DownReason, SessionGen, State};
