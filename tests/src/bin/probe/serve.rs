//! Servers: TCP echo, UDP echo, and HTTP that answers who serves and who asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};

/// Serves on all given ports until SIGTERM or SIGINT.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let signals = super::stop_signals();
    let mut iterator = arguments.iter();
    while let Some(flag) = iterator.next() {
        let port: u16 = super::number(flag, iterator.next())?;
        match *flag {
            "--tcp" => accept(port, echo)?,
            "--http" => accept(port, answer)?,
            "--udp" => reflect(port)?,
            other => return Err(format!("serve: unknown flag {other}")),
        }
    }
    println!("serving as {}", host_name());
    signals
        .wait()
        .map(drop)
        .map_err(|error| format!("wait for a signal: {error}"))
}

/// Binds `[::]`, which takes IPv4 as well, or `0.0.0.0` on a machine without IPv6.
fn both_families<T>(
    port: u16,
    bind: impl Fn(SocketAddr) -> std::io::Result<T>,
) -> Result<T, String> {
    bind((Ipv6Addr::UNSPECIFIED, port).into())
        .or_else(|_no_ipv6| bind((Ipv4Addr::UNSPECIFIED, port).into()))
        .map_err(|error| format!("bind port {port}: {error}"))
}

fn accept(port: u16, handle: fn(TcpStream) -> std::io::Result<()>) -> Result<(), String> {
    let listener = both_families(port, TcpListener::bind)?;
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            // A client that breaks off is its own business.
            std::thread::spawn(move || drop(handle(stream)));
        }
    });
    Ok(())
}

fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0_u8; 65_536];
    loop {
        let read = stream.read(&mut buffer)?;
        if read == 0 {
            return Ok(());
        }
        stream.write_all(buffer.get(..read).unwrap_or_default())?;
    }
}

/// One request, one answer, one line: `HOST NAME PEER ADDRESS`.
fn answer(stream: TcpStream) -> std::io::Result<()> {
    let peer = plain(stream.peer_addr()?);
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    // The header ends with an empty line; a body is not awaited.
    while reader.read_line(&mut line)? > 2 {
        line.clear();
    }
    let body = format!("{} {peer}\n", host_name());
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    reader.get_mut().write_all((head + &body).as_bytes())
}

fn reflect(port: u16) -> Result<(), String> {
    let socket = both_families(port, UdpSocket::bind)?;
    super::widen(&socket);
    std::thread::spawn(move || {
        let mut buffer = vec![0_u8; 65_536];
        loop {
            // An ICMP error of an earlier answer arrives here as an error of the next receive: not the end of serving.
            if let Ok((read, peer)) = socket.recv_from(&mut buffer) {
                drop(socket.send_to(buffer.get(..read).unwrap_or_default(), peer));
            }
        }
    });
    Ok(())
}

/// The peer without the `::ffff:` that an IPv4 client shows on a socket for both families.
fn plain(peer: SocketAddr) -> SocketAddr {
    SocketAddr::new(peer.ip().to_canonical(), peer.port())
}

fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map_or_else(|_| "unknown".to_owned(), |name| name.trim().to_owned())
}
