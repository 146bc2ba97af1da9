//! The facilitator's process dies at every edge of the roads by which it sends something that is no
//! payment, is started again, and each thing is sent exactly once: the gas and the approval of a
//! payer that has tokens and nothing else, and the adoption of an owner's account.
//!
//! Every crash has a chain, a journal and processes of its own, so that they run side by side: most
//! of the time goes by until the dead process's lease has run out.

use std::time::Duration;

use alloy::consensus::{Transaction as _, TxEnvelope, Typed2718 as _};
use alloy::eips::Decodable2718 as _;
use alloy::network::TransactionResponse as _;
use alloy::primitives::{Address, B256, U64, U256, keccak256};
use alloy::providers::{DynProvider, Provider as _};
use alloy::signers::local::PrivateKeySigner;
use pay402::stack::{CHAIN_ID, PAYEE_INDEX, SIGNER_INDEX};
use pay402_client::{AssetRule, Entropy as _, OwnerPolicy, SystemEntropy};
use pay402_core::journal::{Entry, Journal as _, Outcome, Stage};
use pay402_core::network::Network as _;
use pay402_core::payment::Digest;
use pay402_core::scheme::{ClientScheme as _, ServerScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock, UnixTime};
use pay402_core::{NetworkId, Payment, PaymentKey, Presented, Refusal, WireVersion, wire};
use pay402_devchain::genesis::{PERMIT2, dev_signer};
use pay402_devchain::{Config, Devchain, Serving, zoo};
use pay402_e2e::den::{self, ANYONE, abi};
use pay402_evm::account::state::{self, Delegate, KeyState};
use pay402_evm::account::{Adoption, AgentAccount, Payees, RootOperation, Session, TokenLimit};
use pay402_evm::address::canonical;
use pay402_evm::typed_data::EXACT_PROXY;
use pay402_evm::{ExactClient, ExactServer, Rpc, TransferMethod};
use pay402_facilitator::failpoint::Failpoint;
use pay402_store::SqliteLedger;
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use crate::process::{PATIENCE, Wiring};

/// What the payment costs, in atomic units.
const PRICE: u64 = 1_000;
/// What the payer has, in atomic units.
const FUNDS: u64 = 1_000_000;
/// The type of a transaction that carries an authorization of EIP-7702.
const EIP7702: u8 = 4;

/// Which of the three entries of a sponsored payment is the payment itself.
const PAYMENT: usize = 2;

/// A transaction on the chain: type, sender, recipient, and what it brings in wei.
type Mined = (u8, Address, Option<Address>, U256);

/// A chain and a facilitator's wiring, and an account that holds a token and no gas.
struct Yard {
    chain: Devchain,
    node: Serving,
    wiring: Wiring,
    token: Address,
    poor: PrivateKeySigner,
    /// What the facilitator's signer has at first, in wei.
    wei: U256,
    /// The last block of those that set this up.
    base: u64,
    _folder: tempfile::TempDir,
}

impl Yard {
    async fn open() -> Self {
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() });
        let token = den::deploy(&chain, zoo::PLAIN_TOKEN.creation(&[])).await;
        let poor = PrivateKeySigner::from_bytes(&keccak256("poor")).unwrap();
        let mint = abi::mintCall { to: poor.address(), amount: U256::from(FUNDS) };
        let mint = alloy::sol_types::SolCall::abi_encode(&mint).into();
        assert!(den::send(&chain, ANYONE, token.into(), mint).await.status());
        let node = chain.serve(([127, 0, 0, 1], 0).into()).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let journal = folder.path().join("journal.db");
        let wiring = Wiring::new(node.http_url(), journal).sponsoring(token);
        let wei = chain.provider().get_balance(signer()).await.unwrap();
        let base = chain.block_number();
        Self { chain, node, wiring, token, poor, wei, base, _folder: folder }
    }

    fn rpc(&self) -> Rpc {
        Rpc::provided(&id(), &self.chain.provider())
    }

    /// A payment as our own client signs it: the allowance is short and the token knows no permit,
    /// so that it brings an approval.
    async fn payment(&self) -> Payment {
        let assets = self.wiring.assets();
        let asset = assets.iter().find(|asset| asset.token() == self.token).unwrap().clone();
        let tariff = Tariff::Atomic { amount: PRICE.into(), asset: asset.info.clone() };
        let payee = dev_signer(PAYEE_INDEX).address().to_checksum(None);
        let server = ExactServer::new(assets.clone()).transferring_by(TransferMethod::Permit2);
        let offer = server.requirements(&id(), &tariff, &payee, 300).unwrap();
        let client = ExactClient::new(self.poor.clone(), assets).with_rpc(id(), self.rpc());
        let rule = AssetRule { per_payment: FUNDS.into(), total: FUNDS.into() };
        let policy = OwnerPolicy::new().asset_rule(asset.info.id.clone(), rule);
        let ledger = SqliteLedger::open_in_memory().unwrap();
        let intent = Intent {
            id: Digest([0; 32]),
            origin: "https://shop.example".into(),
            resource: "/".into(),
        };
        let quote = client.quote(&offer).unwrap();
        let (nonce, now) = (SystemEntropy.nonce().unwrap(), SystemClock.now());
        let clearance = clear(&policy, &ledger, &client, quote, intent, nonce, now).await.unwrap();
        let authorized = client.authorize(&clearance).await.unwrap();
        let advertised = Map::from_iter([("erc20ApprovalGasSponsoring".into(), json!({}))]);
        let extensions = client.extensions(&clearance, &advertised).await.into_iter();
        let presented = Presented {
            version: WireVersion::V2,
            scheme: offer.scheme.clone(),
            network: offer.network.clone(),
            accepted: Some(offer.clone()),
            payload: authorized.payload,
            resource: None,
            extensions: extensions.map(|(name, info)| (name, json!({ "info": info }))).collect(),
            other: Map::new(),
        };
        Payment::pair(offer, presented).unwrap()
    }

    fn account(&self) -> AgentAccount {
        AgentAccount { chain_id: CHAIN_ID, address: self.poor.address() }
    }

    /// A request to adopt, with a first registration of `key`.
    async fn adoption(&self, key: Address) -> Map<String, Value> {
        let now = UnixTime(self.chain.now());
        let session = Session {
            key,
            valid_after: now,
            expiry: now.plus_s(86_400),
            payees: Payees::Only(vec![dev_signer(PAYEE_INDEX).address()]),
            tokens: vec![TokenLimit {
                token: self.token,
                cap: PRICE.into(),
                budget: PRICE.into(),
                window_s: 3_600,
                slots: 0,
            }],
        };
        let deadline = now.plus_s(600);
        let register = RootOperation::register(self.account(), &[session], 0, deadline, now);
        let call = register.unwrap().sign(&self.poor).await.unwrap();
        let tuple = Adoption::new(CHAIN_ID, 0).unwrap().sign(&self.poor).await.unwrap();
        let body = json!({
            "network": id(),
            "account": self.poor.address(),
            "authorization": {
                "chainId": tuple.chain_id,
                "address": tuple.address,
                "nonce": U64::from(tuple.nonce),
                "yParity": U64::from(tuple.y_parity()),
                "r": B256::from(tuple.r()),
                "s": B256::from(tuple.s()),
            },
            "call": call,
        });
        body.as_object().unwrap().clone()
    }

    /// What was mined since this was set up, and whether all of it succeeded.
    async fn mined(&self) -> (Vec<Mined>, bool) {
        let provider = self.chain.provider();
        let (mut all, mut succeeded) = (Vec::new(), true);
        for number in self.base + 1..=self.chain.block_number() {
            let block = provider.get_block_by_number(number.into()).full().await.unwrap().unwrap();
            for transaction in block.transactions.into_transactions() {
                succeeded &= status(&provider, transaction.tx_hash()).await;
                let (to, wei) = (transaction.to(), transaction.value());
                all.push((transaction.ty(), transaction.from(), to, wei));
            }
        }
        (all, succeeded)
    }

    /// What the journal says of `keys`, in their order; the processes may be dead.
    async fn entries<const N: usize>(&self, keys: &[PaymentKey; N]) -> [Option<Entry>; N] {
        let journal = self.wiring.journal();
        let mut entries = Vec::new();
        for key in keys {
            entries.push(journal.find(key).await.unwrap());
        }
        entries.try_into().unwrap()
    }

    /// Waits until the entry is final; a process works on it.
    async fn until_final(&self, key: &PaymentKey) {
        let journal = self.wiring.journal();
        let looking = async {
            while stage(journal.find(key).await.unwrap().as_ref()) != "final" {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, looking).await.is_ok(), "{key} is not final");
    }

    /// Looks that a crash at `point` struck the entry at `index` of `keys`: those before it are
    /// final, it is as far as the point says, and those behind it are not entered.
    async fn assert_struck<const N: usize>(
        &self,
        keys: &[PaymentKey; N],
        point: Failpoint,
        index: usize,
    ) {
        let stages = self.entries(keys).await.map(|entry| stage(entry.as_ref()));
        let struck = match point {
            Failpoint::AfterEnter | Failpoint::AfterSignBeforeJournal => "due",
            Failpoint::AfterJournalBeforeSend
            | Failpoint::AfterSendBeforeSent
            | Failpoint::AfterProofBeforeClose => "signed",
            _ => "final",
        };
        for (position, stage) in stages.into_iter().enumerate() {
            let expected = match position.cmp(&index) {
                std::cmp::Ordering::Less => "final",
                std::cmp::Ordering::Equal => struck,
                std::cmp::Ordering::Greater => "none",
            };
            assert_eq!(stage, expected, "{point}, entry {index}: at entry {position}");
        }
    }

    /// Looks that the journal has all of `keys` as done and nothing else as begun, and that what it
    /// says they cost is what the signer spent. Returns their transactions.
    async fn assert_booked<const N: usize>(
        &self,
        keys: &[PaymentKey; N],
        signed: u64,
    ) -> [String; N] {
        let journal = self.wiring.journal();
        assert!(journal.unfinished(&id(), 1).await.unwrap().is_empty());
        let next = journal.next_nonce(&id(), &signer().to_checksum(None)).await.unwrap();
        assert_eq!(next, Some(signed), "nonces that the journal gave out");
        let mut spent = U256::ZERO;
        let transactions = self.entries(keys).await.map(|entry| {
            let stage = entry.map(|entry| entry.stage);
            let Some(Stage::Final(Outcome::Settled { transaction, fee, .. })) = stage else {
                panic!("not done: {stage:?}");
            };
            spent += fee.to_u256();
            transaction
        });
        let left = self.chain.provider().get_balance(signer()).await.unwrap();
        assert_eq!(self.wei - left, spent, "the signer's wei and the costs in the journal");
        transactions
    }
}

fn id() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

/// Who sends the facilitator's transactions.
fn signer() -> Address {
    dev_signer(SIGNER_INDEX).address()
}

async fn status(provider: &DynProvider, hash: B256) -> bool {
    provider.get_transaction_receipt(hash).await.unwrap().unwrap().status()
}

fn stage(entry: Option<&Entry>) -> &'static str {
    match entry.map(|entry| &entry.stage) {
        None => "none",
        Some(Stage::Due) => "due",
        // That a node has the bytes is noted when there is time for it.
        Some(Stage::Signed(_) | Stage::Sent(_)) => "signed",
        Some(Stage::Final(_)) => "final",
    }
}

async fn all_of(mut crashes: JoinSet<()>) {
    while let Some(crash) = crashes.join_next().await {
        crash.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_edge_advances_approves_and_pays_exactly_once() {
    // Three entries, of which two are errands.
    let mut crashes = JoinSet::new();
    for point in Failpoint::PLAIN {
        crashes.spawn(async move {
            for index in 0..=PAYMENT {
                sponsor_through_a_crash(point, index).await;
            }
        });
    }
    crashes.spawn(async {
        for index in 0..2 {
            sponsor_through_a_crash(Failpoint::AfterErrandBeforePayment, index).await;
        }
    });
    crashes.spawn(sponsor_through_a_crash(Failpoint::AfterCollectBeforeAnswer, PAYMENT));
    all_of(crashes).await;
}

/// A payment that waits for gas and approval, of whose three entries the one at `index` is struck.
async fn sponsor_through_a_crash(point: Failpoint, index: usize) {
    let case = format!("{point}, entry {index}");
    let yard = Yard::open().await;
    let payment = yard.payment().await;
    let approval = approval_of(&payment);
    let gas = U256::from(approval.gas_limit()) * U256::from(approval.max_fee_per_gas());
    let payer = yard.poor.address();
    let network = yard.wiring.network();
    network.check().await.unwrap();
    let keys = [
        PaymentKey::new(&id(), "advance", &canonical(&payer), "once"),
        PaymentKey::new(&id(), "approve", &canonical(&payer), &approval.tx_hash().to_string()),
        network.identify(&payment).unwrap().key,
    ];
    let body = wire::encode_facilitator_request(&payment, wire::Endpoint::Settle).to_string();

    if point == Failpoint::AfterCollectBeforeAnswer {
        // Reached only by who asks for what the dead process's caller is owed.
        yard.wiring.crash((Failpoint::AfterEnter, PAYMENT), "/settle", &body).await;
        let process = yard.wiring.start_to_die((point, 0)).await;
        yard.until_final(&keys[PAYMENT]).await;
        process.die("/settle", &body).await;
    } else {
        yard.wiring.crash((point, index), "/settle", &body).await;
    }
    yard.assert_struck(&keys, point, index).await;

    let process = yard.wiring.start().await;
    let answer = process.told("/settle", &body).await;
    // The first caller may have been told: then nobody is told again, but by the hash.
    let told = [Failpoint::AfterCloseBeforeAnswer, Failpoint::AfterCollectBeforeAnswer];
    if index == PAYMENT && told.contains(&point) {
        assert_eq!(answer["errorReason"], Refusal::DuplicateSettlement.code(), "{case}");
    } else {
        assert_eq!(answer["success"], true, "{case}: {answer}");
    }
    let again = process.ask("/settle", &body).await.unwrap();
    assert_eq!(again["errorReason"], Refusal::DuplicateSettlement.code(), "{case}");
    assert_eq!(again["transaction"], answer["transaction"], "{case}");
    process.kill().await;

    let (mined, succeeded) = yard.mined().await;
    let expected = [
        (2, signer(), Some(payer), gas),
        (2, payer, Some(yard.token), U256::ZERO),
        (2, signer(), Some(EXACT_PROXY), U256::ZERO),
    ];
    assert_eq!(mined, expected, "{case}: advance, approval, payment");
    assert!(succeeded, "{case}");
    let [_, approved, paid] = yard.assert_booked(&keys, 2).await;
    assert_eq!(approved, approval.tx_hash().to_string(), "{case}: the payer's own bytes");
    assert_eq!(answer["transaction"], paid, "{case}");
    let rpc = yard.rpc();
    for (account, tokens) in [(payer, FUNDS - PRICE), (dev_signer(PAYEE_INDEX).address(), PRICE)] {
        let has = state::balance(&rpc, yard.token, account).await.unwrap();
        assert_eq!(has, Some(U256::from(tokens)), "{case}");
    }
    yard.node.shutdown().await;
}

/// The transaction that a payment brings.
fn approval_of(payment: &Payment) -> TxEnvelope {
    let info = &payment.presented().extensions["erc20ApprovalGasSponsoring"]["info"];
    assert_eq!(info["spender"].as_str().map(str::parse), Some(Ok(PERMIT2)));
    let raw = alloy::hex::decode(info["signedTransaction"].as_str().unwrap()).unwrap();
    TxEnvelope::decode_2718_exact(&raw).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_at_any_edge_adopts_and_registers_exactly_once() {
    let mut crashes = JoinSet::new();
    for point in Failpoint::PLAIN {
        crashes.spawn(adopt_through_a_crash(point));
    }
    all_of(crashes).await;
}

async fn adopt_through_a_crash(point: Failpoint) {
    // The turn of the day is an entry too, and the first to be closed; it passes no other point.
    let closes = [Failpoint::AfterProofBeforeClose, Failpoint::AfterCloseBeforeAnswer];
    let passes = usize::from(closes.contains(&point));
    let yard = Yard::open().await;
    let agent = Address::repeat_byte(0xa9);
    let mut request = yard.adoption(agent).await;
    let body = Value::Object(request.clone()).to_string();
    request.remove("network");
    let keys = [yard.wiring.network().identify_account(&request).unwrap().key];

    yard.wiring.crash((point, passes), "/account", &body).await;
    yard.assert_struck(&keys, point, 0).await;

    let process = yard.wiring.start().await;
    let answer = process.told("/account", &body).await;
    assert_eq!(answer["success"], true, "{point}: {answer}");
    assert_eq!(process.ask("/account", &body).await.unwrap(), answer, "{point}");
    process.kill().await;

    let (mined, succeeded) = yard.mined().await;
    let account = yard.poor.address();
    assert_eq!(mined, [(EIP7702, signer(), Some(account), U256::ZERO)], "{point}");
    assert!(succeeded, "{point}");
    // An authorization that is skipped leaves a transaction that succeeds, so the account is asked.
    let standing = state::standing(&yard.rpc(), account).await.unwrap();
    assert_eq!((standing.delegate, standing.nonce), (Delegate::AgentAccount, 1), "{point}");
    let policies = state::policies(&yard.rpc(), account, 0, &[agent]).await.unwrap();
    assert_eq!(policies[0].state, KeyState::Registered, "{point}");
    let [transaction] = yard.assert_booked(&keys, 1).await;
    assert_eq!(answer["transaction"], transaction, "{point}");
    yard.node.shutdown().await;
}
