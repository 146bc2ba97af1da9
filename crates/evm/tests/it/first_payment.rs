//! Payments that bring their account's adoption along: an account with a token and no gas adopts its
//! code, registers the key of its agent and pays, in one transaction.

use alloy::consensus::Transaction as _;
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use pay402_core::network::{ChainStatus, Network as _, SentAs, Unverified};
use pay402_core::refusal::{Funds, Reason};
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::UnixTime;
use pay402_core::{Amount, Payment, Refusal, Requirements};
use pay402_devchain::genesis::{DEV_USDC, MULTICALL3, USDC_ADDRESS, usdc_balance_slot};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::network::{GAS_LIMIT_MAX_DEFAULT, OPERATIONS_PER_ACCOUNT_MAX_DEFAULT};
use pay402_evm::signature::SignatureBytes;
use pay402_evm::{AssetTable, ExactServer, Settings, Sponsoring, TransferMethod};
use serde_json::{Value, json};

use crate::adoption::{sign, tuple, written};
use crate::agent::{self as account, Account, AgentAccount, Session, TokenLimit, seconds};
use crate::faults::{Meddling, over_as};
use crate::support::{
    CHAIN_ID, House, PAY_TO, START, STRANGER, network_id, presented, sign_with, usdc,
};

const PRICE: u64 = 10_000;

fn settings() -> Settings {
    Settings {
        delegates: vec![AGENT_ACCOUNT],
        sponsoring: Sponsoring { adoptions: true, ..Sponsoring::default() },
        ..Settings::default()
    }
}

/// A house whose poor payer has tokens and nothing else.
async fn house_as(settings: Settings) -> House {
    let house = House::with(AssetTable::defaults(), settings);
    house.network.check().await.unwrap();
    house.fund(payer().address);
    house
}

async fn house() -> House {
    house_as(settings()).await
}

/// A person who has no ETH.
fn root() -> PrivateKeySigner {
    account::signer("root")
}

pub(crate) fn payer() -> Account {
    Account { chain_id: CHAIN_ID, address: root().address() }
}

fn key() -> PrivateKeySigner {
    account::signer("agent")
}

fn session(key: Address) -> Session {
    Session {
        key,
        validAfter: seconds(START - 60),
        expiry: seconds(START + 86_400),
        anyPayee: true,
        payees: Vec::new(),
        tokens: vec![TokenLimit {
            token: USDC_ADDRESS,
            cap: u128::from(PRICE),
            budget: u128::from(3 * PRICE),
            window: 86_400,
            slots: 0,
        }],
    }
}

fn registration(deadline: u64) -> AgentAccount::registerSessionsCall {
    payer().register(&root(), vec![session(key().address())], 0, deadline)
}

fn terms() -> Requirements {
    let tariff = Tariff::Atomic { amount: PRICE.into(), asset: usdc().info };
    let scheme = ExactServer::new(AssetTable::defaults());
    let scheme = scheme.transferring_by(TransferMethod::Erc7710);
    scheme.requirements(&network_id(), &tariff, PAY_TO, 60).unwrap()
}

fn agreed(nonce: u64) -> account::Payment {
    account::Payment {
        token: USDC_ADDRESS,
        to: PAY_TO.parse().unwrap(),
        value: U256::from(PRICE),
        nonce: U256::from(nonce),
        validAfter: seconds(START - 60),
        deadline: seconds(START + 60),
        epoch: 0,
    }
}

/// A payment by `signer` that brings this along.
fn bringing(signer: &PrivateKeySigner, nonce: u64, info: &Value) -> Payment {
    let (account, terms) = (payer().address, terms());
    let context = SignatureBytes::new(payer().context(signer, &agreed(nonce)).to_vec());
    let payload = Erc7710Payload { manager: account, delegator: account, context }.to_json();
    let mut presented = presented(&terms, payload);
    presented.extensions.insert("accountAdoption".into(), json!({ "info": info }));
    Payment::pair(terms, presented).unwrap()
}

fn info(nonce: u64, call: Option<Vec<u8>>) -> Value {
    let mut info = json!({ "authorization": written(&sign(tuple(nonce), &root())) });
    if let Some(call) = call {
        info["call"] = json!(Bytes::from(call));
    }
    info
}

/// The agent's first payment, with everything that it needs.
fn first() -> Payment {
    first_with(1)
}

/// The same with another nonce.
pub(crate) fn first_with(nonce: u64) -> Payment {
    bringing(&key(), nonce, &info(0, Some(registration(START + 600).abi_encode())))
}

fn is_proven_by(status: &ChainStatus, sent: &SentAs) -> bool {
    matches!(status, ChainStatus::Proven { transaction, .. } if *transaction == sent.transaction)
}

impl House {
    async fn runs_our_code(&self) -> bool {
        let code = self.chain.provider().get_code_at(payer().address).await.unwrap();
        *code == [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat()
    }

    /// What the shop was paid so far.
    async fn shop_has(&self) -> U256 {
        self.usdc_of(PAY_TO.parse().unwrap()).await - U256::from(DEV_USDC)
    }

    /// Settles in one transaction and gives what it used.
    async fn settles_at_once(&self, payment: &Payment) -> (SentAs, u64) {
        let had = self.shop_has().await;
        let verified = self.verify(payment).await.unwrap();
        let (sent, _) = self.submit(&verified.plan).await;
        let status = self.network.status(&verified.plan, Some(&sent)).await.unwrap();
        assert!(is_proven_by(&status, &sent), "{status:?}");
        assert_eq!(self.shop_has().await, had + U256::from(PRICE));
        let hash = sent.transaction.parse().unwrap();
        let receipt = self.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
        (sent, receipt.gas_used)
    }
}

#[tokio::test]
async fn an_account_adopts_registers_and_pays_in_one_transaction() {
    let house = house().await;
    let payment = first();
    let verified = house.verify(&payment).await.unwrap();
    assert_eq!(verified.daily_max, Some(OPERATIONS_PER_ACCOUNT_MAX_DEFAULT), "it takes a turn");
    assert_eq!(verified.expires, UnixTime(START + 61), "the payment ends before the registration");
    assert!(verified.first.is_none(), "nothing has to be sent before it");
    // Looked up before anything is sent, as after a crash.
    let open = ChainStatus::Open { expired: false, displaced: false };
    assert_eq!(house.network.status(&verified.plan, None).await, Ok(open));
    let identified = house.network.identify(&payment).unwrap();
    assert_eq!((&identified.key, identified.fingerprint), (&verified.key, verified.fingerprint));
    let (sent, gas) = house.settles_at_once(&payment).await;
    assert!(gas <= 2 * GAS_LIMIT_MAX_DEFAULT, "{gas}");
    assert!(house.runs_our_code().await);
    let hash = sent.transaction.parse().unwrap();
    let mined = house.chain.provider().get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!(mined.inner.authorization_list().map_or(0, <[_]>::len), 1);
    assert_eq!(mined.inner.to(), Some(MULTICALL3));
    // Whoever does not know how it was sent finds it too.
    let by_logs = house.network.status(&verified.plan, None).await.unwrap();
    assert!(is_proven_by(&by_logs, &sent), "{by_logs:?}");
    house.refuses(&payment, Refusal::NonceAlreadyUsed).await;

    // The next one is an ordinary payment, whether or not the adoption comes along again.
    let next = bringing(&key(), 2, &info(0, Some(registration(START + 600).abi_encode())));
    assert_eq!(house.verify(&next).await.unwrap().daily_max, None);
    let (sent, later) = house.settles_at_once(&next).await;
    assert!(later < gas - 100_000, "{later} after {gas}");
    let hash = sent.transaction.parse().unwrap();
    let mined = house.chain.provider().get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!((mined.inner.authorization_list(), mined.inner.to()), (None, Some(payer().address)));
}

#[tokio::test]
async fn a_root_adopts_and_pays_without_a_registration() {
    let house = house().await;
    let (sent, _) = house.settles_at_once(&bringing(&root(), 1, &info(0, None))).await;
    assert!(house.runs_our_code().await);
    let hash = sent.transaction.parse().unwrap();
    let mined = house.chain.provider().get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!(mined.inner.to(), Some(payer().address));
}

#[tokio::test]
async fn an_adopted_account_registers_and_pays() {
    let house = house().await;
    house.delegate(&root(), AGENT_ACCOUNT).await;
    // The tuple is of no use any more, and not needed.
    let payment = first();
    assert!(house.verify(&payment).await.unwrap().daily_max.is_some(), "we pay a registration");
    let (sent, _) = house.settles_at_once(&payment).await;
    let hash = sent.transaction.parse().unwrap();
    let mined = house.chain.provider().get_transaction_by_hash(hash).await.unwrap().unwrap();
    assert_eq!((mined.inner.authorization_list(), mined.inner.to()), (None, Some(MULTICALL3)));
}

#[tokio::test]
async fn whoever_sends_adoption_and_registration_first_stops_nothing() {
    let house = house().await;
    let verified = house.verify(&first()).await.unwrap();
    let (sent, raw) = sign_with(&house.network, &verified.plan).await;
    house.delegate(&root(), AGENT_ACCOUNT).await;
    house.transact(STRANGER, payer().address, &registration(START + 600)).await;
    house.network.send(&raw).await.unwrap();
    let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
    assert!(is_proven_by(&status, &sent), "{status:?}");
    assert_eq!(house.shop_has().await, U256::from(PRICE));
}

#[tokio::test]
async fn a_skipped_adoption_has_not_paid() {
    for payment in [first(), bringing(&root(), 1, &info(0, None))] {
        let house = house().await;
        let verified = house.verify(&payment).await.unwrap();
        let (sent, raw) = sign_with(&house.network, &verified.plan).await;
        // A transaction of the account's own comes first, and spends the tuple's nonce.
        house.chain.set_nonce(payer().address, 1);
        house.network.send(&raw).await.unwrap();
        let hash = sent.transaction.parse().unwrap();
        let receipt = house.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
        assert!(receipt.status(), "calls of an account without code succeed");
        assert!(!house.runs_our_code().await);
        assert_eq!(house.shop_has().await, U256::ZERO);
        let status = house.network.status(&verified.plan, Some(&sent)).await.unwrap();
        let ChainStatus::Failed { refused, fee, .. } = &status else { panic!("{status:?}") };
        assert_eq!(refused.reason, Reason::Known(Refusal::AdoptionNotEffective));
        assert_eq!(refused.transaction, Some(sent.transaction));
        assert!(*fee > Amount::ZERO, "what it cost is booked");
    }
}

#[tokio::test]
async fn what_would_be_skipped_or_fail_by_now_is_not_signed() {
    let house = house().await;
    let signer = house.network.signers().remove(0);
    let plan = house.verify(&first()).await.unwrap().plan;
    house.chain.set_nonce(payer().address, 1);
    let error = house.network.sign(&signer, 0, &plan, None).await.unwrap_err();
    assert!(error.problem.contains("cannot take effect"), "{error}");
    house.chain.set_nonce(payer().address, 0);
    house.network.sign(&signer, 0, &plan, None).await.unwrap();
    let balance = usdc_balance_slot(payer().address);
    house.chain.set_storage(USDC_ADDRESS, balance, U256::ZERO);
    let error = house.network.sign(&signer, 0, &plan, None).await.unwrap_err();
    assert!(error.problem.contains("would fail"), "{error}");
}

#[tokio::test]
async fn only_what_the_payment_needs_is_brought_along() {
    let house = house().await;
    let call = |call: Vec<u8>| bringing(&key(), 1, &info(0, Some(call)));
    let other = payer().register(&root(), vec![session(Address::repeat_byte(5))], 0, START + 600);
    for call in [
        call(other.abi_encode()),
        call(payer().revoke_all(&root(), 0, START + 600).abi_encode()),
        call(vec![1, 2, 3, 4]),
        bringing(&root(), 1, &info(0, Some(registration(START + 600).abi_encode()))),
    ] {
        house.refuses(&call, Refusal::OperationNotAllowed).await;
        let identified = house.network.identify(&call).unwrap_err();
        assert_eq!(identified.reason, Reason::Known(Refusal::OperationNotAllowed));
    }
    let forged = payer().register(&key(), vec![session(key().address())], 0, START + 600);
    house.refuses(&call(forged.abi_encode()), Refusal::OperationFailed).await;
    let late = registration(START + 3).abi_encode();
    house.refuses(&call(late), Refusal::OperationFailed).await;
    // The account itself decides about the payment.
    let unregistered = bringing(&key(), 1, &info(0, None));
    let refused = house.refuses(&unregistered, Refusal::DelegationSimulationFailed).await;
    assert!(refused.to_string().contains(&AGENT_ACCOUNT.to_string()), "{refused}");
    assert_eq!(house.shop_has().await, U256::ZERO);
}

#[tokio::test]
async fn an_adoption_that_the_chain_would_skip_is_refused() {
    let house = house().await;
    let adopts =
        |authorization: Value| bringing(&root(), 1, &json!({ "authorization": authorization }));
    let everywhere = alloy::eips::eip7702::Authorization { chain_id: U256::ZERO, ..tuple(0) };
    let unknown =
        alloy::eips::eip7702::Authorization { address: Address::repeat_byte(5), ..tuple(0) };
    for (authorization, refusal) in [
        (written(&sign(everywhere, &root())), Refusal::AdoptionInvalid),
        (written(&sign(tuple(1), &root())), Refusal::AdoptionInvalid),
        (written(&sign(tuple(0), &key())), Refusal::AdoptionInvalid),
        (written(&sign(unknown, &root())), Refusal::DelegateNotAllowed),
        (json!({ "chainId": 1 }), Refusal::AdoptionInvalid),
        (json!("0x"), Refusal::AdoptionInvalid),
    ] {
        let refused = house.refuses(&adopts(authorization), refusal).await;
        assert_eq!(refused.payer, Some(payer().address.to_checksum(None)));
        assert_eq!(refusal.funds(), Funds::Untouched);
    }
    // A contract adopts nothing.
    house.chain.set_code(payer().address, vec![0].into());
    house.refuses(&adopts(written(&sign(tuple(0), &root()))), Refusal::AdoptionInvalid).await;
}

#[tokio::test]
async fn nothing_is_adopted_where_that_is_not_offered() {
    let quiet = Settings { sponsoring: Sponsoring::default(), ..settings() };
    let house = house_as(quiet).await;
    assert!(!house.network.extensions().contains(&"accountAdoption".to_owned()));
    house.refuses(&first(), Refusal::ManagerNotAllowed).await;
    let open = house_as(settings()).await;
    assert!(open.network.extensions().contains(&"accountAdoption".to_owned()));
    // What a server advertised and the client left alone asks for nothing.
    open.refuses(&bringing(&key(), 1, &json!({ "version": "1" })), Refusal::ManagerNotAllowed)
        .await;
}

#[tokio::test]
async fn a_node_that_simulates_without_the_code_is_not_believed() {
    let house = house().await;
    // It calls an account without code, which returns nothing and always works.
    let deaf = over_as(&house, settings(), |method, params| {
        let overridden = params.as_array().is_some_and(|params| params.len() == 3);
        match method {
            "eth_call" if overridden => Meddling::Answer(json!("0x")),
            _ => Meddling::Pass,
        }
    });
    deaf.check().await.unwrap();
    let told = deaf.verify(&first()).await;
    assert!(matches!(told, Err(Unverified::Unavailable(_))), "{told:?}");
}
