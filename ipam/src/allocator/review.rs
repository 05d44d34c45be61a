//! What the allocator does unasked: settle what a crash left, give up what is not wanted.

use std::sync::Arc;

use ipnet::IpNet;

use super::Allocator;
use crate::affinity::{AffinityView, BlockView, Goal, State};
use crate::codec;
use crate::time::Time;

impl Allocator {
    /// Everything has listed: settle every claim, and let the handle objects be checked.
    pub(super) fn start(&mut self, now: Time) {
        for block in self.index.claims() {
            self.settle(block);
            if self
                .index
                .affinity(block)
                .is_some_and(|stored| !codec::has_labels(stored))
            {
                self.lane(block).aim_relabel();
            }
        }
        let held: Vec<Arc<str>> = self
            .index
            .held()
            .map(|held| Arc::from(held.handle))
            .collect();
        for handle in held {
            self.touch_known(handle, now);
        }
        self.review();
    }

    /// Settles a block whose stored state is neither owned and confirmed nor nothing of ours.
    pub(super) fn settle(&mut self, block: IpNet) {
        if self.index.synced() && !self.lanes.contains_key(&block) && !self.is_settled(block) {
            self.aim(block, Goal::Settle);
        }
    }

    /// Whether a block is owned and confirmed, or nothing of ours.
    pub(super) fn is_settled(&self, block: IpNet) -> bool {
        match self.index.views(block) {
            (BlockView::MineEmpty | BlockView::MineBusy, claim) => {
                claim == AffinityView::Live(State::Confirmed)
            }
            (BlockView::MineDeleted, _) => false,
            (
                BlockView::Absent
                | BlockView::Foreign
                | BlockView::Ownerless
                | BlockView::ForeignDeleted,
                claim,
            ) => claim == AffinityView::Absent,
        }
    }

    /// Gives up own blocks whose pool goes, or no longer takes this node once they are empty.
    pub(super) fn review(&mut self) {
        if !self.index.synced() {
            return;
        }
        for block in self.index.claims() {
            if self
                .lanes
                .get(&block)
                .is_some_and(|lane| lane.takes() > 0 || lane.goal().is_some())
            {
                continue;
            }
            let Some(pool) = self.index.pools().of_block(block) else {
                continue;
            };
            let stored = self.index.views(block).0;
            if pool.terminating && matches!(stored, BlockView::MineEmpty | BlockView::MineBusy) {
                self.aim(block, Goal::Abandon);
            } else if stored == BlockView::MineEmpty && !pool.takes_node(self.index.node_labels()) {
                self.aim(block, Goal::GiveUp);
            }
        }
    }

    /// Gives up own blocks beyond a pool's last that have been empty for long.
    pub(super) fn give_up_spare(&mut self, now: Time) {
        if !self.index.synced() {
            return;
        }
        let pools: Vec<_> = self.index.pools().iter().cloned().collect();
        for pool in pools {
            let own: Vec<_> = self
                .index
                .own_blocks(&pool)
                .map(|s| (s.value.cidr(), self.holds_only_stock(&s.value)))
                .collect();
            let mut left = own.len();
            for (block, empty) in own {
                if !empty || self.lanes.contains_key(&block) {
                    self.empty_since.remove(&block);
                    continue;
                }
                let since = *self.empty_since.entry(block).or_insert(now);
                if left > 1 && now.since(since) >= self.settings.empty_hold {
                    left -= 1;
                    if self.index.views(block).0 == BlockView::MineEmpty {
                        self.aim(block, Goal::GiveUp);
                    } else {
                        // It is looked at again once what was kept ready in it has rested.
                        self.return_stock_of(block);
                    }
                } else if left <= 1 {
                    self.empty_since.remove(&block);
                }
            }
        }
    }
}
