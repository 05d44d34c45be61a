//! The front door: a whole cluster in a datacentre, started, used, and gone when dropped.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::binaries::{self, Binaries};
use crate::control::{Control, PORT};
use crate::fabric::{self, Fabric, Topology};
use crate::family::{Families, Family};
use crate::kubectl::Kubectl;
use crate::margay;
use crate::node::{self, Node, ProxyMode};
use crate::run::Run;
use crate::{forward, image, progress, requires, wait};

/// The archive of the test pods' image in the run's shared directory.
const PROBE_ARCHIVE: &str = "probe.tar";

/// What kind of lab is wanted.
#[derive(Clone, Debug)]
pub struct Options {
    /// Racks, routers, nodes.
    pub topology: Topology,
    /// How kube-proxy programs services.
    pub proxy: ProxyMode,
    /// A directory of official Kubernetes binaries to use instead of building the control plane.
    pub kube_bin: Option<PathBuf>,
    /// Where Margay's binaries are; default: beside this program.
    pub bin_dir: Option<PathBuf>,
}

impl Options {
    /// Defaults for a topology.
    pub fn new(topology: Topology) -> Self {
        Self {
            topology,
            proxy: ProxyMode::default(),
            kube_bin: None,
            bin_dir: None,
        }
    }
}

/// A running datacentre with a running Kubernetes, without a network plugin until one is installed. Dropping it takes everything
/// down; only the logs stay.
#[derive(Debug)]
pub struct Lab {
    // Dropped in this order: processes before machines, everything before the run.
    control: Mutex<Control>,
    nodes: Vec<Node>,
    /// Routers, machines, cables.
    pub fabric: Fabric,
    kubectl: Kubectl,
    binaries: Binaries,
    port: u16,
    run: Arc<Run>,
}

impl Lab {
    /// Two racks of two nodes behind BIRD and FRR.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn two_racks() -> Result<Self> {
        Self::start(Options::new(Topology::two_racks()))
    }

    /// One subnet of `nodes` nodes, no BGP router.
    ///
    /// # Errors
    /// As [`Lab::start`].
    pub fn one_subnet(nodes: u8) -> Result<Self> {
        Self::start(Options::new(Topology::one_subnet(nodes)))
    }

    /// Starts everything and waits until the nodes have registered; without a network plugin they are not Ready yet.
    ///
    /// # Errors
    /// The machine lacks something, or a part does not come up: named, with the end of its log. Nothing is left behind.
    pub fn start(options: Options) -> Result<Self> {
        requires::check()?;
        if options.topology.in_guest {
            let missing = requires::guest_missing();
            anyhow::ensure!(
                missing.is_empty(),
                "this machine cannot hold a guest:\n  {}",
                missing.join("\n  ")
            );
        }
        let binaries = Binaries::ready(options.kube_bin.as_deref(), options.bin_dir.as_deref())?;
        let run = Run::open(&binaries::lab_directory()?)?;
        let logs = run.logs();
        Self::bring_up(options, binaries, &run)
            .with_context(|| format!("the lab did not come up; all logs: {}", logs.display()))
    }

    fn bring_up(mut options: Options, binaries: Binaries, run: &Arc<Run>) -> Result<Self> {
        let tools = binaries.tools();
        let families = options.topology.families;
        image::write(&image::probe()?, &run.shared().join(PROBE_ARCHIVE))?;
        let mut archives = [PROBE_ARCHIVE].as_slice();
        if options.topology.in_guest {
            // Unpacking an image takes a guest minutes.
            options.topology.images = Some(progress::step("images for the guest's disk", || {
                provision(&options.topology, &binaries, run)
            })?);
            archives = &[];
        }
        let fabric = progress::step("machines, cables and routers", || {
            Fabric::build(run, options.topology, &tools)
        })?;
        let nodes: Vec<Node> = fabric
            .topology
            .nodes()
            .zip(&fabric.nodes)
            .map(|((rack, plan), machine)| Node::new(rack, plan, families, machine, &binaries))
            .collect();
        let names: Vec<String> = nodes.iter().map(|node| node.name().to_owned()).collect();
        let control = Control::start(&fabric.control, &binaries, families, &names)?;
        let api = SocketAddr::new(fabric::control(families.first()), PORT);
        let port = forward::open(fabric.control.pid(), api)?;
        let kubectl = Kubectl {
            program: binaries.kubectl.clone(),
            config: run.directory().join("kubeconfig"),
        };
        let lab = Self {
            control: Mutex::new(control),
            nodes,
            fabric,
            kubectl,
            binaries,
            port,
            run: Arc::clone(run),
        };
        std::thread::scope(|scope| {
            let runtimes = scope.spawn(|| {
                progress::step("containerd on every node", || {
                    lab.each_node(|node| node.start_containerd(archives))
                })
            });
            progress::step("etcd and the API server", || lab.control_ready())?;
            runtimes
                .join()
                .unwrap_or_else(|_panic| bail!("a thread of the lab panicked"))
        })?;
        progress::step(
            &format!("kubelet and kube-proxy on {}", names.join(", ")),
            || {
                lab.each_node(|node| {
                    node.start_kubelet()
                        .and_then(|()| node.start_proxy(options.proxy))
                })?;
                lab.wait_registered()
            },
        )?;
        Ok(lab)
    }

    fn control_ready(&self) -> Result<()> {
        let mut control = self.control();
        control.write_kubeconfigs(self.port)?;
        control.wait_ready(&self.kubectl)?;
        control.start_others()
    }

    fn wait_registered(&self) -> Result<()> {
        wait::until("every node to register", Duration::from_mins(1), || {
            self.check()?;
            let listed = self.kubectl(&["get", "nodes", "-o", "name"])?;
            Ok((listed.lines().count() == self.nodes.len()).then_some(()))
        })
    }

    /// Does the same on every node at once.
    ///
    /// # Errors
    /// The first node's error.
    pub fn each_node(&self, work: impl Fn(&Node) -> Result<()> + Sync) -> Result<()> {
        wait::together(&self.nodes, work).map(drop)
    }

    /// An error when a process of the cluster has ended unasked, with the end of its log.
    ///
    /// # Errors
    /// One has ended.
    pub fn check(&self) -> Result<()> {
        self.control().check()?;
        self.nodes.iter().try_for_each(Node::check)
    }

    /// What the cluster speaks.
    pub fn families(&self) -> Families {
        self.fabric.topology.families
    }

    /// The nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// A node by name.
    ///
    /// # Panics
    /// There is no such node: the scenario names one that its topology lacks.
    pub fn node(&self, name: &str) -> &Node {
        self.nodes
            .iter()
            .find(|node| node.name() == name)
            .unwrap_or_else(|| panic!("the topology has no node {name}"))
    }

    /// The control plane, to stop and start parts of it.
    pub fn control(&self) -> std::sync::MutexGuard<'_, Control> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stops the API server as a crash would.
    pub fn stop_api(&self) {
        self.control().stop_api();
    }

    /// Starts the API server again and waits until it serves.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start_api(&self) -> Result<()> {
        let mut control = self.control();
        control.start_api()?;
        control.wait_ready(&self.kubectl)?;
        control.start_others()
    }

    /// Cuts a node's power and boots it again with its disk; containerd, kubelet and kube-proxy start again.
    ///
    /// # Errors
    /// A part does not come up.
    pub fn reboot(&self, name: &str) -> Result<()> {
        let index = self
            .nodes
            .iter()
            .position(|node| node.name() == name)
            .with_context(|| format!("no node {name}"))?;
        let node = self.node(name);
        node.forget_services();
        self.fabric.reboot(index)?;
        node.start_containerd(&[])?;
        node.start_kubelet()?;
        node.start_proxy(ProxyMode::default())
    }

    /// Cuts the power of the guest that all nodes live in and boots it again with its disk; containerd, kubelet and
    /// kube-proxy start again on every node.
    ///
    /// # Errors
    /// The nodes live in no guest, or a part does not come up.
    pub fn reset_guest(&self) -> Result<()> {
        let guest = self.fabric.guest()?;
        guest.power_off();
        self.nodes.iter().for_each(Node::forget_services);
        guest.reset()?;
        for index in 0..self.nodes.len() {
            self.fabric.reboot(index)?;
        }
        self.each_node(|node| {
            node.start_containerd(&[])?;
            node.start_kubelet()?;
            node.start_proxy(ProxyMode::default())
        })
    }

    /// Where the binaries come from.
    pub fn binaries(&self) -> &Binaries {
        &self.binaries
    }

    /// The run: tag, directories.
    pub fn run(&self) -> &Arc<Run> {
        &self.run
    }

    /// The administrator's kubeconfig, for this machine.
    pub fn kubeconfig(&self) -> &PathBuf {
        &self.kubectl.config
    }

    /// A client of the API, as the administrator. Needs a running tokio runtime.
    ///
    /// # Errors
    /// The kubeconfig cannot be read.
    pub async fn kube(&self) -> Result<kube::Client> {
        let config = kube::config::Kubeconfig::read_from(self.kubeconfig())
            .context("read the kubeconfig")?;
        let config = kube::Config::from_custom_kubeconfig(
            config,
            &kube::config::KubeConfigOptions::default(),
        )
        .await
        .context("use the kubeconfig")?;
        kube::Client::try_from(config).context("make the client")
    }

    /// Runs kubectl as the administrator; returns its standard output.
    ///
    /// # Errors
    /// It fails; its own words are in the error.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl.run(arguments)
    }

    /// As [`Lab::kubectl`], with standard input.
    ///
    /// # Errors
    /// As [`Lab::kubectl`].
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        self.kubectl.run_with(arguments, input)
    }

    /// `kubectl apply` of a YAML text, server-side: the same words twice are one state.
    ///
    /// # Errors
    /// As [`Lab::kubectl`].
    pub fn apply_yaml(&self, text: &str) -> Result<String> {
        self.kubectl.run_with(
            &["apply", "--server-side", "--force-conflicts", "-f", "-"],
            text,
        )
    }

    /// `kubectl delete` of a YAML text; what is not there is no error.
    ///
    /// # Errors
    /// As [`Lab::kubectl`].
    pub fn delete_yaml(&self, text: &str) -> Result<String> {
        self.kubectl
            .run_with(&["delete", "--ignore-not-found", "-f", "-"], text)
    }

    /// Waits until `look` returns true; an error counts as "not yet". The timeout's error names `what`.
    ///
    /// # Errors
    /// After `limit`.
    pub fn wait_for(
        &self,
        what: &str,
        limit: Duration,
        mut look: impl FnMut() -> Result<bool>,
    ) -> Result<()> {
        wait::until(what, limit, || {
            self.check()?;
            Ok(look()?.then_some(()))
        })
    }

    /// Waits until every node is Ready.
    ///
    /// # Errors
    /// After `limit`, with the reasons of the nodes that are not.
    pub fn wait_nodes_ready(&self, limit: Duration) -> Result<()> {
        const QUERY: &str = r#"-o=jsonpath={range .items[*]}{.metadata.name}{"\t"}{.status.conditions[?(@.type=="Ready")].status}{"\t"}{.status.conditions[?(@.type=="Ready")].message}{"\n"}{end}"#;
        self.wait_for("every node to be Ready", limit, || {
            let listed = self.kubectl(&["get", "nodes", QUERY])?;
            let missing: Vec<&str> = listed
                .lines()
                .filter(|line| line.split('\t').nth(1) != Some("True"))
                .collect();
            if missing.is_empty() {
                Ok(true)
            } else {
                bail!("{}", missing.join("; "))
            }
        })
    }

    /// Waits until a Deployment or DaemonSet (`deployment/web`) has rolled out.
    ///
    /// # Errors
    /// After `limit`, with the pods and the latest warnings of the namespace.
    pub fn wait_rollout(&self, namespace: &str, what: &str, limit: Duration) -> Result<()> {
        let timeout = format!("--timeout={}s", limit.as_secs());
        self.check()?;
        self.kubectl(&["-n", namespace, "rollout", "status", what, &timeout])
            .map(drop)
            .map_err(|error| {
                // A component that has ended explains more than the rollout does.
                let error = self.check().err().unwrap_or(error);
                let pods = self
                    .kubectl(&["-n", namespace, "get", "pods", "-o", "wide"])
                    .unwrap_or_default();
                let events = self
                    .kubectl(&[
                        "-n",
                        namespace,
                        "get",
                        "events",
                        "--field-selector=type=Warning",
                        "--sort-by=.lastTimestamp",
                    ])
                    .unwrap_or_default();
                let events: Vec<&str> = events.lines().rev().take(6).collect();
                error.context(format!(
                    "{what} in {namespace} did not roll out\n{pods}\nlatest warnings:\n{}",
                    events.join("\n")
                ))
            })
    }

    /// The pods of a namespace that match a label selector, with node and address.
    ///
    /// # Errors
    /// As [`Lab::kubectl`].
    pub fn pods(&self, namespace: &str, selector: &str) -> Result<Vec<Pod>> {
        const QUERY: &str = r#"-o=jsonpath={range .items[*]}{.metadata.name}{"\t"}{.spec.nodeName}{"\t"}{.status.podIPs[*].ip}{"\t"}{.metadata.deletionTimestamp}{"\n"}{end}"#;
        let listed = self.kubectl(&[
            "-n",
            namespace,
            "get",
            "pods",
            "-l",
            selector,
            "--sort-by=.metadata.name",
            QUERY,
        ])?;
        let pod = |line: &str| {
            let mut fields = line.split('\t');
            let (name, node, addresses) = (fields.next()?, fields.next()?, fields.next()?);
            let addresses: Vec<IpAddr> = addresses
                .split_whitespace()
                .filter_map(|address| address.parse().ok())
                .collect();
            let pod = Pod {
                namespace: namespace.to_owned(),
                name: name.to_owned(),
                node: node.to_owned(),
                address: addresses
                    .first()
                    .map(ToString::to_string)
                    .unwrap_or_default(),
                addresses,
            };
            // A pod that is going away answers no more.
            fields.next()?.is_empty().then_some(pod)
        };
        Ok(listed.lines().filter_map(pod).collect())
    }

    /// The network namespace of a pod, as a path on its node.
    ///
    /// # Errors
    /// There is no such pod, or it has no sandbox.
    pub fn pod_netns(&self, namespace: &str, pod: &str) -> Result<String> {
        self.node(&self.node_of(namespace, pod)?)
            .pod_netns(namespace, pod)
    }

    /// Runs a program in a pod's network namespace, with the node's files: `/run/tools/probe`, `ip`, `tcpdump`.
    ///
    /// # Errors
    /// There is no such pod, or the program fails.
    pub fn exec_in_pod(&self, namespace: &str, pod: &str, words: &[&str]) -> Result<String> {
        self.node(&self.node_of(namespace, pod)?)
            .exec_in_pod(namespace, pod, words)
    }

    fn node_of(&self, namespace: &str, pod: &str) -> Result<String> {
        self.kubectl(&[
            "-n",
            namespace,
            "get",
            "pod",
            pod,
            "-o=jsonpath={.spec.nodeName}",
        ])
    }
}

fn provision(topology: &Topology, binaries: &Binaries, run: &Arc<Run>) -> Result<PathBuf> {
    margay::write_image(&binaries.own, &run.shared().join(margay::ARCHIVE))?;
    let nodes: Vec<String> = topology
        .nodes()
        .map(|(_, node)| node.name.clone())
        .collect();
    node::provision(run, &nodes, &[PROBE_ARCHIVE, margay::ARCHIVE])
}

/// A pod as the lab looks at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pod {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The node it runs on.
    pub node: String,
    /// Its address; empty while it has none. Of two families the cluster's first.
    pub address: String,
    /// All its addresses, one of each family.
    pub addresses: Vec<IpAddr>,
}

impl Pod {
    /// Its address of one family.
    ///
    /// # Errors
    /// It has none.
    pub fn of(&self, family: Family) -> Result<IpAddr> {
        let mut addresses = self.addresses.iter().copied();
        addresses
            .find(|address| Family::of(*address) == family)
            .with_context(|| format!("pod {} has no {family} address", self.name))
    }
}

/// A Deployment of test pods: TCP and UDP echo on 7, HTTP on 80 and on `ports`; labels `app=NAME`.
pub fn deployment(namespace: &str, name: &str, replicas: u32, ports: &[u16]) -> String {
    let extra = ports.iter().fold(String::new(), |text, port| {
        text + &format!(", \"--http\", \"{port}\"")
    });
    format!(
        "apiVersion: apps/v1
kind: Deployment
metadata: {{name: {name}, namespace: {namespace}}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: {name}}}}}
  template:
    metadata: {{labels: {{app: {name}}}}}
    spec:
      terminationGracePeriodSeconds: 1
      topologySpreadConstraints:
      - {{maxSkew: 1, topologyKey: kubernetes.io/hostname, whenUnsatisfiable: ScheduleAnyway, labelSelector: {{matchLabels: {{app: {name}}}}}}}
      containers:
      - name: probe
        image: {image}
        imagePullPolicy: Never
        args: [\"serve\", \"--tcp\", \"7\", \"--udp\", \"7\", \"--http\", \"80\"{extra}]
        readinessProbe: {{httpGet: {{port: 80}}, periodSeconds: 1}}
",
        image = image::PROBE,
    )
}
