//! The promise of agent accounts: an owner whose account holds a plain ERC-20 token, and nothing to
//! pay gas with, lets an agent's key buy, within a budget that the chain keeps.

use std::sync::Arc;

use alloy::consensus::{SignableTransaction as _, TxEip7702};
use alloy::eips::Encodable2718 as _;
use alloy::network::TransactionBuilder as _;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall as _;
use axum::Router;
use axum::routing::get;
use pay402::stack::{CHAIN_ID, PAYEE_INDEX, SIGNER_INDEX, Served, serve};
use pay402_client::{
    AssetRule, Entropy as _, OwnerPolicy, PayError, PayingClient, ReceiptStatus, SystemEntropy,
    Wallet,
};
use pay402_core::facilitator::{Facilitator as _, Settled};
use pay402_core::network::Network;
use pay402_core::payment::Digest;
use pay402_core::refusal::Reason;
use pay402_core::scheme::{ClientScheme as _, Tariff};
use pay402_core::spend::{Intent, clear};
use pay402_core::time::{Clock as _, SystemClock, UnixTime};
use pay402_core::transport::http::{read_outcome, read_payment_required, write_payment};
use pay402_core::{NetworkId, Payment, Presented, Refusal, Requirements, WireVersion};
use pay402_devchain::genesis::dev_signer;
use pay402_devchain::{Config, Devchain, zoo};
use pay402_e2e::den::deploy;
use pay402_evm::account::{
    AGENT_ACCOUNT, Adoption, AgentAccount, Payees, RootOperation, Session, SessionClient,
    SignedAdoption, TokenLimit, state,
};
use pay402_evm::contracts::DelegationManager;
use pay402_evm::exact::Erc7710Payload;
use pay402_evm::{
    Asset, AssetTable, EvmNetwork, ExactServer, Peg, Rpc, Settings, Sponsoring, TransferMethod,
};
use pay402_facilitator::api::{Access, router};
use pay402_facilitator::{Engine, Options};
use pay402_server::{MemoryGrants, RemoteFacilitator, ResourceServer, Route};
use pay402_store::{SqliteJournal, SqliteLedger};
use reqwest::header::HeaderMap;
use reqwest::{Method, Request};

mod abi {
    alloy::sol! {
        function mint(address to, uint256 amount);
        function balanceOf(address account) view returns (uint256);
        function transfer(address to, uint256 value) returns (bool);
    }
}

/// What one purchase costs, in atomic units: the cap, and a third of the budget.
const PRICE: u64 = 1_000;
const FUNDS: u64 = 1_000_000;
/// A development account that relays and is otherwise nobody.
const RELAYER: usize = 6;

/// Everybody in one process: chain, facilitator, API, owner and agent.
struct Village {
    chain: Devchain,
    rpc: Rpc,
    asset: Asset,
    facilitator: Served,
    api: Served,
    owner: PrivateKeySigner,
    agent: PrivateKeySigner,
    _folder: tempfile::TempDir,
}

impl Village {
    async fn open() -> Self {
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() });
        let token = deploy(&chain, zoo::PLAIN_TOKEN.creation(&[])).await;
        let id = NetworkId::eip155(CHAIN_ID);
        let asset = Asset::erc20(&id, &token.to_string(), "PLAIN", 6, Peg::Other).unwrap();
        let assets = AssetTable::empty().with(asset.clone());
        let rpc = Rpc::provided(&id, &chain.provider());
        let settings = Settings {
            delegates: vec![AGENT_ACCOUNT],
            sponsoring: Sponsoring { adoptions: true, ..Sponsoring::default() },
            ..Settings::default()
        };
        let signers = vec![dev_signer(SIGNER_INDEX)];
        let clock = Arc::new(SystemClock);
        let network =
            EvmNetwork::new(id.clone(), rpc.clone(), signers, assets, clock.clone(), settings);
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(network.unwrap())];
        let folder = tempfile::tempdir().unwrap();
        let journal = Arc::new(SqliteJournal::open(folder.path().join("journal.db")).unwrap());
        let engine = Engine::start(networks, journal, clock, Options::default()).await.unwrap();
        let facilitator = serve(router(engine, Access::Open), 0).await.unwrap();
        let api = api(&facilitator.url, &asset).await;
        let signer = |name: &str| PrivateKeySigner::from_bytes(&keccak256(name)).unwrap();
        let (owner, agent) = (signer("owner"), signer("agent"));
        let village = Self { chain, rpc, asset, facilitator, api, owner, agent, _folder: folder };
        let mint = abi::mintCall { to: village.account(), amount: U256::from(FUNDS) };
        assert!(village.relay(token, mint.abi_encode().into()).await.status());
        village
    }

    fn account(&self) -> Address {
        self.owner.address()
    }

    fn agent_account(&self) -> AgentAccount {
        AgentAccount { chain_id: CHAIN_ID, address: self.account() }
    }

    /// What the owner grants: three purchases a day, at this one shop.
    fn session(&self, key: &PrivateKeySigner) -> Session {
        let now = UnixTime(self.chain.now());
        Session {
            key: key.address(),
            valid_after: now,
            expiry: now.plus_s(30 * 86_400),
            payees: Payees::Only(vec![dev_signer(PAYEE_INDEX).address()]),
            tokens: vec![TokenLimit {
                token: self.asset.token(),
                cap: PRICE.into(),
                budget: (3 * PRICE).into(),
                window_s: 86_400,
                slots: 0,
            }],
        }
    }

    fn grant(&self, sessions: &[Session]) -> RootOperation {
        let now = UnixTime(self.chain.now());
        RootOperation::register(self.agent_account(), sessions, 0, now.plus_s(600), now).unwrap()
    }

    async fn registration(&self, sessions: &[Session]) -> Bytes {
        self.grant(sessions).sign(&self.owner).await.unwrap()
    }

    /// The owner signs; somebody else sends it and pays the gas.
    async fn adopt(&self, sessions: &[Session]) {
        let call = self.registration(sessions).await;
        let adoption = Adoption::new(CHAIN_ID, 0).unwrap().sign(&self.owner).await.unwrap();
        let provider = self.chain.provider();
        let relayer = dev_signer(RELAYER);
        let transaction = TxEip7702 {
            chain_id: CHAIN_ID,
            nonce: provider.get_transaction_count(relayer.address()).await.unwrap(),
            gas_limit: 1_000_000,
            max_fee_per_gas: 20_000_000_000,
            to: self.account(),
            authorization_list: vec![adoption],
            input: call,
            ..TxEip7702::default()
        };
        let signature = relayer.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = transaction.into_signed(signature).encoded_2718();
        let sent = provider.send_raw_transaction(&raw).await.unwrap();
        assert!(sent.get_receipt().await.unwrap().status());
    }

    /// Sends a call from an account that has gas; it may fail.
    async fn relay(&self, to: Address, data: Bytes) -> TransactionReceipt {
        use alloy::consensus::TxEip1559;
        let (provider, relayer) = (self.chain.provider(), dev_signer(RELAYER));
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: provider.get_transaction_count(relayer.address()).await.unwrap(),
            gas_limit: 1_000_000,
            max_fee_per_gas: 20_000_000_000,
            to: TxKind::Call(to),
            input: data,
            ..TxEip1559::default()
        };
        let signature = relayer.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = transaction.into_signed(signature).encoded_2718();
        let sent = provider.send_raw_transaction(&raw).await.unwrap();
        sent.get_receipt().await.unwrap()
    }

    fn client(&self, key: &PrivateKeySigner) -> SessionClient {
        let assets = AssetTable::empty().with(self.asset.clone());
        SessionClient::new(self.account(), key.clone(), assets)
    }

    /// An agent as it should be: it asks the account, and keeps a ledger.
    fn buyer(&self, key: &PrivateKeySigner) -> PayingClient {
        let network = NetworkId::eip155(CHAIN_ID);
        self.buyer_by(self.client(key).with_rpc(network, self.rpc.clone()))
    }

    fn buyer_by(&self, scheme: SessionClient) -> PayingClient {
        let policy = self.policy();
        let ledger = Arc::new(SqliteLedger::open_in_memory().unwrap());
        let wallet = Wallet::builder(ledger).scheme(Arc::new(scheme)).policy(policy);
        PayingClient::new(wallet.build().unwrap()).unwrap()
    }

    /// The owner's rules on the agent's side allow far more than the chain does.
    fn policy(&self) -> OwnerPolicy {
        let rule = AssetRule { per_payment: FUNDS.into(), total: FUNDS.into() };
        OwnerPolicy::new().asset_rule(self.asset.info.id.clone(), rule)
    }

    fn request(&self) -> Request {
        Request::new(Method::GET, format!("{}/paid", self.api.url).parse().unwrap())
    }

    async fn offer(&self) -> Requirements {
        let answer = reqwest::get(format!("{}/paid", self.api.url)).await.unwrap();
        let headers = answer.headers().clone();
        let asked = read_payment_required(&headers, &answer.bytes().await.unwrap()).unwrap();
        asked.accepts.into_iter().next().unwrap()
    }

    /// A payment by a client that asks nobody, with a ledger of its own.
    async fn reckless(&self, key: &PrivateKeySigner) -> Presented {
        let offer = self.offer().await;
        let scheme = self.client(key).with_epoch(offer.network.clone(), 0);
        let policy = self.policy();
        let ledger = SqliteLedger::open_in_memory().unwrap();
        let intent =
            Intent { id: Digest([0; 32]), origin: self.api.url.clone(), resource: "/paid".into() };
        let quote = scheme.quote(&offer).unwrap();
        let (fresh, now) = (SystemEntropy.nonce().unwrap(), SystemClock.now());
        let clearance = clear(&policy, &ledger, &scheme, quote, intent, fresh, now).await.unwrap();
        Presented {
            version: WireVersion::V2,
            scheme: offer.scheme.clone(),
            network: offer.network.clone(),
            accepted: Some(offer),
            payload: scheme.authorize(&clearance).await.unwrap().payload,
            resource: None,
            extensions: serde_json::Map::new(),
            other: serde_json::Map::new(),
        }
    }

    /// Presents a payment to the API and expects it to be refused.
    async fn refused_at_the_shop(&self, presented: &Presented) {
        let mut headers = HeaderMap::new();
        write_payment(&mut headers, presented).unwrap();
        let url = format!("{}/paid", self.api.url);
        let answer = reqwest::Client::new().get(url).headers(headers).send().await.unwrap();
        assert_eq!(answer.status(), 402);
        let terms = presented.accepted.as_ref().unwrap();
        let outcome = read_outcome(answer.headers(), terms).unwrap();
        let Some(Settled::Refused(refused)) = outcome else { panic!("{outcome:?}") };
        let reason = Reason::Known(Refusal::DelegationSimulationFailed);
        assert_eq!(refused.reason, reason, "{refused}");
    }

    /// Asks the facilitator to settle a payment without asking whether it is good.
    async fn refused_by_the_facilitator(&self, presented: &Presented) {
        let terms = presented.accepted.clone().unwrap();
        let payment = Payment::pair(terms, presented.clone()).unwrap();
        let remote = RemoteFacilitator::new(&self.facilitator.url).unwrap();
        let settled = remote.settle(&payment).await.unwrap();
        assert!(matches!(settled, Settled::Refused(_)), "{settled:?}");
    }

    /// Has the account asked for a payment by a transaction of a stranger's, past every facilitator.
    async fn redeem(&self, presented: &Presented) -> TransactionReceipt {
        let payload = Erc7710Payload::parse(&presented.payload).unwrap();
        let terms = presented.accepted.as_ref().unwrap();
        let transfer =
            abi::transferCall { to: terms.pay_to.parse().unwrap(), value: terms.amount.to_u256() };
        let execution = [self.asset.token().as_slice(), &[0; 32], &transfer.abi_encode()].concat();
        let call = DelegationManager::redeemDelegationsCall {
            permissionContexts: vec![Bytes::copy_from_slice(payload.context.expose())],
            modes: vec![B256::ZERO],
            executionCallDatas: vec![execution.into()],
        };
        self.relay(self.account(), call.abi_encode().into()).await
    }

    async fn tokens_of(&self, account: Address) -> U256 {
        let call = abi::balanceOfCall { account }.abi_encode();
        let request = TransactionRequest::default().with_to(self.asset.token()).with_input(call);
        U256::from_be_slice(&self.chain.provider().call(request).await.unwrap())
    }

    /// What has been paid so far, as both sides' balances say; and that the owner never had gas.
    async fn assert_paid(&self, purchases: u64) {
        let paid = U256::from(purchases * PRICE);
        let payee = dev_signer(PAYEE_INDEX).address();
        assert_eq!(self.tokens_of(payee).await, paid, "the shop's tokens");
        assert_eq!(self.tokens_of(self.account()).await, U256::from(FUNDS) - paid);
        let wei = self.chain.provider().get_balance(self.account()).await.unwrap();
        assert_eq!(wei, U256::ZERO, "the owner's gas");
    }
}

async fn api(facilitator: &str, asset: &Asset) -> Served {
    let scheme = ExactServer::new(AssetTable::empty()).transferring_by(TransferMethod::Erc7710);
    let facilitator = Arc::new(RemoteFacilitator::new(facilitator).unwrap());
    let server = ResourceServer::builder(facilitator, Arc::new(MemoryGrants::default()))
        .scheme(Arc::new(scheme))
        .loopback_urls()
        .start()
        .await
        .unwrap();
    let tariff = Tariff::Atomic { amount: PRICE.into(), asset: asset.info.clone() };
    let payee = dev_signer(PAYEE_INDEX).address().to_checksum(None);
    let route = Route::priced(tariff, payee).on(format!("eip155:{CHAIN_ID}"));
    let paid = get(async || "sunny").layer(server.layer(route).unwrap());
    serve(Router::new().route("/paid", paid), 0).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_buys_three_times_with_a_plain_token_and_no_gas_and_the_chain_refuses_the_fourth()
{
    let village = Village::open().await;
    village.adopt(&[village.session(&village.agent)]).await;
    let buyer = village.buyer(&village.agent);
    for _ in 0..3 {
        let paid = buyer.execute(village.request()).await.unwrap();
        assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
        assert_eq!(paid.response.text().await.unwrap(), "sunny");
    }
    village.assert_paid(3).await;

    // Our client asks the account, and does not even sign.
    let error = buyer.execute(village.request()).await.unwrap_err();
    let PayError::Denied { denied, .. } = &error else { panic!("{error}") };
    assert_eq!((denied.rule, denied.remaining), ("session_budget", Some(0.into())), "{error}");
    // One that does not is refused by the shop, by the facilitator, and by the chain itself.
    let fourth = village.reckless(&village.agent).await;
    village.refused_at_the_shop(&fourth).await;
    village.refused_by_the_facilitator(&fourth).await;
    assert!(!village.redeem(&fourth).await.status(), "the chain made a fourth payment");
    village.assert_paid(3).await;

    // The road is open for what fits: the same call for another key is made.
    let second = PrivateKeySigner::from_bytes(&keccak256("second agent")).unwrap();
    let call = village.registration(&[village.session(&second)]).await;
    assert!(village.relay(village.account(), call).await.status());
    assert!(village.redeem(&village.reckless(&second).await).await.status());
    village.assert_paid(4).await;
}

/// The owner signs once and sends nothing: no facilitator is asked for an adoption, no transaction
/// comes before the first purchase.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_purchase_adopts_the_account_and_registers_the_key() {
    let village = Village::open().await;
    let network = NetworkId::eip155(CHAIN_ID);
    let grant = village.grant(&[village.session(&village.agent)]);
    let signed = SignedAdoption::sign(&village.owner, &network, 0, Some(&grant)).await.unwrap();
    // As it is handed to the agent: a file.
    let signed = SignedAdoption::parse(signed.to_json().as_object().unwrap()).unwrap();
    let provider = village.chain.provider();
    let sent =
        async || provider.get_transaction_count(dev_signer(SIGNER_INDEX).address()).await.unwrap();
    let client = village.client(&village.agent).with_rpc(network, village.rpc.clone());
    let buyer = village.buyer_by(client.with_adoption(signed.clone()).unwrap());
    let before = sent().await;
    for purchase in 1..=3 {
        let paid = buyer.execute(village.request()).await.unwrap();
        assert_eq!(paid.receipt.status, ReceiptStatus::Settled);
        assert_eq!(sent().await, before + purchase, "one transaction for each purchase");
        village.assert_paid(purchase).await;
    }
    let error = buyer.execute(village.request()).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("session_budget"), "{error}");
    assert!(!village.redeem(&village.reckless(&village.agent).await).await.status());
    village.assert_paid(3).await;

    // Before anything is signed the agent's own client looks at what comes along.
    let stranger = PrivateKeySigner::from_bytes(&keccak256("second agent")).unwrap();
    let client = village.client(&stranger).with_rpc(signed.network().clone(), village.rpc.clone());
    let buyer = village.buyer_by(client.with_adoption(signed).unwrap());
    let error = buyer.execute(village.request()).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("session_key"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_key_pays_nothing_from_the_next_block_on() {
    let village = Village::open().await;
    village.adopt(&[village.session(&village.agent)]).await;
    let buyer = village.buyer(&village.agent);
    buyer.execute(village.request()).await.unwrap();
    village.assert_paid(1).await;
    // Signed while the key was good.
    let [shop, chain] =
        [village.reckless(&village.agent).await, village.reckless(&village.agent).await];

    let now = UnixTime(village.chain.now());
    let key = village.agent.address();
    let revoke = RootOperation::revoke(village.agent_account(), key, 0, now.plus_s(60), now);
    let call = revoke.unwrap().sign(&village.owner).await.unwrap();
    let revoked = village.relay(village.account(), call).await;
    assert!(revoked.status());
    let policies = state::policies(&village.rpc, village.account(), 0, &[key]).await.unwrap();
    assert_eq!(policies[0].state, state::KeyState::Revoked);

    let late = village.redeem(&chain).await;
    assert_eq!(late.block_number, revoked.block_number.map(|number| number + 1));
    assert!(!late.status(), "a revoked key paid");
    village.refused_at_the_shop(&shop).await;
    let error = buyer.execute(village.request()).await.unwrap_err();
    assert_eq!(error.denied().map(|denied| denied.rule), Some("session_key"), "{error}");
    village.assert_paid(1).await;
}
