//! Numbered messages between two pods while something is done to the cluster: what was lost meanwhile.

use std::net::IpAddr;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::command;
use crate::lab::{Lab, Pod};

/// The niceness of both ends of a flow.
const PRIORITY: &str = "-15";

/// A flow under way.
#[derive(Debug)]
pub struct Flow {
    name: String,
    result: JoinHandle<Result<String>>,
}

/// What a flow of one protocol came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// Messages sent.
    pub sent: u64,
    /// Messages that came back, each counted once.
    pub received: u64,
    /// Messages that never came back.
    pub lost: u64,
    /// Messages that came back again.
    pub duplicated: u64,
    /// The longest time without a message.
    pub longest_gap: Duration,
    /// What ended the flow early.
    pub error: Option<String>,
}

/// Both protocols.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Over one TCP connection.
    pub tcp: Count,
    /// In datagrams.
    pub udp: Count,
}

impl Counts {
    /// An error unless nothing was lost: no reset, no missing message, no gap over 200 ms.
    ///
    /// # Errors
    /// Something was lost.
    pub fn nothing_lost(&self) -> Result<()> {
        let fine = |count: &Count| {
            count.lost == 0
                && count.error.is_none()
                && count.longest_gap <= Duration::from_millis(200)
        };
        if fine(&self.tcp) && fine(&self.udp) {
            Ok(())
        } else {
            bail!("messages were lost: {self:?}")
        }
    }
}

impl Counts {
    /// An error unless every message came back and no connection broke. Gaps are not judged: on a busy machine they are the
    /// scheduler's (up to 3.9 s were seen at load 14 without a loss).
    ///
    /// # Errors
    /// Something is missing.
    pub fn nothing_missing(&self) -> Result<()> {
        let whole = |count: &Count| count.lost == 0 && count.error.is_none();
        if whole(&self.tcp) && whole(&self.udp) {
            Ok(())
        } else {
            bail!("messages are missing: {self:?}")
        }
    }
}

impl Lab {
    /// Starts 1,000 messages a second, TCP and UDP, from one test pod to the echo of another for `time`.
    ///
    /// # Errors
    /// The pod has no sandbox.
    pub fn flow(&self, from: &Pod, to: IpAddr, time: Duration) -> Result<Flow> {
        let node = self.node(&from.node);
        let netns = format!("--net={}", node.pod_netns(&from.namespace, &from.name)?);
        let (to, seconds) = (to.to_string(), time.as_secs().max(1).to_string());
        self.prefer_probes()?;
        // Ahead of everything else on the machine: what is measured is the network, not the scheduler.
        let mut run = node.machine.command(&[
            "nice",
            "-n",
            PRIORITY,
            "nsenter",
            &netns,
            "--",
            "/run/tools/probe",
            "flow",
            &to,
            "--tcp",
            "7",
            "--udp",
            "7",
            "--rate",
            "1000",
            "--seconds",
            &seconds,
        ]);
        let name = format!("{} -> {to}", from.name);
        Ok(Flow {
            name,
            result: std::thread::spawn(move || command::output(&mut run, None)),
        })
    }
}

impl Lab {
    /// Puts the echo servers of all test pods ahead of everything else on the machine.
    fn prefer_probes(&self) -> Result<()> {
        let processes = self.nodes().iter().flat_map(|node| node.processes("probe"));
        let threads: Vec<String> = processes
            .flat_map(|pid| {
                std::fs::read_dir(format!("/proc/{pid}/task"))
                    .into_iter()
                    .flatten()
                    .flatten()
            })
            .map(|entry| entry.file_name().to_string_lossy().into_owned())
            .collect();
        // In a guest they are no processes of this machine.
        if threads.is_empty() {
            return Ok(());
        }
        let words: Vec<&str> = ["-n", PRIORITY, "-p"]
            .into_iter()
            .chain(threads.iter().map(String::as_str))
            .collect();
        // A pod may end in between; the others have got their priority all the same.
        let outcome = command::run("renice", &words).map(drop);
        outcome.or_else(|error| {
            if format!("{error:#}").contains("No such process") {
                Ok(())
            } else {
                Err(error)
            }
        })
    }
}

impl Flow {
    /// Waits for its end.
    ///
    /// # Errors
    /// The flow could not be run at all.
    pub fn finish(self) -> Result<Counts> {
        let text = self
            .result
            .join()
            .unwrap_or_else(|_panic| bail!("the thread of the flow panicked"))?;
        parse(&text).with_context(|| format!("flow {}: {text}", self.name))
    }
}

fn parse(text: &str) -> Result<Counts> {
    let value: serde_json::Value = serde_json::from_str(text).context("read the counts")?;
    let count = |name: &str| {
        let part = value.get(name).with_context(|| format!("no {name}"))?;
        let number = |key: &str| {
            part.get(key)
                .and_then(serde_json::Value::as_u64)
                .with_context(|| format!("no {key}"))
        };
        anyhow::Ok(Count {
            sent: number("sent")?,
            received: number("received")?,
            lost: number("lost")?,
            duplicated: number("duplicated")?,
            longest_gap: Duration::from_millis(number("longest_gap_ms")?),
            error: part
                .get("error")
                .and_then(serde_json::Value::as_str)
                .map(str::to_owned),
        })
    };
    Ok(Counts {
        tcp: count("tcp")?,
        udp: count("udp")?,
    })
}
