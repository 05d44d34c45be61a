//! Runs a program inside a guest as if it ran here: input, output, signals and exit code go over the wire.

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::wire::{self, Start};

/// `ask ADDRESS:PORT FIRST-PROCESS WORDS...`. Ends with the program's own code.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let &[address, machine, ref words @ ..] = arguments else {
        return Err("ask: ADDRESS:PORT, FIRST-PROCESS and what to run".to_owned());
    };
    let address: SocketAddr = address
        .parse()
        .map_err(|_parse| format!("ask: not an address and port: {address}"))?;
    let machine = machine
        .parse()
        .map_err(|_parse| format!("ask: not a process: {machine}"))?;
    // Before any thread starts: all of them leave these signals to the one that waits for them.
    let signals = super::stop_signals();
    let failed = |error: std::io::Error| format!("ask {address}: {error}");
    let stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).map_err(failed)?;
    stream.set_nodelay(true).map_err(failed)?;
    let mut answers = stream.try_clone().map_err(failed)?;
    let stream = Arc::new(Mutex::new(stream));
    let start = Start {
        machine,
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        environment: std::env::vars().collect(),
        directory: std::env::current_dir().map_or_else(
            |_gone| "/".to_owned(),
            |place| place.to_string_lossy().into_owned(),
        ),
    };
    send(&stream, wire::START, &start.render()).map_err(failed)?;
    let input = Arc::clone(&stream);
    // A program that ends without reading all of its input ends the connection: no error of ours.
    std::thread::spawn(move || drop(wire::pump(std::io::stdin(), wire::INPUT, &input)));
    std::thread::spawn(move || {
        while let Ok(signal) = signals.wait() {
            drop(send(&stream, wire::SIGNAL, &(signal as i32).to_be_bytes()));
        }
    });
    loop {
        let (kind, body) = wire::read(&mut answers).map_err(failed)?;
        match kind {
            wire::OUTPUT => show(&mut std::io::stdout(), &body),
            wire::ERRORS => show(&mut std::io::stderr(), &body),
            wire::EXIT => std::process::exit(number(&body).unwrap_or(1)),
            wire::REFUSED => return Err(String::from_utf8_lossy(&body).into_owned()),
            other => return Err(format!("ask {address}: unknown frame {other}")),
        }
    }
}

/// A reader that has gone away is no reason to break off the program.
fn show(place: &mut impl Write, body: &[u8]) {
    drop(place.write_all(body).and_then(|()| place.flush()));
}

fn send(stream: &Mutex<TcpStream>, kind: u8, body: &[u8]) -> std::io::Result<()> {
    let mut stream = stream.lock().unwrap_or_else(PoisonError::into_inner);
    wire::write(&mut *stream, kind, body)
}

/// The number in the body of a [`wire::EXIT`] or [`wire::SIGNAL`].
pub(crate) fn number(body: &[u8]) -> Option<i32> {
    body.try_into().ok().map(i32::from_be_bytes)
}

/// The signal in the body of a [`wire::SIGNAL`].
pub(crate) fn signal(body: &[u8]) -> Option<Signal> {
    Signal::try_from(number(body)?).ok()
}
