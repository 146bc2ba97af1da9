//! An account to try things on: an EOA with tokens and no ETH, its agent's key, a relayer and a chain.
#![allow(missing_docs, unreachable_pub, reason = "`sol!` writes no docs, and only `pub`")]
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip7702, TxEnvelope};
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolError, SolInterface};
use pay402_devchain::genesis::{AGENT_ACCOUNT_ADDRESS, USDC_ADDRESS, dev_signer};
use pay402_devchain::zoo::PUPPET_TOKEN;
use pay402_devchain::{Config, Devchain};

use crate::signed::{Account, AgentAccount, Payment, Session, TokenLimit, seconds, signer};
use crate::support::{Harness, PAYEE};

/// Who pays the gas and is otherwise nobody.
pub(crate) const RELAYER: usize = 3;
pub(crate) const CHAIN: u64 = 84_532;
/// Time of the first block.
pub(crate) const START: u64 = 1_900_000_000;
/// Where a token lives that does as it is told.
pub(crate) const PUPPET: Address = Address::repeat_byte(0x70);
/// Atomic units.
pub(crate) const CAP: u64 = 100;
pub(crate) const BUDGET: u64 = 300;
/// Seconds.
pub(crate) const WINDOW: u64 = 86_400;
pub(crate) const FUNDS: u64 = 1_000_000;
/// Gas that every transaction here may use: the most there is (EIP-7825).
const GAS: u64 = 1 << 24;
/// Wei per gas.
const FEE: u128 = 20_000_000_000;

/// An EOA with tokens and no ETH, the key of its agent, and a chain.
pub(crate) struct World {
    pub(crate) harness: Harness,
    clock: Arc<AtomicU64>,
    pub(crate) root: PrivateKeySigner,
    pub(crate) key: PrivateKeySigner,
    pub(crate) account: Account,
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(CHAIN)
    }

    pub(crate) fn on(chain_id: u64) -> Self {
        let clock = Arc::new(AtomicU64::new(START));
        let read = Arc::clone(&clock);
        let chain = Devchain::start(Config {
            chain_id,
            clock: Arc::new(move || read.load(Ordering::Relaxed)),
            ..Config::default()
        });
        let harness = Harness { provider: chain.provider(), chain };
        let root = signer("root");
        let account = Account { chain_id, address: root.address() };
        harness.set_usdc(root.address(), FUNDS);
        harness.chain.set_code(PUPPET, PUPPET_TOKEN.runtime_code.clone());
        Self { harness, clock, root, key: signer("agent"), account }
    }

    /// Adopted, with [`World::session`] registered.
    pub(crate) async fn ready() -> Self {
        let world = Self::new();
        let call = world.registration(vec![world.session()]);
        assert!(world.adopt(Some(call.abi_encode())).await.status());
        world
    }

    /// The time of the next block; it stands until a test moves it.
    pub(crate) fn now(&self) -> u64 {
        self.harness.chain.now()
    }

    pub(crate) fn set_time(&self, time: u64) {
        self.clock.store(time, Ordering::Relaxed);
        assert_eq!(self.now(), time, "time goes forward only");
    }

    pub(crate) fn session(&self) -> Session {
        Session {
            key: self.key.address(),
            validAfter: seconds(self.now()),
            expiry: seconds(self.now() + 30 * WINDOW),
            anyPayee: false,
            payees: vec![PAYEE],
            tokens: vec![limit(USDC_ADDRESS)],
        }
    }

    pub(crate) fn registration(
        &self,
        sessions: Vec<Session>,
    ) -> AgentAccount::registerSessionsCall {
        self.account.register(&self.root, sessions, 0, self.now() + 600)
    }

    pub(crate) fn payment(&self, value: u64, nonce: u64) -> Payment {
        Payment {
            token: USDC_ADDRESS,
            to: PAYEE,
            value: U256::from(value),
            nonce: U256::from(nonce),
            validAfter: seconds(self.now() - 60),
            deadline: seconds(self.now() + 60),
            epoch: 0,
        }
    }

    /// The type-4 transaction of the relayer that adopts, and calls the account with `data` if there is any.
    pub(crate) async fn adopt(&self, data: Option<Vec<u8>>) -> TransactionReceipt {
        self.delegate(AGENT_ACCOUNT_ADDRESS, data).await
    }

    pub(crate) async fn delegate(
        &self,
        delegate: Address,
        data: Option<Vec<u8>>,
    ) -> TransactionReceipt {
        let root = self.root.address();
        let nonce = self.harness.provider.get_transaction_count(root).await.unwrap();
        let chain_id = U256::from(self.account.chain_id);
        self.delegate_with(Delegation { chain_id, address: delegate, nonce }, data).await
    }

    /// Adopts in a transaction that calls another contract.
    pub(crate) async fn adopt_calling(&self, to: Address, data: Vec<u8>) -> TransactionReceipt {
        let (chain_id, address) = (U256::from(self.account.chain_id), AGENT_ACCOUNT_ADDRESS);
        self.send_delegation(Delegation { chain_id, address, nonce: 0 }, Some(to), Some(data)).await
    }

    pub(crate) async fn delegate_with(
        &self,
        tuple: Delegation,
        data: Option<Vec<u8>>,
    ) -> TransactionReceipt {
        self.send_delegation(tuple, None, data).await
    }

    async fn send_delegation(
        &self,
        tuple: Delegation,
        to: Option<Address>,
        data: Option<Vec<u8>>,
    ) -> TransactionReceipt {
        let relayer = dev_signer(RELAYER);
        let signature = self.root.sign_hash_sync(&tuple.signature_hash()).unwrap();
        let nonce = self.harness.provider.get_transaction_count(relayer.address()).await.unwrap();
        let mut tx = TxEip7702 {
            chain_id: self.account.chain_id,
            nonce,
            gas_limit: GAS,
            max_fee_per_gas: FEE,
            max_priority_fee_per_gas: 1,
            // Without a call it goes to nobody in particular.
            to: match data {
                Some(_) => to.unwrap_or_else(|| self.root.address()),
                None => Address::repeat_byte(9),
            },
            input: data.unwrap_or_default().into(),
            authorization_list: vec![tuple.into_signed(signature)],
            ..TxEip7702::default()
        };
        let signature = relayer.sign_transaction_sync(&mut tx).unwrap();
        self.mined(&tx.into_signed(signature).into()).await
    }

    /// A transaction of the relayer.
    pub(crate) async fn send_raw(
        &self,
        to: Address,
        data: Vec<u8>,
        wei: U256,
    ) -> TransactionReceipt {
        self.send_from(&dev_signer(RELAYER), to, data, wei).await
    }

    /// The root's own transaction to itself; it is given the ETH that it needs.
    pub(crate) async fn send_as_root<C: SolCall>(&self, call: &C) -> TransactionReceipt {
        self.send_as_root_to(self.root.address(), call.abi_encode()).await
    }

    pub(crate) async fn send_as_root_to(&self, to: Address, data: Vec<u8>) -> TransactionReceipt {
        self.harness.chain.set_balance(self.root.address(), U256::from(10).pow(U256::from(18)));
        self.send_from(&self.root, to, data, U256::ZERO).await
    }

    async fn send_from(
        &self,
        from: &PrivateKeySigner,
        to: Address,
        data: Vec<u8>,
        wei: U256,
    ) -> TransactionReceipt {
        let nonce = self.harness.provider.get_transaction_count(from.address()).await.unwrap();
        let mut tx = TxEip1559 {
            chain_id: self.account.chain_id,
            nonce,
            gas_limit: GAS,
            max_fee_per_gas: FEE,
            max_priority_fee_per_gas: 1,
            to: to.into(),
            value: wei,
            input: data.into(),
            ..TxEip1559::default()
        };
        let signature = from.sign_transaction_sync(&mut tx).unwrap();
        self.mined(&tx.into_signed(signature).into()).await
    }

    async fn mined(&self, tx: &TxEnvelope) -> TransactionReceipt {
        let hash = self.harness.raw(tx).await.unwrap();
        self.harness.receipt(hash).await.unwrap()
    }

    pub(crate) async fn send<C: SolCall>(&self, call: &C) -> TransactionReceipt {
        self.send_raw(self.root.address(), call.abi_encode(), U256::ZERO).await
    }

    /// Sends what must be mined and work.
    pub(crate) async fn works<C: SolCall>(&self, call: &C) -> TransactionReceipt {
        let receipt = self.send(call).await;
        assert!(receipt.status());
        receipt
    }

    pub(crate) async fn pays(&self, payment: &Payment) -> TransactionReceipt {
        self.works(&self.account.redeem(&self.key, payment)).await
    }

    /// What a simulated call to the account reverts with.
    pub(crate) async fn refusal_of(&self, data: Vec<u8>) -> Bytes {
        let request = TransactionRequest::default()
            .from(dev_signer(RELAYER).address())
            .to(self.root.address())
            .input(Bytes::from(data).into());
        let error = self.harness.provider.call(request).await.unwrap_err();
        let payload = error.as_error_resp();
        payload.and_then(|payload| payload.as_revert_data()).unwrap_or_else(|| panic!("{error}"))
    }

    /// Asserts that `call` is refused with exactly the error `E` and, mined all the same, moves nothing.
    pub(crate) async fn refuses<E: SolError, C: SolCall>(&self, call: &C) {
        let before = self.balance().await;
        let data = self.refusal_of(call.abi_encode()).await;
        assert_eq!(data[..4], E::SELECTOR, "{:?}", name_of(&data));
        assert!(!self.send(call).await.status());
        assert_eq!(self.balance().await, before);
    }

    pub(crate) async fn refuses_payment<E: SolError>(&self, payment: &Payment) {
        self.refuses::<E, _>(&self.account.redeem(&self.key, payment)).await;
    }

    /// Adopted, with a session for one token, and money in [`PUPPET`].
    pub(crate) async fn with_puppet(limit: TokenLimit) -> Self {
        let world = Self::new();
        world.mint_puppets().await;
        let session = Session { tokens: vec![limit], ..world.session() };
        let call = world.registration(vec![session]);
        assert!(world.adopt(Some(call.abi_encode())).await.status());
        world
    }

    pub(crate) async fn mint_puppets(&self) {
        let mint = Puppet::mintCall { to: self.root.address(), value: U256::from(FUNDS) };
        assert!(self.send_raw(PUPPET, mint.abi_encode(), U256::ZERO).await.status());
    }

    /// Tells [`PUPPET`] how to behave; in [`Mood::Reenter`] it calls the account with `data`.
    pub(crate) async fn tell(&self, mood: Mood, data: Bytes) {
        let target = self.root.address();
        let obey = Puppet::obeyCall { mood: mood as u8, target, data };
        assert!(self.send_raw(PUPPET, obey.abi_encode(), U256::ZERO).await.status());
    }

    pub(crate) async fn puppets(&self, account: Address) -> U256 {
        self.harness.read_at(PUPPET, &Puppet::balanceOfCall { account }).await
    }

    /// How many of the puppet's own calls worked, and what the last one answered.
    pub(crate) async fn reentry(&self) -> (u64, [u8; 4]) {
        let worked = self.harness.read_at(PUPPET, &Puppet::reenteredCall {}).await;
        let answer = self.harness.read_at(PUPPET, &Puppet::answerCall {}).await;
        let mut selector = [0; 4];
        selector[..answer.len().min(4)].copy_from_slice(&answer[..answer.len().min(4)]);
        (worked.to(), selector)
    }

    pub(crate) async fn balance(&self) -> U256 {
        self.harness.usdc(self.root.address()).await
    }

    pub(crate) async fn ask<C: SolCall>(&self, call: &C) -> C::Return {
        self.harness.read_at(self.root.address(), call).await
    }

    pub(crate) async fn code(&self) -> Bytes {
        self.harness.provider.get_code_at(self.root.address()).await.unwrap()
    }
}

pub(crate) fn limit(token: Address) -> TokenLimit {
    TokenLimit {
        token,
        cap: CAP.into(),
        budget: BUDGET.into(),
        window: u32::try_from(WINDOW).unwrap(),
        slots: 0,
    }
}

fn name_of(data: &[u8]) -> String {
    AgentAccount::AgentAccountErrors::abi_decode(data)
        .map_or_else(|_| format!("{data:02x?}"), |error| format!("{error:?}"))
}

pub(crate) fn designator(delegate: Address) -> Bytes {
    [&[0xef, 0x01, 0x00], delegate.as_slice()].concat().into()
}

alloy::sol! {
    interface Puppet {
        function balanceOf(address account) view returns (uint256);
        function mint(address to, uint256 value);
        function obey(uint8 mood, address target, bytes data);
        function reentered() view returns (uint256);
        function answer() view returns (bytes);
    }
}

/// What [`PUPPET`] can be told: the contract's `Mood`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mood {
    Plain,
    Silent,
    False,
    Garbled,
    Verbose,
    Bomb,
    Reenter,
    Mute,
}
