//! Where a take goes: own block, claim, borrow, or nowhere, with the reason.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use api::PoolUse;
use ipnet::IpNet;

use super::Allocator;
use super::choose::Choice;
use super::job::{Job, Part, PartState};
use super::lane::{Item, Lane, Take};
use crate::affinity::{BlockView, Goal};
use crate::index::Known;
use crate::net::Family;
use crate::pool::{LeftOut, Pool, Refusal, Unfit};
use crate::request::{Assign, AssignError, Assigned, Limit, Path, RequestId, Tally, Want};
use crate::time::Time;

/// Where a take goes.
enum Placement {
    /// Into the lane of this block.
    Lane {
        block: IpNet,
        path: Path,
        goal: Option<Goal>,
        reread: bool,
        exact: Option<u32>,
    },
    /// It is this address already: kept ready, or answered before.
    Ready(Assigned),
    /// Nowhere yet: every free block was just lost to somebody.
    Wait(Time),
}

impl Placement {
    fn into(block: IpNet, path: Path, goal: Option<Goal>) -> Self {
        Self::Lane {
            block,
            path,
            goal,
            reread: false,
            exact: None,
        }
    }
}

impl Allocator {
    /// Places one part of a request.
    pub(super) fn place(&mut self, id: RequestId, number: usize, now: Time) {
        let Some(Job::Assign(job)) = self.jobs.get(&id) else {
            return;
        };
        let (Some(part), Some(want)) = (job.parts.get(number), job.request.wants.get(number))
        else {
            return;
        };
        let (request, attribute) = (Arc::clone(&job.request), Arc::clone(&job.attribute));
        match self.placement(&request, want, part, now) {
            Ok(Placement::Lane {
                block,
                path,
                goal,
                reread,
                exact,
            }) => {
                self.set_part(id, number, PartState::At(block));
                let take = Take {
                    request: id,
                    part: number,
                    attribute,
                    asked: request,
                    exact,
                    path,
                };
                let lane = self.lane(block);
                lane.push(Item::Take(take), reread);
                if let Some(goal) = goal {
                    lane.aim(goal);
                }
            }
            Ok(Placement::Ready(assigned)) => self.lend(id, number, attribute, assigned),
            Ok(Placement::Wait(until)) => {
                self.set_part(id, number, PartState::Unplaced);
                self.waiting.insert((id, number), until);
            }
            Err(error) => {
                let error = part.trouble.clone().map_or(error, AssignError::from);
                self.fail(id, error);
            }
        }
    }

    fn placement(
        &self,
        request: &Assign,
        want: &Want,
        part: &Part,
        now: Time,
    ) -> Result<Placement, AssignError> {
        if let Some(lent) = self.lent_already(request, want) {
            return Ok(Placement::Ready(lent));
        }
        if let Some(held) = self.held_already(request, want, part) {
            return Ok(held);
        }
        if let Some(address) = want.address {
            return self.explicit(request, address, part);
        }
        let namespace = Some(&request.namespace_labels);
        let asker = self.index.asker(want.family, request.usage, namespace);
        let (pools, unfit) = if want.pools.is_empty() {
            self.index.pools().automatic(&asker)
        } else {
            (self.index.pools().named(&want.pools, &asker)?, Vec::new())
        };
        // The pool that would serve it; beyond that only when nothing else is left.
        let first = pools.get(..1).unwrap_or_default();
        let warm = |pools| self.warm_for(request, want.family, pools, None);
        warm(first)
            .map(Placement::Ready)
            .or_else(|| self.search(&pools, part, now))
            .or_else(|| warm(&pools).map(Placement::Ready))
            .ok_or_else(|| self.exhausted(want.family, &pools, unfit, part, now))
    }

    /// Whether a request of this node for a family would find an address now, in whichever namespace.
    ///
    /// # Errors
    /// What such a request would be answered.
    pub fn can_assign(&self, family: Family, usage: PoolUse, now: Time) -> Result<(), AssignError> {
        if !self.index.synced() {
            return Err(AssignError::NotSynced);
        }
        let asker = self.index.asker(family, usage, None);
        let (pools, unfit) = self.index.pools().automatic(&asker);
        let part = Part::default();
        if self.has_warm(family, &pools) || self.search(&pools, &part, now).is_some() {
            return Ok(());
        }
        Err(self.exhausted(family, &pools, unfit, &part, now))
    }

    /// Own block, claim, borrow, wait; `None` = there is nothing.
    fn search(&self, pools: &[Arc<Pool>], part: &Part, now: Time) -> Option<Placement> {
        if let Some(block) = self.own_with_room(pools, part, now) {
            let goal = self.lanes.get(&block).and_then(Lane::goal);
            let path = if goal == Some(Goal::Hold) {
                Path::Claim
            } else {
                Path::Own
            };
            return Some(Placement::into(block, path, None));
        }
        let mut hold = None;
        if self.may_claim(pools) {
            match self.claimable(pools, part, now) {
                Ok(block) => return Some(Placement::into(block, Path::Claim, Some(Goal::Hold))),
                Err(until) => hold = until,
            }
        }
        if !self.index.config().strict
            && let Some(block) = self.borrowable(pools, part, now)
        {
            return Some(Placement::into(block, Path::Borrow, None));
        }
        hold.map(Placement::Wait)
    }

    /// A handle holds at most one address per family: one that is there already is the answer, once read back.
    fn held_already(&self, request: &Assign, want: &Want, part: &Part) -> Option<Placement> {
        let fits = |address: IpAddr| {
            Family::of_address(address) == want.family
                && want.address.is_none_or(|wanted| wanted == address)
        };
        let held = self
            .index
            .of_handle(&request.handle)
            .find(|held| fits(held.address))?;
        let leaving = self
            .lanes
            .get(&held.block)
            .is_some_and(|lane| lane.gives(&request.handle));
        (!leaving && !part.excluded.contains(&held.block)).then(|| Placement::Lane {
            block: held.block,
            path: Path::Own,
            goal: None,
            reread: true,
            exact: want.address.map(|_| held.ordinal),
        })
    }

    fn explicit(
        &self,
        request: &Assign,
        address: IpAddr,
        part: &Part,
    ) -> Result<Placement, AssignError> {
        let pool = self.index.pools().holding(address, request.usage)?;
        let block = pool.block_of(address).ok_or(Refusal::NoPoolFor(address))?;
        if part.excluded.contains(&block) {
            return Err(self.exhausted(pool.family(), &[pool], Vec::new(), part, Time::default()));
        }
        let pools = std::slice::from_ref(&pool);
        if let Some(ready) = self.warm_for(request, pool.family(), pools, Some(address)) {
            return Ok(Placement::Ready(ready));
        }
        let exact = crate::net::ordinal(block, address);
        let reread = matches!(self.index.block(block), Known::Unread);
        let (path, goal) = match self.index.views(block).0 {
            BlockView::Absent | BlockView::MineDeleted => (Path::Claim, Some(Goal::Hold)),
            BlockView::MineEmpty | BlockView::MineBusy => (Path::Own, None),
            BlockView::Foreign | BlockView::Ownerless | BlockView::ForeignDeleted => {
                (Path::Borrow, None)
            }
        };
        Ok(Placement::Lane {
            block,
            path,
            goal,
            reread,
            exact,
        })
    }

    /// The first own block with room, or one being claimed: pool by pool, ascending.
    fn own_with_room(&self, pools: &[Arc<Pool>], part: &Part, now: Time) -> Option<IpNet> {
        pools.iter().find_map(|pool| {
            let own = self.index.own_blocks(pool).map(|stored| &stored.value);
            let own = own.filter(|block| !part.excluded.contains(&block.cidr()));
            let room = own.filter(|block| {
                let lane = self.lanes.get(&block.cidr());
                !lane.is_some_and(Lane::is_leaving)
                    && self.index.usable(block, now) > self.expected_takes(block.cidr())
            });
            room.map(crate::block::Block::cidr)
                .next()
                .or_else(|| self.claim_with_room(pool, part))
        })
    }

    /// Takes on their way into a block that the index does not show yet.
    pub(super) fn expected_takes(&self, block: IpNet) -> usize {
        let Some(lane) = self.lanes.get(&block) else {
            return 0;
        };
        match self.index.block(block) {
            Known::Whole(stored) => lane.takes_beyond(&stored.value),
            Known::Absent | Known::Unread | Known::Broken => lane.takes(),
        }
    }

    /// A block of the pool that is being claimed and has room for one more.
    fn claim_with_room(&self, pool: &Pool, part: &Part) -> Option<IpNet> {
        self.claims_under_way(pool)
            .filter(|block| !part.excluded.contains(block))
            .find(|block| self.lanes.get(block).map_or(0, Lane::takes) < self.fresh_room(*block))
    }

    /// Blocks of the pool this node is claiming and that are not stored yet.
    fn claims_under_way<'a>(&'a self, pool: &'a Pool) -> impl Iterator<Item = IpNet> + 'a {
        self.lanes
            .iter()
            .filter(|(_, lane)| lane.goal() == Some(Goal::Hold))
            .map(|(block, _)| *block)
            .filter(|block| {
                pool.block_index(*block).is_some()
                    && self.index.views(*block).0 == BlockView::Absent
            })
    }

    /// Addresses a fresh block has for automatic assignment.
    fn fresh_room(&self, block: IpNet) -> usize {
        let size = crate::net::block_size(block).unwrap_or(0);
        (0..size)
            .filter(|ordinal| !self.index.reserved(crate::net::nth(block.addr(), *ordinal)))
            .count()
    }

    fn may_claim(&self, pools: &[Arc<Pool>]) -> bool {
        let config = self.index.config();
        config.automatic_blocks && self.owned(pools) < config.max_blocks as usize
    }

    /// Blocks of the candidates this node owns or is claiming.
    fn owned(&self, pools: &[Arc<Pool>]) -> usize {
        pools
            .iter()
            .map(|pool| self.index.own_blocks(pool).count() + self.claims_under_way(pool).count())
            .sum()
    }

    /// The block to claim, or until when every free one is on hold (`None` = there is none).
    fn claimable(
        &self,
        pools: &[Arc<Pool>],
        part: &Part,
        now: Time,
    ) -> Result<IpNet, Option<Time>> {
        let mut hold: Option<Time> = None;
        for pool in pools {
            let taken = self.taken(pool);
            let owns = self.index.own_blocks(pool).next().is_some()
                || self.claims_under_way(pool).next().is_some();
            let first = (!owns).then(|| self.index.rank(pool));
            let choice = Choice {
                pool,
                taken: &taken,
                node: self.index.node(),
                first,
            };
            let open = |block: IpNet| {
                !self.index.wholly_reserved(block)
                    && !part.excluded.contains(&block)
                    && !self.index.obstructed(block)
            };
            let on_hold = |block: IpNet| self.lost.get(&block).is_some_and(|until| *until > now);
            let chosen = choice.pick(|block| open(block) && !on_hold(block));
            if let Some(block) = chosen {
                return Ok(block);
            }
            let held = self
                .lost
                .iter()
                .filter(|(_, until)| **until > now)
                .filter(|(block, _)| {
                    pool.block_index(**block)
                        .is_some_and(|index| !taken.contains(&index))
                        && open(**block)
                });
            hold = held.map(|(_, until)| *until).chain(hold).min();
        }
        Err(hold)
    }

    fn taken(&self, pool: &Pool) -> BTreeSet<u128> {
        let claims = self
            .lanes
            .iter()
            .filter(|(_, lane)| lane.goal().is_some())
            .map(|(block, _)| *block);
        self.index
            .taken(pool)
            .chain(claims.filter_map(|block| pool.block_index(block)))
            .collect()
    }

    /// The foreign block with most free addresses.
    fn borrowable(&self, pools: &[Arc<Pool>], part: &Part, now: Time) -> Option<IpNet> {
        let foreign = pools
            .iter()
            .flat_map(|pool| self.index.foreign_blocks(pool, now));
        foreign
            .filter(|(block, _)| !part.excluded.contains(block))
            .map(|(block, free)| (free.saturating_sub(self.expected_takes(block)), block))
            .filter(|(free, _)| *free > 0)
            .max_by_key(|(free, block)| (*free, std::cmp::Reverse(*block)))
            .map(|(_, block)| block)
    }

    fn exhausted(
        &self,
        family: Family,
        pools: &[Arc<Pool>],
        unfit: LeftOut,
        part: &Part,
        now: Time,
    ) -> AssignError {
        let mut tallies: Vec<Tally> = pools.iter().map(|pool| self.tally(pool, now)).collect();
        let foreign_free: u64 = tallies.iter().map(|tally| tally.foreign_free).sum();
        let free_blocks: u128 = tallies.iter().map(|tally| tally.free_blocks).sum();
        tallies.extend(
            unfit
                .into_iter()
                .filter(|(_, why)| *why != Unfit::Family)
                .map(|(pool, why)| Tally {
                    pool: pool.to_string(),
                    unfit: Some(why),
                    free_blocks: 0,
                    own_blocks: 0,
                    foreign_free: 0,
                    cooling: 0,
                }),
        );
        let config = self.index.config();
        let limit = if pools.is_empty() {
            Limit::NoPool
        } else if !part.excluded.is_empty() {
            Limit::Contention
        } else if free_blocks > 0 && !config.automatic_blocks {
            Limit::NoAutomaticBlocks
        } else if free_blocks > 0 && self.owned(pools) >= config.max_blocks as usize {
            Limit::BlockCap(config.max_blocks)
        } else if config.strict && foreign_free > 0 {
            Limit::StrictAffinity
        } else {
            Limit::PoolExhausted
        };
        AssignError::Exhausted {
            family,
            limit,
            pools: tallies,
        }
    }

    fn tally(&self, pool: &Pool, now: Time) -> Tally {
        let taken = self.taken(pool);
        let choice = Choice {
            pool,
            taken: &taken,
            node: self.index.node(),
            first: None,
        };
        let own = || self.index.own_blocks(pool);
        Tally {
            pool: pool.name.to_string(),
            unfit: None,
            free_blocks: choice.free(),
            own_blocks: u32::try_from(own().count()).unwrap_or(u32::MAX),
            foreign_free: self
                .index
                .foreign_blocks(pool, now)
                .map(|(_, free)| free as u64)
                .sum(),
            cooling: own().map(|stored| stored.value.cooling() as u64).sum(),
        }
    }
}
