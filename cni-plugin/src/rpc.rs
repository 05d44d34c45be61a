//! The private wire between plugin and daemon: a Unix stream, one request, one reply, close.
//!
//! ```text
//!  0                   4                              4 + length
//!  +-------------------+------------------------------+
//!  | length, u32 BE    | protobuf message             |     length <= 1 MiB
//!  +-------------------+------------------------------+
//!    ▲ the sandbox's descriptor rides on the first byte of a request (SCM_RIGHTS)
//! ```
//!
//! The plugin opens `CNI_NETNS` itself, because the daemon shares no pid namespace with the host and cannot follow
//! `/proc/<pid>/ns/net`; the namespace that was checked is the one that is entered. Fields of messages are only ever added: a
//! daemon serves plugins two minor versions back and forward.

mod client;
mod frame;
mod message;
mod receive;
mod sys;

pub use client::{CONNECT_BOUND, CallError, call};
pub use frame::{Decoder, FrameError, MAX_FRAME, encode};
pub use message::{Error, PROTOCOL, Reply, Request, TraceContext};
pub use receive::{Incoming, ReceiveError, Received};
