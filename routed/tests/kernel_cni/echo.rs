//! Packets between namespaces, sent and answered by this program.

use std::fs::File;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sched::{CloneFlags, setns};

use crate::exec::Sandbox;

const PORT: u16 = 7;

/// Runs `work` on a thread inside the namespace at `path`; here when there is none.
fn inside<T: Send + 'static>(
    path: Option<String>,
    work: impl FnOnce() -> T + Send + 'static,
) -> JoinHandle<T> {
    thread::spawn(move || {
        if let Some(path) = path {
            setns(File::open(path).unwrap(), CloneFlags::CLONE_NEWNET).unwrap();
        }
        work()
    })
}

/// Answers every datagram inside a sandbox until it is dropped.
pub(crate) struct Echo {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Echo {
    pub(crate) fn start(sandbox: &Sandbox) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&stop);
        let (ready, bound) = std::sync::mpsc::sync_channel(1);
        let thread = inside(Some(sandbox.path()), move || {
            let socket = UdpSocket::bind(("0.0.0.0", PORT)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
            ready.send(()).unwrap();
            let mut bytes = [0; 64];
            while !told.load(Ordering::Relaxed) {
                if let Ok((length, from)) = socket.recv_from(&mut bytes) {
                    socket.send_to(&bytes[..length], from).unwrap();
                }
            }
        });
        bound.recv().unwrap();
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// Sends `count` datagrams from the namespace at `path`, `pause` apart; how many were answered within a second each.
pub(crate) fn probe(path: &str, target: &str, count: u32, pause: Duration) -> u32 {
    send(Some(path.to_owned()), target.to_owned(), count, pause)
}

/// True when one datagram is answered; from the node itself when there is no sandbox.
pub(crate) fn reaches(from: Option<&Sandbox>, target: &str) -> bool {
    send(
        from.map(Sandbox::path),
        target.to_owned(),
        1,
        Duration::ZERO,
    ) == 1
}

fn send(path: Option<String>, target: String, count: u32, pause: Duration) -> u32 {
    let sender = inside(path, move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(1)))
            .unwrap();
        let mut answered = 0;
        for number in 0..count {
            let sent = socket.send_to(&number.to_be_bytes(), (target.as_str(), PORT));
            let mut bytes = [0; 64];
            if sent.is_ok()
                && socket
                    .recv_from(&mut bytes)
                    .is_ok_and(|(length, _)| bytes[..length] == number.to_be_bytes())
            {
                answered += 1;
            }
            thread::sleep(pause);
        }
        answered
    });
    sender.join().unwrap()
}
