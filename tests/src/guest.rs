//! A kernel of its own: Debian's cloud kernel in QEMU, without acceleration, on this machine's own files.
//!
//! Some kernels lack what Margay drives (IPIP, `dummy`, `wireguard`), and settings of a whole machine must not be tried on a
//! machine that others use. A guest has both, and a power switch.
//!
//! ```text
//!   holder (a machine of the lab)                      guest kernel
//!     lab0  169.254.77.1 ==== tap ==== 169.254.77.2    `probe agent`: runs what `probe ask` wants run
//!     b-a1  bridge of cable and tap ==================  eth0 of machine a1
//!   virtiofsd: /     (read-only, cached for good)  ===  /      under memory that forgets
//!   virtiofsd: RUN   (both ways)                   ===  RUN
//!   disk.img                                       ===  RUN/state (ext4): outlives a power cut
//! ```
//! So programs, libraries and test binaries are the machine's own: nothing is packed. The guest can write to its memory,
//! its disk and the run's directory, to nothing else.

pub mod cpio;
pub mod kernel;
pub mod modinfo;
mod qemu;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::machine::{Machine, Service};
use crate::run::Run;
use crate::{binaries, command, progress, wait};
use kernel::Kernel;

/// The holder's end of the way in, and the guest's.
const HOLDER: &str = "169.254.77.1/30";
const ADDRESS: &str = "169.254.77.2";
const PREFIX: &str = "30";
const PORT: &str = "7000";
/// What the agent takes for "no machine, the guest itself".
const WHOLE: &str = "1";
/// How long a boot may take on a busy machine; 5 s on an idle one.
const PATIENCE: Duration = Duration::from_secs(90);
/// What it takes to reach the shared files; every other module is loaded when the kernel asks for it.
const FIRST_MODULES: [&str; 5] = [
    "virtio_pci",
    "virtio_net",
    "virtio_blk",
    "virtiofs",
    "overlay",
];

/// What kind of guest is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of its holder, unique in the run.
    pub name: String,
    /// Virtual processors; a thread of the machine each.
    pub processors: u8,
    /// Memory, in MiB. The machine gives what is touched.
    pub memory: u32,
    /// Size of the disk in MiB; `None`: it has none.
    pub disk: Option<u64>,
    /// What the disk holds from the beginning; `None`: nothing.
    pub tree: Option<PathBuf>,
    /// Its network ports beside the way in; each can be cabled to a machine ([`Guest::cable`]).
    pub ports: Vec<String>,
}

impl Options {
    /// One processor, 1 GiB, no disk, no ports.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            processors: 1,
            memory: 1024,
            disk: None,
            tree: None,
            ports: Vec::new(),
        }
    }
}

/// A running guest. Dropping it cuts its power.
#[derive(Debug)]
pub struct Guest {
    // Dropped in this order: QEMU before the file servers before the machine that holds them.
    power: Mutex<Option<Power>>,
    holder: Machine,
    options: Options,
    kernel: Kernel,
}

/// What runs while the power is on.
#[derive(Debug)]
struct Power {
    qemu: Service,
    _files: [FileServer; 2],
}

impl Guest {
    /// Boots a guest and waits until programs can be run in it.
    ///
    /// # Errors
    /// The machine lacks QEMU ([`crate::requires::guest_missing`] says so beforehand), or the guest does not come up: with
    /// the end of its console.
    pub fn boot(run: &Arc<Run>, options: Options) -> Result<Arc<Self>> {
        let kernel = Kernel::ready()?;
        let holder = Machine::boot(run, &options.name, &[binaries::own("probe")?])?;
        let guest = Self {
            power: Mutex::new(None),
            holder,
            options,
            kernel,
        };
        guest.prepare()?;
        progress::step(
            &format!("boot a guest, kernel {}", guest.kernel.version()),
            || guest.power_on(),
        )?;
        Ok(Arc::new(guest))
    }

    /// Files and ports: what outlives a power cut.
    fn prepare(&self) -> Result<()> {
        let place = self.place();
        std::fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        std::fs::copy(self.kernel.image(), place.join("vmlinuz")).context("copy the kernel")?;
        std::fs::write(place.join("initrd"), self.first_tree()?)
            .context("write the first files")?;
        if let Some(size) = self.options.disk {
            let disk = place.join("disk.img");
            std::fs::File::create(&disk)
                .and_then(|file| file.set_len(size << 20))
                .with_context(|| format!("make {}", disk.display()))?;
            let mut format = Command::new("mkfs.ext4");
            format.args(["-q", "-F"]);
            if let Some(tree) = &self.options.tree {
                format.arg("-d").arg(tree);
            }
            command::output(format.arg(&disk), None)?;
        }
        self.holder.ip(&format!(
            "tuntap add dev lab0 mode tap\naddr add {HOLDER} dev lab0\nlink set lab0 up\n"
        ))?;
        for port in &self.options.ports {
            self.holder.ip(&format!(
                "tuntap add dev t-{port} mode tap
link add b-{port} type bridge forward_delay 0 stp_state 0 mcast_snooping 0
link set t-{port} master b-{port} up
link set b-{port} up
"
            ))?;
        }
        Ok(())
    }

    /// The file tree that the kernel starts from: `probe`, and the modules that lead to all other files.
    fn first_tree(&self) -> Result<Vec<u8>> {
        let mut tree = cpio::Cpio::default();
        for name in ["dev", "proc", "sys", "modules"] {
            tree.directory(name);
        }
        tree.device("dev/console", 5, 1);
        let probe = binaries::own("probe")?;
        let probe = std::fs::read(&probe).with_context(|| format!("read {}", probe.display()))?;
        tree.file("init", &probe);
        let order = self.kernel.order(&FIRST_MODULES)?;
        for name in &order {
            let file = self.kernel.modules().join(format!("{name}.ko"));
            let content =
                std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
            tree.file(&format!("modules/{name}.ko"), &content);
        }
        tree.file("modules/order", order.join("\n").as_bytes());
        Ok(tree.finish())
    }

    fn power_on(&self) -> Result<()> {
        let run = self.holder.run();
        let files = [
            FileServer::start(self, "root", Path::new("/"), "always")?,
            FileServer::start(self, "run", run.directory(), "auto")?,
        ];
        let words = qemu::words(&self.options, &self.inside(), &self.settings()?);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        let mut qemu = self.holder.spawn("console", &words)?;
        // A guest that has ended will not answer any more: no reason to wait on.
        let answered = wait::until("the guest to answer", PATIENCE, || {
            let alive = qemu.alive();
            Ok((!alive || self.exec(&["true"]).is_ok()).then_some(()))
        });
        answered
            .and_then(|()| qemu.check())
            .with_context(|| qemu.tail(25))?;
        *self.power() = Some(Power {
            qemu,
            _files: files,
        });
        Ok(())
    }

    /// What `probe boot` is told.
    fn settings(&self) -> Result<String> {
        // Without symbolic links: they would lead out of the tree while it is not yet the root.
        let real = |place: &Path| {
            let found = place.canonicalize();
            found.with_context(|| format!("look at {}", place.display()))
        };
        let run = real(self.holder.run().directory())?;
        let run = run.display();
        let state = match self.options.disk {
            Some(_) => format!(" --state {run}/state"),
            None => String::new(),
        };
        Ok(format!(
            "boot --run {run}{state} --modules {} --address {ADDRESS}/{PREFIX} --port {PORT}",
            real(&self.kernel.modules())?.display()
        ))
    }

    /// Cuts the power; everything in the guest but its disk is gone.
    pub fn power_off(&self) {
        if let Some(mut power) = self.power().take() {
            power.qemu.kill();
        }
    }

    /// Cuts the power and boots again: a reset with the disk as it was at that moment.
    ///
    /// # Errors
    /// As [`Guest::boot`].
    pub fn reset(&self) -> Result<()> {
        self.power_off();
        progress::step("the guest boots again", || self.power_on())
    }

    /// Joins a port of the guest to a machine by a cable; the port itself is moved by [`Guest::hand_over`].
    ///
    /// # Errors
    /// A link cannot be made.
    pub fn cable(&self, port: &str, other: &Machine, other_port: &str) -> Result<()> {
        let cable = Self::link(port);
        // It outlives the guest's power.
        if self.holder.exec(&["ip", "link", "show", &cable]).is_ok() {
            return Ok(());
        }
        self.holder.cable(&cable, other, other_port)?;
        self.holder
            .ip(&format!("link set {cable} master b-{port} up\n"))
    }

    /// The link on the holder by which a port is cabled: what goes over the cable is seen there.
    pub fn link(port: &str) -> String {
        format!("c-{port}")
    }

    /// Moves a port into the network namespace of a process of the guest, under the name `name`. Where a namespace has just
    /// ended, the kernel takes a moment to give its port back.
    ///
    /// # Errors
    /// The guest has no such port, or `ip` fails.
    pub fn hand_over(&self, port: &str, process: u32, name: &str) -> Result<()> {
        let index = self.options.ports.iter().position(|own| own == port);
        let mac = qemu::mac(index.with_context(|| format!("the guest has no port {port}"))?);
        let line = format!(
            "for place in /sys/class/net/*; do
  [ \"$(cat $place/address)\" = {mac} ] || continue
  ip link set dev ${{place##*/}} down && ip link set dev ${{place##*/}} netns {process} name {name} && exit 0
done
echo no device {mac} in the guest >&2; exit 1"
        );
        wait::until(
            "the guest's port to be free",
            Duration::from_secs(10),
            || self.exec(&["sh", "-c", &line]).map(Some),
        )
        .map(drop)
    }

    /// Runs a program in the guest itself to its end; returns its standard output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        command::output(&mut self.command(words), None).context("in the guest")
    }

    /// A command that will run in the guest itself.
    pub fn command(&self, words: &[&str]) -> Command {
        self.ask(WHOLE, words)
    }

    /// A command that will run in a machine of the guest, named by its first process.
    pub(crate) fn command_in(&self, first: u32, words: &[&str]) -> Command {
        self.ask(&first.to_string(), words)
    }

    fn ask(&self, first: &str, words: &[&str]) -> Command {
        let target = format!("{ADDRESS}:{PORT}");
        let prefix = ["/run/tools/probe", "ask", &target, first];
        self.holder.command(&[&prefix, words].concat())
    }

    /// Words to put before a program and its arguments so that it runs in the guest, in network and mount namespaces of its
    /// own: a test runner of cargo.
    ///
    /// # Errors
    /// `probe` has not been built.
    pub fn runner(&self) -> Result<String> {
        let probe = binaries::own("probe")?;
        Ok(format!(
            "nsenter --target {} --net -- {} ask {ADDRESS}:{PORT} {WHOLE} unshare --net --mount --propagation private",
            self.holder.pid(),
            probe.display()
        ))
    }

    /// The machine of the lab that holds it: cables end there, so captures are taken there.
    pub fn holder(&self) -> &Machine {
        &self.holder
    }

    /// An error when the guest has ended by itself, with the end of its console.
    ///
    /// # Errors
    /// It has.
    pub fn check(&self) -> Result<()> {
        match self.power().as_mut() {
            Some(power) => power.qemu.check(),
            None => bail!("the guest has no power"),
        }
    }

    fn power(&self) -> std::sync::MutexGuard<'_, Option<Power>> {
        self.power.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The directory of its files, here.
    fn place(&self) -> PathBuf {
        let state = self.holder.run().directory().join("state");
        state.join(format!("{}.vm", self.options.name))
    }

    /// The same, as its holder sees it. Short, whatever the path here is: a socket's path is limited.
    fn inside(&self) -> String {
        format!("/run/lab/state/{}.vm", self.options.name)
    }
}

/// `virtiofsd`, which lets a guest read files of this machine. It ends with QEMU, at the latest with the run.
#[derive(Debug)]
struct FileServer {
    process: Child,
}

impl FileServer {
    /// `cache`: `always` for files that do not change while the guest runs, `auto` for others.
    fn start(guest: &Guest, name: &str, source: &Path, cache: &str) -> Result<Self> {
        let run = guest.holder.run();
        let (place, socket) = (guest.place(), format!("{name}.sock"));
        let log = run
            .logs()
            .join(format!("{}-{name}-files.log", guest.options.name));
        let log = std::fs::File::create(&log).with_context(|| format!("make {}", log.display()))?;
        drop(std::fs::remove_file(place.join(&socket)));
        let program = program().context("no virtiofsd: apt-get install qemu-system-common")?;
        let process = Command::new(program)
            .arg(format!("--socket-path={socket}"))
            .args(["-o", &format!("source={}", source.display())])
            .args(["-o", "sandbox=chroot", "-o", &format!("cache={cache}")])
            // A socket's path is limited to 107 octets; a name in the current directory is short everywhere.
            .current_dir(&place)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("start virtiofsd")?;
        run.enrol(process.id())?;
        let server = Self { process };
        wait::until("virtiofsd to listen", Duration::from_secs(10), || {
            Ok(place.join(&socket).exists().then_some(()))
        })?;
        Ok(server)
    }
}

impl Drop for FileServer {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

/// Where Debian's packages put `virtiofsd`, old and new.
pub(crate) fn program() -> Option<PathBuf> {
    ["/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd"]
        .into_iter()
        .map(PathBuf::from)
        .find(|place| place.is_file())
}
