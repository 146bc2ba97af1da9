//! The nodes of one network: which of them may be asked, and which first.
//!
//! **Invariants:** a node that was found on another chain is asked nothing but which chain it is on. An
//! answer of a node that is behind what the others have shown is not believed. No lock is held here:
//! each node's standing is a few atomic words, and with one node nothing is ever left out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use pay402_core::error::Misconfigured;

use crate::rpc::{NodeState, Rpc};

/// Most nodes of one network.
pub const NODES_MAX: usize = 8;
/// How many blocks a node may be behind what the others have shown.
pub const HEAD_LAG_BLOCKS_MAX: u64 = 3;
/// How long what a node has shown to be the newest block is held against the others.
pub const HEAD_BELIEVED: Duration = Duration::from_secs(30);
/// Failures in a row from which on a node rests.
pub const FAILURES_MAX: u32 = 3;
/// First rest of a node that keeps failing; it doubles.
pub const REST_FIRST: Duration = Duration::from_secs(1);
/// Longest rest of a node.
pub const REST_MAX: Duration = Duration::from_secs(30);
/// How often the nodes are looked at, those too that nobody asks, while anything is asked at all.
pub const LOOK_EVERY: Duration = Duration::from_secs(2);

/// The nodes that a network is reached through, by their names, the preferred one first.
pub struct Nodes(Vec<(Arc<str>, Rpc)>);

impl Nodes {
    /// These nodes. `setting` names the configuration key in errors.
    ///
    /// # Errors
    /// When there are none, too many, or two of one name.
    pub fn new(setting: &str, nodes: Vec<(String, Rpc)>) -> Result<Self, Misconfigured> {
        let bad = |problem: String| Err(Misconfigured::new(setting, problem));
        if nodes.is_empty() || nodes.len() > NODES_MAX {
            return bad(format!("there must be 1 node at least and {NODES_MAX} at most"));
        }
        for (index, (name, _)) in nodes.iter().enumerate() {
            if nodes[..index].iter().any(|(other, _)| other == name) {
                return bad(format!("names two nodes {name:?}; give each its own name"));
            }
        }
        Ok(Self(nodes.into_iter().map(|(name, rpc)| (name.into(), rpc)).collect()))
    }

    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(u32::MAX)
    }

    /// Seats each node in a pool of them all.
    pub(crate) fn seat(self) -> (Arc<Pool>, Vec<Rpc>) {
        let pool = Arc::new(Pool::new(self.0.iter().map(|(name, _)| Arc::clone(name))));
        let seat = |(index, (_, rpc)): (usize, (_, Rpc))| {
            rpc.seated(Seat { pool: Arc::clone(&pool), index })
        };
        let rpcs = self.0.into_iter().enumerate().map(seat).collect();
        (pool, rpcs)
    }
}

impl From<Rpc> for Nodes {
    fn from(rpc: Rpc) -> Self {
        Self(vec![("0".into(), rpc)])
    }
}

/// The standing of a network's nodes.
pub(crate) struct Pool {
    began: Instant,
    nodes: Vec<Node>,
    look_due_ms: AtomicU64,
    turns: AtomicUsize,
}

struct Node {
    name: Arc<str>,
    /// In a row.
    failures: AtomicU32,
    rests_until_ms: AtomicU64,
    answered_at_ms: AtomicU64,
    head: AtomicU64,
    head_at_ms: AtomicU64,
    /// Whether it said its chain since it was last out of reach.
    is_known: AtomicBool,
    /// Whether it is on another chain.
    is_foreign: AtomicBool,
}

/// One node's place in the pool.
#[derive(Clone)]
pub(crate) struct Seat {
    pool: Arc<Pool>,
    index: usize,
}

impl Pool {
    fn new(names: impl Iterator<Item = Arc<str>>) -> Self {
        let node = |name| Node {
            name,
            failures: AtomicU32::new(0),
            rests_until_ms: AtomicU64::new(0),
            answered_at_ms: AtomicU64::new(0),
            head: AtomicU64::new(0),
            head_at_ms: AtomicU64::new(0),
            // The check at the start asks each.
            is_known: AtomicBool::new(true),
            is_foreign: AtomicBool::new(false),
        };
        Self {
            began: Instant::now(),
            nodes: names.map(node).collect(),
            look_due_ms: AtomicU64::new(0),
            turns: AtomicUsize::new(0),
        }
    }

    pub(crate) fn name(&self, index: usize) -> &str {
        &self.nodes[index].name
    }

    /// Whom to ask, in this order: the preferred ones that are well first, then those that are behind,
    /// and those that rest only when there is nobody else. Never one of another chain.
    pub(crate) fn order(&self) -> Vec<usize> {
        let now = self.now_ms();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.retain(|index| !self.nodes[*index].is_foreign.load(Ordering::Relaxed));
        let rests = |index: &usize| self.nodes[*index].rests(now);
        if !order.iter().all(rests) {
            order.retain(|index| !rests(index));
        }
        order.sort_by_key(|index| self.is_behind(*index, self.head_of(*index), now));
        order
    }

    /// As [`Pool::order`], beginning elsewhere each time: no one node decides alone what is shown.
    pub(crate) fn order_in_turn(&self) -> Vec<usize> {
        let mut order = self.order();
        if !order.is_empty() {
            let turn = self.turns.fetch_add(1, Ordering::Relaxed) % order.len();
            order.rotate_left(turn);
        }
        order
    }

    /// Whether it is time to look at all nodes; true once for all who ask at a time.
    pub(crate) fn is_look_due(&self) -> bool {
        let (now, due) = (self.now_ms(), self.look_due_ms.load(Ordering::Relaxed));
        let next = now.saturating_add(ms(LOOK_EVERY));
        let exchange = |due| {
            self.look_due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed)
        };
        now >= due && exchange(due).is_ok()
    }

    /// Which nodes are to be looked at: all but those whose rest is not over.
    pub(crate) fn looked_at(&self) -> impl Iterator<Item = usize> {
        let now = self.now_ms();
        (0..self.nodes.len()).filter(move |index| !self.nodes[*index].rests(now))
    }

    /// Whether a node with this head is behind the others: behind another one where there are two,
    /// and behind two others where there are more, so that one that lies cannot make the rest look so.
    fn is_behind(&self, index: usize, head: u64, now: u64) -> bool {
        let mut shown = [0_u64; 2];
        let mut others = 0;
        for (other, node) in self.nodes.iter().enumerate().filter(|(other, _)| *other != index) {
            others += 1;
            let at = node.head_at_ms.load(Ordering::Relaxed);
            let fresh = now.saturating_sub(at) <= ms(HEAD_BELIEVED);
            let theirs = if fresh { self.head_of(other) } else { 0 };
            if theirs >= shown[0] {
                shown = [theirs, shown[0]];
            } else if theirs > shown[1] {
                shown[1] = theirs;
            }
        }
        let seen = if others >= 2 { shown[1] } else { shown[0] };
        head.saturating_add(HEAD_LAG_BLOCKS_MAX) < seen
    }

    fn head_of(&self, index: usize) -> u64 {
        self.nodes[index].head.load(Ordering::Relaxed)
    }

    fn now_ms(&self) -> u64 {
        ms(self.began.elapsed())
    }
}

impl Node {
    fn rests(&self, now_ms: u64) -> bool {
        self.failures.load(Ordering::Relaxed) >= FAILURES_MAX
            && now_ms < self.rests_until_ms.load(Ordering::Relaxed)
    }
}

impl Seat {
    fn node(&self) -> &Node {
        &self.pool.nodes[self.index]
    }

    /// Whether it is the only node.
    pub(crate) fn is_alone(&self) -> bool {
        self.pool.nodes.len() == 1
    }

    /// What the node is called in errors; nothing where there is only one.
    pub(crate) fn name(&self) -> Option<&str> {
        (!self.is_alone()).then(|| self.pool.name(self.index))
    }

    /// The node answered. Tells whether it stands differently now.
    pub(crate) fn answered(&self) -> Option<NodeState> {
        let node = self.node();
        node.answered_at_ms.store(self.pool.now_ms(), Ordering::Relaxed);
        // Read first: what does not change is not written by everybody.
        if node.failures.load(Ordering::Relaxed) == 0 {
            return None;
        }
        let failures = node.failures.swap(0, Ordering::Relaxed);
        (failures >= FAILURES_MAX).then_some(NodeState::Well)
    }

    /// The node did not answer, or said that it cannot. Tells whether it stands differently now.
    pub(crate) fn failed(&self, reached: Reached) -> Option<NodeState> {
        let node = self.node();
        if reached == Reached::No {
            // Who answers under this address next may be another.
            node.is_known.store(false, Ordering::Relaxed);
        }
        let failures = node.failures.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let doublings = failures.checked_sub(FAILURES_MAX)?.min(16);
        let rest = REST_FIRST.saturating_mul(1 << doublings).min(REST_MAX);
        let until = self.pool.now_ms().saturating_add(ms(rest));
        node.rests_until_ms.store(until, Ordering::Relaxed);
        (failures == FAILURES_MAX).then_some(NodeState::Resting)
    }

    /// Whether it has answered since this moment.
    pub(crate) fn has_answered_since(&self, moment: Instant) -> bool {
        let since = ms(moment.saturating_duration_since(self.pool.began));
        self.node().answered_at_ms.load(Ordering::Relaxed) >= since
    }

    /// The node showed this to be its newest block. Tells whether it may be believed.
    pub(crate) fn saw(&self, head: u64) -> bool {
        if self.is_alone() {
            return true;
        }
        let (node, now) = (self.node(), self.pool.now_ms());
        node.head.store(head, Ordering::Relaxed);
        node.head_at_ms.store(now, Ordering::Relaxed);
        !self.pool.is_behind(self.index, head, now)
    }

    /// Whether the node's chain has to be asked for before anything else.
    pub(crate) fn is_known(&self) -> bool {
        self.node().is_known.load(Ordering::Relaxed)
    }

    /// The node said which chain it is on. Tells whether it stands differently now.
    pub(crate) fn said_chain(&self, right: bool) -> Option<NodeState> {
        let node = self.node();
        node.is_known.store(right, Ordering::Relaxed);
        let was_foreign = node.is_foreign.swap(!right, Ordering::Relaxed);
        let state = if right { NodeState::Well } else { NodeState::OtherChain };
        (was_foreign == right).then_some(state)
    }
}

/// Whether a node that failed was there at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Reached {
    /// It answered that it cannot.
    Yes,
    /// Nothing came.
    No,
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(nodes: usize) -> (Arc<Pool>, Vec<Seat>) {
        let pool = Arc::new(Pool::new((0..nodes).map(|index| index.to_string().into())));
        let seats = (0..nodes).map(|index| Seat { pool: Arc::clone(&pool), index }).collect();
        (pool, seats)
    }

    #[test]
    fn a_node_that_keeps_failing_rests_and_comes_back_when_it_answers() {
        let (pool, seats) = pool(3);
        assert_eq!(pool.order(), [0, 1, 2]);
        assert_eq!(seats[0].failed(Reached::No), None);
        assert_eq!(seats[0].failed(Reached::No), None);
        assert_eq!(pool.order(), [0, 1, 2], "it rests too early");
        assert_eq!(seats[0].failed(Reached::No), Some(NodeState::Resting));
        assert_eq!(pool.order(), [1, 2]);
        assert_eq!(pool.looked_at().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(seats[0].answered(), Some(NodeState::Well));
        assert_eq!(pool.order(), [0, 1, 2]);
        for seat in &seats {
            (0..FAILURES_MAX).for_each(|_| _ = seat.failed(Reached::Yes));
        }
        assert_eq!(pool.order(), [0, 1, 2], "nobody is asked when all rest");
    }

    #[test]
    fn a_node_of_another_chain_is_never_asked() {
        let (pool, seats) = pool(2);
        assert_eq!(seats[0].said_chain(false), Some(NodeState::OtherChain));
        assert_eq!(seats[0].said_chain(false), None, "told twice");
        assert_eq!(pool.order(), [1]);
        seats[1].said_chain(false);
        assert!(pool.order().is_empty());
        assert_eq!(seats[0].said_chain(true), Some(NodeState::Well));
        assert_eq!(pool.order(), [0]);
    }

    #[test]
    fn who_was_out_of_reach_says_its_chain_again() {
        let (_, seats) = pool(2);
        seats[0].failed(Reached::Yes);
        assert!(seats[0].is_known());
        seats[0].failed(Reached::No);
        assert!(!seats[0].is_known());
        seats[0].said_chain(true);
        assert!(seats[0].is_known());
    }

    #[test]
    fn who_is_behind_the_others_is_not_believed() {
        let (_, two) = pool(2);
        assert!(two[0].saw(100));
        assert!(two[1].saw(97));
        assert!(!two[1].saw(96));
        assert!(two[0].saw(93) && !two[0].saw(92), "the other one shows 96");

        let (pool, three) = pool(3);
        // One that lies about its head does not make the others look behind.
        three[0].saw(1_000_000);
        assert!(three[1].saw(100) && three[2].saw(101));
        assert!(!three[0].saw(96), "two are ahead of it");
        assert_eq!(pool.order(), [1, 2, 0]);
    }

    #[test]
    fn a_lone_node_is_believed() {
        let (pool, seats) = pool(1);
        assert!(seats[0].saw(100) && seats[0].saw(1));
        (0..10).for_each(|_| _ = seats[0].failed(Reached::No));
        assert_eq!(pool.order(), [0]);
        assert_eq!(seats[0].name(), None);
    }

    #[test]
    fn turns_begin_with_each_node() {
        let (pool, _) = pool(3);
        let firsts: Vec<_> = (0..4).map(|_| pool.order_in_turn()[0]).collect();
        assert_eq!(firsts, [0, 1, 2, 0]);
    }
}
