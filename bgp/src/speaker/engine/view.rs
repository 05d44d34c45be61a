//! Snapshots and explanations.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use ipnet::IpNet;

use super::Speaker;
use super::peer::PeerSlot;
use crate::attr::{AttrId, Attributes};
use crate::out::{Exporter, Withheld};
use crate::rib::{Dest, Path, PeerId};
use crate::session::Negotiated;
use crate::speaker::{
    Counters, Explanation, ExportVerdict, ExportView, FamilyStatus, PathStanding, PathView,
    PeerStatus, PeerTable, RestartStatus, RouteQuery, RouteRow, RouteView,
};
use crate::{Family, FamilyMap, FamilySet};

/// Rows of an answer when the query names no limit.
const DEFAULT_LIMIT: usize = 1000;

type Readable = HashMap<AttrId, Arc<Attributes>>;

impl Speaker {
    /// All peers.
    pub fn peers(&self, now: Instant) -> PeerTable {
        PeerTable {
            at: now,
            peers: self
                .peers_in_use()
                .map(|(id, slot)| (slot.key.clone(), self.peer_status(id, slot)))
                .collect(),
            deferring: self.deferring(),
            counters: Counters {
                destinations: FamilyMap::from_fn(|family| self.rib.table(family).len()),
                paths: FamilyMap::from_fn(|family| self.rib.table(family).path_count()),
                attribute_sets: self.rib.attributes.len(),
                groups: self.groups.len(),
                unknown_peer: self.unknown_peers,
            },
        }
    }

    fn peer_status(&self, id: PeerId, slot: &PeerSlot) -> PeerStatus {
        let (state, since) = slot.session.state();
        let agreed = slot.session.established();
        let mut counters = slot.counters.clone();
        counters.queued = slot.session.queued();
        PeerStatus {
            state,
            since,
            remote_as: slot.config.remote_as,
            external: self.rib.source(id).is_some_and(|source| source.external),
            router_id: agreed.map(|agreed| agreed.router_id),
            local: agreed.map(|agreed| agreed.local),
            remote: agreed.map(|agreed| agreed.remote),
            hold_time: agreed.map(|agreed| agreed.hold_time),
            negotiated: self.agreed_families(id),
            restart: restart_status(slot, agreed),
            last_down: slot.last_down.clone(),
            families: FamilyMap::from_fn(|family| self.family_status(slot, family)),
            counters,
        }
    }

    fn family_status(&self, slot: &PeerSlot, family: Family) -> FamilyStatus {
        let state = slot.families.get(family);
        let group = state.group.and_then(|id| self.groups.get(&id));
        FamilyStatus {
            accepted: state.accepted,
            rejected: state.rejected,
            sent: group.map_or(0, |group| group.sent().len()),
            end_of_rib: state.end_of_rib,
        }
    }

    /// Why a prefix is used or not, and what every peer is told.
    pub fn explain(&self, prefix: IpNet) -> Explanation {
        let prefix = prefix.trunc();
        let family = Family::of(&prefix);
        let table = self.rib.table(family);
        let dest = table.find(&prefix).and_then(|id| table.dest(id));
        let exports = self.peers_in_use().map(|(id, slot)| ExportView {
            peer: slot.key.clone(),
            verdict: self.explain_export(id, slot, family, dest),
        });
        Explanation {
            prefix,
            paths: dest
                .map(|dest| self.explain_paths(dest))
                .unwrap_or_default(),
            exports: exports.collect(),
        }
    }

    fn explain_paths(&self, dest: &Dest) -> Vec<PathView> {
        let used = dest.used().len();
        let mut readable = Readable::new();
        let views = dest.paths().iter().enumerate().map(|(index, path)| {
            let standing = match (index, self.rib.ineligible(path), dest.best()) {
                (_, Some(why), _) => PathStanding::Ineligible(why),
                (0, None, _) => PathStanding::Best,
                (index, None, _) if index < used => PathStanding::Equal,
                (_, None, Some(best)) => self
                    .rib
                    .reason(best, path)
                    .map_or(PathStanding::Equal, PathStanding::Lost),
                (_, None, None) => PathStanding::Best,
            };
            PathView {
                source: self.route_source(path),
                next_hop: self.shown_next_hop(path),
                attributes: self.readable(path.attributes, &mut readable),
                stale: path.stale,
                standing,
            }
        });
        views.collect()
    }

    fn explain_export(
        &self,
        id: PeerId,
        slot: &PeerSlot,
        family: Family,
        dest: Option<&Dest>,
    ) -> ExportVerdict {
        let Some(group) = slot
            .families
            .get(family)
            .group
            .and_then(|id| self.groups.get(&id))
        else {
            return ExportVerdict::NoSession;
        };
        let Some(dest) = dest else {
            return ExportVerdict::NoRoute;
        };
        let exporter = Exporter {
            rib: &self.rib,
            key: &group.key,
            filter: &group.filter,
            locals: &self.locals,
        };
        let decided = exporter.explain(dest).and_then(|(path, outcome, trace)| {
            let exported = if outcome.accepted {
                Some(exporter.render(path, &outcome)?)
            } else {
                None
            };
            Ok((path, exported, trace))
        });
        let (path, exported, trace) = match decided {
            Ok(decided) => decided,
            Err(Withheld::NoRoute) => return ExportVerdict::NoRoute,
            Err(Withheld::InternalToInternal) => return ExportVerdict::InternalToInternal,
            Err(Withheld::WellKnownCommunity) => return ExportVerdict::WellKnownCommunity,
            Err(Withheld::Filtered) => {
                return ExportVerdict::Filtered(crate::filter::Trace::default());
            }
            Err(Withheld::NoNextHop) => return ExportVerdict::NoNextHop,
        };
        if path.peer == id {
            return ExportVerdict::LearntFromPeer;
        }
        let Some(exported) = exported else {
            return ExportVerdict::Filtered(trace);
        };
        let attributes = crate::wire::attribute::parse_canonical(&exported.attributes);
        let Some(source) = self.rib.source(id) else {
            return ExportVerdict::NoSession;
        };
        if source.external && attributes.as_path.asns().any(|asn| asn == source.asn) {
            return ExportVerdict::PathContainsPeer;
        }
        if attributes.originator == Some(source.router_id) {
            return ExportVerdict::Originator;
        }
        ExportVerdict::Sent {
            attributes: Arc::new(attributes),
            next_hop: exported.next_hop,
            trace,
        }
    }

    /// Routes in order of prefix.
    pub fn routes(&self, query: &RouteQuery) -> Vec<RouteRow> {
        let limit = if query.limit == 0 {
            DEFAULT_LIMIT
        } else {
            query.limit
        };
        let mut dests: Vec<&Dest> = Family::ALL
            .into_iter()
            .filter(|family| query.family.is_none_or(|wanted| wanted == *family))
            .flat_map(|family| self.rib.table(family).iter().map(|(_, dest)| dest))
            .filter(|dest| !dest.paths().is_empty())
            .filter(|dest| {
                query
                    .within
                    .is_none_or(|within| within.contains(&dest.prefix))
            })
            .filter(|dest| query.after.is_none_or(|after| dest.prefix > after))
            .collect();
        dests.sort_unstable_by_key(|dest| dest.prefix);
        let mut readable = Readable::new();
        let mut rows = Vec::new();
        for dest in dests {
            if rows.len() >= limit {
                break;
            }
            self.add_rows(dest, &query.view, &mut readable, &mut rows);
        }
        rows
    }

    fn add_rows(
        &self,
        dest: &Dest,
        view: &RouteView,
        readable: &mut Readable,
        rows: &mut Vec<RouteRow>,
    ) {
        let row = |path: &Path, index: usize, readable: &mut Readable| RouteRow {
            prefix: dest.prefix,
            source: self.route_source(path),
            next_hop: self.shown_next_hop(path),
            attributes: self.readable(path.attributes, readable),
            best: index == 0 && !dest.used().is_empty(),
            used: index < dest.used().len(),
            stale: path.stale,
        };
        let paths = dest.paths().iter().enumerate();
        match view {
            RouteView::Best => rows.extend(dest.best().map(|best| row(best, 0, readable))),
            RouteView::All => rows.extend(paths.map(|(index, path)| row(path, index, readable))),
            RouteView::From(key) => {
                let peer = self.keys.get(key).copied();
                let from = paths.filter(|(_, path)| Some(path.peer) == peer);
                rows.extend(from.map(|(index, path)| row(path, index, readable)));
            }
            RouteView::To(key) => {
                let Some((id, slot)) = self
                    .keys
                    .get(key)
                    .and_then(|id| Some((*id, self.slot(*id)?)))
                else {
                    return;
                };
                let verdict = self.explain_export(id, slot, Family::of(&dest.prefix), Some(dest));
                if let (
                    ExportVerdict::Sent {
                        attributes,
                        next_hop,
                        ..
                    },
                    Some(best),
                ) = (verdict, dest.best())
                {
                    let mut told = row(best, 0, readable);
                    told.attributes = attributes;
                    told.next_hop = Some(next_hop);
                    rows.push(told);
                }
            }
        }
    }

    /// `None` for our own address.
    fn shown_next_hop(&self, path: &Path) -> Option<std::net::IpAddr> {
        Some(self.rib.next_hops.address(path.next_hop)).filter(|address| !address.is_unspecified())
    }

    fn readable(&self, id: AttrId, readable: &mut Readable) -> Arc<Attributes> {
        let made = readable
            .entry(id)
            .or_insert_with(|| Arc::new(self.rib.attributes.get(id).attributes()));
        Arc::clone(made)
    }
}

fn restart_status(slot: &PeerSlot, agreed: Option<&Negotiated>) -> RestartStatus {
    let offered = agreed.and_then(|agreed| agreed.restart);
    RestartStatus {
        peer_keeps: offered.map_or(FamilySet::EMPTY, |restart| restart.families),
        peer_time: offered.map(|restart| restart.time),
        stale: slot.stale,
        stale_until: slot.stale_until,
    }
}
