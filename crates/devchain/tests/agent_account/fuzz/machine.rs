//! revm with the state of an episode: two accounts that adopted the code, two tokens, nothing else.

use alloy::primitives::{Address, Bytes, Log, U256};
use alloy::sol_types::{SolCall, SolValue};
use pay402_devchain::genesis::{
    AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS, USDC, USDC_ADDRESS, usdc_balance_slot,
};
use pay402_devchain::zoo::PUPPET_TOKEN;
use revm::bytecode::Bytecode;
use revm::context::result::ExecutionResult;
use revm::context::{BlockEnv, CfgEnv, Context, TxEnv};
use revm::database::InMemoryDB;
use revm::primitives::hardfork::SpecId;
use revm::state::{AccountInfo, EvmState};
use revm::{DatabaseCommit, DatabaseRef, ExecuteEvm, MainBuilder, MainContext, MainnetEvm};

use crate::world::{CHAIN, PUPPET, Puppet, designator};

type Evm = MainnetEvm<Context<BlockEnv, TxEnv, CfgEnv, InMemoryDB>>;

/// Who sends every call.
pub(super) const SENDER: Address = Address::repeat_byte(0xad);
/// What each account holds of each token: more than an episode can move.
pub(super) const FUNDS: u128 = 1 << 100;
/// Gas of every call: enough for the largest batch.
const GAS: u64 = 1 << 24;

pub(super) struct Machine {
    evm: Evm,
}

/// What a call did.
pub(super) struct Done {
    /// What came back, or what it reverted with.
    pub(super) output: Result<Bytes, Bytes>,
    pub(super) logs: Vec<Log>,
    pub(super) changes: EvmState,
}

impl Machine {
    pub(super) fn new(accounts: &[Address]) -> Self {
        let mut db = InMemoryDB::default();
        let code = |code: Bytes| AccountInfo {
            nonce: 1,
            code_hash: alloy::primitives::keccak256(&code),
            code: Some(Bytecode::new_raw(code)),
            ..AccountInfo::default()
        };
        db.insert_account_info(USDC_ADDRESS, code(USDC.runtime_code.clone()));
        db.insert_account_info(PUPPET, code(PUPPET_TOKEN.runtime_code.clone()));
        db.insert_account_info(AGENT_ACCOUNT_ADDRESS, code(AGENT_ACCOUNT.runtime_code.clone()));
        for account in accounts {
            db.insert_account_info(*account, code(designator(AGENT_ACCOUNT_ADDRESS)));
            let (slot, funds) = (usdc_balance_slot(*account), U256::from(FUNDS));
            db.insert_account_storage(USDC_ADDRESS, slot, funds).unwrap();
        }
        let mut cfg =
            CfgEnv::new().with_spec_and_mainnet_gas_params(SpecId::OSAKA).with_chain_id(CHAIN);
        cfg.disable_nonce_check = true;
        cfg.disable_eip3607 = true;
        let context = Context::mainnet().with_db(db).with_cfg(cfg);
        let mut machine = Self { evm: context.build_mainnet() };
        for account in accounts {
            let mint = Puppet::mintCall { to: *account, value: U256::from(FUNDS) };
            assert!(machine.call(PUPPET, mint.abi_encode(), 1).output.is_ok());
        }
        machine
    }

    /// A transaction of [`SENDER`] in a block at `time`.
    pub(super) fn call(&mut self, to: Address, data: Vec<u8>, time: u64) -> Done {
        let done = self.simulate(to, data, time);
        self.evm.ctx.journaled_state.database.commit(done.changes.clone());
        done
    }

    /// The same, and nothing stays.
    pub(super) fn simulate(&mut self, to: Address, data: Vec<u8>, time: u64) -> Done {
        let gas_limit = u64::MAX;
        self.evm.set_block(BlockEnv {
            timestamp: U256::from(time),
            gas_limit,
            basefee: 0,
            ..BlockEnv::default()
        });
        let tx = TxEnv {
            caller: SENDER,
            gas_limit: GAS,
            gas_price: 0,
            kind: to.into(),
            data: data.into(),
            chain_id: Some(CHAIN),
            ..TxEnv::default()
        };
        let done = self.evm.transact(tx).unwrap();
        let (output, logs) = match done.result {
            ExecutionResult::Success { output, logs, .. } => (Ok(output.into_data()), logs),
            ExecutionResult::Revert { output, .. } => (Err(output), Vec::new()),
            ExecutionResult::Halt { reason, .. } => panic!("halted: {reason:?}"),
        };
        Done { output, logs, changes: done.state }
    }

    /// What a view answers.
    pub(super) fn read<C: SolCall>(&mut self, to: Address, call: &C, time: u64) -> C::Return {
        let output = self.simulate(to, call.abi_encode(), time).output.unwrap();
        C::abi_decode_returns(&output).unwrap()
    }

    /// What `account` holds, read from the token's storage.
    pub(super) fn balance(&self, token: Address, account: Address) -> u128 {
        // `ZooToken` has its balances in slot 1.
        let slot = match token == USDC_ADDRESS {
            true => usdc_balance_slot(account),
            false => mapped(U256::from(1), &account),
        };
        self.storage(token, slot).to()
    }

    /// Storage of the head, without running anything.
    pub(super) fn storage(&self, address: Address, slot: U256) -> U256 {
        self.evm.ctx.journaled_state.database.storage_ref(address, slot).unwrap()
    }
}

/// The storage slot of `key` in the mapping at `base`.
pub(super) fn mapped(base: U256, key: &impl SolValue) -> U256 {
    let preimage = [key.abi_encode(), base.to_be_bytes::<32>().to_vec()].concat();
    alloy::primitives::keccak256(preimage).into()
}
