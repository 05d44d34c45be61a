//! `routed` run by a scenario itself on one node, instead of by Kubernetes: a killed container comes back only after the kubelet's
//! back-off of ten seconds and more, and these scenarios kill often and must know when.
//!
//! Same binary, flags of the manifest, rights of the same service account (a real token bound to the node).

use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::lab::Lab;
use crate::machine::Service;
use crate::margay::NAMESPACE;
use crate::node::Node;
use crate::wait;

/// The programs and the kubeconfig in the run's shared directory, and where a node sees them.
const SHARED: &str = "/run/lab/shared";

/// The daemon of one node, in a scenario's hands.
#[derive(Debug)]
pub struct Daemon<'lab> {
    lab: &'lab Lab,
    node: &'lab Node,
    service: Option<Service>,
}

impl<'lab> Daemon<'lab> {
    /// Takes a node out of Margay's DaemonSet and starts the daemon by hand; returns when it is ready.
    ///
    /// # Errors
    /// The rollout, the token or the daemon fails.
    pub fn take_over(lab: &'lab Lab, node: &str) -> Result<Self> {
        let shared = lab.run().shared();
        for program in ["routed", "margay"] {
            let from = lab.binaries().own.join(program);
            std::fs::copy(&from, shared.join(program))
                .with_context(|| format!("copy {}", from.display()))?;
        }
        let mut daemon = Self {
            lab,
            node: lab.node(node),
            service: None,
        };
        daemon.write_kubeconfig()?;
        let patch = format!(
            r#"{{"spec":{{"template":{{"spec":{{"affinity":{{"nodeAffinity":{{"requiredDuringSchedulingIgnoredDuringExecution":{{"nodeSelectorTerms":[{{"matchExpressions":[{{"key":"kubernetes.io/hostname","operator":"NotIn","values":["{node}"]}}]}}]}}}}}}}}}}}}}}"#
        );
        lab.kubectl(&[
            "-n",
            NAMESPACE,
            "patch",
            "daemonset",
            "margay",
            "--type=merge",
            "-p",
            &patch,
        ])?;
        wait::until(
            "the DaemonSet's daemon to leave the node",
            Duration::from_mins(1),
            || {
                let on_node = format!("--field-selector=spec.nodeName={node}");
                let label = "app.kubernetes.io/name=margay";
                let words = ["-n", NAMESPACE, "get", "pods", "-l", label, &on_node];
                let left = lab.kubectl(&[&words[..], &["-o=name"]].concat())?;
                Ok(left.trim().is_empty().then_some(()))
            },
        )?;
        daemon.start()?;
        daemon.wait_ready(Duration::from_mins(1))?;
        Ok(daemon)
    }

    /// A kubeconfig with a token of the daemon's service account, bound to the node: admission wants to know the node.
    fn write_kubeconfig(&self) -> Result<()> {
        let name = self.node.name();
        let bound = format!("--bound-object-name={name}");
        let words = ["-n", NAMESPACE, "create", "token", "margay-node"];
        let token = self
            .lab
            .kubectl(&[&words[..], &["--bound-object-kind=Node", &bound]].concat())?;
        let shared = self.lab.run().shared();
        let template = std::fs::read_to_string(shared.join(format!("{name}.kubeconfig")))
            .context("read the node's kubeconfig")?;
        let line = |line: &str| match line.split_once("{token: ") {
            Some((head, _own)) => format!("{head}{{token: {}}}\n", token.trim()),
            None => format!("{line}\n"),
        };
        let text: String = template.lines().map(line).collect();
        std::fs::write(shared.join("routed.kubeconfig"), text).context("write the kubeconfig")
    }

    /// Starts it; does not wait.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(&mut self) -> Result<()> {
        let (program, config) = (
            format!("{SHARED}/routed"),
            format!("{SHARED}/routed.kubeconfig"),
        );
        let plugin = format!("{SHARED}/margay");
        let words = [
            &program,
            "run",
            "--node",
            self.node.name(),
            "--kubeconfig",
            &config,
            "--plugin",
            &plugin,
            "--log-format",
            "text",
        ];
        self.service = Some(self.node.machine.spawn("routed", &words)?);
        Ok(())
    }

    /// Waits until it is ready.
    ///
    /// # Errors
    /// After `limit`, or when it has ended, with the end of its log.
    pub fn wait_ready(&mut self, limit: Duration) -> Result<()> {
        let status = [&format!("{SHARED}/routed"), "status"];
        let ready = wait::until("the daemon to be ready", limit, || {
            self.service().map(Service::check).transpose()?;
            let text = self.node.exec(&status)?;
            if text.contains("NOT READY") {
                bail!("{text}");
            }
            Ok(Some(()))
        });
        ready.map_err(|error| error.context(self.tail(20)))
    }

    /// SIGKILL, now.
    pub fn kill(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.kill();
        }
    }

    /// SIGTERM, as a rollout ends it; returns when it has ended.
    pub fn stop(&mut self) {
        if let Some(mut service) = self.service.take() {
            service.stop();
        }
    }

    /// The running process.
    pub fn service(&mut self) -> Option<&mut Service> {
        self.service.as_mut()
    }

    /// The end of its log.
    pub fn tail(&self, lines: usize) -> String {
        let ended = || "the daemon does not run".to_owned();
        self.service
            .as_ref()
            .map_or_else(ended, |service| service.tail(lines))
    }
}
