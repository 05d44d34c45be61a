//! One daemon per node: whoever holds the lock acts, a second one waits and touches nothing.
#![expect(clippy::disallowed_methods, reason = "the lock is a file")]

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};

const RETRY: Duration = Duration::from_millis(500);

/// The right to act on this node; given back when dropped, also by a killed process.
#[derive(Debug)]
pub struct NodeLock {
    _file: Flock<File>,
}

/// Waits until no other daemon of this node holds the lock in `directory`, which is created if missing.
///
/// # Errors
/// The operating system's, with the path.
pub async fn acquire(directory: &Path) -> anyhow::Result<NodeLock> {
    fs::create_dir_all(directory)
        .with_context(|| format!("cannot create {}", directory.display()))?;
    let path = directory.join("routed.lock");
    let mut waiting = false;
    loop {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(file) => return Ok(NodeLock { _file: file }),
            Err((_, Errno::EWOULDBLOCK)) => {
                if !waiting {
                    waiting = true;
                    tracing::warn!(
                        lock = %path.display(),
                        "another daemon runs on this node; waiting for it to end, touching nothing"
                    );
                }
                tokio::time::sleep(RETRY).await;
            }
            Err((_, errno)) => {
                return Err(errno).with_context(|| format!("cannot lock {}", path.display()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_second_daemon_waits_until_the_first_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let first = acquire(directory.path()).await.unwrap();
        let second = tokio::time::timeout(RETRY * 2, acquire(directory.path())).await;
        assert!(second.is_err(), "two daemons hold one lock");
        drop(first);
        acquire(directory.path()).await.unwrap();
    }
}
