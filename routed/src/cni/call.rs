//! A request that passed the border a second time, typed; pure.

use cni_plugin::rpc::{PROTOCOL, Request};
use cni_plugin::spec::{Code, Config, Environment, Failure, PodArguments, Verb};
use model::{AttachmentId, PodRef};

/// One call of a runtime.
#[derive(Clone, Debug)]
pub(super) struct Call {
    /// What is asked.
    pub(super) verb: Verb,
    /// Checked environment.
    pub(super) environment: Environment,
    /// Checked configuration.
    pub(super) config: Config,
    /// The pod, if the runtime is Kubernetes.
    pub(super) pod: Option<PodArguments>,
    /// Key of the attachment; meaningful for verbs that name one.
    pub(super) id: AttachmentId,
}

impl Call {
    /// Checks a request.
    ///
    /// # Errors
    /// The codes of the border: 1, 2, 4, 6, 7.
    pub(super) fn parse(request: &Request) -> Result<Self, Failure> {
        if request.protocol != PROTOCOL {
            return Err(Failure::new(
                Code::Internal,
                format!(
                    "the plugin speaks protocol {}, this daemon {PROTOCOL}: install the plugin of this daemon",
                    request.protocol
                ),
            ));
        }
        let environment = request.environment();
        let verb = Verb::parse(&environment.command)?;
        environment.check(verb)?;
        let config = Config::parse(&request.stdin, verb)?;
        let pod = if verb.names_an_attachment() {
            environment.arguments()?.pod()?
        } else {
            None
        };
        let id = AttachmentId {
            network: config.name.as_str().into(),
            container_id: environment.container_id.as_str().into(),
            ifname: environment.ifname.as_str().into(),
        };
        Ok(Self {
            verb,
            environment,
            config,
            pod,
            id,
        })
    }

    /// Namespace and name of the pod.
    pub(super) fn pod_ref(&self) -> Option<PodRef> {
        self.pod
            .as_ref()
            .map(|pod| PodRef::new(pod.namespace.as_str(), pod.name.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn request(verb: &str, args: &str, stdin: &[u8]) -> Request {
        let environment = Environment {
            command: verb.into(),
            container_id: "c0ffee".into(),
            netns: "/run/netns/x".into(),
            ifname: "eth0".into(),
            args: args.into(),
            path: "/opt/cni/bin".into(),
        };
        Request::new(&environment, stdin)
    }

    #[test]
    fn an_unknown_protocol_is_refused() {
        let old = Request {
            protocol: 9,
            ..request("ADD", "", b"{}")
        };
        assert_eq!(Call::parse(&old).unwrap_err().code, Code::Internal);
    }

    proptest! {
        #[test]
        fn no_request_panics(verb in "(ADD|DEL|CHECK|GC|STATUS|VERSION|.{0,6})", args in ".{0,40}", stdin in proptest::collection::vec(any::<u8>(), 0..100)) {
            if let Err(failure) = Call::parse(&request(&verb, &args, &stdin)) {
                prop_assert!((1..=7).contains(&failure.code.number()), "{failure:?}");
            }
        }
    }
}
