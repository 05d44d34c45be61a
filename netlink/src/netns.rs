//! Network namespaces: entering one on a thread of its own, without a fork.
//!
//! A netlink socket, a path below `/proc/sys/net` and a device index all belong to the namespace of the thread that opened or
//! named them. So work inside another namespace runs on a thread that is made for it and ends with it: no worker thread of a
//! runtime ever changes its namespace, and nothing has to be restored.

use std::os::fd::{AsFd, OwnedFd};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::stat::{Mode, fstat};

/// Why a namespace could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No thread could be started.
    #[error("start a thread for a network namespace: {0}")]
    Thread(std::io::Error),
    /// The thread panicked.
    #[error("the thread inside the network namespace panicked")]
    Panicked,
    /// The descriptor is no network namespace, or entering is not allowed.
    #[error("enter the network namespace: {}", .0.desc())]
    Enter(Errno),
    /// No namespace could be made.
    #[error("make a network namespace: {}", .0.desc())]
    Create(Errno),
    /// The thread's own namespace could not be opened.
    #[error("open the thread's network namespace: {}", .0.desc())]
    Open(Errno),
}

impl NetnsError {
    /// True when the descriptor given was not a network namespace.
    pub fn is_not_a_namespace(&self) -> bool {
        matches!(self, Self::Enter(Errno::EINVAL))
    }
}

/// Identity of a namespace: two descriptors name the same one exactly when these are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NetnsId {
    /// Device of the namespace file system.
    pub device: u64,
    /// Inode on it.
    pub inode: u64,
}

/// Runs `work` inside the namespace, on a thread that exists for it alone. Blocks until it is done.
///
/// # Errors
/// [`NetnsError::Enter`] when the descriptor is no network namespace or the process lacks `SYS_ADMIN`.
pub fn run_in<T: Send>(netns: impl AsFd, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
    let netns = netns.as_fd();
    on_own_thread(move || {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(NetnsError::Enter)?;
        Ok(work())
    })
}

/// Makes a namespace that lives as long as the descriptor (or anything inside it) does.
///
/// # Errors
/// [`NetnsError::Create`] without `SYS_ADMIN` or when the limit of namespaces is reached.
pub fn create() -> Result<OwnedFd, NetnsError> {
    on_own_thread(|| {
        unshare(CloneFlags::CLONE_NEWNET).map_err(NetnsError::Create)?;
        current()
    })
}

/// The calling thread's namespace.
///
/// # Errors
/// [`NetnsError::Open`] when `/proc` is not there.
pub fn current() -> Result<OwnedFd, NetnsError> {
    open(
        "/proc/thread-self/ns/net",
        OFlag::O_RDONLY | OFlag::O_CLOEXEC,
        Mode::empty(),
    )
    .map_err(NetnsError::Open)
}

/// A descriptor of one's own for a namespace.
///
/// # Errors
/// [`NetnsError::Open`] when the process has no descriptor left.
pub fn keep(netns: impl AsFd) -> Result<OwnedFd, NetnsError> {
    let kept = netns.as_fd().try_clone_to_owned();
    kept.map_err(|error| {
        NetnsError::Open(
            error
                .raw_os_error()
                .map_or(Errno::UnknownErrno, Errno::from_raw),
        )
    })
}

/// Identity of the namespace behind a descriptor.
///
/// # Errors
/// [`NetnsError::Open`] when the descriptor cannot be examined.
pub fn identify(netns: impl AsFd) -> Result<NetnsId, NetnsError> {
    let stat = fstat(netns).map_err(NetnsError::Open)?;
    Ok(NetnsId {
        device: stat.st_dev,
        inode: stat.st_ino,
    })
}

fn on_own_thread<T: Send>(
    work: impl FnOnce() -> Result<T, NetnsError> + Send,
) -> Result<T, NetnsError> {
    thread::scope(|scope| {
        thread::Builder::new()
            .name("netns".into())
            .spawn_scoped(scope, work)
            .map_err(NetnsError::Thread)?
            .join()
            .unwrap_or(Err(NetnsError::Panicked))
    })
}
