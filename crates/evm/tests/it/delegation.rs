//! ERC-7710: payments of an account that adopted `AgentAccount`, and those that a foreign manager
//! carries out.

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall as _, SolValue as _};
use pay402_core::error::Unavailable;
use pay402_core::network::{ChainStatus, Network as _, Unverified};
use pay402_core::refusal::{Funds, Reason};
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Payment, PaymentKey, Refusal, Refused, Requirements};
use pay402_devchain::genesis::{
    AGENT_ACCOUNT_ADDRESS, MULTICALL3, USDC_ADDRESS, dev_signer, usdc_balance_slot,
};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::contracts::{Call3, Erc20, Multicall3};
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::network::GAS_LIMIT_MAX_DEFAULT;
use pay402_evm::network::sight::{CANCEL_DEPTH_BLOCKS, FINALITY_MARGIN_S};
use pay402_evm::signature::SignatureBytes;
use pay402_evm::{AssetTable, ExactServer, Settings, TransferMethod};
use serde_json::{Value, json};

use crate::agent::{self as account, Account, Session, TokenLimit, execution, redeem, seconds};
use crate::faults::{Meddling, over_as};
use crate::support::{CHAIN_ID, House, PAY_TO, PAYER, START, STRANGER, network_id, pair, usdc};

mod token {
    alloy::sol! {
        function approve(address spender, uint256 value) returns (bool);
        function transferFrom(address from, address to, uint256 value) returns (bool);
    }
}

/// What one payment costs, the most that one may, and the most of all, in atomic units.
const PRICE: u64 = 10_000;
const CAP: u64 = 15_000;
const BUDGET: u64 = 25_000;
/// Code that does nothing.
const NO_OP: [u8; 1] = [0x00];
/// Code that burns all gas: a jump to itself.
const LOOP: [u8; 4] = [0x5b, 0x60, 0x00, 0x56];

fn terms(amount: u64) -> Requirements {
    ExactServer::new(AssetTable::defaults())
        .transferring_by(TransferMethod::Erc7710)
        .requirements(
            &network_id(),
            &Tariff::Atomic { amount: amount.into(), asset: usdc().info },
            PAY_TO,
            60,
        )
        .unwrap()
}

fn paid_by(terms: &Requirements, manager: Address, delegator: Address, context: &[u8]) -> Payment {
    let context = SignatureBytes::new(context.to_vec());
    pair(terms, Erc7710Payload { manager, delegator, context }.to_json())
}

fn payer() -> Account {
    Account { chain_id: CHAIN_ID, address: dev_signer(PAYER).address() }
}

fn key() -> PrivateKeySigner {
    account::signer("agent")
}

fn session() -> Session {
    Session {
        key: key().address(),
        validAfter: seconds(START - 60),
        expiry: seconds(START + 86_400),
        anyPayee: true,
        payees: Vec::new(),
        tokens: vec![TokenLimit {
            token: USDC_ADDRESS,
            cap: u128::from(CAP),
            budget: u128::from(BUDGET),
            window: 86_400,
            slots: 0,
        }],
    }
}

/// A payment that the account accepts, good around [`START`].
fn agreed(amount: u64, epoch: u64, nonce: u64) -> account::Payment {
    account::Payment {
        token: USDC_ADDRESS,
        to: PAY_TO.parse().unwrap(),
        value: U256::from(amount),
        nonce: U256::from(nonce),
        validAfter: seconds(START - 60),
        deadline: seconds(START + 60),
        epoch,
    }
}

fn by(signer: &PrivateKeySigner, amount: u64, epoch: u64, nonce: u64) -> Payment {
    let context = payer().context(signer, &agreed(amount, epoch, nonce));
    paid_by(&terms(amount), payer().address, payer().address, &context)
}

fn by_agent(amount: u64, nonce: u64) -> Payment {
    by(&key(), amount, 0, nonce)
}

fn settings() -> Settings {
    assert_eq!(AGENT_ACCOUNT, AGENT_ACCOUNT_ADDRESS, "the code changed, and its address with it");
    Settings { delegates: vec![AGENT_ACCOUNT], ..Settings::default() }
}

/// A house that calls adopted accounts.
fn house() -> House {
    House::with(AssetTable::defaults(), settings())
}

/// A house with a payer who adopted the account and registered the agent's key.
async fn adopted() -> House {
    let house = house();
    house.network.check().await.unwrap();
    house.adopt();
    house.register(0).await;
    house
}

impl House {
    fn adopt(&self) {
        let code = [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat();
        self.chain.set_code(payer().address, code.into());
    }

    async fn register(&self, epoch: u64) {
        let call = payer().register(&dev_signer(PAYER), vec![session()], epoch, START + 600);
        self.transact(STRANGER, payer().address, &call).await;
    }

    async fn revoke_all(&self, epoch: u64) {
        let call = payer().revoke_all(&dev_signer(PAYER), epoch, START + 600);
        self.transact(STRANGER, payer().address, &call).await;
    }

    /// Somebody else has the account make an agreed payment.
    async fn redeem_elsewhere(&self, agreed: &account::Payment) {
        self.transact(STRANGER, payer().address, &payer().redeem(&key(), agreed)).await;
    }

    async fn redeem_within_a_call(&self, agreed: &account::Payment) {
        let within = |target: Address, data: Vec<u8>| {
            let call = Call3 { target, allowFailure: false, callData: data.into() };
            Multicall3::aggregate3Call { calls: vec![call] }
        };
        let redeem = payer().redeem(&key(), agreed).abi_encode();
        let inner = within(payer().address, redeem).abi_encode();
        self.transact(STRANGER, MULTICALL3, &within(MULTICALL3, inner)).await;
    }

    /// Somebody else has it made in one call of many.
    async fn redeem_among_others(&self, agreed: &account::Payment, may_fail: bool) {
        let redeem = payer().redeem(&key(), agreed).abi_encode().into();
        let call = Call3 { target: payer().address, allowFailure: may_fail, callData: redeem };
        let calls = vec![call];
        self.transact(STRANGER, MULTICALL3, &Multicall3::aggregate3Call { calls }).await;
    }

    async fn told(&self, payment: &Payment) -> Result<ChainStatus, Unavailable> {
        let plan = self.verify(payment).await.unwrap().plan;
        self.network.status(&plan, None).await
    }
}

fn identified(house: &House, payment: &Payment) -> PaymentKey {
    house.network.identify(payment).unwrap().key
}

fn is_proven(status: &ChainStatus) -> bool {
    matches!(status, ChainStatus::Proven { .. })
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, .. }
        if refused.reason == Reason::Known(refusal))
}

const OPEN: ChainStatus = ChainStatus::Open { expired: false, displaced: false };

// === An adopted account ===

#[tokio::test]
async fn an_agent_pays_from_an_adopted_account() {
    let house = adopted().await;
    for (signer, nonce) in [(key(), 1), (dev_signer(PAYER), 7)] {
        let had = house.usdc_of(PAY_TO.parse().unwrap()).await;
        let payment = by(&signer, PRICE, 0, nonce);
        let verified = house.verify(&payment).await.unwrap();
        assert_eq!(verified.expires, UnixTime(START + 61), "its own deadline");
        assert_eq!(verified.payer, payer().address.to_checksum(None));
        let identified = house.network.identify(&payment).unwrap();
        assert_eq!((identified.key, identified.fingerprint), (verified.key, verified.fingerprint));
        assert_eq!(house.told(&payment).await, Ok(OPEN));
        let (sent, _) = house.submit(&verified.plan).await;
        let proven = |status: &ChainStatus| {
            matches!(status, ChainStatus::Proven { transaction, .. }
                if *transaction == sent.transaction)
        };
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(proven(&status), "{status:?}");
        assert_eq!(house.usdc_of(PAY_TO.parse().unwrap()).await, had + U256::from(PRICE));
        // The account itself proves it too, without knowing how it was sent.
        let by_logs = house.network.status(&verified.plan, None).await.unwrap();
        assert!(proven(&by_logs), "{by_logs:?}");
        let refused = house.refuses(&payment, Refusal::NonceAlreadyUsed).await;
        assert_eq!(refused.transaction, Some(sent.transaction));
    }
}

#[test]
fn a_payment_of_an_account_is_known_by_key_epoch_and_nonce() {
    let house = house();
    let one = by_agent(PRICE, 1);
    let name = identified(&house, &one);
    let ending = format!("{:#x}/0/{}", key().address(), B256::from(U256::from(1)));
    assert!(name.as_str().ends_with(&ending), "{name}");
    // Signed for more, or signed once more: the account takes only one of them.
    assert_eq!(identified(&house, &by_agent(PRICE + 1, 1)), name);
    let mut context = payer().context(&key(), &agreed(PRICE, 0, 1)).to_vec();
    context[100] ^= 1;
    let again = paid_by(&terms(PRICE), payer().address, payer().address, &context);
    assert_eq!(house.network.identify(&again), house.network.identify(&one));
    for other in [by_agent(PRICE, 2), by(&key(), PRICE, 1, 1), by(&dev_signer(PAYER), PRICE, 0, 1)]
    {
        assert_ne!(identified(&house, &other), name);
    }
    // A foreign manager may read the same bytes in its own way.
    let settings = Settings { delegation_managers: vec![AGENT_ACCOUNT], ..settings() };
    let house = House::with(AssetTable::defaults(), settings);
    let foreign = paid_by(&terms(PRICE), AGENT_ACCOUNT, payer().address, &context);
    assert_ne!(identified(&house, &foreign), name);
}

#[tokio::test]
async fn what_the_account_does_not_allow_is_refused() {
    let house = adopted().await;
    let refusal = Refusal::DelegationSimulationFailed;
    house.refuses(&by_agent(CAP + 1, 1), refusal).await;
    let stranger = by(&account::signer("stranger"), PRICE, 0, 1);
    house.refuses(&stranger, refusal).await;
    house.refuses(&by(&key(), PRICE, 1, 1), refusal).await;
    // Wrapped as if a wallet had to be deployed, it is another context, and no good one.
    let wrapped = |context: Bytes| {
        let wrapped = (MULTICALL3, Bytes::new(), context).abi_encode_params();
        let magic = 0x6492_6492_6492_6492_u64.to_be_bytes().repeat(4);
        let context = [wrapped, magic].concat();
        paid_by(&terms(PRICE), payer().address, payer().address, &context)
    };
    house.refuses(&wrapped(payer().context(&key(), &agreed(PRICE, 0, 1))), refusal).await;
    // The budget is for all payments together.
    let plan = house.verify(&by_agent(CAP, 1)).await.unwrap().plan;
    let (sent, _) = house.submit(&plan).await;
    let status = house.network.status(&plan, Some(&sent)).await.unwrap();
    assert!(is_proven(&status), "{status:?}");
    house.refuses(&by_agent(BUDGET - CAP + 1, 2), refusal).await;
    house.verify(&by_agent(BUDGET - CAP, 2)).await.unwrap();
    let poor = U256::from(PRICE - 1);
    house.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(payer().address), poor);
    house.refuses(&by_agent(PRICE, 2), Refusal::InsufficientFunds).await;
}

#[tokio::test]
async fn a_payment_of_an_account_has_its_times() {
    let house = adopted().await;
    let payment = by_agent(PRICE, 1);
    let verified = house.verify(&payment).await.unwrap();
    house.advance_to(START + 54);
    house.verify(&payment).await.unwrap();
    house.advance_to(START + 55);
    house.refuses(&payment, Refusal::ValidBefore).await;
    let late = account::Payment { validAfter: seconds(START + 57), ..agreed(PRICE, 0, 2) };
    let context = payer().context(&key(), &late);
    let early = paid_by(&terms(PRICE), payer().address, payer().address, &context);
    house.refuses(&early, Refusal::ValidAfter).await;
    // Unused, it is over well after its deadline.
    house.advance_to(START + 60 + FINALITY_MARGIN_S);
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(OPEN));
    house.advance_to(START + 60 + FINALITY_MARGIN_S + 1);
    let over = ChainStatus::Open { expired: true, displaced: false };
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(over));
}

#[tokio::test]
async fn an_account_of_unknown_code_is_refused_by_its_name() {
    let house = House::new();
    house.adopt();
    house.register(0).await;
    let refused = house.refuses(&by_agent(PRICE, 1), Refusal::ManagerNotAllowed).await;
    assert!(refused.message.contains(&AGENT_ACCOUNT.to_string()), "{refused}");
    // And so is an account that adopted nothing.
    let refused = self::house().refuses(&by_agent(PRICE, 1), Refusal::ManagerNotAllowed).await;
    assert_eq!(refused.payer, Some(payer().address.to_checksum(None)));
}

// === What others do with a payment of an account ===

#[tokio::test]
async fn a_payment_that_somebody_else_redeemed_is_proven() {
    let house = adopted().await;
    let payment = by_agent(PRICE, 2);
    let verified = house.verify(&payment).await.unwrap();
    // Another payment of the same amount must not be taken for it.
    house.redeem_elsewhere(&agreed(PRICE, 0, 1)).await;
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(OPEN));
    house.redeem_elsewhere(&agreed(PRICE, 0, 2)).await;
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(matches!(status, ChainStatus::Proven { fee: Amount::ZERO, .. }), "{status:?}");
    // Ours comes too late, and that is its cost.
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    let ChainStatus::Proven { transaction, fee, .. } = status else { panic!("{status:?}") };
    assert_ne!(transaction, sent.transaction);
    assert!(fee > Amount::ZERO);
}

#[tokio::test]
async fn a_payment_made_before_its_epoch_ended_is_proven() {
    let house = adopted().await;
    let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
    house.redeem_elsewhere(&agreed(PRICE, 0, 1)).await;
    // In the new epoch the nonce counts as unused; the money moved all the same.
    house.revoke_all(0).await;
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(is_proven(&status), "{status:?}");
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(is_proven(&status), "{status:?}");
    // Nor does it help the payer to leave the account.
    house.chain.set_code(payer().address, Bytes::new());
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(is_proven(&status), "{status:?}");
}

#[tokio::test]
async fn the_same_nonce_in_another_epoch_proves_nothing() {
    let house = adopted().await;
    house.redeem_elsewhere(&agreed(PRICE, 0, 1)).await;
    house.revoke_all(0).await;
    house.register(1).await;
    let payment = by(&key(), PRICE, 1, 1);
    let verified = house.verify(&payment).await.unwrap();
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(OPEN));
    // Used out of sight: the payment of the other epoch is not taken for it.
    house.redeem_within_a_call(&agreed(PRICE, 1, 1)).await;
    assert!(house.network.status(&verified.plan, None).await.is_err(), "it is not known");
    house.refuses(&payment, Refusal::NonceAlreadyUsed).await;
}

#[tokio::test]
async fn a_payment_redeemed_among_others_is_proven_if_it_could_not_fail() {
    for may_fail in [false, true] {
        let house = adopted().await;
        let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
        house.redeem_among_others(&agreed(PRICE, 0, 1), may_fail).await;
        let status = house.network.status(&verified.plan, None).await;
        match may_fail {
            false => assert!(is_proven(status.as_ref().unwrap()), "{status:?}"),
            true => assert!(status.is_err(), "{status:?}"),
        }
    }
}

#[tokio::test]
async fn a_payment_redeemed_within_another_call_stays_unknown_until_its_end() {
    let house = adopted().await;
    let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
    house.redeem_within_a_call(&agreed(PRICE, 0, 1)).await;
    assert!(house.network.status(&verified.plan, None).await.is_err(), "it is not known");
    house.advance_to(START + 60 + FINALITY_MARGIN_S + 1);
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(failed_as(&status, Refusal::NonceAlreadyUsed), "{status:?}");
    assert_eq!(Refusal::NonceAlreadyUsed.funds(), Funds::MaybeMoved, "and may have been paid");
}

#[tokio::test]
async fn a_payment_revoked_before_it_was_mined_failed() {
    let house = adopted().await;
    let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
    let revoke = payer().revoke(&dev_signer(PAYER), key().address(), 0, START + 600);
    house.transact(STRANGER, payer().address, &revoke).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::TransactionReverted), "{status:?}");
}

/// Somebody has the account make these payments in one transaction.
async fn redeem_together(house: &House, agreements: &[account::Payment]) {
    let mut all = redeem(Bytes::new(), Bytes::new());
    all.permissionContexts = agreements.iter().map(|one| payer().context(&key(), one)).collect();
    all.modes = vec![B256::ZERO; agreements.len()];
    all.executionCallDatas =
        agreements.iter().map(|one| execution(one.token, one.to, one.value)).collect();
    house.transact(STRANGER, payer().address, &all).await;
}

#[tokio::test]
async fn a_batch_proves_each_of_its_payments() {
    let house = adopted().await;
    let mut plans = Vec::new();
    for payment in [by_agent(PRICE, 1), by_agent(PRICE + 1, 2)] {
        plans.push(house.verify(&payment).await.unwrap().plan);
    }
    redeem_together(&house, &[agreed(PRICE, 0, 1), agreed(PRICE + 1, 0, 2)]).await;
    for plan in plans {
        let status = house.network.status(&plan, None).await.unwrap();
        assert!(is_proven(&status), "{status:?}");
    }
}

#[tokio::test]
async fn one_payment_does_not_prove_another() {
    let house = adopted().await;
    let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
    // The agent signed the nonce once more, for less, and has the price paid by another payment.
    redeem_together(&house, &[agreed(1, 0, 1), agreed(PRICE, 0, 2)]).await;
    let status = house.network.status(&verified.plan, None).await.unwrap();
    assert!(failed_as(&status, Refusal::NonceAlreadyUsed), "{status:?}");
}

// === Foreign managers ===

const MANAGER: Address = Address::repeat_byte(0x3a);

/// A house that calls [`MANAGER`], which moves what the payer lets it.
async fn managed() -> House {
    let settings = Settings { delegation_managers: vec![MANAGER], ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    house.network.check().await.unwrap();
    house.manage(&paying(payer().address));
    let approve = token::approveCall { spender: MANAGER, value: U256::MAX };
    house.transact(PAYER, USDC_ADDRESS, &approve).await;
    house
}

impl House {
    /// Gives the manager this code.
    fn manage(&self, code: &[u8]) {
        self.chain.set_code(MANAGER, Bytes::copy_from_slice(code));
    }
}

fn by_manager() -> Payment {
    paid_by(&terms(PRICE), MANAGER, payer().address, b"a delegation")
}

/// Code that has USDC move [`PRICE`] from an account to the payee, whoever calls it and with what.
fn paying(from: Address) -> Vec<u8> {
    let to = PAY_TO.parse().unwrap();
    let call = token::transferFromCall { from, to, value: U256::from(PRICE) };
    calling(USDC_ADDRESS, &call.abi_encode())
}

/// Code that makes one call, whoever calls it and with what, and fails if that fails.
fn calling(target: Address, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len()).unwrap().to_be_bytes();
    let code = [
        // codecopy(0, 52, length): the call data stands behind the code.
        &[0x61, length[0], length[1], 0x60, 52, 0x60, 0x00, 0x39][..],
        // call(gas(), target, 0, 0, length, 0, 0)
        &[0x60, 0x00, 0x60, 0x00, 0x61, length[0], length[1], 0x60, 0x00, 0x60, 0x00, 0x73],
        target.as_slice(),
        &[0x5a, 0xf1],
        // If it failed, jump to 47 and revert(0, 0); else stop.
        &[0x15, 0x60, 47, 0x57, 0x00, 0x5b, 0x60, 0x00, 0x80, 0xfd],
    ]
    .concat();
    assert_eq!(code.len(), 52);
    [&code, data].concat()
}

#[tokio::test]
async fn an_allowed_manager_carries_a_payment_out() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    assert_eq!(verified.expires, UnixTime(START + 60), "what the terms give it");
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(is_proven(&status), "{status:?}");
    let approve = token::approveCall { spender: MANAGER, value: U256::ZERO };
    house.transact(PAYER, USDC_ADDRESS, &approve).await;
    house.refuses(&by_manager(), Refusal::DelegationSimulationFailed).await;
}

#[tokio::test]
async fn only_allowed_managers_are_called() {
    let house = House::new();
    house.manage(&NO_OP);
    let refused = house.refuses(&by_manager(), Refusal::ManagerNotAllowed).await;
    assert_eq!(refused.payer, Some(payer().address.to_checksum(None)));
}

#[tokio::test]
async fn who_pays_by_a_delegation_is_seen_before_it_is_carried_out() {
    let house = managed().await;
    let refused = |why: &Refused| {
        assert!(why.to_string().contains("does not move exactly"), "{why}");
    };
    // The same context, and somebody else is said to be its delegator: no other payment, and no payer.
    let victim = dev_signer(STRANGER).address();
    let foisted = paid_by(&terms(PRICE), MANAGER, victim, b"a delegation");
    assert_eq!(identified(&house, &foisted), identified(&house, &by_manager()));
    refused(&house.refuses(&foisted, Refusal::DelegationSimulationFailed).await);
    // Less than the price, and nothing at all.
    let more = paid_by(&terms(2 * PRICE), MANAGER, payer().address, b"a delegation");
    refused(&house.refuses(&more, Refusal::DelegationSimulationFailed).await);
    house.manage(&NO_OP);
    refused(&house.refuses(&by_manager(), Refusal::DelegationSimulationFailed).await);
}

#[tokio::test]
async fn a_node_that_cannot_show_whose_tokens_move_is_not_believed() {
    let house = managed().await;
    let settings = Settings { delegation_managers: vec![MANAGER], ..Settings::default() };
    let deaf = over_as(&house, settings, |method, params| {
        let overridden = params.as_array().is_some_and(|params| params.len() == 3);
        match method {
            "eth_call" if overridden => Meddling::Answer(json!("0x")),
            _ => Meddling::Pass,
        }
    });
    deaf.check().await.unwrap();
    let told = deaf.verify(&by_manager()).await;
    assert!(matches!(told, Err(Unverified::Unavailable(_))), "{told:?}");
}

#[tokio::test]
async fn a_manager_that_does_nothing_has_not_paid() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    house.manage(&NO_OP);
    // The very transfer, by other means and in another transaction.
    let transfer = Erc20::transferCall { to: PAY_TO.parse().unwrap(), value: U256::from(PRICE) };
    house.transact(PAYER, USDC_ADDRESS, &transfer).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::TransferEventMismatch), "{status:?}");
}

#[tokio::test]
async fn another_payment_made_within_a_redemption_does_not_prove_it() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    // By then the manager has the payer's own account pay, with a payment that is somebody else's
    // purchase at the same shop.
    house.adopt();
    house.register(0).await;
    let redeem = payer().redeem(&key(), &agreed(PRICE, 0, 1)).abi_encode();
    house.manage(&calling(payer().address, &redeem));
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::TransferEventMismatch), "{status:?}");
}

#[tokio::test]
async fn a_manager_burns_no_more_than_the_cap() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    house.manage(&LOOP);
    house.refuses(&by_manager(), Refusal::DelegationSimulationFailed).await;
    let (sent, _) = house.submit(&verified.plan).await;
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::TransactionReverted), "{status:?}");
    use alloy::providers::Provider as _;
    let hash = sent.transaction.parse().unwrap();
    let receipt = house.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
    assert!(receipt.gas_used <= GAS_LIMIT_MAX_DEFAULT, "{receipt:?}");
}

#[tokio::test]
async fn a_delegation_is_given_up_when_its_terms_end() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    house.advance_to(START + 60 + FINALITY_MARGIN_S);
    let over = ChainStatus::Open { expired: true, displaced: false };
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(over));
}

#[tokio::test]
async fn a_delegation_is_never_signed_again_for_want_of_a_receipt() {
    let house = managed().await;
    let verified = house.verify(&by_manager()).await.unwrap();
    let (sent, _) = house.submit(&verified.plan).await;
    // A node that counts the transaction and does not show it.
    let settings = Settings { delegation_managers: vec![MANAGER], ..Settings::default() };
    let lagging = over_as(&house, settings, |method, _| match method {
        "eth_getTransactionReceipt" => Meddling::Answer(Value::Null),
        _ => Meddling::Pass,
    });
    assert_eq!(lagging.status(&verified.plan, Some(&sent)).await, Ok(OPEN), "not displaced");
    house.chain.mine(CANCEL_DEPTH_BLOCKS);
    let status = lagging.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::NonceAlreadyUsed), "{status:?}");
    assert_eq!(Refusal::NonceAlreadyUsed.funds(), Funds::MaybeMoved, "it may have been paid");
}

#[tokio::test]
async fn an_account_that_runs_other_code_by_then_is_not_called() {
    let house = adopted().await;
    let verified = house.verify(&by_agent(PRICE, 1)).await.unwrap();
    let other = [&[0xef, 0x01, 0x00], MANAGER.as_slice()].concat();
    house.chain.set_code(payer().address, other.into());
    let signer = house.network.signers().remove(0);
    let error = house.network.sign(&signer, 0, &verified.plan, None).await.unwrap_err();
    assert!(error.problem.contains("other code"), "{error}");
}
