//! Keeps the conditions of every object true: follows all kinds, composes what [`super::verdict`] says, writes what changed.
//!
//! Written by server-side apply under the field manager `margay-status`, at most once per object in ten seconds, and in half a minute
//! where only numbers in a message changed. Nothing waits for it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::watcher::{self, Event};
use kube::runtime::{WatchStreamExt, watcher as watch};
use kube::{Api, Client, ResourceExt};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::fleet::ObjectId;
use super::leader::Told;
use super::verdict::{Reference, Subject, Verdict, compose, judge, references};

const MANAGER: &str = "margay-status";
const LIMIT: Duration = Duration::from_secs(5);
/// How often it is looked whether a condition is out of date.
const TICK: Duration = Duration::from_secs(1);
/// Least time between two writes of one object.
const PAUSE: Duration = Duration::from_secs(10);
/// The same where nothing but a message changed.
const PAUSE_OF_WORDS: Duration = Duration::from_secs(30);
/// Writes under way at once.
const PARALLEL: usize = 8;
/// Changes that may wait; a burst at start is one per object.
const CHANGES: usize = 1024;

/// Kinds that carry conditions: (kind, plural).
const KINDS: [(&str, &str); 18] = [
    ("IPPool", "ippools"),
    ("IPReservation", "ipreservations"),
    ("IPAMConfiguration", "ipamconfigurations"),
    ("BGPConfiguration", "bgpconfigurations"),
    ("BGPPeer", "bgppeers"),
    ("BGPFilter", "bgpfilters"),
    ("FelixConfiguration", "felixconfigurations"),
    ("Tier", "tiers"),
    ("NetworkPolicy", "networkpolicies"),
    ("GlobalNetworkPolicy", "globalnetworkpolicies"),
    ("StagedNetworkPolicy", "stagednetworkpolicies"),
    ("StagedGlobalNetworkPolicy", "stagedglobalnetworkpolicies"),
    (
        "StagedKubernetesNetworkPolicy",
        "stagedkubernetesnetworkpolicies",
    ),
    ("NetworkSet", "networksets"),
    ("GlobalNetworkSet", "globalnetworksets"),
    ("HostEndpoint", "hostendpoints"),
    (
        "KubeControllersConfiguration",
        "kubecontrollersconfigurations",
    ),
    ("CalicoNodeStatus", "caliconodestatuses"),
];

/// A change of one object.
#[derive(Debug)]
enum Heard {
    Object(ObjectId, Box<DynamicObject>),
    Gone(ObjectId),
    Listed(&'static str),
}

/// An object, as far as its conditions go.
#[derive(Debug)]
struct Entry {
    generation: Option<i64>,
    /// resourceVersion at which this leader first saw this generation.
    version: u64,
    own: Vec<Verdict>,
    references: Vec<Reference>,
    old: Vec<Condition>,
    written: Option<Instant>,
}

/// Follows every kind and keeps the conditions of its objects true, until dropped.
pub(super) async fn keep(client: Client, mut told: Told) {
    let (out, mut heard) = mpsc::channel(CHANGES);
    let mut watches = JoinSet::new();
    for (kind, plural) in KINDS {
        watches.spawn(follow(
            client.clone(),
            resource(kind, plural),
            kind,
            out.clone(),
        ));
    }
    drop(out);
    let mut desk = Desk {
        client,
        entries: BTreeMap::new(),
        listed: BTreeSet::new(),
    };
    let mut taken = Vec::with_capacity(CHANGES);
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            count = heard.recv_many(&mut taken, CHANGES) => if count == 0 { return },
            _ = tick.tick() => desk.write(&mut told).await,
        }
        for change in taken.drain(..) {
            desk.take(change);
        }
    }
}

fn resource(kind: &str, plural: &str) -> ApiResource {
    ApiResource {
        group: api::GROUP.to_owned(),
        version: api::VERSION.to_owned(),
        api_version: format!("{}/{}", api::GROUP, api::VERSION),
        kind: kind.to_owned(),
        plural: plural.to_owned(),
    }
}

async fn follow(
    client: Client,
    resource: ApiResource,
    kind: &'static str,
    out: mpsc::Sender<Heard>,
) {
    let all: Api<DynamicObject> = Api::all_with(client, &resource);
    let mut stream = watch(all, watcher::Config::default())
        .default_backoff()
        .boxed();
    let mut known: BTreeSet<ObjectId> = BTreeSet::new();
    let mut listed: BTreeSet<ObjectId> = BTreeSet::new();
    while let Some(item) = stream.next().await {
        let heard = match item {
            Err(error) => {
                tracing::debug!(kind, %error, "watch broken, resuming with back-off");
                continue;
            }
            Ok(Event::Init) => {
                listed.clear();
                continue;
            }
            Ok(Event::Apply(object) | Event::InitApply(object)) => {
                let id = id(kind, &object);
                known.insert(id.clone());
                listed.insert(id.clone());
                vec![Heard::Object(id, Box::new(object))]
            }
            Ok(Event::Delete(object)) => {
                let id = id(kind, &object);
                known.remove(&id);
                vec![Heard::Gone(id)]
            }
            Ok(Event::InitDone) => {
                let vanished: Vec<ObjectId> = known.difference(&listed).cloned().collect();
                known.retain(|id| listed.contains(id));
                let gone = vanished.into_iter().map(Heard::Gone);
                gone.chain([Heard::Listed(kind)]).collect()
            }
        };
        for change in heard {
            if out.send(change).await.is_err() {
                return;
            }
        }
    }
}

fn id(kind: &str, object: &DynamicObject) -> ObjectId {
    let namespace = object.namespace().unwrap_or_default();
    (kind.to_owned(), namespace, object.name_any())
}

/// The task's state.
struct Desk {
    client: Client,
    entries: BTreeMap<ObjectId, Entry>,
    /// Kinds that have listed: of others it is not known what exists.
    listed: BTreeSet<&'static str>,
}

/// A write to be made.
struct Due {
    id: ObjectId,
    verdicts: Vec<Verdict>,
    generation: Option<i64>,
    old: Vec<Condition>,
}

impl Desk {
    fn take(&mut self, heard: Heard) {
        match heard {
            Heard::Listed(kind) => {
                self.listed.insert(kind);
            }
            Heard::Gone(id) => {
                self.entries.remove(&id);
            }
            Heard::Object(id, mut object) => {
                let generation = object.metadata.generation;
                object.metadata.managed_fields = None;
                let version = object
                    .metadata
                    .resource_version
                    .as_deref()
                    .and_then(|version| version.parse().ok())
                    .unwrap_or(0);
                let Ok(value) = serde_json::to_value(&*object) else {
                    return;
                };
                let old = present(&value);
                if let Some(entry) = self.entries.get_mut(&id)
                    && entry.generation == generation
                    && generation.is_some()
                {
                    entry.old = old;
                    return;
                }
                let entry = Entry {
                    generation,
                    version,
                    own: judge(&id.0, &value),
                    references: references(&id.0, &value),
                    old,
                    written: self.entries.get(&id).and_then(|entry| entry.written),
                };
                self.entries.insert(id, entry);
            }
        }
    }

    /// Writes what is due, some objects at once.
    async fn write(&mut self, told: &mut Told) {
        let due = self.due(told);
        let client = &self.client;
        let written: Vec<ObjectId> = futures::stream::iter(due)
            .map(|due| async move {
                if let Err(error) = write(client, &due).await {
                    tracing::warn!(kind = %due.id.0, name = %due.id.2, %error, "condition not written");
                }
                due.id
            })
            .buffer_unordered(PARALLEL)
            .collect()
            .await;
        let now = crate::clock::now();
        for id in written {
            if let Some(entry) = self.entries.get_mut(&id) {
                entry.written = Some(now);
            }
        }
    }

    fn due(&self, told: &mut Told) -> Vec<Due> {
        let fleet = Arc::clone(&told.fleet.borrow_and_update());
        let pools = Arc::clone(&told.pools.borrow_and_update());
        let now = crate::clock::now();
        let mut due = Vec::new();
        for (id, entry) in &self.entries {
            let missing: Vec<Reference> = entry
                .references
                .iter()
                .filter(|reference| self.listed.contains(reference.kind))
                .filter(|reference| {
                    let key = (
                        reference.kind.to_owned(),
                        String::new(),
                        reference.name.clone(),
                    );
                    !self.entries.contains_key(&key)
                })
                .cloned()
                .collect();
            let subject = Subject {
                id,
                version: entry.version,
                own: &entry.own,
                missing: &missing,
                allocatable: (id.0 == "IPPool").then(|| pools.get(&id.2)).flatten(),
            };
            let verdicts = compose(subject, &fleet);
            let pause = match difference(&entry.old, &verdicts, entry.generation) {
                Difference::None => continue,
                Difference::Words => PAUSE_OF_WORDS,
                Difference::Facts => PAUSE,
            };
            let waits = entry
                .written
                .is_some_and(|at| now.saturating_duration_since(at) < pause);
            if !waits {
                due.push(Due {
                    id: id.clone(),
                    verdicts,
                    generation: entry.generation,
                    old: entry.old.clone(),
                });
            }
        }
        due
    }
}

/// How far an object's conditions are from what they should say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    None,
    /// Messages alone.
    Words,
    /// A status, a reason, or the generation.
    Facts,
}

fn difference(old: &[Condition], verdicts: &[Verdict], generation: Option<i64>) -> Difference {
    let mut words = false;
    for verdict in verdicts {
        let found = old
            .iter()
            .find(|condition| condition.type_ == verdict.type_);
        match found {
            Some(condition)
                if condition.status == status(verdict)
                    && condition.reason == verdict.reason
                    && condition.observed_generation == generation =>
            {
                words |= condition.message != verdict.message;
            }
            Some(_) | None => return Difference::Facts,
        }
    }
    if words {
        Difference::Words
    } else {
        Difference::None
    }
}

/// Why a condition could not be written.
#[derive(Debug, thiserror::Error)]
enum WriteError {
    #[error("{0}")]
    Refused(#[from] kube::Error),
    #[error("the API server did not answer in {} s", LIMIT.as_secs())]
    Silent(#[from] tokio::time::error::Elapsed),
}

async fn write(client: &Client, due: &Due) -> Result<(), WriteError> {
    let (kind, namespace, name) = &due.id;
    let Some((_, plural)) = KINDS.iter().find(|(known, _)| known == kind) else {
        return Ok(());
    };
    let resource = resource(kind, plural);
    let now = Timestamp::from_second(crate::clock::unix_seconds()).unwrap_or_default();
    let conditions: Vec<Value> = due
        .verdicts
        .iter()
        .map(|verdict| condition(&due.old, verdict, due.generation, now))
        .collect();
    let patch = Patch::Apply(json!({
        "apiVersion": resource.api_version,
        "kind": kind,
        "metadata": { "name": name },
        "status": { "conditions": conditions },
    }));
    let objects: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    let params = PatchParams::apply(MANAGER).force();
    match tokio::time::timeout(LIMIT, objects.patch_status(name, &params, &patch)).await? {
        Ok(_) => Ok(()),
        // Deleted meanwhile.
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn present(object: &Value) -> Vec<Condition> {
    object
        .pointer("/status/conditions")
        .and_then(|conditions| serde_json::from_value(conditions.clone()).ok())
        .unwrap_or_default()
}

fn status(verdict: &Verdict) -> &'static str {
    if verdict.good { "True" } else { "False" }
}

/// A condition keeps its transition time while its status stays.
fn condition(
    old: &[Condition],
    verdict: &Verdict,
    generation: Option<i64>,
    now: Timestamp,
) -> Value {
    let since = old
        .iter()
        .find(|condition| condition.type_ == verdict.type_ && condition.status == status(verdict))
        .map_or(now, |condition| condition.last_transition_time.0);
    json!({
        "type": verdict.type_,
        "status": status(verdict),
        "reason": verdict.reason,
        "message": verdict.message,
        "observedGeneration": generation,
        "lastTransitionTime": since.to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(good: bool, message: &str) -> Verdict {
        Verdict {
            type_: "Accepted",
            good,
            reason: if good { "Valid" } else { "Invalid" },
            message: message.to_owned(),
        }
    }

    #[test]
    fn a_condition_is_written_when_a_fact_changed_and_later_when_only_words_did() {
        let first = Timestamp::from_second(1_000).unwrap();
        let good = verdict(true, "3 of 4 nodes");
        let written = condition(&[], &good, Some(1), first);
        let old: Vec<Condition> = vec![serde_json::from_value(written).unwrap()];
        for (verdict, generation, expected) in [
            (good.clone(), 1, Difference::None),
            (verdict(true, "4 of 4 nodes"), 1, Difference::Words),
            (good.clone(), 2, Difference::Facts),
            (verdict(false, "3 of 4 nodes"), 1, Difference::Facts),
        ] {
            let found = difference(&old, std::slice::from_ref(&verdict), Some(generation));
            assert_eq!(found, expected, "{verdict:?} {generation}");
        }
        assert_eq!(difference(&[], &[good], None), Difference::Facts);
    }

    #[test]
    fn the_transition_time_stands_while_the_status_does() {
        let [first, second] = [1_000, 2_000].map(|at| Timestamp::from_second(at).unwrap());
        let written = condition(&[], &verdict(true, ""), Some(1), first);
        let old: Vec<Condition> = vec![serde_json::from_value(written).unwrap()];
        let again = condition(&old, &verdict(true, "x"), Some(2), second);
        assert_eq!(again["lastTransitionTime"], "1970-01-01T00:16:40Z");
        let turned = condition(&old, &verdict(false, "x"), Some(2), second);
        assert_eq!(turned["lastTransitionTime"], "1970-01-01T00:33:20Z");
    }
}
