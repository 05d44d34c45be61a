//! The program inside the lab's pods and the first process of its machines: it serves, dials, measures flows, and waits.
//!
//! It is static and small, so it is a whole container image by itself; outside of pods the lab runs it with `nsenter`.
#![expect(
    clippy::disallowed_methods,
    reason = "a test program: it acts on sockets, files and the clock"
)]
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "its output is its result"
)]

mod agent;
mod ask;
mod boot;
mod dial;
mod flow;
mod fresh;
mod init;
mod modules;
mod serve;
mod wire;

use std::process::ExitCode;

const USAGE: &str = "usage:
  probe serve [--tcp PORT]... [--udp PORT]... [--http PORT]...   echo TCP and UDP, answer HTTP with host name and peer
  probe dial tcp|udp|http|large|packet=SIZE ADDRESS:PORT [TIMEOUT_MS]   exit 0 and print the answer, or exit 1 and say why;
                                                                 large: 60 kB to a TCP echo, packet: one datagram of that size
  probe dials TIMEOUT_MS HOW:ADDRESS:PORT...                     many at once, a line each: yes and the answer, or no and why
  probe flow ADDRESS [--tcp PORT] [--udp PORT] [--rate N] [--seconds N]   numbered messages to an echo; prints JSON
  probe fresh ADDRESS:PORT SECONDS FIRST-SOURCE-PORT             a new UDP conversation each millisecond; prints JSON
  probe pause                                                    wait for a signal
  probe init ...                                                 first process of a machine of the lab
  probe boot ...                                                 first process of a guest kernel; also its `modprobe`
  probe agent ADDRESS:PORT                                       in a guest: runs programs for `ask`
  probe ask ADDRESS:PORT FIRST-PROCESS WORDS...                  runs a program in a guest, as if it ran here";

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    // The kernel of a guest calls the same file by another name.
    let called = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        rest if called.ends_with("/modprobe") => modules::probe(rest),
        ["serve", rest @ ..] => serve::run(rest),
        ["dial", rest @ ..] => dial::run(rest),
        ["dials", rest @ ..] => dial::run_all(rest),
        ["flow", rest @ ..] => flow::run(rest),
        ["fresh", rest @ ..] => fresh::run(rest),
        ["init", rest @ ..] => init::run(rest),
        ["boot", rest @ ..] => boot::run(rest),
        ["agent", rest @ ..] => agent::run(rest),
        ["ask", rest @ ..] => ask::run(rest),
        ["pause"] | [] => pause(),
        _ => Err(USAGE.to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(reason) => {
            eprintln!("{reason}");
            ExitCode::FAILURE
        }
    }
}

/// Waits for SIGTERM or SIGINT. As the first process of a pod nothing else would end it: the kernel delivers to a
/// namespace's first process only signals it has asked for.
fn pause() -> Result<(), String> {
    stop_signals()
        .wait()
        .map(drop)
        .map_err(|error| format!("wait for a signal: {error}"))
}

/// The signals that end a pod, blocked in this thread and in those it starts.
fn stop_signals() -> nix::sys::signal::SigSet {
    let mut set = nix::sys::signal::SigSet::empty();
    set.add(nix::sys::signal::Signal::SIGTERM);
    set.add(nix::sys::signal::Signal::SIGINT);
    if let Err(error) = set.thread_block() {
        eprintln!("block signals: {error}");
    }
    set
}

/// Gives a UDP socket room for two seconds of a flow, so that a busy machine is not taken for a lossy network. Without
/// the right to exceed the system's limit it gets that limit.
fn widen(socket: &std::net::UdpSocket) {
    use nix::sys::socket::{setsockopt, sockopt};
    const ROOM: usize = 4 << 20;
    if setsockopt(socket, sockopt::RcvBufForce, &ROOM).is_err() {
        let _ = setsockopt(socket, sockopt::RcvBuf, &ROOM);
    }
}

/// The value that follows a flag.
fn value<'a>(flag: &str, next: Option<&&'a str>) -> Result<&'a str, String> {
    next.copied().ok_or_else(|| format!("{flag} needs a value"))
}

/// A number that follows a flag.
fn number<T: std::str::FromStr>(flag: &str, next: Option<&&str>) -> Result<T, String> {
    let text = value(flag, next)?;
    text.parse()
        .map_err(|_parse| format!("{flag}: not a number: {text}"))
}
