//! FRR in the router's namespace: zebra and bgpd under a path space of their own.

use std::process::Command;
use std::time::Duration;

use crate::net::{self, Lab, output};
use crate::us::text;
use crate::{Options, Router};

pub(crate) struct Daemon {
    bgpd: net::Daemon,
    _zebra: net::Daemon,
}

fn ask(question: &str) -> String {
    output("vtysh", &["-N", "tor", "-d", "bgpd", "-c", question])
}

impl Router for Daemon {
    fn start(lab: &Lab, options: &Options) -> Self {
        let (ours, theirs) = (text(lab.ours), text(lab.theirs));
        let password = options
            .password
            .map(|key| format!(" neighbor {ours} password {key}\n"))
            .unwrap_or_default();
        let ttl_security = if options.ttl_security {
            format!(" neighbor {ours} ttl-security hops 1\n")
        } else {
            String::new()
        };
        let config = format!(
            "router bgp {asn}
 bgp router-id {theirs}
 no bgp default ipv4-unicast
 no bgp ebgp-requires-policy
 no bgp network import-check
 bgp graceful-restart
 bgp graceful-restart preserve-fw-state
 neighbor {ours} remote-as 64512
 neighbor {ours} timers {keepalive} {hold}
 neighbor {ours} timers connect 1
{password}{ttl_security} address-family ipv4 unicast
  network 203.0.113.0/24
  neighbor {ours} activate
  neighbor {ours} next-hop-self
",
            asn = options.asn,
            hold = options.hold,
            keepalive = options.hold / 3,
        );
        // The daemons drop to their own user: what they read must be readable, where they write must be theirs.
        let shell =
            "mkdir -p /run/frr/tor && chown -R frr:frr /run/frr && chmod 755 /run/frr /run/frr/tor";
        assert!(
            Command::new("sh")
                .args(["-c", shell])
                .status()
                .unwrap()
                .success()
        );
        std::fs::write("/run/frr/bgpd.conf", config).unwrap();
        std::fs::write("/run/frr/zebra.conf", "hostname tor\n").unwrap();
        let zebra = net::Daemon::spawn(
            "/usr/lib/frr/zebra",
            &["-N", "tor", "-f", "/run/frr/zebra.conf", "-A", "127.0.0.1"],
        );
        let begun = std::time::Instant::now();
        while !std::path::Path::new("/run/frr/tor/zserv.api").exists()
            && begun.elapsed().as_secs() < 5
        {
            std::thread::sleep(Duration::from_millis(20));
        }
        let arguments = ["-N", "tor", "-f", "/run/frr/bgpd.conf", "-A", "127.0.0.1"];
        Self {
            bgpd: net::Daemon::spawn("/usr/lib/frr/bgpd", &arguments),
            _zebra: zebra,
        }
    }

    fn has_route(&self, prefix: &str) -> bool {
        let shown = ask(&format!("show bgp ipv4 unicast {prefix}"));
        shown.contains("10.0.0.1") && shown.contains("best")
    }

    fn route_identity(&self, prefix: &str) -> Option<String> {
        // A route that was removed and added has another table version.
        let shown = ask(&format!("show bgp ipv4 unicast {prefix}"));
        shown
            .lines()
            .find(|line| line.contains("version"))
            .map(ToOwned::to_owned)
    }

    fn ask_refresh(&self) {
        ask("clear bgp ipv4 unicast 10.0.0.1 soft in");
    }

    fn crash(&mut self) {
        self.bgpd.kill();
    }

    fn freeze(&self) {
        self.bgpd.signal("-STOP");
    }
}
