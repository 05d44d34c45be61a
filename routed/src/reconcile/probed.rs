//! Which tunnels this kernel can make, asked for when a pool first wants one: trying loads the kernel's module, and nobody should get
//! devices for what nobody uses.

use dataplane::host::Lacks;
use dataplane::io::{TunnelKind, probe_tunnel};
use dataplane::plan::pools::{Family, Pools};

/// Answers so far.
#[derive(Debug, Default)]
pub(super) struct Probed {
    vxlan: Option<Result<(), String>>,
    ipip: Option<Result<(), String>>,
}

impl Probed {
    /// Tries what the pools want and was not tried yet. A try that could not be made counts as fine: the kernel will refuse the
    /// device itself, in its own words.
    pub(super) fn of(&mut self, pools: &Pools) -> Lacks {
        let vxlan = Family::BOTH.iter().any(|family| pools.uses_vxlan(*family));
        Lacks {
            vxlan: lack(&mut self.vxlan, vxlan, TunnelKind::Vxlan),
            ipip: lack(
                &mut self.ipip,
                pools.uses_ipip(Family::V4),
                TunnelKind::Ipip,
            ),
        }
    }

    /// What was missing is tried again: a module may have been installed.
    pub(super) fn forget(&mut self) {
        self.vxlan.take_if(|answer| answer.is_err());
        self.ipip.take_if(|answer| answer.is_err());
    }
}

fn lack(known: &mut Option<Result<(), String>>, wanted: bool, kind: TunnelKind) -> Option<String> {
    if !wanted {
        return None;
    }
    let answer = known.get_or_insert_with(|| match probe_tunnel(kind) {
        Ok(answer) => answer,
        Err(error) => {
            tracing::warn!(%error, ?kind, "cannot try out what the kernel can do");
            Ok(())
        }
    });
    answer.as_ref().err().cloned()
}
