//! Where Services are served, as far as policies that name a Service need to know.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::endpoint::Transport;
use crate::ids::{NamespacedName, ObjectName};

/// An `EndpointSlice` of `discovery.k8s.io`, trimmed: some of the endpoints of one Service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndpointSlice {
    /// Namespace and name.
    pub id: NamespacedName,
    /// Label `kubernetes.io/service-name`; a slice without it belongs to no Service. Those of headless Services have none here: such
    /// a Service has no address of its own that a policy could stand for.
    pub service: Option<ObjectName>,
    /// Addresses of its endpoints, ready or not.
    pub addresses: BTreeSet<IpAddr>,
    /// Protocol and number of its ports.
    pub ports: BTreeSet<(Transport, u16)>,
}

/// Everything that serves one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    /// Addresses of all endpoints.
    pub addresses: BTreeSet<IpAddr>,
    /// Address, protocol and port of all endpoints.
    pub ports: BTreeSet<(IpAddr, Transport, u16)>,
}

impl Backends {
    /// Gathers what slices say.
    pub fn of<'a>(slices: impl Iterator<Item = &'a EndpointSlice>) -> Self {
        let mut backends = Self::default();
        for slice in slices {
            backends.addresses.extend(&slice.addresses);
            for address in &slice.addresses {
                let ports = slice.ports.iter();
                backends
                    .ports
                    .extend(ports.map(|(protocol, port)| (*address, *protocol, *port)));
            }
        }
        backends
    }
}
