//! Which ready task runs next, and a hash of all such choices.

use std::collections::BTreeMap;

use drystone_base::rng::Rng;

use super::task::TaskId;

/// How the next task is chosen among those that are ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Each is as likely as any other. Mixes well; rarely keeps one task away for long.
    Uniform,
    /// Tasks have random ranks, and the highest runs; now and then (how often, the seed decides) the one that ran gets
    /// another. Finds what needs one task to be overtaken by many steps of others.
    Ranked,
}

/// A task gets a new rank every 2 to 2^this steps on average, so one that only yields cannot keep others away for long.
const RANK_BITS_MAX: u64 = 4;

pub(super) struct Schedule {
    rng: Rng,
    policy: Policy,
    rank_one_in: u64,
    ranks: BTreeMap<TaskId, u64>,
    ready: Vec<TaskId>,
    pub(super) steps: u64,
    pub(super) hash: u64,
}

impl Schedule {
    pub(super) fn new(seed: u64, policy: Option<Policy>) -> Self {
        let mut rng = Rng::new(seed);
        let drawn = if rng.one_in(2) { Policy::Uniform } else { Policy::Ranked };
        Self {
            rank_one_in: 2 << rng.below(RANK_BITS_MAX),
            rng,
            policy: policy.unwrap_or(drawn),
            ranks: BTreeMap::new(),
            ready: Vec::new(),
            steps: 0,
            hash: 0xcbf2_9ce4_8422_2325,
        }
    }

    /// `id` can run from now on.
    pub(super) fn push(&mut self, id: TaskId) {
        self.ready.push(id);
    }

    /// Takes the task that runs next.
    pub(super) fn pop(&mut self) -> Option<TaskId> {
        if self.ready.is_empty() {
            return None;
        }
        let index = match self.policy {
            Policy::Uniform => self.rng.index(self.ready.len()),
            Policy::Ranked => self.highest(),
        };
        let id = self.ready.swap_remove(index);
        if self.policy == Policy::Ranked && self.rng.one_in(self.rank_one_in) {
            self.ranks.insert(id, self.rng.next_u64());
        }
        self.steps += 1;
        self.hash = mix(self.hash, id);
        Some(id)
    }

    /// The index of the ready task with the highest rank; who has none gets one.
    fn highest(&mut self) -> usize {
        let Self { rng, ranks, ready, .. } = self;
        let ranked = ready.iter().map(|&id| *ranks.entry(id).or_insert_with(|| rng.next_u64()));
        ranked.enumerate().max_by_key(|&(_, rank)| rank).map_or(0, |(index, _)| index)
    }

    /// Whether to give way at a `sim_point()`.
    pub(super) fn yields(&mut self, one_in: u64) -> bool {
        one_in != 0 && self.rng.one_in(one_in)
    }

    /// `id` has ended.
    pub(super) fn forget(&mut self, id: TaskId) {
        self.ranks.remove(&id);
    }
}

/// One step of an FNV-like hash over whole words.
const fn mix(hash: u64, word: u64) -> u64 {
    let mixed = (hash ^ word).wrapping_mul(0x0000_0100_0000_01b3);
    mixed ^ (mixed >> 29)
}
