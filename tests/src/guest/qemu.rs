//! How QEMU is called: pure text, so that a test can hold it.

use super::Options;

/// The words of a QEMU that boots what lies in `place` and tells the first process `settings`.
///
/// Without acceleration (TCG): machines that run tests seldom have more, and one behaviour everywhere is worth more than
/// speed on a few. `-no-reboot` makes a panic the end of QEMU; the first serial line is its log.
pub(super) fn words(options: &Options, place: &str, settings: &str) -> Vec<String> {
    let memory = options.memory;
    let mut words: Vec<String> = [
        "qemu-system-x86_64",
        "-nodefaults",
        "-no-user-config",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        "stdio",
        "-accel",
        "tcg,thread=multi",
        "-cpu",
        "max",
    ]
    .map(str::to_owned)
    .to_vec();
    let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
    add("-smp", options.processors.to_string());
    add("-m", format!("{memory}M"));
    // Shared with virtiofsd, which reads and writes the guest's buffers itself.
    add(
        "-object",
        format!("memory-backend-memfd,id=memory,size={memory}M,share=on"),
    );
    add("-numa", "node,memdev=memory".to_owned());
    add("-kernel", format!("{place}/vmlinuz"));
    add("-initrd", format!("{place}/initrd"));
    add(
        "-append",
        format!(
            "console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 rdinit=/init -- {settings}"
        ),
    );
    for name in ["root", "run"] {
        add(
            "-chardev",
            format!("socket,id={name},path={place}/{name}.sock"),
        );
        add(
            "-device",
            format!("vhost-user-fs-pci,chardev={name},tag={name}"),
        );
    }
    let taps = std::iter::once("lab0".to_owned())
        .chain(options.ports.iter().map(|port| format!("t-{port}")));
    for (index, tap) in taps.enumerate() {
        add(
            "-netdev",
            format!("tap,id=n{index},ifname={tap},script=no,downscript=no"),
        );
        let mac = address(index);
        add(
            "-device",
            format!("virtio-net-pci,netdev=n{index},mac={mac},romfile="),
        );
    }
    if options.disk.is_some() {
        // What the guest has written is in this machine's memory at once, and a power cut of the guest is none of ours.
        add(
            "-drive",
            format!("file={place}/disk.img,format=raw,if=none,id=disk,cache=unsafe"),
        );
        add("-device", "virtio-blk-pci,drive=disk".to_owned());
    }
    words
}

/// The hardware address of the port with this index.
pub(super) fn mac(port: usize) -> String {
    address(port + 1)
}

/// Locally administered; the way in is the first.
fn address(index: usize) -> String {
    format!("02:4d:67:00:00:{:02x}", index & 0xff)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_disk_are_there_when_they_are_wanted() {
        let plain = words(&Options::new("guest"), "/place", "boot --port 1").join(" ");
        assert!(plain.contains("-append console=ttyS0 quiet panic=-1 mitigations=off net.ifnames=0 rdinit=/init -- boot --port 1"));
        assert_eq!(plain.matches("virtio-net-pci").count(), 1);
        assert!(!plain.contains("virtio-blk"));
        let options = Options {
            disk: Some(1),
            ports: vec!["a1".to_owned(), "b1".to_owned()],
            ..Options::new("guest")
        };
        let whole = words(&options, "/place", "").join(" ");
        assert!(whole.contains("ifname=t-b1"));
        assert!(whole.contains(&format!("netdev=n2,mac={}", mac(1))));
        assert!(whole.contains("file=/place/disk.img"));
    }
}
