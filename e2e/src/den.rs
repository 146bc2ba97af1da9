//! A den: all roles on the embedded chain, where a token or an account may mean ill.
//!
//! Somebody presents a payment at a route behind a gate, and interferes at a moment of their choice.
//! What came of it is read from the chain: what left the gate, what the signer spent.
//!
//! **Oracle:** [`Den::audit`]. What the payee received is what was granted; what the signer spent is
//! what the journal says it cost; and only what the journal has as settled was delivered.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEip7702, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync as _;
use alloy::sol_types::{SolCall, SolValue as _};
use axum::Extension;
use axum::Router;
use axum::routing::get;
use pay402::stack::{self, CHAIN_ID, SIGNER_INDEX, Served};
use pay402_core::facilitator::Facilitator;
use pay402_core::grants::{GrantState, Grants as _};
use pay402_core::journal::{Journal as _, Outcome, Stage};
use pay402_core::network::Network;
use pay402_core::scheme::Tariff;
use pay402_core::time::SystemClock;
use pay402_core::transport::http::{read_outcome, read_payment_required, write_payment};
use pay402_core::{NetworkId, Payment, PaymentKey, Presented, Requirements, Scheme, WireVersion};
use pay402_devchain::genesis::{
    DEV_ACCOUNTS, PERMIT2, USDC_ADDRESS, WALLET_1271, dev_signer, usdc_balance_slot,
};
use pay402_devchain::{Config, Devchain};
use pay402_evm::audit::{self, Scope, Standing};
use pay402_evm::exact::{Eip3009Payload, Permit2Payload};
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::{Authorization, PermitTransfer, token_domain};
use pay402_evm::{
    Asset, AssetTable, EvmNetwork, ExactServer, Rpc, Settings, TransferMethod, UptoServer,
};
use pay402_facilitator::{Engine, Options};
use pay402_server::{Charge, ResourceServer, Route};
use pay402_store::{SqliteGrants, SqliteJournal};
use reqwest::header::HeaderMap;
use serde_json::{Map, Value};
use tempfile::TempDir;

/// What each route costs, or costs at most, in atomic units.
pub const PRICE: u64 = 1_000;
/// Stands in every answer that is paid for, and in no other.
pub const CONTENT: &str = "what was paid for";
/// Most gas that a settlement may use in the den.
pub const GAS_LIMIT_MAX: u64 = 600_000;
/// The development accounts by role.
pub const PAYER: usize = 1;
/// Who is paid.
pub const PAYEE: usize = 2;
/// Who deploys, and does what anyone may.
pub const ANYONE: usize = 7;
/// Longest wait for anything in the den.
const PATIENCE: Duration = Duration::from_secs(30);
/// A tip that comes before everybody else's, in wei per gas.
const FIRST_TIP: u128 = 100_000_000_000;
/// The token's slot of allowances.
const USDC_ALLOWANCES_SLOT: U256 = U256::from_limbs([3, 0, 0, 0]);
const ERC6492_MAGIC: [u8; 32] = [
    0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92,
    0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92, 0x64, 0x92,
];

/// What is called in the den.
pub mod abi {
    #![allow(missing_docs)] // `sol!` writes no docs
    alloy::sol! {
        function mint(address to, uint256 amount);
        function approve(address spender, uint256 value) returns (bool);
        function balanceOf(address account) view returns (uint256);
        function execute(address target, uint256 value, bytes data) payable;
        function deploy(address owner, bytes32 salt) returns (address wallet);
        function rebase(uint256 newIndex);
        function setRefusing(bool value);
        function setPaused(bool value);
        function setBlacklisted(address account, bool value);
        function setGasToBurn(uint256 amount);
        function setAnswerBytes(uint256 length);
        function setCallback(address newTarget, bytes newData);
        function setFlipsAt(uint256 firstRefusingBlock);
        function setRefusal(bytes newRefusal);
    }
}

/// Which token is paid with, and how.
#[derive(Clone, Debug)]
pub enum Token {
    /// The USDC-like one of the embedded chain.
    Usdc(TransferMethod),
    /// Deployed from this creation code; by Permit2.
    Erc20(Bytes),
    /// Deployed from this creation code; by EIP-3009 under this domain.
    Eip3009(Bytes, &'static str, &'static str),
}

/// Who pays.
#[derive(Clone, Debug)]
pub enum Payer {
    /// A key.
    Key(usize),
    /// A contract, for which a key signs.
    Contract(Address, usize),
    /// A wallet that a factory makes when it is called with this.
    Undeployed {
        /// Where it will be.
        address: Address,
        /// The factory.
        factory: Address,
        /// What it is called with.
        calldata: Bytes,
        /// Whose key signs.
        owner: usize,
    },
}

impl Payer {
    /// The account.
    pub fn address(&self) -> Address {
        match self {
            Self::Key(index) => DEV_ACCOUNTS[*index],
            Self::Contract(address, _) | Self::Undeployed { address, .. } => *address,
        }
    }

    fn sign(&self, digest: &B256) -> SignatureBytes {
        let by = |index: usize| {
            dev_signer(index).sign_hash_sync(digest).expect("a key").as_bytes().to_vec()
        };
        SignatureBytes::new(match self {
            Self::Key(index) | Self::Contract(_, index) => by(*index),
            Self::Undeployed { factory, calldata, owner, .. } => {
                let fields = (*factory, calldata.clone(), Bytes::from(by(*owner)));
                [&fields.abi_encode_params()[..], &ERC6492_MAGIC].concat()
            }
        })
    }
}

/// When somebody interferes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum When {
    /// Before the payment is presented.
    Before,
    /// While the handler runs: verified, not settled.
    InHandler,
    /// When the settlement waits in the pool, by transactions that come first.
    InPool,
}

impl When {
    /// Every moment.
    pub const ALL: [Self; 3] = [Self::Before, Self::InHandler, Self::InPool];
}

/// A call that interferes, by [`ANYONE`].
#[derive(Clone, Debug)]
pub struct Meddling {
    target: Address,
    data: Bytes,
}

impl Meddling {
    /// A call of `target`.
    pub fn new<C: SolCall>(target: Address, call: &C) -> Self {
        Self { target, data: call.abi_encode().into() }
    }
}

/// What came of one payment.
#[derive(Clone, Debug)]
pub struct Attempt {
    /// The HTTP status.
    pub status: u16,
    /// The reason code of the outcome, if it was refused.
    pub reason: Option<String>,
    /// Whether the content left the gate.
    pub granted: bool,
    /// Whether the handler ran.
    pub ran: bool,
    /// Transactions of the signer that were mined.
    pub transactions: u64,
    /// The gas that they used.
    pub gas: u64,
}

/// What was compared and found equal.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Audit {
    /// Payments that were delivered.
    pub granted: u64,
    /// What the payee received, in atomic units.
    pub received: U256,
    /// What the signer spent, in wei.
    pub spent: U256,
}

type Hook = Box<dyn FnOnce() -> tokio::task::JoinHandle<()> + Send>;

/// What the handlers of the den share.
#[derive(Default)]
struct Handler {
    runs: AtomicUsize,
    charge: AtomicU64,
    hook: Mutex<Option<Hook>>,
}

impl Handler {
    async fn run(&self) -> &'static str {
        self.runs.fetch_add(1, Ordering::SeqCst);
        let hook = self.hook.lock().expect("no panic").take();
        if let Some(hook) = hook {
            hook().await.expect("the hook ends");
        }
        CONTENT
    }
}

/// All roles, with one token.
pub struct Den {
    /// The chain.
    pub chain: Devchain,
    /// The token that is paid with.
    pub asset: Asset,
    /// The facilitator.
    pub engine: Engine,
    network: Arc<EvmNetwork>,
    journal: Arc<SqliteJournal>,
    grants: Arc<SqliteGrants>,
    api: Served,
    handler: Arc<Handler>,
    presented: Mutex<Vec<PaymentKey>>,
    start: (U256, U256),
    _folder: TempDir,
}

impl Den {
    /// A den with this token, where these factories may be called.
    pub async fn start(token: Token, factories: Vec<Address>) -> Self {
        let chain = Devchain::start(Config { chain_id: CHAIN_ID, ..Config::default() });
        Self::on(chain, token, factories, Options { strikes_max: 1_000, ..Options::default() })
            .await
    }

    /// As [`Den::start`], on a chain where something was done before, with these options.
    pub async fn on(
        chain: Devchain,
        token: Token,
        factories: Vec<Address>,
        options: Options,
    ) -> Self {
        let (asset, method) = asset(&chain, token).await;
        let assets = AssetTable::defaults().with(asset.clone());
        let id = NetworkId::eip155(CHAIN_ID);
        let settings = Settings { factories, gas_limit_max: GAS_LIMIT_MAX, ..Settings::default() };
        let network = EvmNetwork::new(
            id.clone(),
            Rpc::provided(&id, &chain.provider()),
            vec![dev_signer(SIGNER_INDEX)],
            assets.clone(),
            Arc::new(SystemClock),
            settings,
        );
        let network = Arc::new(network.expect("a network"));
        let folder = tempfile::tempdir().expect("a temporary folder");
        let open = |name: &str| folder.path().join(name);
        let journal = Arc::new(SqliteJournal::open(open("journal.db")).expect("a journal"));
        let grants = Arc::new(SqliteGrants::open(open("grants.db")).expect("claims"));
        let networks: Vec<Arc<dyn Network>> = vec![network.clone()];
        let clock = Arc::new(SystemClock);
        let engine = Engine::start(networks, journal.clone(), clock, options).await;
        let engine = engine.expect("the facilitator starts");
        let handler = Arc::new(Handler::default());
        handler.charge.store(PRICE, Ordering::SeqCst);
        let api = api(&engine, &grants, assets, method, &asset, &handler).await;
        let mut den = Self {
            chain,
            asset,
            engine,
            network,
            journal,
            grants,
            api,
            handler,
            presented: Mutex::default(),
            start: (U256::ZERO, U256::ZERO),
            _folder: folder,
        };
        den.start = (den.signers_wei().await, den.tokens_of(DEV_ACCOUNTS[PAYEE]).await);
        den
    }

    /// What the metered route charges from now on.
    pub fn charge(&self, amount: u64) {
        self.handler.charge.store(amount, Ordering::SeqCst);
    }

    /// A transaction of a development account; it may fail.
    pub async fn send(&self, from: usize, to: TxKind, data: Bytes) -> TransactionReceipt {
        send(&self.chain, from, to, data).await
    }

    /// Deploys a contract.
    pub async fn deploy(&self, creation: Bytes) -> Address {
        deploy(&self.chain, creation).await
    }

    /// Tells a contract something, as anyone may.
    pub async fn tell<C: SolCall>(&self, target: Address, call: &C) {
        assert!(self.send(ANYONE, target.into(), call.abi_encode().into()).await.status());
    }

    /// Gives a payer tokens, and Permit2 leave to move them.
    pub async fn fund(&self, payer: &Payer) {
        let (token, account) = (self.asset.token(), payer.address());
        let amount = U256::from(1_000_000);
        if token == USDC_ADDRESS {
            self.chain.set_storage(token, usdc_balance_slot(account), amount);
            let of = |key: Address, slot: U256| {
                U256::from_be_bytes(keccak256((key, slot).abi_encode()).0)
            };
            let slot = of(PERMIT2, of(account, USDC_ALLOWANCES_SLOT));
            self.chain.set_storage(token, slot, U256::MAX);
            return;
        }
        self.tell(token, &abi::mintCall { to: account, amount }).await;
        let approve = abi::approveCall { spender: PERMIT2, value: U256::MAX }.abi_encode();
        let Payer::Key(index) = payer else { panic!("only keys pay with this token") };
        assert!(self.send(*index, token.into(), approve.into()).await.status());
    }

    /// Lets a key's account delegate (EIP-7702), by a real transaction.
    pub async fn delegate(&self, account: usize, code: Address) {
        let raw = delegation(&self.chain, account, code, 1_000_000_000).await;
        let provider = self.chain.provider();
        let sent = provider.send_raw_transaction(&raw).await.expect("a good transaction");
        assert!(sent.get_receipt().await.expect("mined").status());
    }

    /// A payment for `/exact` or `/upto`, signed and never presented.
    pub async fn payment(&self, path: &str, payer: &Payer) -> Presented {
        let answer = reqwest::get(format!("{}{path}", self.api.url)).await.expect("an answer");
        let headers = answer.headers().clone();
        let body = answer.bytes().await.expect("a body");
        let asked = read_payment_required(&headers, &body).expect("a 402");
        let offer = asked.accepts.into_iter().next().expect("an offer");
        Presented {
            version: WireVersion::V2,
            scheme: offer.scheme.clone(),
            network: offer.network.clone(),
            payload: self.payload(&offer, payer),
            accepted: Some(offer),
            resource: Some(asked.resource),
            extensions: Map::new(),
            other: Map::new(),
        }
    }

    fn payload(&self, offer: &Requirements, payer: &Payer) -> Map<String, Value> {
        static NONCES: AtomicU64 = AtomicU64::new(1);
        let nonce = keccak256(NONCES.fetch_add(1, Ordering::SeqCst).to_be_bytes());
        let ends = U256::from(self.chain.now() + offer.max_timeout_seconds);
        let to = offer.pay_to.parse().expect("an address");
        let (from, value) = (payer.address(), offer.amount.to_u256());
        if offer.extra_str("assetTransferMethod") == Some("permit2") {
            let facilitator = offer.extra_str("facilitatorAddress");
            let permit = PermitTransfer {
                from,
                token: self.asset.token(),
                permitted: value,
                nonce: nonce.into(),
                deadline: ends,
                to,
                valid_after: U256::ZERO,
                facilitator: facilitator.map(|text| text.parse().expect("an address")),
            };
            let signature = payer.sign(&permit.digest(CHAIN_ID));
            return Permit2Payload { permit, spender: permit.spender(), signature }.to_json();
        }
        let authorization =
            Authorization { from, to, value, valid_after: U256::ZERO, valid_before: ends, nonce };
        let domain = token_domain(&self.asset.info, CHAIN_ID, self.asset.token());
        let signature = payer.sign(&authorization.digest(&domain));
        Eip3009Payload { authorization, signature }.to_json()
    }

    /// Presents a payment to the route that it is for while somebody meddles, and waits until the
    /// facilitator is done with it.
    pub async fn present(
        &self,
        presented: &Presented,
        when: When,
        meddling: &[Meddling],
    ) -> Attempt {
        self.remember(presented);
        let before = (self.handler.runs.load(Ordering::SeqCst), self.chain.block_number());
        let helper = self.meddle(when, meddling).await;
        let path = if presented.scheme == Scheme::UPTO { "/upto" } else { "/exact" };
        let mut headers = HeaderMap::new();
        write_payment(&mut headers, presented).expect("it can be written");
        let request = reqwest::Client::new().get(format!("{}{path}", self.api.url));
        let answer = request.headers(headers).send().await.expect("an answer");
        if let Some(helper) = helper {
            helper.abort();
            self.chain.release_mempool();
        }
        let status = answer.status().as_u16();
        let terms = presented.accepted.clone().expect("version 2");
        let outcome = read_outcome(answer.headers(), &terms).ok().flatten();
        let reason = match outcome {
            Some(pay402_core::facilitator::Settled::Refused(refused)) => {
                Some(refused.reason.code().to_owned())
            }
            _ => None,
        };
        let body = answer.text().await.expect("a body");
        self.idle().await;
        let (transactions, gas) = self.signers_gas_since(before.1).await;
        Attempt {
            status,
            reason,
            granted: body.contains(CONTENT),
            ran: self.handler.runs.load(Ordering::SeqCst) > before.0,
            transactions,
            gas,
        }
    }

    fn remember(&self, presented: &Presented) {
        let terms = presented.accepted.clone().expect("version 2");
        let payment = Payment::pair(terms, presented.clone()).expect("our own offer");
        if let Ok(identified) = self.network.identify(&payment) {
            let mut keys = self.presented.lock().expect("no panic");
            if !keys.contains(&identified.key) {
                keys.push(identified.key);
            }
        }
    }

    /// Does it now, or has it done at its moment. The helper is to be ended when all is over.
    async fn meddle(
        &self,
        when: When,
        meddling: &[Meddling],
    ) -> Option<tokio::task::JoinHandle<()>> {
        let (chain, calls) = (self.chain.clone(), meddling.to_vec());
        match when {
            When::Before => {
                for Meddling { target, data } in calls {
                    assert!(send(&chain, ANYONE, target.into(), data).await.status());
                }
                None
            }
            When::InHandler => {
                let hook: Hook = Box::new(move || {
                    tokio::spawn(async move {
                        for Meddling { target, data } in calls {
                            assert!(send(&chain, ANYONE, target.into(), data).await.status());
                        }
                    })
                });
                *self.handler.hook.lock().expect("no panic") = Some(hook);
                None
            }
            When::InPool => {
                chain.hold_mempool();
                Some(tokio::spawn(async move {
                    while chain.pending_transactions().is_empty() {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                    let mut nonce = nonce_of(&chain, ANYONE).await;
                    for Meddling { target, data } in calls {
                        let raw = signed(ANYONE, nonce, target.into(), data, FIRST_TIP);
                        let sent = chain.provider().send_raw_transaction(&raw).await;
                        drop(sent.expect("a good transaction"));
                        nonce += 1;
                    }
                    chain.release_mempool();
                }))
            }
        }
    }

    /// Waits until the facilitator has nothing unfinished.
    async fn idle(&self) {
        let idle = async {
            while self.engine.health().iter().any(|network| network.unfinished > 0) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(PATIENCE, idle).await.expect("the facilitator finishes");
    }

    async fn signers_gas_since(&self, block: u64) -> (u64, u64) {
        let provider = self.chain.provider();
        let (mut count, mut gas) = (0, 0);
        for number in block + 1..=self.chain.block_number() {
            let receipts = provider.get_block_receipts(number.into()).await;
            for receipt in receipts.expect("an answer").into_iter().flatten() {
                if receipt.from == DEV_ACCOUNTS[SIGNER_INDEX] {
                    count += 1;
                    gas += receipt.gas_used;
                }
            }
        }
        (count, gas)
    }

    async fn signers_wei(&self) -> U256 {
        self.chain.provider().get_balance(DEV_ACCOUNTS[SIGNER_INDEX]).await.expect("an answer")
    }

    /// What an account has of the token.
    pub async fn tokens_of(&self, account: Address) -> U256 {
        let call = abi::balanceOfCall { account }.abi_encode();
        let request =
            TransactionRequest::default().to(self.asset.token()).input(Bytes::from(call).into());
        let word = self.chain.provider().call(request).await.expect("an answer");
        U256::from_be_slice(&word)
    }

    /// Compares the books with the chain, over every payment that was presented.
    ///
    /// # Panics
    /// When they differ.
    pub async fn audit(&self) -> Audit {
        let (granted, due, spent) = self.assert_fees().await;
        let received = self.tokens_of(DEV_ACCOUNTS[PAYEE]).await - self.start.1;
        assert_eq!(received, due, "what was received and what was delivered");
        Audit { granted, received, spent }
    }

    /// As [`Den::audit`], but for what the payee received, for tokens that do not move what they are
    /// told to. Gives how many payments were delivered, for how much, and what the signer spent.
    ///
    /// # Panics
    /// When they differ.
    pub async fn assert_fees(&self) -> (u64, U256, U256) {
        let (mut granted, mut due, mut fees) = (0, U256::ZERO, U256::ZERO);
        let keys = self.presented.lock().expect("no panic").clone();
        for key in keys {
            let entry = self.journal.find(&key).await.expect("the journal answers");
            let state = self.grants.state(&key).await.expect("the claims answer");
            let delivered = matches!(state, Some(GrantState::Delivered { .. }));
            let Some(entry) = entry else {
                assert!(!delivered, "{key} was delivered and never settled");
                continue;
            };
            let Stage::Final(outcome) = &entry.stage else {
                panic!("{key} is not finished: {:?}", entry.stage)
            };
            let (settled, fee) = match outcome {
                Outcome::Settled { fee, .. } => (true, fee),
                Outcome::Failed { fee, .. } | Outcome::Reverted { fee, .. } => (false, fee),
            };
            fees += fee.to_u256();
            assert_eq!(settled, delivered, "{key}: {outcome:?}, {state:?}");
            if delivered {
                granted += 1;
                due += entry.new.amount.to_u256();
            }
        }
        let spent = self.start.0 - self.signers_wei().await;
        assert_eq!(spent, fees, "the signer's wei and the fees in the journal");
        self.assert_proven().await;
        (granted, due, spent)
    }
}

impl Den {
    /// Asserts that the chain proves the journal, as `pay402 reconcile` has it.
    async fn assert_proven(&self) {
        let id = NetworkId::eip155(CHAIN_ID);
        let rpc = Rpc::provided(&id, &self.chain.provider());
        let assets = AssetTable::defaults().with(self.asset.clone());
        let begun = audit::Audit::begin(id.clone(), rpc, assets).await;
        let mut audit = begun.expect("the node answers");
        audit.add(self.journal.books(&id, 0, usize::MAX).await.expect("the journal answers"));
        let audited = audit.finish(&Scope::default()).await.expect("the node answers");
        assert_eq!(audited.standing(), Standing::Proven, "{audited:#?}");
        assert_eq!((audited.open, audited.booked), (0, audited.spent), "{audited:#?}");
    }
}

/// The token, and by which method it is paid.
async fn asset(chain: &Devchain, token: Token) -> (Asset, TransferMethod) {
    let network = NetworkId::eip155(CHAIN_ID);
    let peg = pay402_evm::Peg::Other;
    match token {
        Token::Usdc(method) => {
            let usdc = AssetTable::defaults().default_dollar(&network).expect("USDC").clone();
            (usdc, method)
        }
        Token::Erc20(creation) => {
            let address = deploy(chain, creation).await.to_checksum(None);
            let asset = Asset::erc20(&network, &address, "ZOO", 6, peg).expect("an address");
            (asset, TransferMethod::Permit2)
        }
        Token::Eip3009(creation, name, version) => {
            let address = deploy(chain, creation).await.to_checksum(None);
            let asset = Asset::eip3009(&network, &address, "ZOO", 6, (name, version), peg);
            (asset.expect("an address"), TransferMethod::Eip3009)
        }
    }
}

/// `/exact`, and `/upto` where the handler charges what it was told.
async fn api(
    engine: &Engine,
    grants: &Arc<SqliteGrants>,
    assets: AssetTable,
    method: TransferMethod,
    asset: &Asset,
    handler: &Arc<Handler>,
) -> Served {
    let facilitator: Arc<dyn Facilitator> = Arc::new(engine.clone());
    let server = ResourceServer::builder(facilitator, grants.clone())
        .scheme(Arc::new(ExactServer::new(assets.clone()).transferring_by(method)))
        .scheme(Arc::new(UptoServer::new(assets)))
        .loopback_urls()
        .start()
        .await
        .expect("the facilitator answers");
    let tariff = Tariff::Atomic { amount: PRICE.into(), asset: asset.info.clone() };
    let route = Route::priced(tariff, DEV_ACCOUNTS[PAYEE].to_checksum(None)).on(asset
        .info
        .id
        .network
        .as_str());
    let shared = handler.clone();
    let exact = async move || shared.run().await;
    let shared = handler.clone();
    let upto = async move || {
        let charge = Charge::atomic(shared.charge.load(Ordering::SeqCst).into());
        (Extension(charge), shared.run().await)
    };
    let app = Router::new()
        .route("/exact", get(exact).layer(server.layer(route.clone()).expect("a route")))
        .route("/upto", get(upto).layer(server.layer(route.metered()).expect("a route")));
    stack::serve(app, 0).await.expect("a free port")
}

async fn nonce_of(chain: &Devchain, index: usize) -> u64 {
    let count = chain.provider().get_transaction_count(DEV_ACCOUNTS[index]).await;
    count.expect("an answer")
}

fn signed(from: usize, nonce: u64, to: TxKind, input: Bytes, tip: u128) -> Vec<u8> {
    let transaction = TxEip1559 {
        chain_id: CHAIN_ID,
        nonce,
        gas_limit: 5_000_000,
        max_fee_per_gas: tip + 20_000_000_000,
        max_priority_fee_per_gas: tip,
        to,
        input,
        ..TxEip1559::default()
    };
    let signature = dev_signer(from).sign_hash_sync(&transaction.signature_hash()).expect("a key");
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

/// A transaction of a development account; it may fail.
pub async fn send(chain: &Devchain, from: usize, to: TxKind, data: Bytes) -> TransactionReceipt {
    let raw = signed(from, nonce_of(chain, from).await, to, data, 1_000_000_000);
    let sent = chain.provider().send_raw_transaction(&raw).await.expect("a good transaction");
    sent.get_receipt().await.expect("mined")
}

/// Deploys a contract, by [`ANYONE`].
pub async fn deploy(chain: &Devchain, creation: Bytes) -> Address {
    let receipt = send(chain, ANYONE, TxKind::Create, creation).await;
    assert!(receipt.status(), "not deployed");
    receipt.contract_address.expect("a contract")
}

/// A transaction by which an account delegates itself (EIP-7702); [`ANYONE`] pays for it.
async fn delegation(chain: &Devchain, account: usize, code: Address, tip: u128) -> Vec<u8> {
    let delegation = Delegation {
        chain_id: U256::from(CHAIN_ID),
        address: code,
        nonce: nonce_of(chain, account).await,
    };
    let by = dev_signer(account).sign_hash_sync(&delegation.signature_hash()).expect("a key");
    let transaction = TxEip7702 {
        chain_id: CHAIN_ID,
        nonce: nonce_of(chain, ANYONE).await,
        gas_limit: 200_000,
        max_fee_per_gas: tip + 20_000_000_000,
        max_priority_fee_per_gas: tip,
        to: DEV_ACCOUNTS[ANYONE],
        authorization_list: vec![delegation.into_signed(by)],
        ..TxEip7702::default()
    };
    let signature =
        dev_signer(ANYONE).sign_hash_sync(&transaction.signature_hash()).expect("a key");
    TxEnvelope::from(transaction.into_signed(signature)).encoded_2718()
}

/// A wallet of a key's that `factory`, one of the zoo's, makes.
pub fn counterfactual(factory: Address, owner: usize) -> Payer {
    let salt = B256::repeat_byte(0x5a);
    let code = WALLET_1271.creation(&DEV_ACCOUNTS[owner].abi_encode());
    Payer::Undeployed {
        address: factory.create2(salt, keccak256(code)),
        factory,
        calldata: abi::deployCall { owner: DEV_ACCOUNTS[owner], salt }.abi_encode().into(),
        owner,
    }
}
