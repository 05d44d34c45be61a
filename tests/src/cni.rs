//! The plugin executed as a runtime does it, where a container would only cost time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;

use crate::node::Node;

/// Where the plugin is on a node.
pub const PLUGIN: &str = "/opt/cni/bin/margay";
const CONF: &str = r#"{"cniVersion":"1.1.0","name":"k8s-pod-network","type":"margay","ipam":{"type":"margay-ipam"}}"#;

/// A sandbox without a container: a named network namespace of a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandbox {
    /// Name of the namespace, and container id.
    pub name: String,
    /// The pod it stands for, as `(namespace, name)`; without one it belongs to nobody.
    pub pod: Option<(String, String)>,
}

impl Sandbox {
    /// A sandbox that belongs to no pod.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pod: None,
        }
    }

    /// A sandbox of this pod.
    pub fn of(name: &str, namespace: &str, pod: &str) -> Self {
        Self {
            name: name.to_owned(),
            pod: Some((namespace.to_owned(), pod.to_owned())),
        }
    }
}

/// What the plugin answered.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Exit code.
    pub exit: i32,
    /// Standard output.
    pub stdout: String,
    /// How long it took, the way into the node included.
    pub took: Duration,
}

impl Answer {
    /// The error's code, `None` on success.
    pub fn code(&self) -> Option<u64> {
        if self.exit == 0 {
            return None;
        }
        self.json().ok()?.get("code")?.as_u64()
    }

    /// The first address assigned.
    pub fn address(&self) -> Option<String> {
        let json = self.json().ok()?;
        let text = json.pointer("/ips/0/address")?.as_str()?;
        Some(text.split('/').next().unwrap_or(text).to_owned())
    }

    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout)
            .with_context(|| format!("no JSON on stdout: {}", self.stdout))
    }
}

impl Node {
    /// Makes the sandbox's namespace.
    ///
    /// # Errors
    /// It exists, or the node refuses.
    pub fn make_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        self.exec(&["ip", "netns", "add", &sandbox.name]).map(drop)
    }

    /// Removes the sandbox's namespace, as the end of a container does.
    ///
    /// # Errors
    /// There is none.
    pub fn remove_sandbox(&self, sandbox: &Sandbox) -> Result<()> {
        self.exec(&["ip", "netns", "del", &sandbox.name]).map(drop)
    }

    /// Executes the plugin: `ADD`, `DEL`, `CHECK`, `STATUS`.
    ///
    /// # Errors
    /// It could not be executed at all; a refusal is an answer.
    pub fn cni(&self, verb: &str, sandbox: &Sandbox) -> Result<Answer> {
        let pod = match &sandbox.pod {
            Some((namespace, name)) => {
                format!(
                    "CNI_ARGS='IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME={name}'"
                )
            }
            None => String::new(),
        };
        let id = &sandbox.name;
        let script = format!(
            "code=0; env CNI_COMMAND={verb} CNI_CONTAINERID={id} CNI_NETNS=/run/netns/{id} CNI_IFNAME=eth0 CNI_PATH=/opt/cni/bin {pod} \
             {PLUGIN} || code=$?; echo; echo $code"
        );
        let start = Instant::now();
        let output = self.machine.exec_with(&["sh", "-ec", &script], CONF)?;
        let took = start.elapsed();
        let (stdout, code) = output
            .trim_end()
            .rsplit_once('\n')
            .context("the plugin's shell said nothing")?;
        Ok(Answer {
            exit: code.trim().parse().context("read the exit code")?,
            stdout: stdout.trim().to_owned(),
            took,
        })
    }
}
