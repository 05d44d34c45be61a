//! The control plane: etcd, the API server, the controllers and the scheduler on one machine of the fabric.
//!
//! Credentials are made for each run: a random token per component, a key pair for service accounts; the API server
//! makes its own certificate, whose authority goes into the kubeconfigs.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::binaries::Binaries;
use crate::fabric;
use crate::family::{Families, Family};
use crate::kubectl::Kubectl;
use crate::machine::{Machine, Service};
use crate::{run, wait};

/// The range of service addresses; its first is the API server's.
pub const SERVICES: &str = "10.96.0.0/16";
/// The same, IPv6.
pub const SERVICES6: &str = "fd00:96::/112";
/// The API server's port.
pub const PORT: u16 = 6443;
/// Where it keeps certificates, keys and tokens on its machine.
const SECRETS: &str = "/var/lib/kubernetes";

/// The range of service addresses of one family.
pub fn services(family: Family) -> &'static str {
    match family {
        Family::V4 => SERVICES,
        Family::V6 => SERVICES6,
    }
}

/// The running control plane.
#[derive(Debug)]
pub struct Control {
    machine: Arc<Machine>,
    binaries: Binaries,
    families: Families,
    identities: Vec<Identity>,
    etcd: Option<Service>,
    api: Option<Service>,
    controllers: Option<Service>,
    scheduler: Option<Service>,
}

/// Who talks to the API server.
#[derive(Clone, Debug)]
struct Identity {
    /// File name of the kubeconfig.
    name: String,
    user: String,
    group: Option<&'static str>,
    token: String,
}

impl Control {
    /// Starts etcd and the API server; `nodes` get an identity each. Returns before the API answers.
    ///
    /// # Errors
    /// A key cannot be made or a process cannot be started.
    pub fn start(
        machine: &Arc<Machine>,
        binaries: &Binaries,
        families: Families,
        nodes: &[String],
    ) -> Result<Self> {
        let mut identities = vec![
            identity("admin", "admin", Some("system:masters"))?,
            identity(
                "kube-controller-manager",
                "system:kube-controller-manager",
                None,
            )?,
            identity("kube-scheduler", "system:kube-scheduler", None)?,
            identity("kube-proxy", "system:kube-proxy", None)?,
        ];
        for node in nodes {
            identities.push(identity(
                node,
                &format!("system:node:{node}"),
                Some("system:nodes"),
            )?);
        }
        let mut tokens = String::new();
        for (number, identity) in identities.iter().enumerate() {
            let groups = identity
                .group
                .map(|group| format!(",\"{group}\""))
                .unwrap_or_default();
            let _ = writeln!(
                tokens,
                "{},{},{number}{groups}",
                identity.token, identity.user
            );
        }
        machine.shell(&format!("mkdir -p {SECRETS} && chmod 700 {SECRETS} && openssl genrsa -out {SECRETS}/accounts.key 2048 2>/dev/null"))?;
        machine.exec_with(
            &["sh", "-c", &format!("cat > {SECRETS}/tokens.csv")],
            &tokens,
        )?;
        let mut control = Self {
            machine: Arc::clone(machine),
            binaries: binaries.clone(),
            families,
            identities,
            etcd: None,
            api: None,
            controllers: None,
            scheduler: None,
        };
        control.start_etcd()?;
        control.start_api()?;
        Ok(control)
    }

    /// Starts etcd.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_etcd(&mut self) -> Result<()> {
        let loopback = self.loopback();
        let flags = [
            "--data-dir=/var/lib/etcd".to_owned(),
            "--unsafe-no-fsync".to_owned(),
            "--log-level=warn".to_owned(),
            format!("--listen-client-urls=http://{loopback}:2379"),
            format!("--advertise-client-urls=http://{loopback}:2379"),
            format!("--listen-peer-urls=http://{loopback}:2380"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.etcd = Some(self.spawn("etcd", &flags)?);
        Ok(())
    }

    /// The loopback address as it stands in a URL.
    fn loopback(&self) -> &'static str {
        match self.families.first() {
            Family::V4 => "127.0.0.1",
            Family::V6 => "[::1]",
        }
    }

    /// The API server's address, of the first family.
    fn address(&self) -> IpAddr {
        fabric::control(self.families.first())
    }

    /// Starts the API server.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start_api(&mut self) -> Result<()> {
        let flags = [
            format!("--etcd-servers=http://{}:2379", self.loopback()),
            format!("--advertise-address={}", self.address()),
            format!("--secure-port={PORT}"),
            format!("--cert-dir={SECRETS}"),
            format!(
                "--service-cluster-ip-range={}",
                self.families.list(services)
            ),
            "--service-account-issuer=https://kubernetes.default.svc".to_owned(),
            format!("--service-account-key-file={SECRETS}/accounts.key"),
            format!("--service-account-signing-key-file={SECRETS}/accounts.key"),
            format!("--token-auth-file={SECRETS}/tokens.csv"),
            "--authorization-mode=Node,RBAC".to_owned(),
            "--enable-admission-plugins=NodeRestriction".to_owned(),
            "--allow-privileged=true".to_owned(),
            // Else exec and logs would look up the node's name in DNS.
            "--kubelet-preferred-address-types=InternalIP".to_owned(),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        self.api = Some(self.spawn("kube-apiserver", &flags)?);
        Ok(())
    }

    /// Stops the API server as a crash would; everything else goes on.
    pub fn stop_api(&mut self) {
        if let Some(mut api) = self.api.take() {
            api.kill();
        }
    }

    /// Waits until the API server has made its certificate, and writes the kubeconfigs: one per component into the
    /// run's shared directory, and the administrator's for this machine, which goes through the loopback port.
    ///
    /// # Errors
    /// The certificate does not appear: with the end of the API server's log.
    pub fn write_kubeconfigs(&mut self, port: u16) -> Result<PathBuf> {
        let place = self.machine.disk().join("var/lib/kubernetes/apiserver.crt");
        let authority = wait::until(
            "the API server's certificate",
            Duration::from_mins(1),
            || {
                self.check()?;
                let text = std::fs::read_to_string(&place).unwrap_or_default();
                // The server's certificate, then its authority's: both are written at once, but not in one step.
                Ok((text.matches("END CERTIFICATE").count() == 2).then_some(text))
            },
        )?;
        let encoded = data_encoding::BASE64.encode(authority.as_bytes());
        let shared = self.machine.run().shared();
        let server = format!("https://{}", SocketAddr::new(self.address(), PORT));
        for identity in &self.identities {
            let text = kubeconfig(&server, &encoded, identity);
            write_secret(&shared.join(format!("{}.kubeconfig", identity.name)), &text)?;
        }
        let admin = self
            .identities
            .first()
            .context("the administrator is the first identity")?;
        let place = self.machine.run().directory().join("kubeconfig");
        write_secret(
            &place,
            &kubeconfig(&format!("https://127.0.0.1:{port}"), &encoded, admin),
        )?;
        Ok(place)
    }

    /// Waits until the API server serves.
    ///
    /// # Errors
    /// After a minute, or at once when it has ended.
    pub fn wait_ready(&mut self, kubectl: &Kubectl) -> Result<()> {
        wait::until("the API server to be ready", Duration::from_mins(1), || {
            kubectl
                .run(&["get", "--raw", "/readyz", "--request-timeout=5s"])
                .map(Some)
                .or_else(|error| {
                    self.etcd
                        .iter_mut()
                        .chain(&mut self.api)
                        .try_for_each(Service::check)?;
                    Err(error)
                })
        })
        .map(drop)
    }

    /// Starts the controllers and the scheduler, anew if they run: without the API they give up sooner or later, some only
    /// when it is back; on real clusters the kubelet starts them again.
    ///
    /// # Errors
    /// They cannot be started.
    pub fn start_others(&mut self) -> Result<()> {
        let shared = "/run/lab/shared";
        let controllers = [
            &format!("--kubeconfig={shared}/kube-controller-manager.kubeconfig"),
            &format!("--service-account-private-key-file={SECRETS}/accounts.key"),
            &format!("--root-ca-file={SECRETS}/apiserver.crt"),
            "--use-service-account-credentials=true",
            "--leader-elect=false",
            "--allocate-node-cidrs=false",
        ];
        let scheduler = [
            &format!("--kubeconfig={shared}/kube-scheduler.kubeconfig"),
            "--leader-elect=false",
        ];
        // Dropping the old ones ends them.
        (self.controllers, self.scheduler) = (None, None);
        self.controllers = Some(self.spawn("kube-controller-manager", &controllers)?);
        self.scheduler = Some(self.spawn("kube-scheduler", &scheduler)?);
        Ok(())
    }

    /// An error when any part has ended, with the end of its log. While the API server is stopped, only etcd must run.
    ///
    /// # Errors
    /// A part has ended.
    pub fn check(&mut self) -> Result<()> {
        let with_api = self.api.is_some();
        let others = self
            .controllers
            .iter_mut()
            .chain(&mut self.scheduler)
            .filter(|_| with_api);
        self.etcd
            .iter_mut()
            .chain(&mut self.api)
            .chain(others)
            .try_for_each(Service::check)
    }

    /// The API server's process, while it runs.
    pub fn api(&self) -> Option<&Service> {
        self.api.as_ref()
    }

    fn spawn(&self, name: &str, flags: &[&str]) -> Result<Service> {
        let program = self.binaries.component(name);
        let words: Vec<&str> = program
            .iter()
            .map(String::as_str)
            .chain(flags.iter().copied())
            .collect();
        self.machine.spawn(name, &words)
    }
}

fn identity(name: &str, user: &str, group: Option<&'static str>) -> Result<Identity> {
    Ok(Identity {
        name: name.to_owned(),
        user: user.to_owned(),
        group,
        token: run::random_hex(16)?,
    })
}

fn kubeconfig(server: &str, authority: &str, identity: &Identity) -> String {
    // The loopback address is not in the certificate; the name is.
    format!(
        "apiVersion: v1
kind: Config
current-context: lab
contexts:
- name: lab
  context: {{cluster: lab, user: {user}}}
clusters:
- name: lab
  cluster:
    server: {server}
    tls-server-name: kubernetes.default.svc
    certificate-authority-data: {authority}
users:
- name: {user}
  user: {{token: {token}}}
",
        user = identity.user,
        token = identity.token,
    )
}

fn write_secret(place: &std::path::Path, text: &str) -> Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let mut options = std::fs::File::options();
    options.create(true).write(true).truncate(true).mode(0o600);
    options
        .open(place)
        .and_then(|mut file| file.write_all(text.as_bytes()))
        .with_context(|| format!("write {}", place.display()))
}
