//! Adopting code for an account (EIP-7702), and operations of its root, at the facilitator's cost.

use alloy::eips::eip7702::{Authorization, SignedAuthorization};
use alloy::primitives::{Address, Bytes, U256};
use alloy::providers::Provider as _;
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use pay402_core::network::{ChainStatus, Errand, Network as _, SentAs, Unverified};
use pay402_core::refusal::Reason;
use pay402_core::{Amount, Refusal, Refused};
use pay402_devchain::genesis::{WALLET_1271, dev_signer};
use pay402_evm::account::AGENT_ACCOUNT;
use pay402_evm::network::OPERATIONS_PER_ACCOUNT_MAX_DEFAULT;
use pay402_evm::{AssetTable, EvmNetwork, Settings, Sponsoring};
use serde_json::{Map, Value, json};

use crate::agent::{self as account, Account, AgentAccount, Session, TokenLimit, seconds};
use crate::faults::{Meddling, over_as};
use crate::support::{CHAIN_ID, FACILITATOR, House, START, STRANGER, sign_with};

/// Half of the order of secp256k1, and one more.
const HIGH_S: U256 = U256::from_limbs([
    0xDFE9_2F46_681B_20A1,
    0x5D57_6E73_57A4_501D,
    0xFFFF_FFFF_FFFF_FFFF,
    0x7FFF_FFFF_FFFF_FFFF,
]);

fn settings() -> Settings {
    Settings {
        delegates: vec![AGENT_ACCOUNT],
        sponsoring: Sponsoring { adoptions: true, ..Sponsoring::default() },
        ..Settings::default()
    }
}

fn house() -> House {
    House::with(AssetTable::defaults(), settings())
}

/// A person who has no ETH.
fn root() -> PrivateKeySigner {
    account::signer("root")
}

fn account() -> Account {
    Account { chain_id: CHAIN_ID, address: root().address() }
}

pub(crate) fn tuple(nonce: u64) -> Authorization {
    Authorization { chain_id: U256::from(CHAIN_ID), address: AGENT_ACCOUNT, nonce }
}

pub(crate) fn sign(tuple: Authorization, signer: &PrivateKeySigner) -> SignedAuthorization {
    let signature = signer.sign_hash_sync(&tuple.signature_hash()).unwrap();
    tuple.into_signed(signature)
}

pub(crate) fn written(signed: &SignedAuthorization) -> Value {
    json!({
        "chainId": u64::try_from(signed.chain_id).unwrap(),
        "address": signed.address,
        "nonce": format!("{:#x}", signed.nonce),
        "yParity": signed.y_parity(),
        "r": format!("{:#066x}", signed.r()),
        "s": format!("{:#066x}", signed.s()),
    })
}

fn request(authorization: Option<Value>, call: Option<Vec<u8>>) -> Map<String, Value> {
    let mut request = json!({ "account": account().address });
    if let Some(authorization) = authorization {
        request["authorization"] = authorization;
    }
    if let Some(call) = call {
        request["call"] = json!(Bytes::from(call));
    }
    request.as_object().unwrap().clone()
}

fn adopting(nonce: u64) -> Option<Value> {
    Some(written(&sign(tuple(nonce), &root())))
}

fn session(name: &str) -> Session {
    Session {
        key: account::signer(name).address(),
        validAfter: seconds(START - 60),
        expiry: seconds(START + 86_400),
        anyPayee: true,
        payees: Vec::new(),
        tokens: vec![TokenLimit {
            token: pay402_devchain::genesis::USDC_ADDRESS,
            cap: 1,
            budget: 1,
            window: 1,
            slots: 0,
        }],
    }
}

fn registration(names: &[&str]) -> AgentAccount::registerSessionsCall {
    let sessions = names.iter().map(|name| session(name)).collect();
    account().register(&root(), sessions, 0, START + 600)
}

impl House {
    async fn checks(&self, request: &Map<String, Value>) -> Result<Option<Errand>, Refused> {
        checks(&self.network, request).await
    }

    async fn declines(&self, request: &Map<String, Value>, refusal: Refusal) -> Refused {
        let refused = self.checks(request).await.expect_err("the request was accepted");
        assert_eq!(refused.reason, Reason::Known(refusal), "{refused}");
        assert_eq!(refused.payer, Some(account().address.to_checksum(None)));
        refused
    }

    async fn errand(&self, request: &Map<String, Value>) -> Errand {
        self.checks(request).await.unwrap().expect("there is something to do")
    }

    async fn code(&self) -> Bytes {
        self.chain.provider().get_code_at(account().address).await.unwrap()
    }

    /// Sends an errand and gives what became of it.
    async fn done(&self, errand: &Errand) -> (ChainStatus, SentAs) {
        let open = self.network.status(&errand.plan, None).await.unwrap();
        assert_eq!(open, ChainStatus::Open { expired: false, displaced: false });
        let (sent, _) = self.submit(&errand.plan).await;
        let status = self.network.status(&errand.plan, Some(&sent)).await.unwrap();
        (status, sent)
    }

    async fn adopted(&self) {
        let (status, _) = self.done(&self.errand(&request(adopting(0), None)).await).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    }
}

async fn checks(
    network: &EvmNetwork,
    request: &Map<String, Value>,
) -> Result<Option<Errand>, Refused> {
    network.check_account(request).await.map_err(|error| match error {
        Unverified::Invalid(refused) => refused,
        Unverified::Unavailable(error) => panic!("{error}"),
    })
}

fn adopted_code() -> Bytes {
    [&[0xef, 0x01, 0x00], AGENT_ACCOUNT.as_slice()].concat().into()
}

fn failed_as(status: &ChainStatus, refusal: Refusal) -> bool {
    matches!(status, ChainStatus::Failed { refused, fee, .. }
        if refused.reason == Reason::Known(refusal) && *fee > Amount::ZERO)
}

#[tokio::test]
async fn an_account_without_gas_adopts_code_and_registers_a_key() {
    let house = house();
    let call = registration(&["agent", "another"]).abi_encode();
    let asked = request(adopting(0), Some(call));
    let errand = house.errand(&asked).await;
    let identified = house.network.identify_account(&asked).unwrap();
    assert_eq!((&identified.key, identified.fingerprint), (&errand.key, errand.fingerprint));
    let expected = format!("{}/adopt/{:#x}/0/", errand_network(), account().address);
    assert!(errand.key.as_str().starts_with(&expected), "{}", errand.key);
    assert_eq!(errand.daily_max, Some(OPERATIONS_PER_ACCOUNT_MAX_DEFAULT));
    assert_eq!(errand.expires.0, START + 601, "as long as the root signed for");
    let (status, sent) = house.done(&errand).await;
    assert!(
        matches!(&status, ChainStatus::Proven { transaction, fee, .. }
        if *transaction == sent.transaction && *fee > Amount::ZERO),
        "{status:?}"
    );
    assert_eq!(house.code().await, adopted_code());
    let known = AgentAccount::sessionCall { key: account::signer("agent").address() };
    assert_eq!(house.ask(known).await.state, 1);
}

fn errand_network() -> pay402_core::NetworkId {
    crate::support::network_id()
}

impl House {
    async fn ask<C: SolCall>(&self, call: C) -> C::Return {
        use alloy::rpc::types::TransactionRequest;
        let request =
            TransactionRequest::default().to(account().address).input(call.abi_encode().into());
        C::abi_decode_returns(&self.chain.provider().call(request).await.unwrap()).unwrap()
    }
}

#[tokio::test]
async fn an_adopted_account_has_its_root_obeyed() {
    let house = house();
    house.adopted().await;
    assert_eq!(house.code().await, adopted_code());
    let agent = account::signer("agent").address();
    let calls = [
        registration(&["agent"]).abi_encode(),
        account().revoke(&root(), agent, 0, START + 600).abi_encode(),
        account().revoke_all(&root(), 0, START + 600).abi_encode(),
    ];
    for call in calls {
        let errand = house.errand(&request(None, Some(call.clone()))).await;
        assert!(errand.key.as_str().contains("/operate/"), "{}", errand.key);
        let (status, _) = house.done(&errand).await;
        assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    }
    assert_eq!(house.ask(AgentAccount::epochCall {}).await, 1);
    // Adopting it once more is done already, and needs no authorization that is still good.
    assert!(house.checks(&request(adopting(0), None)).await.unwrap().is_none());
    let again = account().register(&root(), vec![session("agent")], 1, START + 600).abi_encode();
    let errand = house.errand(&request(adopting(0), Some(again))).await;
    let (status, _) = house.done(&errand).await;
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
}

#[tokio::test]
async fn nothing_is_sent_unless_it_is_offered() {
    let settings = Settings { delegates: vec![AGENT_ACCOUNT], ..Settings::default() };
    let house = House::with(AssetTable::defaults(), settings);
    house.declines(&request(adopting(0), None), Refusal::SponsoringNotOffered).await;
    let identified = house.network.identify_account(&request(adopting(0), None));
    assert!(identified.unwrap_err().reason.is(Refusal::SponsoringNotOffered));
}

#[tokio::test]
async fn an_authorization_must_be_the_accounts_for_this_chain_and_now() {
    let house = house();
    let invalid = Refusal::AdoptionInvalid;
    let with = |tuple: Authorization| request(Some(written(&sign(tuple, &root()))), None);
    for chain_id in [0, 1, CHAIN_ID + 1] {
        let other = Authorization { chain_id: U256::from(chain_id), ..tuple(0) };
        house.declines(&with(other), invalid).await;
    }
    house.declines(&with(tuple(1)), invalid).await;
    let stranger = written(&sign(tuple(0), &account::signer("stranger")));
    house.declines(&request(Some(stranger), None), invalid).await;
    let mut high = adopting(0).unwrap();
    high["s"] = json!(format!("{HIGH_S:#066x}"));
    let refused = house.declines(&request(Some(high), None), invalid).await;
    assert!(refused.message.contains("lower half"), "{refused}");
    let unknown = Authorization { address: Address::repeat_byte(0xbd), ..tuple(0) };
    let refused = house.declines(&with(unknown.clone()), Refusal::DelegateNotAllowed).await;
    assert!(refused.message.contains(&unknown.address.to_string()), "{refused}");
    house.chain.set_code(account().address, WALLET_1271.runtime_code.clone());
    house.declines(&with(tuple(0)), invalid).await;
}

#[tokio::test]
async fn the_facilitators_own_signers_adopt_nothing() {
    let house = house();
    let signer = dev_signer(FACILITATOR);
    let mut asked = request(Some(written(&sign(tuple(0), &signer))), None);
    asked.insert("account".into(), json!(signer.address()));
    let refused = house.checks(&asked).await.unwrap_err();
    assert!(refused.reason.is(Refusal::AdoptionInvalid), "{refused}");
}

#[tokio::test]
async fn only_the_roots_operations_are_sent() {
    let house = house();
    house.adopted().await;
    let asked = |call: Vec<u8>| request(None, Some(call));
    let mut trailing = registration(&["agent"]).abi_encode();
    trailing.push(0);
    let redeem = AgentAccount::redeemDelegationsCall {
        permissionContexts: Vec::new(),
        modes: Vec::new(),
        executionCallDatas: Vec::new(),
    };
    for call in [vec![1, 2, 3], vec![1, 2, 3, 4], redeem.abi_encode(), trailing] {
        house.declines(&asked(call), Refusal::OperationNotAllowed).await;
    }
    // Signed by another key, for another epoch, or too late.
    let failed = Refusal::OperationFailed;
    let stranger = account::signer("stranger");
    let forged = account().revoke_all(&stranger, 0, START + 600).abi_encode();
    house.declines(&asked(forged.clone()), failed).await;
    house.declines(&request(adopting(1), Some(forged)), failed).await;
    let other = account().revoke_all(&root(), 1, START + 600).abi_encode();
    house.declines(&asked(other), failed).await;
    let late = account().revoke_all(&root(), 0, START).abi_encode();
    house.declines(&asked(late), failed).await;
    // Done once, it fails.
    let call = registration(&["agent"]).abi_encode();
    let (status, _) = house.done(&house.errand(&asked(call.clone())).await).await;
    assert!(matches!(status, ChainStatus::Proven { .. }), "{status:?}");
    house.declines(&asked(call), failed).await;
}

#[tokio::test]
async fn an_operation_needs_an_account_with_known_code() {
    let house = house();
    let asked = request(None, Some(registration(&["agent"]).abi_encode()));
    house.declines(&asked, Refusal::AccountNotAdopted).await;
    let other = Address::repeat_byte(0xbd);
    house
        .chain
        .set_code(account().address, [&[0xef, 0x01, 0x00], other.as_slice()].concat().into());
    let refused = house.declines(&asked, Refusal::DelegateNotAllowed).await;
    assert!(refused.message.contains(&other.to_string()), "{refused}");
    // Whoever runs other code may adopt ours.
    house.adopted().await;
}

#[tokio::test]
async fn an_operation_costs_no_more_than_the_cap() {
    let settings = Settings { gas_limit_max: 150_000, ..settings() };
    let house = House::with(AssetTable::defaults(), settings);
    let call = registration(&["agent", "another", "third"]).abi_encode();
    house.declines(&request(adopting(0), Some(call)), Refusal::OperationFailed).await;
    house.adopted().await;
}

#[tokio::test]
async fn a_skipped_authorization_is_no_adoption() {
    for call in [None, Some(registration(&["agent"]).abi_encode())] {
        let house = house();
        let errand = house.errand(&request(adopting(0), call)).await;
        let (sent, raw) = sign_with(&house.network, &errand.plan).await;
        // The account's own transaction comes first: the tuple's nonce is spent.
        house.chain.set_nonce(account().address, 1);
        house.network.send(&raw).await.unwrap();
        let hash = sent.transaction.parse().unwrap();
        let receipt = house.chain.provider().get_transaction_receipt(hash).await.unwrap().unwrap();
        assert!(receipt.status(), "a skipped authorization does not make a transaction fail");
        let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
        assert!(failed_as(&status, Refusal::AdoptionNotEffective), "{status:?}");
        assert!(house.code().await.is_empty());
    }
}

#[tokio::test]
async fn a_reverted_operation_is_told_although_the_code_stays() {
    let house = house();
    let call = registration(&["agent"]).abi_encode();
    let errand = house.errand(&request(adopting(0), Some(call))).await;
    let (sent, raw) = sign_with(&house.network, &errand.plan).await;
    // Signed for until then; the transaction waited longer.
    house.time.set(pay402_core::time::UnixTime(START + 601));
    house.network.send(&raw).await.unwrap();
    let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::OperationFailed), "{status:?}");
    assert_eq!(house.code().await, adopted_code(), "a delegation survives the revert");
}

#[tokio::test]
async fn an_operation_that_somebody_else_sent_first_is_done() {
    let house = house();
    house.adopted().await;
    let registers = registration(&["agent", "another"]);
    let key = account::signer("agent").address();
    let revokes = account().revoke(&root(), key, 0, START + 600);
    let ends = account().revoke_all(&root(), 0, START + 600);
    for call in [registers.abi_encode(), revokes.abi_encode(), ends.abi_encode()] {
        let errand = house.errand(&request(None, Some(call.clone()))).await;
        let (sent, raw) = sign_with(&house.network, &errand.plan).await;
        house.transact_data(STRANGER, account().address, call).await;
        house.network.send(&raw).await.unwrap();
        let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
        // Revoking again does no harm and is ours; the others cannot be done twice.
        let ChainStatus::Proven { fee, .. } = status else { panic!("{status:?}") };
        assert!(fee > Amount::ZERO, "what ours cost is booked");
    }
    // Another policy of the same key is not it.
    let house = self::house();
    house.adopted().await;
    let errand = house.errand(&request(None, Some(registration(&["agent"]).abi_encode()))).await;
    let (sent, raw) = sign_with(&house.network, &errand.plan).await;
    let narrower = Session { expiry: seconds(START + 60), ..session("agent") };
    let call = account().register(&root(), vec![narrower], 0, START + 600);
    house.transact(STRANGER, account().address, &call).await;
    house.network.send(&raw).await.unwrap();
    let status = house.network.status(&errand.plan, Some(&sent)).await.unwrap();
    assert!(failed_as(&status, Refusal::OperationFailed), "{status:?}");
}

#[tokio::test]
async fn what_would_fail_by_now_is_not_signed() {
    let house = house();
    let call = registration(&["agent"]).abi_encode();
    let errand = house.errand(&request(adopting(0), Some(call))).await;
    house.advance_to(START + 601);
    let signer = house.network.signers().remove(0);
    let error = house.network.sign(&signer, 0, &errand.plan, None).await.unwrap_err();
    assert!(error.problem.contains("would fail"), "{error}");
    let open = house.network.status(&errand.plan, None).await.unwrap();
    assert_eq!(open, ChainStatus::Open { expired: false, displaced: false });
    house.advance_to(START + 601 + 60);
    let over = house.network.status(&errand.plan, None).await.unwrap();
    let ChainStatus::Failed { refused, fee, .. } = &over else { panic!("{over:?}") };
    assert_eq!((&refused.reason, *fee), (&Reason::Known(Refusal::OperationFailed), Amount::ZERO));
}

#[tokio::test]
async fn a_node_that_simulates_without_the_code_is_not_believed() {
    let house = house();
    // It calls an account without code, which returns nothing and always works.
    let deaf = over_as(&house, settings(), |method, params| {
        let overridden = params.as_array().is_some_and(|params| params.len() == 3);
        match method {
            "eth_call" if overridden => Meddling::Answer(json!("0x")),
            "eth_estimateGas" if overridden => Meddling::Answer(json!("0x7530")),
            _ => Meddling::Pass,
        }
    });
    let forged = account().revoke_all(&account::signer("stranger"), 0, START + 600).abi_encode();
    let told = deaf.check_account(&request(adopting(0), Some(forged.clone()))).await;
    assert!(matches!(told, Err(Unverified::Unavailable(_))), "{told:?}");
    // Of an account that has the code nothing needs to be imagined.
    house.adopted().await;
    let refused = checks(&deaf, &request(None, Some(forged))).await.unwrap_err();
    assert!(refused.reason.is(Refusal::OperationFailed), "{refused}");
}

#[test]
fn the_form_of_a_request_is_strict() {
    let house = house();
    let field = |request: Value| {
        let request = request.as_object().unwrap().clone();
        house.network.account_form(&request).expect_err("it was read").field
    };
    let me = account().address;
    let good = adopting(0).unwrap();
    let with = |key: &str, value: Value| {
        let mut authorization = good.clone();
        authorization[key] = value;
        json!({ "account": me, "authorization": authorization })
    };
    assert_eq!(field(json!({ "account": me })), "call");
    assert_eq!(field(json!({ "account": me, "call": "0x" })), "call");
    assert_eq!(field(json!({ "account": "me", "call": "0x01" })), "account");
    assert_eq!(field(json!({ "account": me, "call": "01" })), "call");
    let long = format!("0x{}", "00".repeat(pay402_evm::network::account::CALL_BYTES_MAX + 1));
    assert_eq!(field(json!({ "account": me, "call": long })), "call");
    assert_eq!(field(json!({ "account": me, "call": "0x01", "value": 1 })), "value");
    for (key, value) in [
        ("chainId", json!("84532")),
        ("chainId", json!(-1)),
        ("chainId", json!(1.5)),
        ("nonce", json!("0x10000000000000000")),
        ("yParity", json!(2)),
        ("r", json!("0x1")),
        ("s", json!(1)),
        ("address", json!("0x1")),
    ] {
        let told = field(with(key, value.clone()));
        assert_eq!(told, format!("authorization.{key}"), "{value}");
    }
}
