//! A new conversation every millisecond: when the last one was let through. An established flow passes a new policy, so
//! a policy's moment is seen by new flows only.

use std::collections::VecDeque;
use std::net::{SocketAddr, UdpSocket};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How long an answer may take. Each conversation keeps a socket open that long.
const PATIENCE: Duration = Duration::from_millis(700);
const PACE: Duration = Duration::from_millis(1);

/// A datagram under way: when it was sent, on which socket.
struct Asked {
    sent: Instant,
    wall: u128,
    socket: UdpSocket,
}

#[derive(Default)]
struct Outcome {
    sent: u64,
    answered: u64,
    /// When the last datagram was sent that was answered, in microseconds of the Unix time.
    last_answered: u128,
    /// When the first datagram after it was sent.
    first_lost: Option<u128>,
}

/// `ADDRESS:PORT SECONDS FIRST-SOURCE-PORT`: prints `{"sent", "answered", "lost_from_us"}`; the last is the Unix time of the first datagram
/// after which none was answered, or null. Source ports go up by one: a port used again would be an established flow.
pub(crate) fn run(arguments: &[&str]) -> Result<(), String> {
    let &[target, seconds, first] = arguments else {
        return Err("fresh: ADDRESS:PORT SECONDS FIRST-SOURCE-PORT".to_owned());
    };
    let target: SocketAddr = target
        .parse()
        .map_err(|_parse| format!("fresh: not an address and port: {target}"))?;
    let seconds: u64 = super::number("SECONDS", Some(&seconds))?;
    let first: u16 = super::number("FIRST-SOURCE-PORT", Some(&first))?;
    let outcome = ask(target, Duration::from_secs(seconds), first..=u16::MAX)?;
    let from = outcome
        .first_lost
        .map_or("null".to_owned(), |at| at.to_string());
    println!(
        "{{\"sent\":{},\"answered\":{},\"lost_from_us\":{from}}}",
        outcome.sent, outcome.answered
    );
    Ok(())
}

fn ask(
    target: SocketAddr,
    time: Duration,
    mut ports: RangeInclusive<u16>,
) -> Result<Outcome, String> {
    let (start, mut outcome, mut under_way) = (Instant::now(), Outcome::default(), VecDeque::new());
    let mut due = start;
    while start.elapsed() < time || !under_way.is_empty() {
        if start.elapsed() < time {
            let port = ports.next().ok_or("fresh: no source port is left")?;
            let asked = send(port, target).map_err(|error| format!("fresh: {error}"))?;
            under_way.push_back(asked);
            outcome.sent += 1;
        }
        settle(&mut under_way, &mut outcome);
        due += PACE;
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
    }
    Ok(outcome)
}

fn send(port: u16, target: SocketAddr) -> std::io::Result<Asked> {
    let any: SocketAddr = if target.is_ipv4() {
        ([0; 4], port).into()
    } else {
        ([0_u16; 8], port).into()
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(target)?;
    socket.set_nonblocking(true)?;
    let wall = SystemTime::now().duration_since(UNIX_EPOCH);
    // What the kernel refuses to send is lost, as what it drops later is.
    drop(socket.send(b"fresh"));
    Ok(Asked {
        sent: Instant::now(),
        wall: wall.map_or(0, |wall| wall.as_micros()),
        socket,
    })
}

/// Judges the conversations that have had their time, in the order they began.
fn settle(under_way: &mut VecDeque<Asked>, outcome: &mut Outcome) {
    while under_way
        .front()
        .is_some_and(|asked| asked.sent.elapsed() >= PATIENCE)
    {
        let Some(asked) = under_way.pop_front() else {
            return;
        };
        if asked.socket.recv(&mut [0; 16]).is_ok() {
            outcome.answered += 1;
            outcome.last_answered = asked.wall;
            outcome.first_lost = None;
        } else if outcome.first_lost.is_none() && outcome.last_answered > 0 {
            outcome.first_lost = Some(asked.wall);
        }
    }
}
