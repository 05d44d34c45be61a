//! Numbered messages at a steady rate to an echo server, counted on their return: what a flow lost, saw twice, and how
//! long its longest silence was.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

/// Each message: its number, big-endian, and padding.
const SIZE: usize = 32;
/// How long the last answers may be under way.
const DRAIN: Duration = Duration::from_secs(2);

struct Count {
    sent: u64,
    received: u64,
    duplicated: u64,
    longest_gap: Duration,
    error: Option<String>,
}

#[derive(Clone, Copy)]
struct Pace {
    rate: u32,
    seconds: u64,
}

/// Runs the flows asked for side by side and prints one JSON object, protocol → counts.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let (&target, rest) = arguments.split_first().ok_or("flow: ADDRESS")?;
    let address: IpAddr = target
        .parse()
        .map_err(|_parse| format!("flow: not an address: {target}"))?;
    let (mut tcp_port, mut udp_port, mut pace) = (
        None,
        None,
        Pace {
            rate: 1_000,
            seconds: 10,
        },
    );
    let mut iterator = rest.iter();
    while let Some(flag) = iterator.next() {
        match *flag {
            "--tcp" => tcp_port = Some(super::number::<u16>(flag, iterator.next())?),
            "--udp" => udp_port = Some(super::number::<u16>(flag, iterator.next())?),
            "--rate" => pace.rate = super::number(flag, iterator.next())?,
            "--seconds" => pace.seconds = super::number(flag, iterator.next())?,
            other => return Err(format!("flow: unknown flag {other}")),
        }
    }
    if pace.rate == 0 {
        return Err("flow: --rate must be at least 1".to_owned());
    }
    let mut flows = Vec::new();
    if let Some(port) = tcp_port {
        flows.push((
            "tcp",
            std::thread::spawn(move || tcp(SocketAddr::new(address, port), pace)),
        ));
    }
    if let Some(port) = udp_port {
        flows.push((
            "udp",
            std::thread::spawn(move || udp(SocketAddr::new(address, port), pace)),
        ));
    }
    let mut parts = Vec::new();
    for (name, flow) in flows {
        let count = flow
            .join()
            .map_err(|_panic| format!("flow: {name} panicked"))?;
        parts.push(format!("\"{name}\":{}", render(&count)));
    }
    println!("{{{}}}", parts.join(","));
    Ok(())
}

fn render(count: &Count) -> String {
    let error = count.error.as_ref().map_or("null".to_owned(), |text| {
        format!("\"{}\"", text.replace(['"', '\\'], "'"))
    });
    format!(
        "{{\"sent\":{},\"received\":{},\"lost\":{},\"duplicated\":{},\"longest_gap_ms\":{},\"error\":{error}}}",
        count.sent,
        count.received,
        count.sent.saturating_sub(count.received),
        count.duplicated,
        count.longest_gap.as_millis(),
    )
}

/// How long a full buffer may stand still before the flow counts as broken.
const STUCK: Duration = Duration::from_secs(5);

/// Sends on the pace; returns how many went out and the error that ended it early.
fn send(pace: Pace, mut out: impl FnMut(&[u8]) -> std::io::Result<()>) -> (u64, Option<String>) {
    let start = Instant::now();
    let total = u64::from(pace.rate) * pace.seconds;
    for number in 0..total {
        // Whole microseconds: exact up to a million messages a second, and an hour at that.
        let due = Duration::from_micros(number * 1_000_000 / u64::from(pace.rate));
        if let Some(wait) = due.checked_sub(start.elapsed()) {
            std::thread::sleep(wait);
        }
        let mut message = [0_u8; SIZE];
        if let Some(head) = message.first_chunk_mut() {
            *head = number.to_be_bytes();
        }
        if let Err(error) = out(&message) {
            return (number, Some(format!("send {number}: {error}")));
        }
    }
    (total, None)
}

/// Reads messages with `next` until all came, `next` fails, or the drain time after the pace is over.
fn receive(pace: Pace, mut next: impl FnMut(&mut [u8]) -> std::io::Result<()>) -> Count {
    let start = Instant::now();
    let total = u64::from(pace.rate) * pace.seconds;
    let until = Duration::from_secs(pace.seconds) + DRAIN;
    let mut seen = vec![false; usize::try_from(total).unwrap_or(usize::MAX)];
    let mut count = Count {
        sent: 0,
        received: 0,
        duplicated: 0,
        longest_gap: Duration::ZERO,
        error: None,
    };
    let mut last = start;
    while count.received < total && start.elapsed() < until {
        let mut message = [0_u8; SIZE];
        match next(&mut message) {
            Ok(()) => {}
            // The read timeout: look at the clock again.
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                continue;
            }
            // An ICMP error on the UDP socket: the message counts as lost, the flow goes on.
            Err(error)
                if error.kind() == ErrorKind::ConnectionRefused
                    || error.kind() == ErrorKind::HostUnreachable =>
            {
                continue;
            }
            Err(error) => {
                count.error = Some(format!("receive: {error}"));
                break;
            }
        }
        let now = Instant::now();
        count.longest_gap = count.longest_gap.max(now.duration_since(last));
        last = now;
        let number = message
            .first_chunk()
            .map_or(u64::MAX, |head| u64::from_be_bytes(*head));
        match usize::try_from(number)
            .ok()
            .and_then(|index| seen.get_mut(index))
        {
            Some(again) if *again => count.duplicated += 1,
            Some(first) => {
                *first = true;
                count.received += 1;
            }
            None => count.error = Some(format!("receive: unknown number {number}")),
        }
    }
    // The silence that lasted until the end of the pace counts as well; the time given to the last answers does not.
    if count.received < total {
        let paced = Duration::from_secs(pace.seconds);
        count.longest_gap = count
            .longest_gap
            .max(paced.saturating_sub(last.duration_since(start)));
    }
    count
}

fn failed(error: &std::io::Error) -> Count {
    Count {
        sent: 0,
        received: 0,
        duplicated: 0,
        longest_gap: Duration::ZERO,
        error: Some(format!("connect: {error}")),
    }
}

fn both(
    pace: Pace,
    out: impl FnMut(&[u8]) -> std::io::Result<()> + Send + 'static,
    next: impl FnMut(&mut [u8]) -> std::io::Result<()>,
) -> Count {
    let sender = std::thread::spawn(move || send(pace, out));
    let mut count = receive(pace, next);
    let (sent, error) = sender
        .join()
        .unwrap_or((0, Some("the sender panicked".to_owned())));
    count.sent = sent;
    count.error = count.error.or(error);
    count
}

fn tcp(address: SocketAddr, pace: Pace) -> Count {
    let opened = TcpStream::connect_timeout(&address, Duration::from_secs(2)).and_then(|stream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(Duration::from_millis(100)))?;
        // A flow that is cut fills its buffer: that is its end, not the end of hearing from it.
        stream.set_write_timeout(Some(STUCK))?;
        Ok((stream.try_clone()?, stream))
    });
    match opened {
        Err(error) => failed(&error),
        Ok((mut writer, mut reader)) => {
            let (mut kept, mut have) = ([0_u8; SIZE], 0_usize);
            both(
                pace,
                move |message| writer.write_all(message),
                // A timeout may come between two parts of a message: what has come stays in `kept`.
                move |message| {
                    while have < SIZE {
                        let read = reader.read(kept.get_mut(have..).unwrap_or_default())?;
                        if read == 0 {
                            return Err(ErrorKind::UnexpectedEof.into());
                        }
                        have += read;
                    }
                    have = 0;
                    message.copy_from_slice(&kept);
                    Ok(())
                },
            )
        }
    }
}

fn udp(address: SocketAddr, pace: Pace) -> Count {
    let any: SocketAddr = if address.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0_u16; 8], 0).into()
    };
    let opened = UdpSocket::bind(any).and_then(|socket| {
        super::widen(&socket);
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        Ok((socket.try_clone()?, socket))
    });
    match opened {
        Err(error) => failed(&error),
        Ok((writer, reader)) => both(
            pace,
            // A send refused by an ICMP error or a full queue is a lost message, not the end of the flow.
            move |message| {
                drop(writer.send(message));
                Ok(())
            },
            move |message| reader.recv(message).map(drop),
        ),
    }
}
