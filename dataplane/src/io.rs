//! Lists what the kernel has and makes it what the plan says. Nothing here decides.
//!
//! | part | does |
//! |---|---|
//! | [`Driver`] | owns one request socket and [`crate::Tables`]; lists, applies in order, says what was refused |
//! | [`Workloads`] | attaches pods by recipe, many at once; [`Detacher`] deletes their links in groups |
//! | [`Monitor`] | tells which tables changed behind our back; never how |
//! | [`Conntrack`] | deletes connection tracking entries of an address |
//! | [`probe`] | what this kernel can do, tried out in a namespace of its own |

mod addresses;
mod conntrack;
mod detach;
mod devices;
mod driver;
mod inspect;
mod monitor;
mod neighbours;
mod nexthops;
mod probe;
mod routes;
mod rtm;
mod sysctl;
mod tunnels;
mod workload;

pub use conntrack::{Conntrack, ConntrackError, Tracked};
pub use detach::{DetachError, Detacher};
pub use devices::Devices;
pub use driver::{Config, Driver, DriverError, Refused, Report, SharedDriver};
pub use inspect::{Inspected, Standing};
pub use monitor::{Changed, Monitor};
pub use probe::{Features, ProbeError, TunnelKind, probe, probe_tunnel};
pub use sysctl::{SysctlError, SysctlRoot};
pub use workload::{AttachError, Attached, End, HostLink, Workloads};
