//! A loopback port of the user's machine that leads to a port inside the lab, so that `kubectl` works from any shell
//! although no link of the fabric ends outside.
//!
//! The listening socket belongs to the outer namespace; the thread that serves it has moved into the inner one, so
//! what it opens belongs there. A socket keeps the namespace it was made in.

use std::fs::File;
use std::io::Write;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::command;

/// Forwards a free loopback port to `target` inside the network namespace of process `pid`; returns the port. It ends
/// with this process.
///
/// # Errors
/// No port is free, or the namespace cannot be entered.
pub fn open(pid: u32, target: SocketAddr) -> Result<u16> {
    // In a network namespace of its own, as test runners make it, a process finds its loopback down.
    command::run("ip", &["link", "set", "lo", "up"])?;
    let listener = TcpListener::bind("127.0.0.1:0").context("bind a loopback port")?;
    let port = listener
        .local_addr()
        .context("read the loopback port")?
        .port();
    let namespace =
        File::open(format!("/proc/{pid}/ns/net")).context("open the network namespace")?;
    let (entered, result) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("forward".into())
        .spawn(move || {
            let outcome = setns(namespace, CloneFlags::CLONE_NEWNET);
            let failed = outcome.is_err();
            let _ = entered.send(outcome);
            if !failed {
                serve(&listener, target);
            }
        })
        .context("start the forwarding thread")?;
    result
        .recv()
        .context("the forwarding thread ended")?
        .context("enter the network namespace")?;
    Ok(port)
}

fn serve(listener: &TcpListener, target: SocketAddr) {
    for client in listener.incoming().flatten() {
        // A thread starts in its parent's namespaces.
        std::thread::spawn(move || {
            // The client sees a refused server as a closed connection.
            let Ok(server) = TcpStream::connect(target) else {
                return;
            };
            let (Ok(from_client), Ok(to_server)) = (client.try_clone(), server.try_clone()) else {
                return;
            };
            std::thread::spawn(move || copy(from_client, to_server));
            copy(server, client);
        });
    }
}

fn copy(mut from: TcpStream, mut to: TcpStream) {
    drop(std::io::copy(&mut from, &mut to));
    drop(to.flush());
    drop(to.shutdown(Shutdown::Write));
}
