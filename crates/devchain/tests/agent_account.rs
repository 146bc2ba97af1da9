//! `AgentAccount`: adoption, registration and payments by ERC-7710, as a relayer would send them.

mod account;
mod support;

use account::{Account, AgentAccount, Payment, Session, TokenLimit, seconds, signer};
use alloy::consensus::{SignableTransaction, TxEip7702, TxEnvelope};
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolError, SolEvent};
use pay402_devchain::genesis::{AGENT_ACCOUNT_ADDRESS, USDC_ADDRESS, dev_signer};
use support::{Harness, PAYEE};

/// Who pays the gas and is otherwise nobody.
const RELAYER: usize = 3;
const CHAIN: u64 = 84_532;
/// Atomic units.
const CAP: u64 = 100;
const BUDGET: u64 = 300;
/// Seconds.
const WINDOW: u64 = 86_400;
const FUNDS: u64 = 1_000_000;

/// An EOA with tokens and no ETH, the key of its agent, and a chain.
struct World {
    harness: Harness,
    root: PrivateKeySigner,
    key: PrivateKeySigner,
    account: Account,
}

impl World {
    fn new() -> Self {
        let harness = Harness::new();
        let root = signer("root");
        let account = Account { chain_id: CHAIN, address: root.address() };
        harness.set_usdc(root.address(), FUNDS);
        Self { harness, root, key: signer("agent"), account }
    }

    /// Adopted, with [`World::session`] registered.
    async fn ready() -> Self {
        let world = Self::new();
        let call = world.registration(vec![world.session()]);
        assert!(world.adopt(Some(call.abi_encode())).await.status());
        world
    }

    fn now(&self) -> u64 {
        self.harness.chain.now()
    }

    fn session(&self) -> Session {
        Session {
            key: self.key.address(),
            validAfter: seconds(self.now()),
            expiry: seconds(self.now() + 30 * WINDOW),
            anyPayee: false,
            payees: vec![PAYEE],
            tokens: vec![limit(USDC_ADDRESS)],
        }
    }

    fn registration(&self, sessions: Vec<Session>) -> AgentAccount::registerSessionsCall {
        self.account.register(&self.root, sessions, 0, self.now() + 600)
    }

    fn payment(&self, value: u64, nonce: u64) -> Payment {
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
    async fn adopt(&self, data: Option<Vec<u8>>) -> TransactionReceipt {
        self.delegate(AGENT_ACCOUNT_ADDRESS, data).await
    }

    async fn delegate(&self, delegate: Address, data: Option<Vec<u8>>) -> TransactionReceipt {
        let nonce = self.harness.provider.get_transaction_count(self.root.address()).await.unwrap();
        self.delegate_with(
            Delegation { chain_id: U256::from(CHAIN), address: delegate, nonce },
            data,
        )
        .await
    }

    async fn delegate_with(&self, tuple: Delegation, data: Option<Vec<u8>>) -> TransactionReceipt {
        let relayer = dev_signer(RELAYER);
        let signature = self.root.sign_hash_sync(&tuple.signature_hash()).unwrap();
        let nonce = self.harness.provider.get_transaction_count(relayer.address()).await.unwrap();
        let mut tx = TxEip7702 {
            chain_id: CHAIN,
            nonce,
            gas_limit: 3_000_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1,
            // Without a call it goes to nobody in particular.
            to: if data.is_some() { self.root.address() } else { Address::repeat_byte(9) },
            input: data.unwrap_or_default().into(),
            authorization_list: vec![tuple.into_signed(signature)],
            ..TxEip7702::default()
        };
        let signature = relayer.sign_transaction_sync(&mut tx).unwrap();
        let tx: TxEnvelope = tx.into_signed(signature).into();
        let hash = self.harness.raw(&tx).await.unwrap();
        self.harness.receipt(hash).await.unwrap()
    }

    async fn send<C: SolCall>(&self, call: &C) -> TransactionReceipt {
        self.harness.send(RELAYER, self.root.address(), call).await
    }

    /// Sends what must be mined and work.
    async fn works<C: SolCall>(&self, call: &C) -> TransactionReceipt {
        let receipt = self.send(call).await;
        assert!(receipt.status());
        receipt
    }

    async fn pays(&self, payment: &Payment) -> TransactionReceipt {
        self.works(&self.account.redeem(&self.key, payment)).await
    }

    /// Asserts that `call` is refused with exactly the error `E`, in a simulation and in a block, and moves nothing.
    async fn refuses<E: SolError, C: SolCall>(&self, call: &C) {
        let before = self.balance().await;
        let request = TransactionRequest::default()
            .from(dev_signer(RELAYER).address())
            .to(self.root.address())
            .input(Bytes::from(call.abi_encode()).into());
        let error = self.harness.provider.call(request).await.unwrap_err();
        let data = error.as_error_resp().and_then(|payload| payload.as_revert_data());
        let data = data.unwrap_or_else(|| panic!("{error}"));
        assert_eq!(data[..4], E::SELECTOR, "{:?}", name_of(&data));
        assert!(!self.send(call).await.status());
        assert_eq!(self.balance().await, before);
    }

    async fn refuses_payment<E: SolError>(&self, payment: &Payment) {
        self.refuses::<E, _>(&self.account.redeem(&self.key, payment)).await;
    }

    async fn balance(&self) -> U256 {
        self.harness.usdc(self.root.address()).await
    }

    async fn ask<C: SolCall>(&self, call: &C) -> C::Return {
        self.harness.read_at(self.root.address(), call).await
    }

    async fn code(&self) -> Bytes {
        self.harness.provider.get_code_at(self.root.address()).await.unwrap()
    }
}

fn limit(token: Address) -> TokenLimit {
    TokenLimit {
        token,
        cap: CAP.into(),
        budget: BUDGET.into(),
        window: u32::try_from(WINDOW).unwrap(),
        slots: 0,
    }
}

fn name_of(data: &[u8]) -> String {
    use alloy::sol_types::SolInterface;
    AgentAccount::AgentAccountErrors::abi_decode(data)
        .map_or_else(|_| format!("{data:02x?}"), |error| format!("{error:?}"))
}

fn designator(delegate: Address) -> Bytes {
    [&[0xef, 0x01, 0x00], delegate.as_slice()].concat().into()
}

#[tokio::test]
async fn a_relayer_adopts_and_registers_for_an_account_without_ether() {
    let world = World::new();
    let root = world.root.address();
    assert_eq!(world.harness.provider.get_balance(root).await.unwrap(), U256::ZERO);
    let call = world.registration(vec![world.session()]);
    let receipt = world.adopt(Some(call.abi_encode())).await;
    assert!(receipt.status());
    assert_eq!(world.code().await, designator(AGENT_ACCOUNT_ADDRESS));
    let logs = receipt.inner.logs();
    assert_eq!(logs.len(), 1);
    let registered = AgentAccount::SessionRegistered::decode_log(&logs[0].inner).unwrap();
    assert_eq!((registered.address, registered.key), (root, world.key.address()));
    let session = world.ask(&AgentAccount::sessionCall { key: world.key.address() }).await;
    assert_eq!((session.state, session.anyPayee), (1, false));

    let receipt = world.pays(&world.payment(CAP, 0)).await;
    let logs = receipt.inner.logs();
    let paid = AgentAccount::Paid::decode_log(&logs[0].inner).unwrap();
    assert_eq!((paid.address, paid.key, paid.token), (root, world.key.address(), USDC_ADDRESS));
    assert_eq!((paid.to, paid.value, paid.nonce), (PAYEE, U256::from(CAP), U256::ZERO));
    let moved = support::Usdc::Transfer::decode_log(&logs[1].inner).unwrap();
    assert_eq!((moved.from, moved.to, moved.value), (root, PAYEE, U256::from(CAP)));
    assert_eq!(world.harness.usdc(PAYEE).await, U256::from(CAP));
    assert_eq!(world.harness.provider.get_balance(root).await.unwrap(), U256::ZERO);
}

#[tokio::test]
async fn the_fourth_payment_of_a_budget_of_three_is_refused() {
    let world = World::ready().await;
    for nonce in 0..3 {
        world.pays(&world.payment(CAP, nonce)).await;
    }
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(CAP, 3)).await;
    world.refuses_payment::<AgentAccount::OverBudget>(&world.payment(1, 3)).await;
    assert_eq!(world.balance().await, U256::from(FUNDS - BUDGET));
}
