//! Packets seen on a link, by tcpdump: to show what travels encapsulated and what does not.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::machine::{Machine, Service};
use crate::wait;

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
        wait::until("tcpdump to listen", Duration::from_secs(10), || {
            service.check()?;
            let text = std::fs::read_to_string(service.log()).context("read the capture")?;
            Ok(text.contains("listening on").then_some(()))
        })?;
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
