//! One question to a server of `probe serve`: does it answer within the time?

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const QUESTION: &[u8] = b"probe";

/// Dials once; prints the answer.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let &[how, target, ref rest @ ..] = arguments else {
        return Err("dial: tcp|udp|http and ADDRESS:PORT".to_owned());
    };
    let address: SocketAddr = target
        .parse()
        .map_err(|_parse| format!("dial: not an address and port: {target}"))?;
    let limit = Duration::from_millis(if rest.is_empty() {
        1_000
    } else {
        super::number("TIMEOUT_MS", rest.first())?
    });
    let asked = match how {
        "tcp" => tcp(address, limit),
        "udp" => udp(address, limit),
        "http" => http(address, limit),
        other => return Err(format!("dial: unknown protocol {other}")),
    };
    let reply = asked.map_err(|error| format!("{how} {address}: {error}"))?;
    println!("{}", reply.trim_end());
    Ok(())
}

fn connect(address: SocketAddr, limit: Duration) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&address, limit)?;
    stream.set_read_timeout(Some(limit))?;
    stream.set_write_timeout(Some(limit))?;
    Ok(stream)
}

fn tcp(address: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let mut stream = connect(address, limit)?;
    stream.write_all(QUESTION)?;
    let mut answer = [0_u8; QUESTION.len()];
    stream.read_exact(&mut answer)?;
    Ok(format!(
        "{} -> {}",
        stream.local_addr()?,
        stream.peer_addr()?
    ))
}

fn udp(address: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let any: SocketAddr = if address.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(limit))?;
    socket.send(QUESTION)?;
    let mut answer = [0_u8; QUESTION.len()];
    socket.recv(&mut answer)?;
    Ok(format!("{} -> {address}", socket.local_addr()?))
}

/// The body of the answer: `HOST NAME PEER ADDRESS`.
fn http(address: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let mut stream = connect(address, limit)?;
    write!(
        stream,
        "GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    stream.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (_head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| std::io::Error::other("the answer is no HTTP"))?;
    Ok(body.to_owned())
}
