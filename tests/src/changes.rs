//! What the kernel tells of routes and rules on a node while something happens: a fault that costs no packet may still have
//! torn down and rebuilt what carries them.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::lab::Lab;
use crate::machine::Service;
use crate::wait;

/// Two listeners on a node.
#[derive(Debug)]
pub struct Changes {
    routes: Service,
    rules: Service,
}

impl Changes {
    /// Listens from now on.
    ///
    /// # Errors
    /// The listeners cannot be started.
    pub fn watch(lab: &Lab, node: &str) -> Result<Self> {
        let machine = &lab.node(node).machine;
        // One log per listening: a log is appended to, and what an earlier listener heard is not ours.
        let turn = wait::next_number();
        let routes = machine.spawn(
            &format!("ip-monitor-{turn}"),
            &["ip", "monitor", "route", "nexthop"],
        )?;
        let rules = machine.spawn(&format!("nft-monitor-{turn}"), &["nft", "monitor"])?;
        // Neither says when it has begun to listen.
        std::thread::sleep(Duration::from_millis(500));
        Ok(Self { routes, rules })
    }

    /// Changes of routes to pods or blocks, and of our tables.
    ///
    /// # Errors
    /// What they heard cannot be read.
    pub fn finish(mut self) -> Result<Vec<String>> {
        self.routes.stop();
        self.rules.stop();
        let read = |service: &Service| {
            std::fs::read_to_string(service.log()).context("read what the kernel told")
        };
        let (routes, rules) = (read(&self.routes)?, read(&self.rules)?);
        let routes = routes.lines().filter(|line| line.contains("10.244."));
        // Rules, elements, chains and sets of our table. The probe of kernel features has a table of its own, and taking an
        // orphaned table over is told as `add table inet margay`.
        let rules = rules.lines().filter(|line| line.contains("inet margay "));
        Ok(routes.chain(rules).map(str::to_owned).collect())
    }
}
