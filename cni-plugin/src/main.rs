//! `margay`: the plugin a container runtime executes. Environment and stdin → one request → stdout.
//!
//! VERSION and every error of the border are answered here; all else is the daemon's answer. Nothing is printed on stdout but
//! the answer; what a person may want to know beside it goes to stderr.
#![expect(
    clippy::disallowed_methods,
    reason = "the plugin's inputs are its environment and a namespace path"
)]

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use cni_plugin::rpc::{CallError, Request, TraceContext, call};
use cni_plugin::spec::{
    Code, Config, Environment, Failure, MAX_STDIN, Verb, Version, version_answer,
};
use cni_plugin::{BUILD, DEFAULT_SOCKET, is_network_namespace, spool};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// How long stdin may stay silent.
const STDIN_BOUND: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let lookup = |name: &str| std::env::var_os(name);
    if lookup("CNI_COMMAND").is_none_or(|command| command.is_empty()) {
        return print(
            format!("Margay CNI plugin {BUILD}: executed by a container runtime, not by hand\n")
                .as_bytes(),
            true,
        );
    }
    let mut version = Version::NEWEST;
    match answer(lookup, &mut version) {
        Ok(stdout) => print(&stdout, true),
        Err(failure) => {
            note(&failure.msg, &failure.details);
            print(failure.render(version).to_string().as_bytes(), false)
        }
    }
}

/// Answers one exec; `version` becomes the one errors are to be rendered in.
fn answer(
    lookup: impl Fn(&str) -> Option<OsString>,
    version: &mut Version,
) -> Result<Vec<u8>, Failure> {
    let environment = Environment::read(&lookup)?;
    let verb = Verb::parse(&environment.command)?;
    let stdin = read_stdin()?;
    if verb == Verb::Version {
        return Ok(version_answer(&stdin).to_string().into_bytes());
    }
    let (asked, socket) = Config::peek(&stdin);
    *version = asked;
    environment.check(verb)?;
    Config::parse(&stdin, verb)?;
    let socket = PathBuf::from(socket.unwrap_or_else(|| DEFAULT_SOCKET.to_owned()));
    let sandbox = open_sandbox(verb, &environment.netns)?;
    let mut request = Request::new(&environment, &stdin);
    request.trace = trace_context(&lookup);
    let reply = call(
        &socket,
        request.clone(),
        sandbox.as_ref().map(AsFd::as_fd),
        verb.deadline(),
    );
    match reply {
        Ok(reply) => reply.into_result(),
        Err(error) => without_daemon(verb, &socket, &request, &error),
    }
}

/// What each verb says when no daemon answered.
fn without_daemon(
    verb: Verb,
    socket: &Path,
    request: &Request,
    error: &CallError,
) -> Result<Vec<u8>, Failure> {
    match verb {
        Verb::Del => {
            match spool::leave(socket, request) {
                Ok(path) => note(
                    "the daemon is away; the release waits for it",
                    path.display(),
                ),
                Err(cause) => note(
                    "the daemon is away; the release is left to its journal",
                    cause,
                ),
            }
            Ok(Vec::new())
        }
        Verb::Status => match spool::last_beat(socket) {
            Some((last, age)) if age < spool::FRESH => last.into_result(),
            Some(_) | None => Err(Failure::new(
                Code::LimitedConnectivity,
                "the Margay daemon of this node does not answer: look at its pod on this node",
            )
            .because(error)),
        },
        Verb::Add | Verb::Check | Verb::Gc | Verb::Version => Err(Failure::new(
            Code::TryAgainLater,
            "the Margay daemon of this node does not answer: the call can be repeated once it runs",
        )
        .because(error)),
    }
}

/// Opens the sandbox once, so that what is checked is what the daemon enters. DEL and CHECK go on without one that is gone.
fn open_sandbox(verb: Verb, path: &str) -> Result<Option<File>, Failure> {
    if path.is_empty() || !verb.names_an_attachment() {
        return Ok(None);
    }
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && verb != Verb::Add => {
            return Ok(None);
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Failure::new(
                Code::UnknownContainer,
                format!("the sandbox {path} does not exist"),
            )
            .because(error));
        }
        Err(error) => {
            return Err(
                Failure::new(Code::Io, format!("the sandbox {path} cannot be opened"))
                    .because(error),
            );
        }
    };
    let right_kind = is_network_namespace(file.as_fd()).map_err(|error| {
        Failure::new(Code::Io, format!("the sandbox {path} cannot be read")).because(error)
    })?;
    if right_kind {
        return Ok(Some(file));
    }
    if verb == Verb::Del {
        // What a runtime leaves after the namespace was unmounted: an empty file. There is nothing to detach from.
        return Ok(None);
    }
    Err(Failure::new(
        Code::InvalidEnvironment,
        format!("CNI_NETNS {path} is not a network namespace"),
    ))
}

fn trace_context(lookup: &impl Fn(&str) -> Option<OsString>) -> Option<TraceContext> {
    let text = |name: &str| {
        lookup(name)
            .and_then(|value| value.into_string().ok())
            .filter(|value| value.len() <= 8192)
    };
    Some(TraceContext {
        parent: text("TRACEPARENT")?,
        state: text("TRACESTATE").unwrap_or_default(),
        baggage: text("BAGGAGE").unwrap_or_default(),
    })
}

/// Reads stdin to its end, bounded in size and time, so that a runtime that forgets to close it meets an error and no hang.
fn read_stdin() -> Result<Vec<u8>, Failure> {
    let broken = |error: io::Error| Failure::new(Code::Io, "stdin cannot be read").because(error);
    let stdin = io::stdin();
    let end = Instant::now() + STDIN_BOUND;
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1024];
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::ZERO);
        let mut waiting = [PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        if poll(&mut waiting, timeout).map_err(|error| broken(error.into()))? == 0 {
            return Err(Failure::new(
                Code::Io,
                "stdin was not closed: the network configuration never ended",
            ));
        }
        let read = stdin.lock().read(&mut chunk).map_err(broken)?;
        if read == 0 {
            return Ok(bytes);
        }
        bytes.extend_from_slice(chunk.get(..read).unwrap_or_default());
        if bytes.len() > MAX_STDIN {
            return Err(Failure::new(
                Code::Decode,
                format!("the network configuration is longer than {MAX_STDIN} bytes"),
            ));
        }
    }
}

fn print(stdout: &[u8], success: bool) -> ExitCode {
    let mut out = io::stdout().lock();
    let written = out.write_all(stdout).and_then(|()| out.flush());
    match (written, success) {
        (Ok(()), true) => ExitCode::SUCCESS,
        (Ok(()), false) | (Err(_), _) => ExitCode::FAILURE,
    }
}

/// One line on stderr; a closed stderr is no reason to fail a call.
fn note(what: &str, why: impl std::fmt::Display) {
    let _closed = writeln!(
        io::stderr(),
        "margay[{}]: {what}: {why}",
        std::process::id()
    );
}
