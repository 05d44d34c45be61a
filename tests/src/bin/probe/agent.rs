//! Inside a guest: runs programs for `ask`, one per connection, in the guest itself or in one of its machines.

use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{ChildStdin, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::ask;
use crate::wire::{self, Start};

/// Serves until the guest ends.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let &[address] = arguments else {
        return Err("agent: ADDRESS:PORT".to_owned());
    };
    let address: SocketAddr = address
        .parse()
        .map_err(|_parse| format!("agent: not an address and port: {address}"))?;
    let listener =
        TcpListener::bind(address).map_err(|error| format!("agent: bind {address}: {error}"))?;
    println!("guest: the agent listens on {address}");
    for stream in listener.incoming().flatten() {
        // A client that breaks off takes its program along; nobody else is concerned.
        std::thread::spawn(move || drop(serve(stream)));
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let (kind, body) = wire::read(&mut stream)?;
    if kind != wire::START {
        return wire::write(&mut stream, wire::REFUSED, b"the first frame is no start");
    }
    let start = Start::parse(&body)?;
    let mut child = match command(&start).spawn() {
        Ok(child) => child,
        Err(error) => {
            let words = start.words.join(" ");
            let reason = format!("start {words} in the guest: {error}");
            return wire::write(&mut stream, wire::REFUSED, reason.as_bytes());
        }
    };
    let requests = stream.try_clone()?;
    let answers = Arc::new(Mutex::new(stream));
    let outputs = [
        child.stdout.take().map(|pipe| {
            let answers = Arc::clone(&answers);
            std::thread::spawn(move || drop(wire::pump(pipe, wire::OUTPUT, &answers)))
        }),
        child.stderr.take().map(|pipe| {
            let answers = Arc::clone(&answers);
            std::thread::spawn(move || drop(wire::pump(pipe, wire::ERRORS, &answers)))
        }),
    ];
    let (input, program) = (child.stdin.take(), child.id());
    let nested = start.machine != wire::WHOLE_GUEST;
    std::thread::spawn(move || listen(requests, input, program, nested));
    let ended = child.wait();
    for output in outputs.into_iter().flatten() {
        drop(output.join());
    }
    answer(&answers, ended)
}

fn answer(to: &Mutex<TcpStream>, ended: std::io::Result<ExitStatus>) -> std::io::Result<()> {
    let status = ended?;
    let code = status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(1);
    let mut stream = to.lock().unwrap_or_else(PoisonError::into_inner);
    wire::write(&mut *stream, wire::EXIT, &code.to_be_bytes())?;
    stream.shutdown(std::net::Shutdown::Both)
}

fn command(start: &Start) -> Command {
    let machine = start.machine.to_string();
    let entered = [
        "nsenter", "--target", &machine, "--net", "--mount", "--uts", "--pid", "--",
    ];
    let words = entered
        .into_iter()
        .filter(|_| start.machine != wire::WHOLE_GUEST)
        .chain(start.words.iter().map(String::as_str));
    let words: Vec<&str> = words.collect();
    let (program, arguments) = words
        .split_first()
        .map_or(("true", [].as_slice()), |both| (*both.0, both.1));
    let mut command = Command::new(program);
    command
        .args(arguments)
        .env_clear()
        .envs(start.environment.iter().map(|(key, value)| (key, value)))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    if Path::new(&start.directory).is_dir() {
        command.current_dir(&start.directory);
    }
    command
}

/// Feeds input and signals to the program; a client that has gone ends it.
fn listen(mut requests: TcpStream, mut input: Option<ChildStdin>, program: u32, nested: bool) {
    loop {
        match wire::read(&mut requests) {
            Ok((wire::INPUT, body)) if body.is_empty() => input = None,
            Ok((wire::INPUT, body)) => {
                // A program that has closed its input says why by its code.
                if let Some(pipe) = input.as_mut()
                    && pipe.write_all(&body).is_err()
                {
                    input = None;
                }
            }
            Ok((wire::SIGNAL, body)) => {
                if let Some(signal) = ask::signal(&body) {
                    deliver(program, nested, signal);
                }
            }
            Ok(_) | Err(_) => {
                deliver(program, nested, Signal::SIGKILL);
                return;
            }
        }
    }
}

/// To the program itself: where `nsenter` stands before it, to `nsenter`'s child.
fn deliver(program: u32, nested: bool, signal: Signal) {
    let place = format!("/proc/{program}/task/{program}/children");
    let inner = std::fs::read_to_string(place)
        .ok()
        .filter(|_| nested)
        .and_then(|line| line.split_whitespace().next()?.parse().ok());
    if let Ok(pid) = inner.map_or_else(|| i32::try_from(program), Ok) {
        // Already gone: nothing to deliver to.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}
