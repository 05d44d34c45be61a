//! Warm addresses: taken ahead under the node's own handle, so that a pod need not wait for a write.
//!
//! ```text
//!  stock (stored: warm) ──lend──► loan (answered; stored: warm) ──Hand lands──► stored: the pod's
//! ```
//!
//! An address is lent with no round trip, because it stands in a stored block as this node's; the entry is put in its
//! new name, and the stock refilled, by the next write of the block. The number of the entry stays, so what the
//! journal remembers holds before and after, and a release presents it either way.
//!
//! Hazards:
//! - A write of a dead process, or one whose answer was lost, may land late and free what looks like stock. A stock is
//!   therefore lent from only after a write of *this* process landed in its block: whatever was sent before it was
//!   decided on an older version and is refused. And what is being given back from the stock is never dropped half way.
//! - What the last process lent is known to the journal alone: nothing is lent before [`super::Input::Living`].
//! - A late write may put an entry in the name of a pod that is gone. Hence a loan is recognised by its number, and
//!   its name is set whatever name is there.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use api::PoolUse;
use ipnet::IpNet;

use super::job::PartState;
use super::lane::{Give, Item, Lane};
use super::{Allocator, Note};
use crate::affinity::BlockView;
use crate::block::{Attribute, Block};
use crate::handle::{self, Attributes};
use crate::index::{Held, Known};
use crate::net::Family;
use crate::pool::{Pool, Pools};
use crate::request::{Assign, Assigned, Path, RequestId, Taken, Want};
use crate::time::Time;

/// An address that lives by the journal: whose it is, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Living {
    /// The handle it was taken under.
    pub handle: String,
    /// Owner attributes to store, should the block not have them.
    pub attributes: Attributes,
    /// Where it is.
    pub taken: Taken,
}

/// An address that was answered before its block says so.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Loan {
    sequence: u64,
    attribute: Arc<Attribute>,
}

/// The stock of a node and what was lent from it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Warm {
    handle: Arc<str>,
    attribute: Arc<Attribute>,
    /// The journal has told what lives: what is stored as warm beyond that is in nobody's use.
    open: bool,
    /// Blocks a write of this process landed in.
    fenced: BTreeSet<IpNet>,
    loans: BTreeMap<(IpNet, u32), Loan>,
    /// Something changed that the stock depends on.
    stale: bool,
}

impl Warm {
    pub(super) fn new(node: &str) -> Self {
        let handle = handle::warm(node);
        let owner = Attributes::from([("node".to_owned(), node.to_owned())]);
        Self {
            attribute: Arc::new(Attribute::new(&handle, owner)),
            handle: Arc::from(handle),
            open: false,
            fenced: BTreeSet::new(),
            loans: BTreeMap::new(),
            stale: false,
        }
    }

    pub(super) fn handle(&self) -> &Arc<str> {
        &self.handle
    }

    /// The stock may have to change.
    pub(super) fn touch(&mut self) {
        self.stale = true;
    }

    /// A write of this process landed.
    pub(super) fn fence(&mut self, block: IpNet) {
        self.stale |= self.fenced.insert(block);
    }

    /// A block is gone; its next life begins anew.
    pub(super) fn unfence(&mut self, block: IpNet) {
        self.fenced.remove(&block);
    }

    pub(super) fn is_fenced(&self, block: IpNet) -> bool {
        self.fenced.contains(&block)
    }

    /// Whose a place is by way of a loan.
    fn borrower(&self, block: IpNet, ordinal: u32, sequence: u64) -> Option<&Arc<Attribute>> {
        let loan = self.loans.get(&(block, ordinal))?;
        (loan.sequence == sequence).then_some(&loan.attribute)
    }

    /// Places lent to a handle.
    pub(super) fn lent_to<'a>(&'a self, handle: &'a str) -> impl Iterator<Item = Taken> + 'a {
        let of_handle = move |loan: &Loan| loan.attribute.is_of(handle);
        self.loans
            .iter()
            .filter(move |(_, loan)| of_handle(loan))
            .map(|((block, ordinal), loan)| Taken {
                block: *block,
                ordinal: *ordinal,
                sequence: loan.sequence,
            })
    }
}

impl Allocator {
    /// Every address this node holds, lent ones under the handle they were lent to.
    pub fn held(&self) -> impl Iterator<Item = Held> + '_ {
        self.index.held().map(|held| self.as_lent(held))
    }

    /// The addresses of a handle, lent ones included.
    pub fn of_handle(&self, handle: &str) -> Vec<Held> {
        let stored = self.index.of_handle(handle).map(|held| self.as_lent(held));
        let lent = self
            .warm
            .lent_to(handle)
            .filter_map(|taken| self.index.at(taken.block, taken.ordinal))
            .map(|held| self.as_lent(held));
        let mut all: Vec<Held> = stored
            .filter(|held| held.handle == handle)
            .chain(lent.filter(|held| held.handle == handle))
            .collect();
        all.sort_by_key(|held| (held.block, held.ordinal));
        all.dedup_by_key(|held| (held.block, held.ordinal));
        all
    }

    fn as_lent(&self, mut held: Held) -> Held {
        let borrower = self
            .warm
            .borrower(held.block, held.ordinal, held.sequence)
            .filter(|attribute| !attribute.is_of(&held.handle));
        if let Some(attribute) = borrower {
            attribute
                .handle()
                .unwrap_or_default()
                .clone_into(&mut held.handle);
            held.attributes.clone_from(&attribute.owner);
        }
        held
    }

    /// The journal has spoken: what the last process lent is put in its name, the rest of the stock may be lent.
    pub(super) fn living(&mut self, living: Vec<Living>) {
        for one in living {
            let Taken {
                block,
                ordinal,
                sequence,
            } = one.taken;
            let other_name = self
                .index
                .at(block, ordinal)
                .is_some_and(|held| held.sequence == sequence && held.handle != one.handle);
            if other_name {
                let attribute = Arc::new(Attribute::new(&one.handle, one.attributes));
                self.note_loan(block, ordinal, sequence, attribute);
            }
        }
        self.warm.open = true;
        self.warm.touch();
    }

    /// An address of the stock for a request, from the pool the request would be served from; `exact` names one.
    pub(super) fn warm_for(
        &self,
        request: &Assign,
        family: Family,
        pools: &[Arc<Pool>],
        exact: Option<IpAddr>,
    ) -> Option<Assigned> {
        if request.usage != PoolUse::Workload {
            return None;
        }
        let fits = |held: &Held| {
            Family::of_address(held.address) == family
                && exact.map_or_else(
                    || !self.index.reserved(held.address),
                    |exact| exact == held.address,
                )
                && pools
                    .iter()
                    .any(|pool| pool.block_index(held.block).is_some())
        };
        let held = self
            .stock()
            .find(|held| fits(held) && self.may_lend(held))?;
        Some(lent(&held))
    }

    /// Whether a pod would be lent an address from one of these pools.
    pub(super) fn has_warm(&self, family: Family, pools: &[Arc<Pool>]) -> bool {
        self.lendable(family).any(|held| {
            self.may_lend(&held)
                && pools
                    .iter()
                    .any(|pool| pool.block_index(held.block).is_some())
        })
    }

    /// An address lent to the request's handle already, unless it is on its way back.
    pub(super) fn lent_already(&self, request: &Assign, want: &Want) -> Option<Assigned> {
        let fits = |held: &Held| {
            Family::of_address(held.address) == want.family
                && want.address.is_none_or(|wanted| wanted == held.address)
        };
        let leaving = |held: &Held| {
            let lane = self.lanes.get(&held.block);
            lane.is_some_and(|lane| lane.returns(held.ordinal))
        };
        self.warm
            .lent_to(&request.handle)
            .filter_map(|taken| self.index.at(taken.block, taken.ordinal))
            .find(|held| fits(held) && !leaving(held))
            .map(|held| lent(&held))
    }

    /// Answers a part of a request from the stock.
    pub(super) fn lend(
        &mut self,
        id: RequestId,
        part: usize,
        attribute: Arc<Attribute>,
        assigned: Assigned,
    ) {
        self.note_loan(
            assigned.block,
            assigned.ordinal,
            assigned.sequence,
            attribute,
        );
        self.set_part(id, part, PartState::Landed(assigned));
        self.finish_assign(id);
    }

    fn note_loan(&mut self, block: IpNet, ordinal: u32, sequence: u64, attribute: Arc<Attribute>) {
        let loan = Loan {
            sequence,
            attribute,
        };
        self.warm.loans.insert((block, ordinal), loan);
        self.warm.touch();
        self.hand_over(block);
    }

    /// Queues the writing of every loan in a block that is not on its way: it goes before any release of the same.
    pub(super) fn hand_over(&mut self, block: IpNet) {
        let loans: Vec<u32> = self
            .warm
            .loans
            .range((block, 0)..=(block, u32::MAX))
            .map(|((_, ordinal), _)| *ordinal)
            .collect();
        for ordinal in loans {
            let under_way = self
                .lanes
                .get(&block)
                .is_some_and(|lane| lane.hands(ordinal));
            if !under_way {
                self.lane(block).push(Item::Hand { ordinal }, false);
            }
        }
    }

    /// Puts a loan in its name on a copy of the block: whether the copy changed, and whether it is in that name now.
    pub(super) fn compose_hand(&self, block: &mut Block, ordinal: u32) -> (bool, bool) {
        let Some(loan) = self.warm.loans.get(&(block.cidr(), ordinal)) else {
            return (false, true);
        };
        let changed = block.hand_over(ordinal, loan.sequence, &loan.attribute);
        let stands = block.sequence_of(ordinal) == loan.sequence
            && block.holder(ordinal).is_some_and(|holder| {
                loan.attribute
                    .handle()
                    .is_some_and(|handle| holder.is_of(handle))
            });
        (changed, stands)
    }

    /// Fills the stock on a copy of the block; whether the copy changed.
    pub(super) fn compose_stock(&self, block: &mut Block) -> bool {
        let family = Family::of_address(block.cidr().addr());
        let there = self.lendable(family).count();
        let wanted = self.warm_target(family).saturating_sub(there);
        let taken = (0..wanted)
            .map_while(|_| block.take(&self.warm.attribute, |a| self.index.reserved(a)))
            .count();
        // A block that is only fenced changes by its number.
        taken > 0 || !self.warm.is_fenced(block.cidr())
    }

    /// Whether an entry of a handle is stock, which gives way to whoever asks for exactly this address.
    pub(super) fn in_stock(&self, block: IpNet, ordinal: u32, handle: &str) -> bool {
        handle == &**self.warm.handle()
            && self.warm.open
            && !self.warm.loans.contains_key(&(block, ordinal))
    }

    /// A loan is stored under its name, or (`stands` = false) its place is somebody else's by now.
    pub(super) fn handed_over(&mut self, block: IpNet, ordinal: u32, stands: bool) {
        let Some(loan) = self.warm.loans.remove(&(block, ordinal)) else {
            return;
        };
        if !stands {
            self.note(Note::NotOurs {
                handle: loan.attribute.handle().unwrap_or_default().to_owned(),
                block,
                ordinal,
            });
        }
        self.touch_handle(&loan.attribute, false);
    }

    /// A block is another than it was: loans that could not be written may be, and a new life has to be fenced anew.
    pub(super) fn block_changed(&mut self, block: IpNet) {
        match self.index.views(block).0 {
            BlockView::MineEmpty | BlockView::MineBusy => {
                self.warm.touch();
                self.hand_over(block);
            }
            BlockView::Absent => self.warm.unfence(block),
            BlockView::MineDeleted
            | BlockView::Foreign
            | BlockView::Ownerless
            | BlockView::ForeignDeleted => {}
        }
    }

    /// The block is gone, and with it what was lent from it.
    pub(super) fn loan_vanished(&mut self, block: IpNet, ordinal: u32) {
        self.handed_over(block, ordinal, false);
    }

    /// Brings the stock in line with what is wanted, if anything changed that it depends on.
    pub(super) fn restock(&mut self, now: Time) {
        if !self.warm.open || !self.index.synced() || !std::mem::take(&mut self.warm.stale) {
            return;
        }
        for family in [Family::V4, Family::V6] {
            let homes = self.warm_pools(family);
            self.return_surplus(family, &homes);
            self.refill(family, &homes, now);
        }
    }

    /// Pools whose addresses any pod of this node may get.
    fn warm_pools(&self, family: Family) -> Vec<Arc<Pool>> {
        let nobody = crate::pool::Labels::default();
        let asker = self.index.asker(family, PoolUse::Workload, Some(&nobody));
        Pools::automatic(self.index.pools(), &asker).0
    }

    /// Gives back what is beyond the target, or lies where it serves nobody.
    fn return_surplus(&mut self, family: Family, homes: &[Arc<Pool>]) {
        let target = self.warm_target(family);
        let serves = |held: &Held| {
            !self.index.reserved(held.address)
                && homes
                    .iter()
                    .any(|pool| pool.block_index(held.block).is_some())
        };
        let (useful, useless): (Vec<Held>, Vec<Held>) = self.lendable(family).partition(serves);
        let beyond = useful.into_iter().skip(target).chain(useless);
        for held in beyond.collect::<Vec<_>>() {
            self.return_warm(&held);
        }
    }

    fn return_warm(&mut self, held: &Held) {
        let give = Give {
            request: None,
            handle: Arc::clone(&self.warm.handle),
            ordinal: held.ordinal,
            sequence: Some(held.sequence),
        };
        self.queue_give(held.block, give);
    }

    /// Empties the stock of a block that nothing else keeps.
    pub(super) fn return_stock_of(&mut self, block: IpNet) {
        let stock: Vec<Held> = self.stock().filter(|held| held.block == block).collect();
        for held in stock {
            self.return_warm(&held);
        }
    }

    /// Whether nothing but stock keeps a block.
    pub(super) fn holds_only_stock(&self, block: &Block) -> bool {
        let cidr = block.cidr();
        block.entries().all(|(ordinal, entry)| {
            entry.is_of(&self.warm.handle) && !self.warm.loans.contains_key(&(cidr, ordinal))
        })
    }

    fn refill(&mut self, family: Family, homes: &[Arc<Pool>], now: Time) {
        let Some(pool) = homes.first() else { return };
        let filling = self
            .lanes
            .iter()
            .any(|(block, lane)| Family::of_address(block.addr()) == family && lane.stocks());
        if filling || self.warm_target(family) == 0 {
            return;
        }
        let unfenced = self
            .lendable(family)
            .map(|held| held.block)
            .find(|block| !self.warm.is_fenced(*block));
        let short = self.lendable(family).count() < self.warm_target(family);
        let roomy = || {
            let own = self.index.own_blocks(pool).map(|stored| &stored.value);
            own.filter(|block| {
                let lane = self.lanes.get(&block.cidr());
                !lane.is_some_and(Lane::is_leaving)
                    && self.index.usable(block, now) > self.expected_takes(block.cidr())
            })
            .map(Block::cidr)
            .next()
        };
        let block = unfenced.or_else(|| if short { roomy() } else { None });
        if let Some(block) = block {
            self.lane(block).push(Item::Stock, false);
        }
    }

    /// Addresses of a family kept ready.
    fn warm_target(&self, _family: Family) -> usize {
        self.index.config().warm as usize
    }

    fn lendable(&self, family: Family) -> impl Iterator<Item = Held> + '_ {
        self.stock()
            .filter(move |held| Family::of_address(held.address) == family)
    }

    /// What is stored as warm, not lent, and not on its way back.
    fn stock(&self) -> impl Iterator<Item = Held> + '_ {
        let free = |held: &Held| {
            !self.warm.loans.contains_key(&(held.block, held.ordinal))
                && !self
                    .lanes
                    .get(&held.block)
                    .is_some_and(|lane| lane.returns(held.ordinal))
        };
        self.index.of_handle(&self.warm.handle).filter(free)
    }

    fn may_lend(&self, held: &Held) -> bool {
        let ours = match self.index.block(held.block) {
            Known::Whole(stored) => {
                stored.value.is_of(self.index.node()) && !stored.value.is_deleted()
            }
            Known::Absent | Known::Unread | Known::Broken => false,
        };
        self.warm.open && ours && self.warm.is_fenced(held.block)
    }
}

fn lent(held: &Held) -> Assigned {
    Assigned {
        address: held.address,
        block: held.block,
        ordinal: held.ordinal,
        sequence: held.sequence,
        path: Path::Warm,
    }
}
