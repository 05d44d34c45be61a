//! BIRD 2 in the router's namespace.

use std::path::PathBuf;

use crate::net::{self, Lab, output};
use crate::us::text;
use crate::{Options, Router};

pub(crate) struct Daemon {
    process: net::Daemon,
    socket: PathBuf,
}

impl Daemon {
    fn ask(&self, question: &str) -> String {
        let socket = self.socket.to_str().unwrap();
        let words: Vec<&str> = ["-s", socket]
            .into_iter()
            .chain(question.split(' '))
            .collect();
        output("birdc", &words)
    }
}

impl Router for Daemon {
    fn start(lab: &Lab, options: &Options) -> Self {
        let (ours, theirs) = (text(lab.ours), text(lab.theirs));
        let password = options
            .password
            .map(|key| format!("password \"{key}\";"))
            .unwrap_or_default();
        let ttl_security = if options.ttl_security {
            "ttl security on;"
        } else {
            ""
        };
        let config = format!(
            "router id {theirs};
protocol device {{}}
protocol static {{ ipv4; route 203.0.113.0/24 blackhole; }}
protocol bgp margay {{
  local {theirs} as {asn}; neighbor {ours} as 64512; {password} {ttl_security}
  hold time {hold}; connect retry time 1; connect delay time 1; error wait time 1, 2;
  graceful restart on;
  ipv4 {{ import all; export all; next hop self; }};
}}
",
            asn = options.asn,
            hold = options.hold,
        );
        let config = lab.write("bird.conf", &config);
        let socket = lab.directory.path().join("bird.ctl");
        let pid = lab.directory.path().join("bird.pid");
        let path = |path: &PathBuf| path.to_str().unwrap().to_owned();
        let (config, control, pid) = (path(&config), path(&socket), path(&pid));
        let mut arguments = vec!["-f", "-c", &config, "-s", &control, "-P", &pid];
        if options.recovers {
            arguments.push("-R");
        }
        Self {
            process: net::Daemon::spawn("bird", &arguments),
            socket,
        }
    }

    fn has_route(&self, prefix: &str) -> bool {
        self.ask(&format!("show route {prefix} protocol margay"))
            .contains(prefix)
    }

    fn route_identity(&self, prefix: &str) -> Option<String> {
        // The time of the last change stands in the line: "10.244.1.0/26 unicast [margay 15:31:07.123] * (100)".
        let shown = self.ask(&format!("show route {prefix} protocol margay"));
        let line = shown.lines().find(|line| line.starts_with(prefix))?;
        let from = line.find('[')?;
        let to = line.find(']')?;
        line.get(from..to).map(ToOwned::to_owned)
    }

    fn is_same_route(&self, before: &str, now: &str) -> bool {
        // BIRD computes the time of a change backwards from its clock at each question: the last digit wavers.
        match (milliseconds(before), milliseconds(now)) {
            (Some(before), Some(now)) => before.abs_diff(now) <= 50,
            (None, _) | (_, None) => false,
        }
    }

    fn ask_refresh(&self) {
        self.ask("reload in margay");
    }

    fn crash(&mut self) {
        self.process.kill();
    }

    fn freeze(&self) {
        self.process.signal("-STOP");
    }
}

/// Milliseconds since midnight of "[margay 15:31:07.123".
fn milliseconds(identity: &str) -> Option<u64> {
    let (_, clock) = identity.rsplit_once(' ')?;
    let (whole, fraction) = clock.split_once('.')?;
    let mut seconds = 0;
    for part in whole.split(':') {
        seconds = seconds * 60 + part.parse::<u64>().ok()?;
    }
    Some(seconds * 1_000 + fraction.parse::<u64>().ok()?)
}
