//! Links by way of `dataplane::io`.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use cni_plugin::spec::DefaultRoute;
use dataplane::IfName;
use dataplane::io::{self, AttachError, Detacher, SysctlRoot, Workloads};
use dataplane::plan::workload::{self, Attachment, Forwarding, GATEWAY_V4, GATEWAY_V6};
use futures::FutureExt;
use futures::future::BoxFuture;
use thiserror::Error;

use crate::cni::record::Mac;
use crate::cni::seams::{HostLink, Kernel, Plumbed, Plumbing, SandboxLink, Unplumbed};

/// The kernel's side could not be opened; its words.
#[derive(Debug, Error)]
#[error("links of this node cannot be reached: {0}")]
pub struct OpenError(String);

/// Links of the namespace this daemon lives in, and of sandboxes.
#[derive(Clone, Debug)]
pub struct Links {
    workloads: Workloads,
    detacher: Detacher,
}

impl Links {
    /// Opens what is needed; `sysctl_root` is where a writable `/proc/sys` is seen.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub fn open(sysctl_root: PathBuf) -> Result<Self, OpenError> {
        Ok(Self {
            workloads: Workloads::open(SysctlRoot::new(sysctl_root))
                .map_err(|error| OpenError(error.to_string()))?,
            detacher: Detacher::open().map_err(|error| OpenError(error.to_string()))?,
        })
    }

    async fn find(&self, host: &str) -> Result<Option<io::HostLink>, String> {
        let Ok(name) = IfName::parse(host) else {
            return Ok(None);
        };
        self.workloads
            .find(name)
            .await
            .map_err(|error| error.to_string())
    }
}

impl Kernel for Links {
    fn attach(
        &self,
        plumbing: Plumbing,
        sandbox: OwnedFd,
    ) -> BoxFuture<'_, Result<Plumbed, Unplumbed>> {
        async move {
            let refused = |error: &dyn std::fmt::Display| Unplumbed::Refused(error.to_string());
            let attachment = attachment(&plumbing).map_err(|error| refused(&error))?;
            let recipe = workload::plan(&attachment).map_err(|error| refused(&error))?;
            let made = self
                .workloads
                .attach(recipe, sandbox)
                .await
                .map_err(|error| unplumbed(&error))?;
            Ok(Plumbed {
                ifindex: made.host.index,
                mac: Mac(made.sandbox.mac.0),
                mtu: made.sandbox.mtu,
            })
        }
        .boxed()
    }

    fn settled(
        &self,
        sandbox: OwnedFd,
        ifname: Arc<str>,
        within: Duration,
    ) -> BoxFuture<'_, Result<bool, String>> {
        async move {
            let name = IfName::parse(&ifname).map_err(|error| error.to_string())?;
            let settled = self.workloads.settled(sandbox, name, within).await;
            settled.map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn detach(&self, host: Arc<str>, ifindex: u32) -> BoxFuture<'_, Result<(), String>> {
        async move {
            let Some(link) = self.find(&host).await? else {
                return Ok(());
            };
            if ifindex != 0 && link.index != ifindex {
                return Ok(());
            }
            self.detacher
                .detach(link.name)
                .await
                .map_err(|error| error.to_string())
        }
        .boxed()
    }

    fn links(&self, prefix: &str) -> BoxFuture<'_, Result<BTreeMap<String, HostLink>, String>> {
        let prefixes = vec![prefix.to_owned()];
        async move {
            let links = self
                .workloads
                .list(prefixes)
                .await
                .map_err(|error| error.to_string())?;
            Ok(links
                .into_iter()
                .map(|link| (link.name.to_string(), host_link(link)))
                .collect())
        }
        .boxed()
    }

    fn link(&self, host: Arc<str>) -> BoxFuture<'_, Result<Option<HostLink>, String>> {
        async move { Ok(self.find(&host).await?.map(host_link)) }.boxed()
    }

    fn routed(&self, prefix: &str) -> BoxFuture<'_, Result<BTreeMap<u32, Vec<IpAddr>>, String>> {
        let prefixes = vec![prefix.to_owned()];
        async move {
            let standing = self
                .workloads
                .standing(prefixes)
                .await
                .map_err(|error| error.to_string())?;
            Ok(standing
                .into_iter()
                .map(|one| (one.link.index, one.addresses))
                .collect())
        }
        .boxed()
    }

    fn inspect(
        &self,
        sandbox: OwnedFd,
        ifname: Arc<str>,
    ) -> BoxFuture<'_, Result<Option<SandboxLink>, String>> {
        async move {
            let name = IfName::parse(&ifname).map_err(|error| error.to_string())?;
            let found = self
                .workloads
                .inspect(sandbox, name)
                .await
                .map_err(|error| error.to_string())?;
            Ok(found.map(|inside| {
                let to =
                    |gateway: IpAddr| inside.routes.iter().any(|(to, _)| *to == gateway.into());
                let via =
                    |gateway: IpAddr| inside.routes.iter().any(|(_, via)| *via == Some(gateway));
                SandboxLink {
                    up: inside.up,
                    mac: Mac(inside.end.mac.0),
                    gateway_v4: to(GATEWAY_V4.into()),
                    gateway_v6: via(GATEWAY_V6.into()),
                    addresses: inside.addresses,
                }
            }))
        }
        .boxed()
    }
}

fn attachment(plumbing: &Plumbing) -> Result<Attachment, dataplane::link::BadIfName> {
    Ok(Attachment {
        host: IfName::parse(&plumbing.host)?,
        sandbox: IfName::parse(&plumbing.ifname)?,
        alias: plumbing.alias.clone(),
        addresses: plumbing.addresses.clone(),
        mtu: plumbing.mtu,
        forwarding: if plumbing.forwarding {
            Forwarding::On
        } else {
            Forwarding::Off
        },
        default_route: match plumbing.default_route {
            DefaultRoute::Auto => workload::DefaultRoute::IfNone,
            DefaultRoute::Always => workload::DefaultRoute::Always,
            DefaultRoute::Never => workload::DefaultRoute::Never,
        },
        routes: Vec::new(),
    })
}

fn unplumbed(error: &AttachError) -> Unplumbed {
    let words = error.to_string();
    match error {
        AttachError::HostNameTaken { .. } | AttachError::SandboxNameTaken { .. } => {
            Unplumbed::Exists(words)
        }
        AttachError::Sandbox(_) => Unplumbed::SandboxGone(words),
        AttachError::HostNamespace
        | AttachError::Open(_)
        | AttachError::Step { .. }
        | AttachError::Sysctl(_)
        | AttachError::NoMac { .. }
        | AttachError::Panicked => Unplumbed::Refused(words),
    }
}

fn host_link(link: io::HostLink) -> HostLink {
    HostLink {
        ifindex: link.index,
        alias: link.alias.unwrap_or_default(),
        up: link.up,
    }
}
