//! The canonical chain: blocks, where transactions are in them, and the states after the most recent ones.
//!
//! The invariants kept: blocks are contiguous; the last state belongs to the last block; both are bounded.

use std::collections::VecDeque;
use std::sync::Arc;

use alloy::primitives::B256;
use alloy::primitives::map::HashMap;

use crate::block::{Block, MinedTransaction};
use crate::state::State;

/// How many of the last blocks keep their state, beside genesis; others answer no `eth_call` and no balance.
pub const STATE_HISTORY: usize = 1_024;
/// How many of the last blocks are kept with their transactions, receipts and logs.
pub const BLOCK_HISTORY: usize = 65_536;

/// Blocks and states, oldest first.
#[derive(Clone, Debug)]
pub(crate) struct History {
    blocks: VecDeque<Arc<Block>>,
    states: VecDeque<State>,
    /// The state that everything began with, once it is none of the recent ones.
    genesis: Option<State>,
    numbers: HashMap<B256, u64>,
    transactions: HashMap<B256, (u64, usize)>,
}

impl History {
    pub(crate) fn new(genesis: Arc<Block>, state: State) -> Self {
        let mut history = Self {
            blocks: VecDeque::new(),
            states: VecDeque::new(),
            genesis: None,
            numbers: HashMap::default(),
            transactions: HashMap::default(),
        };
        history.push(genesis, state);
        history
    }

    pub(crate) fn head(&self) -> &Arc<Block> {
        self.blocks.back().expect("genesis is always there")
    }

    pub(crate) fn head_state(&self) -> &State {
        self.states.back().expect("the head always has a state")
    }

    pub(crate) fn head_state_mut(&mut self) -> &mut State {
        self.states.back_mut().expect("the head always has a state")
    }

    /// Number of the oldest block that is kept.
    pub(crate) fn first(&self) -> u64 {
        self.blocks.front().expect("genesis is always there").number()
    }

    pub(crate) fn block(&self, number: u64) -> Option<&Arc<Block>> {
        let index = usize::try_from(number.checked_sub(self.first())?).ok()?;
        self.blocks.get(index)
    }

    pub(crate) fn number_of(&self, hash: B256) -> Option<u64> {
        self.numbers.get(&hash).copied()
    }

    /// The state after block `number`, if it is still kept.
    pub(crate) fn state(&self, number: u64) -> Option<&State> {
        let age = usize::try_from(self.head().number().checked_sub(number)?).ok()?;
        match self.states.len().checked_sub(age + 1) {
            Some(index) => self.states.get(index),
            None if number == 0 => self.genesis.as_ref(),
            None => None,
        }
    }

    pub(crate) fn transaction(
        &self,
        hash: B256,
    ) -> Option<(&Arc<Block>, usize, &MinedTransaction)> {
        let (number, index) = *self.transactions.get(&hash)?;
        let block = self.block(number)?;
        Some((block, index, block.transactions.get(index)?))
    }

    pub(crate) fn push(&mut self, block: Arc<Block>, mut state: State) {
        let number = block.number();
        state.remember_block_hash(number, block.hash);
        self.numbers.insert(block.hash, number);
        for (index, mined) in block.transactions.iter().enumerate() {
            self.transactions.insert(*mined.tx.tx_hash(), (number, index));
        }
        self.blocks.push_back(block);
        self.states.push_back(state);
        if self.states.len() > STATE_HISTORY {
            let oldest = self.states.pop_front();
            // The first that goes is that of genesis.
            self.genesis = self.genesis.take().or(oldest);
        }
        if self.blocks.len() > BLOCK_HISTORY
            && let Some(forgotten) = self.blocks.pop_front()
        {
            self.unlink(&forgotten);
        }
    }

    /// Takes the head off, unless nothing before it has a state.
    pub(crate) fn pop(&mut self) -> Option<Arc<Block>> {
        if self.states.len() < 2 {
            return None;
        }
        self.states.pop_back();
        let block = self.blocks.pop_back()?;
        self.unlink(&block);
        Some(block)
    }

    /// How many blocks [`Self::pop`] can take off.
    pub(crate) fn depth(&self) -> usize {
        self.states.len() - 1
    }

    fn unlink(&mut self, block: &Block) {
        self.numbers.remove(&block.hash);
        for mined in &block.transactions {
            self.transactions.remove(mined.tx.tx_hash());
        }
    }
}
