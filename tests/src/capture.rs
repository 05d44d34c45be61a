//! Packets seen on a link, by tcpdump: to show what travels encapsulated and what does not.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::{Machine, Service};
use crate::wait;
use crate::wire::{self, Packet};

/// A running capture.
#[derive(Debug)]
pub struct Capture {
    service: Service,
}

impl Capture {
    /// Captures packets that match a tcpdump filter on a link of a machine; returns once tcpdump listens.
    ///
    /// # Errors
    /// tcpdump does not start: no such link, or a bad filter.
    pub fn start(machine: &Machine, link: &str, filter: &str) -> Result<Self> {
        let mut service = machine.spawn(
            &format!("tcpdump-{link}-{}", crate::run::random_hex(2)?),
            &[
                "tcpdump",
                "-n",
                "-l",
                "-U",
                "-v",
                "--immediate-mode",
                "-i",
                link,
                filter,
            ],
        )?;
        listening(&mut service)?;
        Ok(Self { service })
    }

    /// Ends the capture; returns tcpdump's lines, one paragraph per packet.
    ///
    /// # Errors
    /// The capture cannot be read.
    pub fn finish(mut self) -> Result<String> {
        self.service.stop();
        std::fs::read_to_string(self.service.log()).context("read the capture")
    }
}

/// A running capture into a file, whose packets are read by [`wire`].
#[derive(Debug)]
pub struct Recording {
    service: Service,
    file: PathBuf,
}

/// Octets kept of each packet: every header of an encapsulated one.
const KEPT: &str = "192";

impl Recording {
    /// Records packets that match a tcpdump filter on a link of a machine; returns once tcpdump listens.
    ///
    /// # Errors
    /// As [`Capture::start`].
    pub fn start(machine: &Machine, link: &str, filter: &str) -> Result<Self> {
        let name = format!(
            "{}-{link}-{}.pcap",
            machine.name(),
            crate::run::random_hex(2)?
        );
        // -Z root: it would write as a user of its own, who may not write here.
        let place = format!("/run/lab/logs/{name}");
        let words = [
            "tcpdump",
            "-n",
            "-U",
            "--immediate-mode",
            "-B",
            "8192",
            "-s",
            KEPT,
            "-Z",
            "root",
            "-i",
            link,
            "-w",
            &place,
            filter,
        ];
        let mut service = machine.spawn(&format!("tcpdump-{name}"), &words)?;
        listening(&mut service)?;
        let file = machine.run().logs().join(name);
        Ok(Self { service, file })
    }

    /// Ends the recording; returns its TCP segments and UDP datagrams in their order.
    ///
    /// # Errors
    /// The recording cannot be read.
    pub fn finish(mut self) -> Result<Vec<Packet>> {
        self.service.stop();
        let recorded =
            std::fs::read(&self.file).with_context(|| format!("read {}", self.file.display()))?;
        wire::read_pcap(&recorded).with_context(|| self.file.display().to_string())
    }
}

fn listening(service: &mut Service) -> Result<()> {
    wait::until("tcpdump to listen", Duration::from_secs(10), || {
        service.check()?;
        let text = std::fs::read_to_string(service.log()).context("read the capture")?;
        Ok(text.contains("listening on").then_some(()))
    })
}
