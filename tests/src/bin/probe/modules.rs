//! Kernel modules inside a guest: loaded by name at boot, and when the kernel asks for one by calling `modprobe`.
//!
//! The index that the lab writes beside the modules has one per line: name, the modules it needs, its other names.

use std::fs;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

/// The file that says where the modules are.
pub(crate) const PLACE: &str = "/run/modules";

/// `modprobe -q -- NAME`, as the kernel calls it.
pub(crate) fn probe(arguments: &[&str]) -> Result<(), String> {
    let wanted = arguments.last().ok_or("modprobe: no name")?;
    let place = fs::read_to_string(PLACE).map_err(|error| format!("read {PLACE}: {error}"))?;
    let place = Path::new(place.trim());
    let index = fs::read_to_string(place.join("index"))
        .map_err(|error| format!("read the index of modules: {error}"))?;
    let mut order = Vec::new();
    resolve(&index, wanted, &mut order);
    if order.is_empty() {
        return Err(format!("modprobe: no module {wanted}"));
    }
    order
        .iter()
        .try_for_each(|name| load(&place.join(format!("{name}.ko"))))
}

/// Loads one module; one that is there already is fine.
pub(crate) fn load(place: &PathBuf) -> Result<(), String> {
    let failed = |error: String| format!("load {}: {error}", place.display());
    let file = fs::File::open(place).map_err(|error| failed(error.to_string()))?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        Err(error) => Err(failed(error.to_string())),
    }
}

/// Adds the module of a name and what it needs, those first.
fn resolve(index: &str, wanted: &str, order: &mut Vec<String>) {
    let wanted = wanted.replace('-', "_");
    let mut fields = index.lines().map(|line| line.split('\t'));
    let Some((name, needs)) = fields.find_map(|mut line| {
        let (name, needs, others) = (line.next()?, line.next()?, line.next()?);
        let mut names = others.split(' ').chain([name]);
        names
            .any(|other| other.replace('-', "_") == wanted)
            .then_some((name, needs))
    }) else {
        return;
    };
    if order.iter().any(|done| done == name) {
        return;
    }
    for need in needs.split(' ').filter(|need| !need.is_empty()) {
        resolve(index, need, order);
    }
    order.push(name.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "ip_tunnel\t\t
tunnel4\t\t
ipip\tip_tunnel tunnel4\trtnl-link-ipip netdev-tunl0
";

    #[test]
    fn a_module_comes_after_what_it_needs() {
        for name in ["ipip", "rtnl-link-ipip", "netdev-tunl0"] {
            let mut order = Vec::new();
            resolve(INDEX, name, &mut order);
            assert_eq!(order, ["ip_tunnel", "tunnel4", "ipip"], "{name}");
        }
    }

    #[test]
    fn an_unknown_name_loads_nothing() {
        let mut order = Vec::new();
        resolve(INDEX, "rtnl-link-sit", &mut order);
        assert!(order.is_empty());
    }
}
