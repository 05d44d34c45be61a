//! Whether a kernel test may run here.

use std::os::unix::fs::MetadataExt;

/// True inside a namespace made for this test; otherwise says why nothing is tested.
pub(crate) fn is_private() -> bool {
    let namespace = |path: &str| std::fs::metadata(path).map(|meta| meta.ino()).ok();
    let ours = namespace("/proc/self/ns/net");
    let private = ours.is_some() && ours != namespace("/proc/1/ns/net") && has_only_loopback();
    if !private {
        println!("SKIPPED: not in a network namespace of its own (run under `unshare -nm`)");
    }
    private
}

/// True in a namespace nobody has touched. Where the namespaces of process 1 cannot be read, this alone keeps a bare run off the machine.
fn has_only_loopback() -> bool {
    let fallbacks = [
        "lo", "tunl0", "sit0", "gre0", "gretap0", "erspan0", "ip6tnl0", "ip6gre0",
    ];
    std::fs::read_to_string("/proc/self/net/dev").is_ok_and(|table| {
        table
            .lines()
            .filter_map(|line| line.split_once(':'))
            .all(|(name, _)| fallbacks.contains(&name.trim()))
    })
}

/// True if packets can be forged here as well.
pub(crate) fn has_tun() -> bool {
    let there = std::path::Path::new("/dev/net/tun").exists();
    if !there {
        println!("SKIPPED: no /dev/net/tun");
    }
    there
}
