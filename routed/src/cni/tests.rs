//! The server over fakes: `cni.md` §12 row by row, as far as no kernel is needed.
#![expect(
    clippy::disallowed_methods,
    reason = "tests open namespaces and meddle with files"
)]

use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::rpc::Request;
use cni_plugin::spec::{Environment, Failure, Verb};
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use super::book::Book;
use super::call::Call;
use super::cancel::{Reason, Trip};
use super::journal::file::Journal;
use super::metrics::Metrics;
use super::record::{Record, Sandbox, State};
use super::server::{Answer, Rooms, Server};
use fakes::Fakes;

mod fakes;
mod recovery;
mod socket;
mod verbs;

/// A node under test.
struct Node {
    fakes: Arc<Fakes>,
    server: Arc<Server>,
    directory: tempfile::TempDir,
}

/// What a runtime says of one container.
#[derive(Clone)]
struct Container {
    id: String,
    netns: String,
    ifname: String,
    args: String,
    conf: Value,
    /// Which namespace of this process stands for the sandbox.
    kind: &'static str,
}

impl Node {
    async fn start() -> Self {
        let node = Self::start_in(tempfile::tempdir().unwrap(), Fakes::new());
        node.server.recover().await;
        node.server.compare_with_ipam().await;
        node
    }

    fn start_in(directory: tempfile::TempDir, fakes: Arc<Fakes>) -> Self {
        let server = server(directory.path(), &fakes, "boot");
        Self {
            fakes,
            server,
            directory,
        }
    }

    /// The daemon ends without a word and a new one starts on the same node.
    async fn restart(self) -> Self {
        self.restart_in_boot("boot").await
    }

    async fn restart_in_boot(self, boot: &str) -> Self {
        let server = server(self.directory.path(), &self.fakes, boot);
        self.fakes.forget_world();
        server.recover().await;
        server.pay_spool().await;
        server.compare_with_ipam().await;
        Self { server, ..self }
    }

    /// A call, and what it does behind its answer.
    async fn run(&self, verb: &str, container: &Container) -> Result<Answer, Failure> {
        let mut answer = self.answer(verb, container).await?;
        if let Some(leaving) = answer.leaving.take() {
            self.server.finish(leaving).await;
        }
        Ok(answer)
    }

    /// A call up to its answer.
    async fn answer(&self, verb: &str, container: &Container) -> Result<Answer, Failure> {
        let (trip, cancel) = Trip::new(Duration::from_secs(20));
        let call = container.call(verb);
        self.server
            .serve(&call, container.sandbox(), &trip, &cancel)
            .await
    }

    /// Starts a call that the test will interfere with.
    fn begin(
        &self,
        verb: &'static str,
        container: &Container,
    ) -> (Trip, JoinHandle<Result<Answer, Failure>>) {
        let (trip, cancel) = Trip::new(Duration::from_secs(20));
        let (server, call, sandbox, handle) = (
            Arc::clone(&self.server),
            container.call(verb),
            container.sandbox(),
            trip.clone(),
        );
        let task = tokio::spawn(async move {
            let mut answer = server.serve(&call, sandbox, &handle, &cancel).await?;
            if let Some(leaving) = answer.leaving.take() {
                server.finish(leaving).await;
            }
            Ok(answer)
        });
        (trip, task)
    }

    async fn code(&self, verb: &str, container: &Container) -> u32 {
        self.run(verb, container)
            .await
            .map_or_else(|failure| failure.code.number(), |_| 0)
    }

    fn records(&self) -> Vec<Record> {
        self.server.book().all()
    }

    fn assert_nothing_left(&self) {
        assert_eq!(self.records(), Vec::new());
        self.fakes.assert_empty();
    }
}

fn server(directory: &Path, fakes: &Arc<Fakes>, boot: &str) -> Arc<Server> {
    let metrics = Arc::new(Metrics::default());
    let (journal, _) = Journal::open(&directory.join("journal"), boot);
    let rooms = Rooms {
        addresses: Arc::<Fakes>::clone(fakes),
        kernel: Arc::<Fakes>::clone(fakes),
        cluster: Arc::<Fakes>::clone(fakes),
    };
    // No sandbox of the tests is the node's own namespace, save where a test says so.
    let own = Sandbox {
        device: 0,
        inode: 0,
    };
    Arc::new(Server::new(
        rooms,
        Book::new(journal, Arc::clone(&metrics)),
        metrics,
        own,
        directory.join("cni.sock"),
        None,
    ))
}

impl Container {
    fn pod(id: &str) -> Self {
        Self {
            id: id.into(),
            netns: format!("/run/netns/surely-not-here-{id}"),
            ifname: "eth0".into(),
            args: format!(
                "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-{id};K8S_POD_UID=uid-{id}"
            ),
            conf: json!({ "cniVersion": "1.1.0", "name": "k8s-pod-network", "type": "margay", "policy_setup_timeout_seconds": 2 }),
            kind: "net",
        }
    }

    fn plain(id: &str) -> Self {
        Self {
            args: String::new(),
            ..Self::pod(id)
        }
    }

    fn with(mut self, key: &str, value: Value) -> Self {
        self.conf.as_object_mut().unwrap().insert(key.into(), value);
        self
    }

    fn environment(&self, verb: &str) -> Environment {
        Environment {
            command: verb.into(),
            container_id: self.id.clone(),
            netns: self.netns.clone(),
            ifname: self.ifname.clone(),
            args: self.args.clone(),
            path: "/opt/cni/bin".into(),
        }
    }

    fn request(&self, verb: &str) -> Request {
        Request::new(&self.environment(verb), self.conf.to_string().as_bytes())
    }

    fn call(&self, verb: &str) -> Call {
        Call::parse(&self.request(verb)).unwrap()
    }

    fn sandbox(&self) -> Option<OwnedFd> {
        if self.kind.is_empty() {
            return None;
        }
        Some(
            File::open(format!("/proc/self/ns/{}", self.kind))
                .unwrap()
                .into(),
        )
    }
}

fn json(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.stdout).unwrap()
}
