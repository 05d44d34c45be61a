//! What plugin and daemon leave for each other in the directory of the socket when one of them is not there.
//!
//! - `spool/<hash of the key>`: a DEL that found no daemon, as the frame it would have sent; the daemon pays it at start. Best
//!   effort: the journal finds a lost one again.
//! - `heartbeat`: what STATUS last said, rewritten by the daemon while it lives. A plugin that finds no daemon repeats it while
//!   it is younger than [`FRESH`], so that an upgrade of two seconds does not empty a node.
#![expect(
    clippy::disallowed_methods,
    reason = "the plugin's only files, beside the socket"
)]

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use prost::Message;

use crate::rpc::{Reply, Request};

/// A heartbeat younger than this speaks for a daemon that does not answer.
pub const FRESH: Duration = Duration::from_secs(30);

/// Name of the spool directory, beside the socket.
pub const SPOOL: &str = "spool";

/// Name of the heartbeat file, beside the socket.
pub const HEARTBEAT: &str = "heartbeat";

/// The longest file read back, in bytes.
const LONGEST: u64 = 2 * 1024 * 1024;

/// Spools a DEL beside `socket`.
///
/// # Errors
/// The directory or file could not be written.
pub fn leave(socket: &Path, request: &Request) -> io::Result<PathBuf> {
    let directory = beside(socket, SPOOL);
    match DirBuilder::new().mode(0o700).create(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let path = directory.join(file_name(request));
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    write_new(&temporary, &request.encode_to_vec())?;
    fs::rename(&temporary, &path)?;
    Ok(path)
}

/// Reads the spool beside `socket`, oldest name first; a file that holds no request is reported, not fatal.
///
/// # Errors
/// The directory exists but cannot be listed.
pub fn collect(socket: &Path) -> io::Result<Vec<(PathBuf, Result<Request, io::Error>)>> {
    let listing = match fs::read_dir(beside(socket, SPOOL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        listing => listing?,
    };
    let mut paths = listing
        .map(|entry| Ok(entry?.path()))
        .collect::<io::Result<Vec<_>>>()?;
    paths.retain(|path| path.extension().is_none());
    paths.sort();
    Ok(paths
        .into_iter()
        .map(|path| {
            let request = read_request(&path);
            (path, request)
        })
        .collect())
}

/// Removes a paid spool file; an absent one is fine.
///
/// # Errors
/// The file exists and cannot be removed.
pub fn paid(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Writes what STATUS says now.
///
/// # Errors
/// The file could not be written.
pub fn beat(socket: &Path, status: &Reply) -> io::Result<()> {
    let path = beside(socket, HEARTBEAT);
    let temporary = path.with_extension("tmp");
    write_new(&temporary, &status.encode_to_vec())?;
    fs::rename(&temporary, &path)
}

/// What STATUS last said, with the age of the statement; `None` when there is none that can be read.
pub fn last_beat(socket: &Path) -> Option<(Reply, Duration)> {
    let path = beside(socket, HEARTBEAT);
    let written = fs::metadata(&path).ok()?.modified().ok()?;
    let age = SystemTime::now()
        .duration_since(written)
        .unwrap_or_default();
    let reply = Reply::decode(read_bounded(&path).ok()?.as_slice()).ok()?;
    Some((reply, age))
}

fn beside(socket: &Path, name: &str) -> PathBuf {
    socket.parent().unwrap_or(Path::new("/")).join(name)
}

fn read_request(path: &Path) -> io::Result<Request> {
    let bytes = read_bounded(path)?;
    Request::decode(bytes.as_slice())
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

fn read_bounded(path: &Path) -> io::Result<Vec<u8>> {
    if fs::symlink_metadata(path)?.len() > LONGEST {
        return Err(io::ErrorKind::InvalidData.into());
    }
    fs::read(path)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)
}

/// 128-bit FNV-1a over the attachment's key: stable, and no dependency. A collision costs one file that the journal replaces.
fn file_name(request: &Request) -> String {
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    let network = serde_json::from_slice::<serde_json::Value>(&request.stdin)
        .ok()
        .and_then(|conf| conf.get("name")?.as_str().map(str::to_owned))
        .unwrap_or_default();
    let key = [
        network.as_bytes(),
        request.container_id.as_bytes(),
        request.ifname.as_bytes(),
    ]
    .join(&0);
    let hash = key.iter().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
    });
    format!("{hash:032x}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::Environment;

    fn del(container_id: &str) -> Request {
        let environment = Environment {
            command: "DEL".into(),
            container_id: container_id.into(),
            ifname: "eth0".into(),
            ..Environment::default()
        };
        Request::new(&environment, br#"{"cniVersion":"1.0.0","name":"net"}"#)
    }

    #[test]
    fn a_del_left_twice_is_found_once_and_paid_once() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cni.sock");
        leave(&socket, &del("a")).unwrap();
        leave(&socket, &del("a")).unwrap();
        leave(&socket, &del("b")).unwrap();
        let found = collect(&socket).unwrap();
        assert_eq!(found.len(), 2);
        for (path, request) in found {
            assert_eq!(request.unwrap().command, "DEL");
            paid(&path).unwrap();
            paid(&path).unwrap();
        }
        assert!(collect(&socket).unwrap().is_empty());
    }

    #[test]
    fn a_torn_file_is_reported_and_the_rest_still_read() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cni.sock");
        let path = leave(&socket, &del("a")).unwrap();
        leave(&socket, &del("b")).unwrap();
        fs::write(&path, [0xff, 0xff, 0xff]).unwrap();
        let found = collect(&socket).unwrap();
        assert_eq!(
            found.iter().filter(|(_, request)| request.is_ok()).count(),
            1
        );
        assert_eq!(found.len(), 2);
    }

    #[test]
    fn the_heartbeat_repeats_what_status_said() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("cni.sock");
        assert_eq!(last_beat(&socket), None);
        beat(&socket, &Reply::success(Vec::new())).unwrap();
        let (reply, age) = last_beat(&socket).unwrap();
        assert_eq!(reply.into_result(), Ok(Vec::new()));
        assert!(age < FRESH);
    }
}
