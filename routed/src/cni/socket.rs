//! The Unix socket: who may ask, one request a connection, and what happens when the asker leaves.
#![expect(
    clippy::disallowed_methods,
    reason = "the socket is a file that is made under another name and renamed"
)]

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::rpc::{Incoming, ReceiveError, Received, Reply, encode};
use cni_plugin::spec::{Code, Failure, Verb};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};
use tracing::Instrument;

use super::call::Call;
use super::cancel::{Reason, Trip};
use super::server::{Answer, Server};

/// Connections at a time; a full node deletes 110 pods at once, with room for retries. More wait in the kernel's backlog.
const CONNECTIONS: usize = 256;
/// How long a request may take to arrive, and an answer to leave: both sit in socket buffers.
const TRANSFER: Duration = Duration::from_secs(2);
/// How often the loop shows that it turns.
const PULSE: Duration = Duration::from_secs(10);
/// How long a stopping daemon lets calls finish before it undoes them.
const FINISH: Duration = Duration::from_millis(2500);
/// How long it then waits for the undoing.
const UNDO: Duration = Duration::from_millis(2500);

/// Binds the socket under another name, closes it to others and puts it in place, so that no plugin meets a half-made one.
///
/// # Errors
/// The directory cannot be made or written.
pub(super) fn bind(path: &Path) -> io::Result<UnixListener> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory)?;
    }
    let temporary = path.with_extension("new");
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(&temporary)?;
    fs::set_permissions(&temporary, Permissions::from_mode(0o600))?;
    fs::rename(&temporary, path)?;
    Ok(listener)
}

/// Accepts until `stop` is true (or its sender is gone), then lets what runs end: first by itself, then by undoing. Calls `pulse`
/// now and then, to show that the loop turns.
pub(super) async fn accept(
    server: Arc<Server>,
    listener: UnixListener,
    mut stop: watch::Receiver<bool>,
    pulse: impl Fn(),
) {
    let mut pulses = interval(PULSE);
    let (stopping, _) = watch::channel(false);
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    let mut calls = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            _ = pulses.tick() => {
                pulse();
                continue;
            }
            Some(_) = calls.join_next(), if !calls.is_empty() => continue,
            accepted = next(&listener, &room) => accepted,
        };
        match accepted {
            Ok((stream, permit)) => {
                let (server, stopping) = (Arc::clone(&server), stopping.subscribe());
                calls.spawn(async move {
                    connection(&server, stream, stopping).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, for one: waiting is all that helps.
                tracing::warn!(%error, "connection was not accepted");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let drained = timeout(FINISH, async { while calls.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        stopping.send_replace(true);
        let _late = timeout(UNDO, async { while calls.join_next().await.is_some() {} }).await;
    }
}

async fn next(
    listener: &UnixListener,
    room: &Arc<Semaphore>,
) -> io::Result<(UnixStream, tokio::sync::OwnedSemaphorePermit)> {
    let permit = Arc::clone(room)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (stream, _) = listener.accept().await?;
    Ok((stream, permit))
}

async fn connection(server: &Server, stream: UnixStream, stopping: watch::Receiver<bool>) {
    match stream.peer_cred() {
        Ok(peer) if peer.uid() == 0 => {}
        Ok(peer) => {
            tracing::warn!(uid = peer.uid(), "only root may call");
            return;
        }
        Err(error) => {
            tracing::warn!(%error, "caller is unknown");
            return;
        }
    }
    let received = match timeout(TRANSFER, receive(&stream)).await {
        Ok(Ok(received)) => received,
        Ok(Err(ReceiveError::HungUp)) => return,
        Ok(Err(error)) => {
            let failure = Failure::new(Code::Decode, "the request is not one of a Margay plugin")
                .because(error);
            reply(stream, &Reply::failure(&failure)).await;
            return;
        }
        Err(_elapsed) => return,
    };
    match Call::parse(&received.request) {
        Ok(call) => {
            let span = tracing::info_span!("cni", verb = %call.verb, container = %call.id.container_id, pod = tracing::field::Empty);
            if let Some(pod) = call.pod_ref() {
                span.record("pod", tracing::field::display(pod));
            }
            perform(server, call, received, stream, stopping)
                .instrument(span)
                .await;
        }
        Err(failure) => reply(stream, &Reply::failure(&failure)).await,
    }
}

async fn receive(stream: &UnixStream) -> Result<Received, ReceiveError> {
    let mut incoming = Incoming::default();
    loop {
        stream.readable().await?;
        let mut broken = None;
        let received = stream.try_io(Interest::READABLE, || {
            match incoming.advance(stream.as_fd()) {
                Ok(received) => Ok(Some(received)),
                Err(ReceiveError::Socket(error)) => Err(error),
                Err(error) => {
                    broken = Some(error);
                    Ok(None)
                }
            }
        });
        match (received, broken) {
            (_, Some(error)) => return Err(error),
            (Ok(Some(received)), None) => return Ok(received),
            (Err(error), None) if error.kind() != io::ErrorKind::WouldBlock => {
                return Err(error.into());
            }
            (Ok(None) | Err(_), None) => {}
        }
    }
}

/// Runs a call while watching for reasons to end it. Only an ADD ends early: its half-way state is undone. A DEL runs on, also behind
/// its answer: the connection's task, which a stopping daemon waits for, carries it to the end.
async fn perform(
    server: &Server,
    call: Call,
    received: Received,
    stream: UnixStream,
    mut stopping: watch::Receiver<bool>,
) {
    let began = Instant::now();
    server.metrics().began();
    let asked = Duration::from_millis(u64::from(received.request.deadline_ms));
    let (trip, cancel) = Trip::new(if asked.is_zero() {
        call.verb.deadline()
    } else {
        asked.min(call.verb.deadline())
    });
    let outcome = {
        let work = server.serve(&call, received.sandbox, &trip, &cancel);
        tokio::pin!(work);
        let (mut left, mut told) = (false, false);
        loop {
            tokio::select! {
                biased;
                outcome = &mut work => break outcome,
                () = hung_up(&stream), if !left => {
                    left = true;
                    trip.trip(Reason::HungUp);
                }
                _ = stopping.wait_for(|stop| *stop), if !told => {
                    told = true;
                    trip.trip(Reason::Stopping);
                }
            }
        }
    };
    let code = outcome
        .as_ref()
        .map_or_else(|failure| failure.code.number(), |_| 0);
    server.metrics().ended(call.verb, code, began.elapsed());
    report(&call, &outcome, began.elapsed());
    match outcome {
        Err(failure) => reply(stream, &Reply::failure(&failure)).await,
        Ok(Answer {
            stdout,
            made,
            leaving,
        }) => {
            let taken = write(stream, &Reply::success(stdout)).await;
            if let (Err(_gone), Some(record)) = (taken, made) {
                server.unmake(record).await;
            }
            if let Some(leaving) = leaving {
                server.finish(leaving).await;
            }
        }
    }
}

fn report(call: &Call, outcome: &Result<Answer, Failure>, took: Duration) {
    let millis = took.as_secs_f64() * 1e3;
    match (call.verb, outcome) {
        (Verb::Add | Verb::Del | Verb::Gc, Ok(_)) => tracing::info!(millis, "done"),
        (Verb::Check | Verb::Status | Verb::Version, Ok(_)) => tracing::debug!(millis, "done"),
        (
            Verb::Add | Verb::Del | Verb::Check | Verb::Gc | Verb::Status | Verb::Version,
            Err(failure),
        ) => {
            tracing::warn!(millis, code = failure.code.number(), %failure, details = failure.details, "failed");
        }
    }
}

/// Returns once the peer has closed; a plugin sends nothing behind its request, so anything readable is the end.
async fn hung_up(stream: &UnixStream) {
    loop {
        if stream.readable().await.is_err() {
            return;
        }
        match stream.try_read(&mut [0; 64]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Ok(_) | Err(_) => return,
        }
    }
}

async fn reply(stream: UnixStream, reply: &Reply) {
    if let Err(error) = write(stream, reply).await {
        tracing::debug!(%error, "nobody took the answer");
    }
}

async fn write(mut stream: UnixStream, reply: &Reply) -> io::Result<()> {
    let bytes = encode(reply).map_err(io::Error::other)?;
    timeout(TRANSFER, stream.write_all(&bytes))
        .await
        .map_err(|_elapsed| io::ErrorKind::TimedOut)?
}
