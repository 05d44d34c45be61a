//! Questions to a server of `probe serve`: does it answer within the time?

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

const QUESTION: &[u8] = b"probe";
/// What a large transfer carries there and back: many full segments, and one that is not.
const LARGE: usize = 60_000;

/// Dials once; prints the answer.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let &[how, target, ref rest @ ..] = arguments else {
        return Err("dial: tcp|udp|http|large|packet=SIZE and ADDRESS:PORT".to_owned());
    };
    let limit = Duration::from_millis(if rest.is_empty() {
        1_000
    } else {
        super::number("TIMEOUT_MS", rest.first())?
    });
    println!("{}", ask(how, target, limit)?);
    Ok(())
}

/// Dials many at once, `HOW:ADDRESS:PORT` each; prints a line each, in their order: `yes` and the answer, or `no` and the reason.
pub(crate) fn run_all(arguments: &[&str]) -> Result<(), String> {
    let (limit, questions) = arguments
        .split_first()
        .ok_or("dials: TIMEOUT_MS and HOW:ADDRESS:PORT each")?;
    let limit = Duration::from_millis(super::number("TIMEOUT_MS", Some(limit))?);
    let answers: Vec<String> = std::thread::scope(|scope| {
        let asked: Vec<_> = questions
            .iter()
            .map(|question| {
                scope.spawn(move || match question.split_once(':') {
                    Some((how, target)) => ask(how, target, limit),
                    None => Err(format!("dials: not HOW:ADDRESS:PORT: {question}")),
                })
            })
            .collect();
        let line = |answer: Result<String, String>| match answer {
            Ok(answer) => format!("yes {answer}"),
            Err(reason) => format!("no {reason}"),
        };
        asked
            .into_iter()
            .map(|thread| line(thread.join().unwrap_or(Err("panicked".to_owned()))))
            .collect()
    });
    for answer in answers {
        println!("{}", answer.replace('\n', " "));
    }
    Ok(())
}

fn ask(how: &str, target: &str, limit: Duration) -> Result<String, String> {
    let address: SocketAddr = target
        .parse()
        .map_err(|_parse| format!("dial: not an address and port: {target}"))?;
    let asked = match how.split_once('=') {
        Some(("packet", size)) => packet(address, super::number(how, Some(&size))?, limit),
        _ => match how {
            "tcp" => tcp(address, limit),
            "udp" => udp(address, limit),
            "http" => http(address, limit),
            "large" => large(address, limit),
            other => return Err(format!("dial: unknown protocol {other}")),
        },
    };
    let reply = asked.map_err(|error| format!("{how} {address}: {error}"))?;
    Ok(reply.trim_end().to_owned())
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

/// Sends and receives at once: neither end may fill its buffers before the other reads.
fn large(address: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let mut stream = connect(address, limit)?;
    let sent: Vec<u8> = (0..LARGE)
        .map(|place| u8::try_from(place % 251).unwrap_or_default())
        .collect();
    let mut writer = stream.try_clone()?;
    let mut received = vec![0_u8; sent.len()];
    let (written, read) = std::thread::scope(|scope| {
        let written = scope.spawn(|| writer.write_all(&sent));
        (written.join(), stream.read_exact(&mut received))
    });
    written.unwrap_or_else(|_panic| Err(std::io::Error::other("the writer panicked")))?;
    read?;
    if received == sent {
        Ok(format!("{} octets came back", sent.len()))
    } else {
        Err(std::io::Error::other("something else came back"))
    }
}

/// One packet of `size` octets, IP header included, there and back. It is sent whole: a socket of the kernel's default kind sets
/// "don't fragment" on what fits its own device.
fn packet(address: SocketAddr, size: usize, limit: Duration) -> std::io::Result<String> {
    let headers = if address.is_ipv4() { 28 } else { 48 };
    let sent = vec![0x5a_u8; size.saturating_sub(headers)];
    let socket = connected(address, limit)?;
    socket.send(&sent)?;
    let mut answer = vec![0_u8; sent.len() + 1];
    let read = socket.recv(&mut answer)?;
    Ok(format!("{} octets came back", read + headers))
}

fn connected(address: SocketAddr, limit: Duration) -> std::io::Result<UdpSocket> {
    let any: SocketAddr = if address.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(limit))?;
    Ok(socket)
}

fn udp(address: SocketAddr, limit: Duration) -> std::io::Result<String> {
    let socket = connected(address, limit)?;
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
