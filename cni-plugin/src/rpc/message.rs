//! The two messages.

use crate::spec::{Code, Environment, Failure};

/// Version of the messages; raised only when an old daemon must refuse.
pub const PROTOCOL: u32 = 1;

/// One exec of the plugin, unparsed.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Request {
    /// [`PROTOCOL`] of the sender.
    #[prost(uint32, tag = "1")]
    pub protocol: u32,
    /// `CNI_COMMAND`.
    #[prost(string, tag = "2")]
    pub command: String,
    /// `CNI_CONTAINERID`.
    #[prost(string, tag = "3")]
    pub container_id: String,
    /// `CNI_NETNS`, as text; the descriptor comes beside the frame.
    #[prost(string, tag = "4")]
    pub netns: String,
    /// `CNI_IFNAME`.
    #[prost(string, tag = "5")]
    pub ifname: String,
    /// `CNI_ARGS`.
    #[prost(string, tag = "6")]
    pub args: String,
    /// `CNI_PATH`.
    #[prost(string, tag = "7")]
    pub path: String,
    /// The network configuration, byte for byte.
    #[prost(bytes = "vec", tag = "8")]
    pub stdin: Vec<u8>,
    /// Version of the plugin's build.
    #[prost(string, tag = "9")]
    pub plugin_version: String,
    /// Milliseconds the plugin still waits.
    #[prost(uint32, tag = "10")]
    pub deadline_ms: u32,
    /// W3C trace context of the runtime, if it gave one.
    #[prost(message, optional, tag = "11")]
    pub trace: Option<TraceContext>,
}

/// `TRACEPARENT`, `TRACESTATE`, `BAGGAGE`.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct TraceContext {
    /// `TRACEPARENT`.
    #[prost(string, tag = "1")]
    pub parent: String,
    /// `TRACESTATE`.
    #[prost(string, tag = "2")]
    pub state: String,
    /// `BAGGAGE`.
    #[prost(string, tag = "3")]
    pub baggage: String,
}

/// The daemon's answer: either what to print, or why not.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Reply {
    /// Ready-made stdout of a success.
    #[prost(bytes = "vec", tag = "1")]
    pub stdout: Vec<u8>,
    /// Present when the call failed.
    #[prost(message, optional, tag = "2")]
    pub error: Option<Error>,
    /// Id of the daemon's span, for its log.
    #[prost(string, tag = "3")]
    pub span: String,
}

/// A [`Failure`] on the wire.
#[derive(Clone, PartialEq, Eq, Hash, prost::Message)]
pub struct Error {
    /// [`Code::number`].
    #[prost(uint32, tag = "1")]
    pub code: u32,
    /// One sentence.
    #[prost(string, tag = "2")]
    pub msg: String,
    /// Causes.
    #[prost(string, tag = "3")]
    pub details: String,
}

impl Request {
    /// Frames an exec.
    pub fn new(environment: &Environment, stdin: &[u8]) -> Self {
        Self {
            protocol: PROTOCOL,
            command: environment.command.clone(),
            container_id: environment.container_id.clone(),
            netns: environment.netns.clone(),
            ifname: environment.ifname.clone(),
            args: environment.args.clone(),
            path: environment.path.clone(),
            stdin: stdin.to_vec(),
            plugin_version: crate::BUILD.to_owned(),
            deadline_ms: 0,
            trace: None,
        }
    }

    /// The environment it carries.
    pub fn environment(&self) -> Environment {
        Environment {
            command: self.command.clone(),
            container_id: self.container_id.clone(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            path: self.path.clone(),
        }
    }
}

impl Reply {
    /// A success that prints `stdout`.
    pub fn success(stdout: Vec<u8>) -> Self {
        Self {
            stdout,
            error: None,
            span: String::new(),
        }
    }

    /// A failure.
    pub fn failure(failure: &Failure) -> Self {
        Self {
            stdout: Vec::new(),
            error: Some(Error {
                code: failure.code.number(),
                msg: failure.msg.clone(),
                details: failure.details.clone(),
            }),
            span: String::new(),
        }
    }

    /// What it says.
    ///
    /// # Errors
    /// The failure it carries.
    pub fn into_result(self) -> Result<Vec<u8>, Failure> {
        match self.error {
            None => Ok(self.stdout),
            Some(error) => Err(Failure {
                code: Code::from_number(error.code),
                msg: error.msg,
                details: error.details,
            }),
        }
    }
}
