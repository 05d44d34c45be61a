//! What kind of namespace a descriptor is.
#![expect(
    unsafe_code,
    reason = "the kernel tells a namespace's kind by an ioctl only, and std and nix have none for it"
)]

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::libc;
use nix::sys::statfs::{NSFS_MAGIC, fstatfs};

/// `NS_GET_NSTYPE` of linux/nsfs.h: `_IO(0xb7, 0x3)`.
const NS_GET_NSTYPE: libc::Ioctl = 0xb703;

/// True for a network namespace, false for a namespace of another kind and for anything that is none.
///
/// # Errors
/// The descriptor cannot be looked at.
pub fn is_network_namespace(descriptor: BorrowedFd<'_>) -> io::Result<bool> {
    if fstatfs(descriptor)?.filesystem_type() != NSFS_MAGIC {
        return Ok(false);
    }
    // SAFETY: the request takes no argument and writes no memory, and the borrow keeps the descriptor open.
    let kind = unsafe { libc::ioctl(descriptor.as_raw_fd(), NS_GET_NSTYPE) };
    if kind < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(kind == libc::CLONE_NEWNET)
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test opens namespaces")]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsFd;

    #[test]
    fn only_a_network_namespace_is_one() {
        for (path, wanted) in [
            ("/proc/self/ns/net", true),
            ("/proc/self/ns/uts", false),
            ("/dev/null", false),
        ] {
            let file = File::open(path).unwrap();
            assert_eq!(
                is_network_namespace(file.as_fd()).unwrap(),
                wanted,
                "{path}"
            );
        }
    }
}
