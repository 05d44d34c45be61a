//! A Kubernetes node: a machine with containerd, a kubelet and kube-proxy.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::fabric::{NodePlan, Rack, pod_pool};
use crate::family::Families;
use crate::machine::{self, Machine, Service};
use crate::requires::LOOPBACK;
use crate::run::Run;
use crate::{command, image, wait};

/// How kube-proxy programs services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyMode {
    /// nftables.
    #[default]
    Nftables,
    /// iptables, over the nftables kernel interface or the old one, as the machine's `iptables` is.
    Iptables,
}

impl ProxyMode {
    fn word(self) -> &'static str {
        match self {
            Self::Nftables => "nftables",
            Self::Iptables => "iptables",
        }
    }
}

/// A node and its processes.
#[derive(Debug)]
pub struct Node {
    /// Its plan: name and addresses.
    pub plan: NodePlan,
    /// Its rack's name.
    pub rack: String,
    /// What the cluster speaks.
    pub families: Families,
    /// The machine.
    pub machine: Arc<Machine>,
    binaries: Binaries,
    services: Mutex<Services>,
}

#[derive(Debug, Default)]
struct Services {
    containerd: Option<Service>,
    kubelet: Option<Service>,
    proxy: Option<Service>,
}

impl Node {
    /// A node on this machine; nothing is started yet.
    pub fn new(
        rack: &Rack,
        plan: &NodePlan,
        families: Families,
        machine: &Arc<Machine>,
        binaries: &Binaries,
    ) -> Self {
        Self {
            plan: plan.clone(),
            rack: rack.name.clone(),
            families,
            machine: Arc::clone(machine),
            binaries: binaries.clone(),
            services: Mutex::default(),
        }
    }

    /// Its name in Kubernetes.
    pub fn name(&self) -> &str {
        &self.plan.name
    }

    /// Runs a program on the node, in all of its namespaces; returns its standard output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn exec(&self, words: &[&str]) -> Result<String> {
        self.machine.exec(words)
    }

    /// Starts containerd and loads the image archives of the run's shared directory.
    ///
    /// # Errors
    /// containerd does not start, or an image cannot be loaded.
    pub fn start_containerd(&self, archives: &[&str]) -> Result<()> {
        let containerd = start_containerd(&self.machine, archives)?;
        self.services().containerd = Some(containerd);
        Ok(())
    }

    /// Starts the kubelet.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_kubelet(&self) -> Result<()> {
        self.write("/etc/margay-lab-kubelet.yaml", KUBELET)?;
        let flags = [
            "--config=/etc/margay-lab-kubelet.yaml".to_owned(),
            format!("--kubeconfig=/run/lab/shared/{}.kubeconfig", self.name()),
            format!("--hostname-override={}", self.name()),
            format!(
                "--node-ip={}",
                self.families.list(|family| self.plan.of(family))
            ),
            format!("--node-labels=rack={}", self.rack),
        ];
        let kubelet = self.component("kubelet", &flags)?;
        self.services().kubelet = Some(kubelet);
        Ok(())
    }

    /// Starts kube-proxy, or starts it anew in another mode: what the old mode left is removed first.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_proxy(&self, mode: ProxyMode) -> Result<()> {
        let running = self.services().proxy.take();
        if let Some(mut old) = running {
            old.stop();
            let cleanup = [
                self.binaries.component("kube-proxy"),
                vec!["--cleanup".to_owned()],
            ]
            .concat();
            self.exec(&cleanup.iter().map(String::as_str).collect::<Vec<_>>())?;
        }
        self.write(
            "/etc/margay-lab-proxy.yaml",
            &proxy_config(self.name(), mode, self.families),
        )?;
        let proxy = self.component(
            "kube-proxy",
            &["--config=/etc/margay-lab-proxy.yaml".to_owned()],
        )?;
        self.services().proxy = Some(proxy);
        Ok(())
    }

    /// Stops the kubelet; containers go on.
    pub fn stop_kubelet(&self) {
        let kubelet = self.services().kubelet.take();
        if let Some(mut kubelet) = kubelet {
            kubelet.stop();
        }
    }

    /// Forgets the processes of a machine that has lost its power.
    pub(crate) fn forget_services(&self) {
        *self.services() = Services::default();
    }

    /// An error when containerd, the kubelet or kube-proxy has ended, with the end of its log.
    ///
    /// # Errors
    /// One has ended.
    pub fn check(&self) -> Result<()> {
        let mut services = self.services();
        let Services {
            containerd,
            kubelet,
            proxy,
        } = &mut *services;
        containerd
            .iter_mut()
            .chain(kubelet)
            .chain(proxy)
            .try_for_each(Service::check)
    }

    /// The kubelet's log and its last lines.
    pub fn kubelet_tail(&self, lines: usize) -> String {
        self.services()
            .kubelet
            .as_ref()
            .map(|kubelet| kubelet.tail(lines))
            .unwrap_or_default()
    }

    /// The processes on this node whose first argument ends with `program`, numbered as outside; none on a
    /// node in a guest: they are no processes of this machine.
    pub fn processes(&self, program: &str) -> Vec<u32> {
        if self.machine.guest().is_some() {
            return Vec::new();
        }
        let inside = namespace(self.machine.pid(), "pid");
        machine::processes()
            .filter(|pid| {
                namespace(*pid, "pid") == inside || parent_namespace_is(*pid, inside.as_deref())
            })
            .filter(|pid| {
                let line =
                    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.split('\0')
                    .next()
                    .is_some_and(|first| first.rsplit('/').next() == Some(program))
            })
            .collect()
    }

    /// Sends SIGKILL to Margay's daemon on this node; Kubernetes starts it again. Returns how many were killed.
    pub fn kill_routed(&self) -> usize {
        let found = self.processes("routed");
        for pid in &found {
            if let Ok(pid) = i32::try_from(*pid) {
                let _ = nix::sys::signal::kill(
                    nix::unistd::Pid::from_raw(pid),
                    nix::sys::signal::Signal::SIGKILL,
                );
            }
        }
        found.len()
    }

    /// The network namespace of a pod's sandbox, as a path on the node.
    ///
    /// # Errors
    /// There is no such sandbox, or its namespace is the host's.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> Result<String> {
        let sandboxes = self.exec(&["ctr", "--namespace", "k8s.io", "containers", "list", "--quiet", &format!("labels.\"io.kubernetes.pod.namespace\"=={namespace},labels.\"io.kubernetes.pod.name\"=={pod},labels.\"io.cri-containerd.kind\"==sandbox")])?;
        // A pod whose sandbox was made anew has two for a while; the dead one has no namespace any more.
        for id in sandboxes.lines() {
            let described =
                self.exec(&["ctr", "--namespace", "k8s.io", "containers", "info", id])?;
            let info: serde_json::Value =
                serde_json::from_str(&described).context("read a container's description")?;
            let places = info
                .pointer("/Spec/linux/namespaces")
                .and_then(serde_json::Value::as_array);
            let path = places
                .into_iter()
                .flatten()
                .filter(|entry| {
                    entry.get("type").and_then(serde_json::Value::as_str) == Some("network")
                })
                .find_map(|entry| entry.get("path")?.as_str());
            if let Some(path) = path
                && self
                    .exec(&["nsenter", &format!("--net={path}"), "--", "true"])
                    .is_ok()
            {
                return Ok(path.to_owned());
            }
        }
        anyhow::bail!(
            "no sandbox of pod {namespace}/{pod} with a network namespace of its own on {}",
            self.name()
        )
    }

    /// Runs a program of the node in a pod's network namespace; `/run/tools/probe` is at hand.
    ///
    /// # Errors
    /// There is no such pod, or the program fails.
    pub fn exec_in_pod(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<String> {
        let path = self.pod_netns(namespace, pod)?;
        self.exec(&[&["nsenter", &format!("--net={path}"), "--"], words].concat())
    }

    /// Puts a file on the node.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn write(&self, place: &str, content: &str) -> Result<()> {
        write(&self.machine, place, content)
    }

    /// The node's address, of the cluster's first family.
    pub fn address(&self) -> IpAddr {
        self.plan.of(self.families.first())
    }

    fn services(&self) -> std::sync::MutexGuard<'_, Services> {
        self.services.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn component(&self, name: &str, flags: &[String]) -> Result<Service> {
        let program = self.binaries.component(name);
        let words: Vec<&str> = program.iter().chain(flags).map(String::as_str).collect();
        self.machine.spawn(name, &words)
    }
}

/// Fills the disks of nodes in a guest with what containerd makes of these archives: done once, here, at full speed.
/// Returns the tree for [`crate::guest::Options::tree`].
///
/// # Errors
/// containerd does not start, or an image cannot be loaded.
pub(crate) fn provision(run: &Arc<Run>, nodes: &[String], archives: &[&str]) -> Result<PathBuf> {
    const IMAGES: &str = "var/lib/containerd";
    let depot = Machine::boot(run, "depot", &[])?;
    start_containerd(&depot, archives)?.stop();
    let images = depot.disk().join(IMAGES);
    drop(depot);
    let tree = run.directory().join("state/guest.tree");
    for node in nodes {
        let place = tree.join(node).join(IMAGES);
        std::fs::create_dir_all(&place).with_context(|| format!("make {}", place.display()))?;
        let (from, to) = (images.join("."), place.to_string_lossy());
        command::run("cp", &["-a", &from.to_string_lossy(), &to])?;
    }
    Ok(tree)
}

fn start_containerd(machine: &Machine, archives: &[&str]) -> Result<Service> {
    write(
        machine,
        "/etc/margay-lab-containerd.toml",
        &containerd_config(),
    )?;
    // Old versions of containerd run the loopback plugin for each sandbox; Kubernetes' node packages bring it.
    machine.shell(&format!(
        "mkdir -p /etc/cni/net.d /opt/cni/bin /run/netns /run/containerd; cp {LOOPBACK} /opt/cni/bin/"
    ))?;
    let mut containerd = machine.spawn(
        "containerd",
        &["containerd", "--config", "/etc/margay-lab-containerd.toml"],
    )?;
    wait::until("containerd to answer", Duration::from_mins(1), || {
        containerd.check()?;
        machine.exec(&["ctr", "version"]).map(Some)
    })
    .with_context(|| containerd.tail(10))?;
    for archive in archives {
        image::import(machine, &format!("/run/lab/shared/{archive}"))?;
    }
    Ok(containerd)
}

fn write(machine: &Machine, place: &str, content: &str) -> Result<()> {
    machine
        .exec_with(&["sh", "-c", &format!("cat > {place}")], content)
        .map(drop)
}

fn namespace(pid: u32, kind: &str) -> Option<String> {
    std::fs::read_link(format!("/proc/{pid}/ns/{kind}"))
        .ok()
        .map(|link| link.display().to_string())
}

/// Whether the process is the first of a container: its own process namespace, a parent in the node's.
fn parent_namespace_is(pid: u32, inside: Option<&str>) -> bool {
    let parent = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|text| {
            text.rsplit_once(')')?
                .1
                .split_whitespace()
                .nth(1)?
                .parse()
                .ok()
        });
    parent.is_some_and(|parent| inside.is_some() && namespace(parent, "pid").as_deref() == inside)
}

fn containerd_config() -> String {
    // restrict_oom_score_adj: machines without CAP_SYS_RESOURCE; without it runc ends in "can't get final child's PID".
    format!(
        "version = 2
disabled_plugins = [\"io.containerd.snapshotter.v1.btrfs\", \"io.containerd.snapshotter.v1.zfs\", \"io.containerd.snapshotter.v1.devmapper\", \"io.containerd.snapshotter.v1.aufs\"]
[plugins.\"io.containerd.grpc.v1.cri\"]
  sandbox_image = \"{image}\"
  restrict_oom_score_adj = true
  [plugins.\"io.containerd.grpc.v1.cri\".containerd]
    snapshotter = \"overlayfs\"
  [plugins.\"io.containerd.grpc.v1.cri\".cni]
    bin_dir = \"/opt/cni/bin\"
    conf_dir = \"/etc/cni/net.d\"
",
        image = image::PROBE,
    )
}

/// What these machines need of the kubelet; see the crate's DESIGN.md for each.
const KUBELET: &str = "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
localStorageCapacityIsolation: false
oomScoreAdj: 0
resolvConf: \"\"
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
maxPods: 250
registryPullQPS: 0
kubeAPIQPS: 100
kubeAPIBurst: 200
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: \"1Mi\"}
";

fn proxy_config(node: &str, mode: ProxyMode, families: Families) -> String {
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: {mode}
hostnameOverride: {node}
clusterCIDR: \"{pools}\"
clientConnection: {{kubeconfig: /run/lab/shared/kube-proxy.kubeconfig}}
conntrack: {{maxPerCore: 0, min: 0}}
nftables: {{syncPeriod: 30s, minSyncPeriod: 100ms}}
iptables: {{syncPeriod: 30s, minSyncPeriod: 100ms}}
",
        mode = mode.word(),
        pools = families.list(pod_pool),
    )
}
