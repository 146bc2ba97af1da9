//! The world state: accounts and storage, kept in persistent maps.
//!
//! A clone shares structure with its origin and costs a pointer, so every block keeps its own state, a call runs on a
//! state without holding the chain's lock, and a revert is an assignment. Blocks and transactions live elsewhere.
//! The invariant kept: no empty account and no zero slot is stored (EIP-161).

use std::convert::Infallible;

use alloy::primitives::map::DefaultHashBuilder;
use alloy::primitives::{Address, B256, Bytes, U256};
use revm::DatabaseRef;
use revm::bytecode::Bytecode;
use revm::state::{AccountInfo, EvmState};
use rpds::{HashTrieMap, HashTrieMapSync};

/// How many ancestors the BLOCKHASH opcode can see.
const VISIBLE_ANCESTORS: u64 = 256;

type Trie<K, V> = HashTrieMapSync<K, V, DefaultHashBuilder>;

/// Accounts, storage and the hashes of recent blocks, at one point of the chain.
#[derive(Clone)]
pub(crate) struct State {
    accounts: Trie<Address, Account>,
    block_hashes: Trie<u64, B256>,
}

#[derive(Clone)]
struct Account {
    info: AccountInfo,
    storage: Trie<U256, U256>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("accounts", &self.accounts.size()).finish_non_exhaustive()
    }
}

impl Default for State {
    fn default() -> Self {
        Self { accounts: empty(), block_hashes: empty() }
    }
}

impl State {
    pub(crate) fn balance(&self, address: Address) -> U256 {
        self.accounts.get(&address).map_or(U256::ZERO, |account| account.info.balance)
    }

    pub(crate) fn nonce(&self, address: Address) -> u64 {
        self.accounts.get(&address).map_or(0, |account| account.info.nonce)
    }

    pub(crate) fn code(&self, address: Address) -> Bytes {
        self.bytecode(address).map_or_else(Bytes::new, Bytecode::original_bytes)
    }

    /// Whether `address` runs code of its own; an EIP-7702 delegation is not its own.
    pub(crate) fn is_contract(&self, address: Address) -> bool {
        self.bytecode(address).is_some_and(|code| !code.is_empty() && !code.is_eip7702())
    }

    pub(crate) fn storage(&self, address: Address, slot: U256) -> U256 {
        self.accounts
            .get(&address)
            .and_then(|account| account.storage.get(&slot))
            .copied()
            .unwrap_or_default()
    }

    pub(crate) fn set_balance(&mut self, address: Address, wei: U256) {
        self.change(address, |account| account.info.balance = wei);
    }

    pub(crate) fn set_nonce(&mut self, address: Address, nonce: u64) {
        self.change(address, |account| account.info.nonce = nonce);
    }

    pub(crate) fn set_code(&mut self, address: Address, code: Bytes) {
        // A malformed delegation (0xef01…) is kept as it is and never runs.
        let code =
            Bytecode::new_raw_checked(code.clone()).unwrap_or_else(|_| Bytecode::new_legacy(code));
        self.change(address, |account| {
            account.info.code_hash = code.hash_slow();
            account.info.code = Some(code);
        });
    }

    pub(crate) fn set_storage(&mut self, address: Address, slot: U256, value: U256) {
        self.change(address, |account| account.write(slot, value));
    }

    pub(crate) fn clear_storage(&mut self, address: Address) {
        self.change(address, |account| account.storage = empty());
    }

    /// Applies what one transaction changed.
    pub(crate) fn commit(&mut self, changes: EvmState) {
        for (address, changed) in changes {
            if !changed.is_touched() {
                continue;
            }
            if changed.is_selfdestructed() {
                self.accounts.remove_mut(&address);
                continue;
            }
            let created = changed.is_created();
            self.change(address, |account| {
                let code = changed.info.code.clone().or_else(|| account.info.code.take());
                account.info = changed.info.clone();
                account.info.code = code;
                if created {
                    account.storage = empty();
                }
                for (slot, value) in &changed.storage {
                    if created || value.is_changed() {
                        account.write(*slot, value.present_value());
                    }
                }
            });
        }
    }

    /// Makes the hash of block `number` visible to BLOCKHASH.
    pub(crate) fn remember_block_hash(&mut self, number: u64, hash: B256) {
        self.block_hashes.insert_mut(number, hash);
        if let Some(hidden) = number.checked_sub(VISIBLE_ANCESTORS) {
            self.block_hashes.remove_mut(&hidden);
        }
    }

    fn bytecode(&self, address: Address) -> Option<&Bytecode> {
        self.accounts.get(&address).and_then(|account| account.info.code.as_ref())
    }

    fn change(&mut self, address: Address, apply: impl FnOnce(&mut Account)) {
        if let Some(account) = self.accounts.get_mut(&address) {
            apply(account);
            if account.info.is_empty() && account.storage.is_empty() {
                self.accounts.remove_mut(&address);
            }
            return;
        }
        let mut account = Account { info: AccountInfo::default(), storage: empty() };
        apply(&mut account);
        if !account.info.is_empty() || !account.storage.is_empty() {
            self.accounts.insert_mut(address, account);
        }
    }
}

impl DatabaseRef for State {
    type Error = Infallible;

    fn basic_ref(&self, address: Address) -> Result<Option<AccountInfo>, Infallible> {
        Ok(self.accounts.get(&address).map(|account| account.info.clone()))
    }

    fn code_by_hash_ref(&self, _code_hash: B256) -> Result<Bytecode, Infallible> {
        // Accounts always carry their code, so the EVM has no reason to ask; no code is the closed answer.
        Ok(Bytecode::default())
    }

    fn storage_ref(&self, address: Address, slot: U256) -> Result<U256, Infallible> {
        Ok(self.storage(address, slot))
    }

    fn block_hash_ref(&self, number: u64) -> Result<B256, Infallible> {
        Ok(self.block_hashes.get(&number).copied().unwrap_or_default())
    }
}

impl Account {
    fn write(&mut self, slot: U256, value: U256) {
        if value.is_zero() {
            self.storage.remove_mut(&slot);
        } else {
            self.storage.insert_mut(slot, value);
        }
    }
}

fn empty<K: Eq + std::hash::Hash, V>() -> Trie<K, V> {
    HashTrieMap::new_with_hasher_and_ptr_kind(DefaultHashBuilder::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_does_not_see_later_writes() {
        let address = Address::repeat_byte(1);
        let mut state = State::default();
        state.set_balance(address, U256::from(5));
        let before = state.clone();
        state.set_balance(address, U256::from(6));
        state.set_storage(address, U256::from(1), U256::from(2));
        assert_eq!(before.balance(address), U256::from(5));
        assert_eq!(before.storage(address, U256::from(1)), U256::ZERO);
        assert_eq!(state.storage(address, U256::from(1)), U256::from(2));
    }

    #[test]
    fn empty_accounts_and_zero_slots_are_not_stored() {
        let address = Address::repeat_byte(2);
        let mut state = State::default();
        state.set_storage(address, U256::from(1), U256::from(2));
        state.set_storage(address, U256::from(1), U256::ZERO);
        assert!(state.basic_ref(address).unwrap().is_none());
    }

    #[test]
    fn block_hashes_are_visible_for_256_blocks() {
        let mut state = State::default();
        for number in 0..300 {
            state.remember_block_hash(number, B256::with_last_byte(1));
        }
        assert_eq!(state.block_hash_ref(43).unwrap(), B256::ZERO);
        assert_eq!(state.block_hash_ref(44).unwrap(), B256::with_last_byte(1));
    }
}
