//! Makes the kernel's table equal to a plan.
//!
//! ```text
//!   open: socket → probe features → adopt an orphaned table, or find none, or refuse beside a second daemon
//!   apply(Ruleset): image → diff against what is known → one transaction, or two → known = planned
//!                     │ nothing known: list first          │ refused: isolate what the kernel named, then by halves; else forget
//! ```
//!
//! Calls block for as long as the kernel works, which is CPU time: from async code run them on a blocking thread. The driver owns
//! its socket for life, because an owned table belongs to the socket.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsFd;

use model::Delta;
use netlink::{Errno, Error, GenerationId, OpenError, Protocol, Socket};
use tracing::{debug, info, warn};

use crate::nft::{
    self, ChainImage, Changes, Handles, Image, Owner, RuleImage, SetImage, Subject, TableFlags,
};
use crate::plan::Abilities;
use crate::ruleset::{Action, ContentKey, Match, Name, Rule, Ruleset, Size};

mod isolate;
mod monitor;

pub use monitor::Monitor;

/// Attempts of one [`Driver::apply`]: listed anew, or without an object the kernel refused.
const ATTEMPTS: u32 = 4;
/// Refusals that are mended by leaving out what the kernel named; after that halves are tried.
const NAMED: u32 = 2;

/// Why the driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// No netfilter socket.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The kernel refused a question every kernel with nftables answers.
    #[error("probe nftables: {0}")]
    Probe(#[source] Error),
    /// Another process holds our table.
    #[error("another daemon owns table inet margay (netlink port {port}): stop it first")]
    SecondDaemon {
        /// Its netlink port, usually its process id.
        port: u32,
    },
    /// The orphaned table could not be taken over.
    #[error("adopt table inet margay: {0}")]
    Adopt(#[source] Error),
}

/// Why a plan is not in the kernel. What was there before still is: a transaction takes effect whole or not at all.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The kernel's state could not be listed.
    #[error("list table inet margay: {0}")]
    List(#[source] Error),
    /// The transaction was refused, and leaving out what the kernel named did not help.
    #[error("commit {messages} messages to table inet margay: {source}")]
    Commit {
        /// Size of the transaction.
        messages: usize,
        /// The kernel's answer.
        source: Error,
    },
    /// Another process took the table.
    #[error("table inet margay was taken by another process (netlink port {port})")]
    Taken {
        /// Its netlink port.
        port: u32,
    },
}

impl ApplyError {
    /// True when the same plan may be accepted later; the driver lists anew then.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::List(error) | Self::Commit { source: error, .. } => error.is_retryable(),
            Self::Taken { .. } => false,
        }
    }
}

/// What the kernel can do, found out by trying at start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features {
    /// How the table is held.
    pub table: TableFlags,
    /// What rules may ask of it.
    pub abilities: Abilities,
}

/// What one apply did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Messages sent; 0 when the kernel already was as planned.
    pub messages: usize,
    /// Octets sent.
    pub octets: usize,
    /// Chains the kernel refused: each keeps its old rules, or drops if it is new.
    pub isolated: Vec<Isolated>,
}

impl Applied {
    /// The same, with chains that were left out: name → the kernel's words.
    fn without(self, bad: BTreeMap<Name, String>) -> Self {
        let isolated = bad
            .into_iter()
            .map(|(chain, reason)| Isolated { chain, reason });
        Self {
            isolated: isolated.collect(),
            ..self
        }
    }
}

/// A chain that is not as planned because the kernel refused it or a set it asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Isolated {
    /// Name of the chain; [`crate::plan::Plan`] tells whose policies it holds.
    pub chain: Name,
    /// The kernel's words.
    pub reason: String,
}

/// The one writer of our table.
#[derive(Debug)]
pub struct Driver {
    socket: Socket,
    features: Features,
    chains: Delta<Name, ChainImage>,
    sets: Delta<Name, SetImage>,
    /// Whether the table exists; meaningful while the deltas know the kernel.
    exists: bool,
    generation: Option<GenerationId>,
    /// The last plan the kernel acknowledged, with its image.
    applied: Option<(Ruleset, Image)>,
}

impl Driver {
    /// Opens a socket in the calling thread's network namespace and takes over the table a predecessor left.
    ///
    /// # Errors
    /// [`StartError::SecondDaemon`] while another process holds the table.
    pub fn open() -> Result<Self, StartError> {
        Self::start(Socket::open(Protocol::Netfilter)?)
    }

    /// As [`Driver::open`], inside another network namespace.
    ///
    /// # Errors
    /// As [`Driver::open`].
    pub fn open_in(netns: impl AsFd) -> Result<Self, StartError> {
        Self::start(Socket::open_in(netns, Protocol::Netfilter)?)
    }

    fn start(mut socket: Socket) -> Result<Self, StartError> {
        let features = probe(&mut socket)?;
        let found = nft::find_table(&mut socket).map_err(|error| match error.errno() {
            Some(Errno::EPERM) => StartError::SecondDaemon { port: 0 },
            _ => StartError::Probe(error),
        })?;
        let table = match found {
            Some(Owner::Socket(port)) => return Err(StartError::SecondDaemon { port }),
            Some(Owner::Orphan) => {
                adopt(&mut socket)?;
                info!("adopted the table of a predecessor");
                TableFlags::OwnedPersistent
            }
            // A table that nobody owns cannot become owned later.
            Some(Owner::Nobody) => TableFlags::Plain,
            None => features.table,
        };
        if table == TableFlags::Plain {
            warn!("this kernel cannot keep an owned table: other programs can change ours");
        }
        Ok(Self {
            socket,
            features: Features { table, ..features },
            chains: Delta::default(),
            sets: Delta::default(),
            exists: false,
            generation: None,
            applied: None,
        })
    }

    /// What the kernel can do.
    pub fn features(&self) -> Features {
        self.features
    }

    /// Drops what is known of the kernel: the next apply lists first. What was acknowledged last is remembered: chains that are
    /// refused later go back to it.
    pub fn forget(&mut self) {
        self.chains.forget();
        self.sets.forget();
    }

    /// What the kernel has, listed if it is not known.
    ///
    /// # Errors
    /// [`ApplyError::List`], [`ApplyError::Taken`].
    pub fn list(&mut self) -> Result<Image, ApplyError> {
        self.know()?;
        Ok(Image {
            chains: self.chains.actual().cloned().unwrap_or_default(),
            sets: self.sets.actual().cloned().unwrap_or_default(),
        })
    }

    /// Ids of groups that the kernel keeps: content key → chain name. Given to [`crate::plan::Planner::adopt`] at start, they make
    /// a restart change nothing.
    ///
    /// # Errors
    /// As [`Driver::list`].
    pub fn kept_ids(&mut self) -> Result<BTreeMap<ContentKey, Name>, ApplyError> {
        self.know()?;
        let chains = self.chains.actual().into_iter().flatten();
        Ok(chains
            .filter_map(|(name, chain)| Some((chain.key?, name.clone())))
            .collect())
    }

    /// Makes the kernel equal to the plan: one transaction, or two when something new must stand before anything leads to it. Must not be called before the World has listed every kind: whatever
    /// the plan lacks is removed.
    ///
    /// # Errors
    /// [`ApplyError`]; the old rules stand then, and the next call lists first.
    pub fn apply(&mut self, ruleset: &Ruleset) -> Result<Applied, ApplyError> {
        let mut bad: BTreeMap<Name, String> = BTreeMap::new();
        let mut wanted = ruleset.clone();
        for attempt in 1..=ATTEMPTS {
            let (error, subject, messages) = match self.attempt(&wanted) {
                Ok(applied) => return Ok(applied.without(bad)),
                Err(Attempt::Fatal(error)) => {
                    self.forget();
                    return Err(error);
                }
                Err(Attempt::Refused {
                    error,
                    subject,
                    messages,
                }) => (error, subject, messages),
            };
            self.forget();
            let named = isolate::chains_of(&wanted, subject.as_ref());
            warn!(%error, messages, named = named.len(), "nftables refused a transaction");
            let news = named.iter().filter(|name| !bad.contains_key(*name)).count();
            if !error.is_retryable() && (news == 0 || attempt > NAMED) {
                return self.sift(ruleset, messages, error);
            }
            if attempt == ATTEMPTS {
                return Err(ApplyError::Commit {
                    messages,
                    source: error,
                });
            }
            let reason = error.to_string();
            bad.extend(named.into_iter().map(|name| (name, reason.clone())));
            wanted = self.reverted(ruleset, &bad.keys().cloned().collect());
        }
        Err(ApplyError::List(Error::Interrupted { attempts: ATTEMPTS }))
    }

    /// The plan with these chains as they last stood.
    fn reverted(&self, ruleset: &Ruleset, bad: &BTreeSet<Name>) -> Ruleset {
        isolate::revert(ruleset, self.applied(), bad)
    }

    /// Finds the chains the kernel refuses by trying halves, when it does not name them or names the wrong ones.
    fn sift(
        &mut self,
        ruleset: &Ruleset,
        messages: usize,
        error: Error,
    ) -> Result<Applied, ApplyError> {
        // What is accepted on the way becomes the last plan; chains go back to what they were before the first of them.
        let old = self.applied().cloned();
        let suspects = isolate::suspects(ruleset, old.as_ref());
        let mut sum = Applied::default();
        let mut reason = error.to_string();
        let found = isolate::sift(&suspects, |without| {
            match self.attempt(&isolate::revert(ruleset, old.as_ref(), without)) {
                Ok(applied) => {
                    sum.messages += applied.messages;
                    sum.octets += applied.octets;
                    Ok(true)
                }
                Err(Attempt::Refused { error, .. }) if !error.is_retryable() => {
                    self.forget();
                    reason = error.to_string();
                    Ok(false)
                }
                Err(Attempt::Refused {
                    error, messages, ..
                }) => Err(ApplyError::Commit {
                    messages,
                    source: error,
                }),
                Err(Attempt::Fatal(error)) => Err(error),
            }
        });
        match found {
            Ok(Some(bad)) => {
                warn!(
                    isolated = bad.len(),
                    "chains that nftables refuses are left as they were"
                );
                let bad = bad.into_iter().map(|name| (name, reason.clone()));
                Ok(sum.without(bad.collect()))
            }
            Ok(None) => {
                self.forget();
                Err(ApplyError::Commit {
                    messages,
                    source: error,
                })
            }
            Err(error) => {
                self.forget();
                Err(error)
            }
        }
    }

    /// The last plan the kernel acknowledged, without what it refused.
    pub fn applied(&self) -> Option<&Ruleset> {
        self.applied.as_ref().map(|(ruleset, _)| ruleset)
    }

    /// Port of the socket, by which notifications of our own changes are known.
    ///
    /// # Errors
    /// The socket has none.
    pub fn port(&self) -> Result<u32, Error> {
        self.socket.port()
    }

    /// Sizes of the last plan the kernel acknowledged.
    pub fn size(&self) -> Size {
        self.applied
            .as_ref()
            .map(|(ruleset, _)| ruleset.size())
            .unwrap_or_default()
    }

    fn attempt(&mut self, wanted: &Ruleset) -> Result<Applied, Attempt> {
        self.know()?;
        let before = self
            .applied
            .as_ref()
            .map(|(ruleset, image)| (ruleset, image));
        let image = Image::of(wanted, before);
        self.chains.set_desired(image.chains.clone());
        self.sets.set_desired(image.sets.clone());
        let (Some(chains), Some(sets)) = (self.chains.diff(), self.sets.diff()) else {
            return Err(unknown());
        };
        let changes = Changes {
            ruleset: wanted,
            chains,
            sets,
        };
        if changes.is_empty() {
            self.applied = Some((wanted.clone(), image));
            return Ok(Applied::default());
        }
        // Into a table that nobody passes through yet, and into one that is made anew, everything goes at once.
        let applied = if !self.exists || changes.is_repaving() {
            self.commit(&changes)?
        } else {
            let (first, second) = changes.split();
            let first = self.commit(&first)?;
            let second = self.commit(&second)?;
            Applied {
                messages: first.messages + second.messages,
                octets: first.octets + second.octets,
                isolated: Vec::new(),
            }
        };
        self.applied = Some((wanted.clone(), image));
        Ok(applied)
    }

    /// Sends one transaction and takes note of what it made.
    fn commit(&mut self, changes: &Changes<'_>) -> Result<Applied, Attempt> {
        if changes.is_empty() {
            return Ok(Applied::default());
        }
        let mut writer = if changes.is_repaving() {
            warn!("objects of another type stand in our table: it is made anew");
            nft::repave(changes.ruleset, self.features.table, self.generation)
        } else {
            let handles = self.handles(changes)?;
            let create = (!self.exists).then_some(self.features.table);
            nft::transaction(changes, &handles, create, self.generation)
        };
        let messages = writer.batch.len();
        let octets = writer.batch.octets();
        match self.socket.submit(&mut writer.batch) {
            Ok(()) => {}
            Err(error) => {
                let subject = isolate::refused(&error, &writer.subjects);
                return Err(Attempt::Refused {
                    error,
                    subject,
                    messages,
                });
            }
        }
        debug!(messages, octets, "policy committed");
        self.exists = true;
        self.chains.applied(&changes.chains);
        self.sets.applied(&changes.sets);
        // The generation our own commit made. If another one came between, it is not this, and the next apply lists.
        self.generation = self.generation.map(next_generation);
        Ok(Applied {
            messages,
            octets,
            isolated: Vec::new(),
        })
    }

    /// Handles of the rules that stand in chains which change. A chain that is not as remembered was changed behind our back.
    fn handles(&mut self, changes: &Changes<'_>) -> Result<Handles, Attempt> {
        let mut handles = Handles::new();
        for (name, there) in changes.existing() {
            let listed = nft::rule_handles(&mut self.socket, name).map_err(list_error)?;
            let images: Vec<RuleImage> = listed.iter().map(|(_, image)| *image).collect();
            if images != *there.rules {
                return Err(unknown());
            }
            handles.insert(
                name.clone(),
                listed.iter().map(|(handle, _)| *handle).collect(),
            );
        }
        Ok(handles)
    }

    /// Lists the kernel's state unless it is known.
    fn know(&mut self) -> Result<(), ApplyError> {
        let stale = self.generation.is_some()
            && nft::generation(&mut self.socket).map_err(ApplyError::List)? != self.generation;
        if stale {
            self.forget();
        }
        if self.chains.actual().is_some() {
            return Ok(());
        }
        // A plain table can be changed by anybody: what is listed holds for one generation only.
        self.generation = match self.features.table {
            TableFlags::OwnedPersistent => None,
            TableFlags::Plain => nft::generation(&mut self.socket).map_err(ApplyError::List)?,
        };
        let found = nft::find_table(&mut self.socket).map_err(ApplyError::List)?;
        self.exists = found.is_some();
        if let (Some(Owner::Orphan), TableFlags::OwnedPersistent) = (found, self.features.table) {
            adopt(&mut self.socket).map_err(|error| match error {
                StartError::Adopt(error) | StartError::Probe(error) => ApplyError::List(error),
                StartError::SecondDaemon { port } => ApplyError::Taken { port },
                StartError::Open(_) => ApplyError::Taken { port: 0 },
            })?;
        }
        let image = if self.exists {
            nft::list(&mut self.socket).map_err(ApplyError::List)?
        } else {
            Image::default()
        };
        self.chains.learn(image.chains);
        self.sets.learn(image.sets);
        Ok(())
    }
}

/// Generations count up and leave out 0.
fn next_generation(GenerationId(id): GenerationId) -> GenerationId {
    GenerationId(id.wrapping_add(1).max(1))
}

/// How one attempt ended.
enum Attempt {
    /// No use in trying again at once.
    Fatal(ApplyError),
    /// The kernel refused the transaction.
    Refused {
        error: Error,
        /// What the kernel stumbled over first.
        subject: Option<Subject>,
        messages: usize,
    },
}

impl From<ApplyError> for Attempt {
    fn from(error: ApplyError) -> Self {
        Self::Fatal(error)
    }
}

fn list_error(error: Error) -> Attempt {
    Attempt::Fatal(ApplyError::List(error))
}

/// What we remember is not what is there: forget and list.
fn unknown() -> Attempt {
    Attempt::Refused {
        error: Error::Overrun,
        subject: None,
        messages: 0,
    }
}

fn probe(socket: &mut Socket) -> Result<Features, StartError> {
    let table = match socket.submit(&mut nft::probe_owner()) {
        Ok(()) => TableFlags::OwnedPersistent,
        Err(Error::Rejected(_)) => TableFlags::Plain,
        Err(error) => return Err(StartError::Probe(error)),
    };
    let mut knows = |rule: Rule| match socket.submit(&mut nft::probe_rule(&rule)) {
        Ok(()) => Ok(true),
        Err(Error::Rejected(_)) => Ok(false),
        Err(error) => Err(StartError::Probe(error)),
    };
    let log = knows(Rule::new("").then(Action::Log("probe".into())))?;
    let flow_marks = knows(Rule::new("").when(Match::FlowMark { mask: 1, value: 1 }))?;
    let abilities = Abilities { log, flow_marks };
    Ok(Features { table, abilities })
}

fn adopt(socket: &mut Socket) -> Result<(), StartError> {
    socket
        .submit(&mut nft::adoption())
        .map_err(|error| match error.errno() {
            Some(Errno::EPERM) => StartError::SecondDaemon { port: 0 },
            _ => StartError::Adopt(error),
        })
}
