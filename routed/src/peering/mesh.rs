//! The node-to-node mesh.

use bgp::speaker::GracefulRestart;

use super::identity::Identity;
use super::rules::Rules;
use super::session::{self, Context};
use super::{Finding, Inputs, Origin, Roster};

/// One session with every other node, by each family both have an address of. Route reflectors stay out on both sides. An address
/// that a BGPPeer defines is left to it.
pub(super) fn plan(
    inputs: Inputs<'_>,
    identity: &Identity,
    rules: &Rules,
    roster: &mut Roster,
    findings: &mut Vec<Finding>,
) {
    if !identity.settings.mesh() || identity.cluster_id.is_some() {
        return;
    }
    let context = Context {
        inputs,
        identity,
        rules,
    };
    let others = inputs
        .world
        .nodes()
        .values()
        .filter(|node| node.name != identity.name);
    for node in others.filter(|node| node.route_reflector_cluster_id.is_none()) {
        for address in [node.address(false), node.address(true)]
            .into_iter()
            .flatten()
        {
            if identity.address_towards(address).is_none() || roster.taken.contains(&address) {
                continue;
            }
            let mut peer = context.node_session(node, address);
            let restart = identity.settings.node_mesh_max_restart_time;
            peer.graceful_restart = Some(
                session::restart(restart).unwrap_or_else(|_too_long| GracefulRestart::default()),
            );
            let place = session::Place {
                kind: "BGPConfiguration",
                name: "default".into(),
                path: "spec.nodeMeshPassword",
            };
            let planned = session::locked(
                peer,
                identity.settings.node_mesh_password.as_ref(),
                inputs.passwords,
                &place,
                findings,
            );
            roster.add(address, Origin::Mesh, planned);
        }
    }
}
