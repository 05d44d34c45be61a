//! Whether a kernel test may run here.

use std::os::unix::fs::MetadataExt;

/// True inside a namespace made for this test; otherwise says why nothing is tested.
pub(crate) fn is_private() -> bool {
    let namespace = |path: &str| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let ours = namespace("/proc/self/ns/net");
    let private = ours.is_some() && ours != namespace("/proc/1/ns/net");
    if !private {
        println!("SKIPPED: not in a network namespace of its own (run under `unshare -nm`)");
    }
    private
}

/// True if packets can be forged here as well.
pub(crate) fn has_tun() -> bool {
    let there = std::path::Path::new("/dev/net/tun").exists();
    if !there {
        println!("SKIPPED: no /dev/net/tun");
    }
    there
}
