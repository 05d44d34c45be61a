//! STATUS: would an ADD work now, and may the runtime be told so? Pure.
//!
//! containerd turns any error into NetworkReady=false, kubelet makes the node `NotReady`, and its healthy pods are evicted. So a
//! restart repeats what was last said while that is fresh, and a shortage that leaves running pods whole is not an error on a
//! node that serves pods already.

use std::time::Duration;

use cni_plugin::spec::{Code, Failure, StatusMode};

use crate::world::SyncState;

/// How long the kernel may refuse before running pods count as suffering: one failed batch is repaired by the next round.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// What the last daemon said, and how old that was when this one started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Beat {
    /// Its answer to STATUS.
    pub(super) said: Result<(), Failure>,
    /// Age of the statement now.
    pub(super) age: Duration,
}

/// What STATUS is decided from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Facts {
    /// State of watches and of the kernel.
    pub(super) sync: SyncState,
    /// How long the kernel has refused our last batch; `None` when it did not.
    pub(super) refusing: Option<Duration>,
    /// Whether an address would be found.
    pub(super) assignable: Result<(), String>,
    /// Whether this node ever served an ADD.
    pub(super) served: bool,
    /// Key `status` of the configuration.
    pub(super) mode: StatusMode,
    /// What the last daemon said.
    pub(super) last: Option<Beat>,
}

/// Decides.
///
/// # Errors
/// 50 when an ADD would fail, 51 when running pods suffer too.
pub(super) fn verdict(facts: &Facts) -> Result<(), Failure> {
    if facts.refusing.is_some_and(|since| since >= PATIENCE) {
        return Err(Failure::new(
            Code::LimitedConnectivity,
            "the kernel of this node refuses routes or policy: see the log of its Margay daemon",
        )
        .because(&facts.sync.reason));
    }
    if !facts.sync.in_sync {
        return match &facts.last {
            Some(beat) if beat.age < cni_plugin::spool::FRESH => beat.said.clone(),
            Some(_) | None => Err(unavailable(
                "the Margay daemon of this node is not in sync with the API server yet",
            )
            .because(&facts.sync.reason)),
        };
    }
    let shortage = shortage(facts);
    match (facts.mode, facts.served) {
        (StatusMode::Guarded, true) => Ok(()),
        (StatusMode::Guarded, false) | (StatusMode::Strict, _) => shortage,
    }
}

/// Causes that leave running pods whole.
fn shortage(facts: &Facts) -> Result<(), Failure> {
    if !facts.sync.api_reachable {
        return Err(unavailable(
            "the API server cannot be reached from this node, so no address can be assigned",
        ));
    }
    match &facts.assignable {
        Ok(()) => Ok(()),
        Err(why) => Err(unavailable("no address can be assigned on this node").because(why)),
    }
}

fn unavailable(msg: &str) -> Failure {
    Failure::new(Code::NotAvailable, msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn well() -> Facts {
        Facts {
            sync: SyncState {
                in_sync: true,
                api_reachable: true,
                kernel_ok: true,
                reason: String::new(),
            },
            refusing: None,
            assignable: Ok(()),
            served: false,
            mode: StatusMode::Guarded,
            last: None,
        }
    }

    fn code(facts: &Facts) -> u32 {
        verdict(facts).map_or_else(|failure| failure.code.number(), |()| 0)
    }

    #[test]
    fn a_shortage_is_told_only_where_no_pod_can_be_evicted_for_it() {
        let no_address = Facts {
            assignable: Err("pool full".into()),
            ..well()
        };
        let mut no_api = well();
        no_api.sync.api_reachable = false;
        for facts in [no_address, no_api] {
            assert_eq!(code(&facts), 50);
            assert_eq!(
                code(&Facts {
                    served: true,
                    ..facts.clone()
                }),
                0
            );
            assert_eq!(
                code(&Facts {
                    served: true,
                    mode: StatusMode::Strict,
                    ..facts
                }),
                50
            );
        }
    }

    #[test]
    fn a_restart_repeats_what_was_last_said_while_that_is_fresh() {
        let mut starting = well();
        starting.sync.in_sync = false;
        assert_eq!(code(&starting), 50);
        let said = |said, seconds| {
            Some(Beat {
                said,
                age: Duration::from_secs(seconds),
            })
        };
        assert_eq!(
            code(&Facts {
                last: said(Ok(()), 5),
                ..starting.clone()
            }),
            0
        );
        assert_eq!(
            code(&Facts {
                last: said(Ok(()), 31),
                ..starting.clone()
            }),
            50
        );
        assert_eq!(
            code(&Facts {
                last: said(Err(Failure::new(Code::LimitedConnectivity, "x")), 5),
                ..starting
            }),
            51
        );
    }

    #[test]
    fn a_kernel_that_keeps_refusing_is_51_and_one_failed_batch_is_not() {
        for (seconds, wanted) in [(0, 0), (29, 0), (30, 51)] {
            let facts = Facts {
                refusing: Some(Duration::from_secs(seconds)),
                served: true,
                ..well()
            };
            assert_eq!(code(&facts), wanted);
        }
    }
}
