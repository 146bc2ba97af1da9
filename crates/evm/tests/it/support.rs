//! A chain, a facilitator's network on it, and payments to try on them. Time stands until a test
//! moves it.

use std::sync::Arc;

use alloy::primitives::{Address, B256, Bytes, U256};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::SolCall;
use pay402_core::network::{Network as _, Part, SecretBytes, SentAs, Unverified, Verified};
use pay402_core::refusal::Reason;
use pay402_core::scheme::{ServerScheme as _, Tariff};
use pay402_core::time::{Clock as _, ManualClock, UnixTime};
use pay402_core::{
    NetworkId, Payment, Presented, Refusal, Refused, Requirements, Scheme, WireVersion,
};
use pay402_devchain::genesis::{
    MULTICALL3, USDC_ADDRESS, WALLET_1271, dev_signer, usdc_balance_slot,
};
use pay402_devchain::{Config, Devchain};
use pay402_evm::contracts::Eip3009;
use pay402_evm::exact::Eip3009Payload;
use pay402_evm::signature::SignatureBytes;
use pay402_evm::typed_data::{Authorization, token_domain};
use pay402_evm::{Asset, AssetTable, EvmNetwork, ExactServer, Rpc, Settings};
use serde_json::{Map, Value};

/// When the tests' chain begins.
pub(crate) const START: u64 = 1_795_000_000;
/// The chain id of Base Sepolia, whose USDC the embedded chain imitates.
pub(crate) const CHAIN_ID: u64 = 84_532;
/// Development accounts by role.
pub(crate) const FACILITATOR: usize = 0;
pub(crate) const PAYER: usize = 1;
pub(crate) const STRANGER: usize = 5;
pub(crate) const TOKEN_OWNER: usize = 8;
pub(crate) const PENNILESS: usize = 9;
/// Who is paid.
pub(crate) const PAY_TO: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";

pub(crate) mod token {
    alloy::sol! {
        function pause();
        function blacklist(address account);
        function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature);
        function balanceOf(address account) view returns (uint256);
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate3(Call3[] calls) payable returns (Result[]);
        struct CancelAuthorization { address authorizer; bytes32 nonce; }
    }
}

pub(crate) fn network_id() -> NetworkId {
    NetworkId::eip155(CHAIN_ID)
}

pub(crate) fn usdc() -> Asset {
    AssetTable::defaults().default_dollar(&network_id()).unwrap().clone()
}

/// A chain and a facilitator's network on it.
pub(crate) struct House {
    pub(crate) chain: Devchain,
    pub(crate) time: Arc<ManualClock>,
    pub(crate) network: EvmNetwork,
}

impl House {
    pub(crate) fn new() -> Self {
        Self::with(AssetTable::defaults(), Settings::default())
    }

    pub(crate) fn with(assets: AssetTable, settings: Settings) -> Self {
        let time = Arc::new(ManualClock::new(UnixTime(START)));
        let ticking = time.clone();
        let chain = Devchain::start(Config {
            chain_id: CHAIN_ID,
            clock: Arc::new(move || ticking.now().0),
            ..Config::default()
        });
        let network = network_on(&chain, &time, FACILITATOR, assets, settings).unwrap();
        Self { chain, time, network }
    }

    /// The network as another facilitator would have it.
    pub(crate) fn rival(&self) -> EvmNetwork {
        let assets = AssetTable::defaults();
        network_on(&self.chain, &self.time, STRANGER, assets, Settings::default()).unwrap()
    }

    /// Moves time to `time` and makes a block of that time.
    pub(crate) fn advance_to(&self, time: u64) {
        self.time.set(UnixTime(time));
        self.chain.mine(1);
    }

    pub(crate) async fn verify(&self, payment: &Payment) -> Result<Verified, Refused> {
        self.network.verify(payment).await.map_err(|error| match error {
            Unverified::Invalid(refused) => refused,
            Unverified::Unavailable(error) => panic!("{error}"),
        })
    }

    /// Verifies and expects `refusal`; gives the message.
    pub(crate) async fn refuses(&self, payment: &Payment, refusal: Refusal) -> Refused {
        let refused = self.verify(payment).await.expect_err("the payment was accepted");
        assert_eq!(refused.reason, Reason::Known(refusal), "{refused}");
        refused
    }

    /// Signs the settlement and hands it to the chain.
    pub(crate) async fn submit(&self, plan: &SecretBytes) -> (SentAs, SecretBytes) {
        let (sent, raw) = sign_with(&self.network, plan).await;
        self.network.send(&raw).await.unwrap();
        (sent, raw)
    }

    /// Runs a transaction of a development account.
    pub(crate) async fn transact<C: SolCall>(&self, from: usize, to: Address, call: &C) {
        self.transact_data(from, to, call.abi_encode()).await;
    }

    /// Runs a transaction of a development account.
    pub(crate) async fn transact_data(&self, from: usize, to: Address, data: Vec<u8>) {
        use alloy::consensus::{SignableTransaction as _, TxEip1559};
        use alloy::eips::Encodable2718 as _;
        use alloy::providers::Provider as _;
        let provider = self.chain.provider();
        let signer = dev_signer(from);
        let nonce = provider.get_transaction_count(signer.address()).await.unwrap();
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce,
            gas_limit: 500_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: to.into(),
            input: data.into(),
            ..TxEip1559::default()
        };
        let signature = signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
        let raw = transaction.into_signed(signature).encoded_2718();
        let receipt =
            provider.send_raw_transaction(&raw).await.unwrap().get_receipt().await.unwrap();
        assert!(receipt.status());
    }

    /// The payer cancels an authorization.
    pub(crate) async fn cancel(&self, payer: usize, nonce: B256) {
        use alloy::sol_types::SolStruct as _;
        let authorizer = dev_signer(payer).address();
        let message = token::CancelAuthorization { authorizer, nonce };
        let domain = token_domain(&usdc().info, CHAIN_ID, USDC_ADDRESS);
        let digest = message.eip712_signing_hash(&domain);
        let signature: Bytes = dev_signer(payer).sign_hash_sync(&digest).unwrap().as_bytes().into();
        let call = token::cancelAuthorizationCall { authorizer, nonce, signature };
        self.transact(STRANGER, USDC_ADDRESS, &call).await;
    }

    /// A stranger uses the authorizations of `payments` in one transaction, in order.
    pub(crate) async fn use_together(&self, payments: &[&Payment]) {
        let call = |payment: &&Payment| {
            let payload = Eip3009Payload::parse(&payment.presented().payload).unwrap();
            let Authorization { from, to, value, valid_after, valid_before, nonce } =
                payload.authorization;
            let call = Eip3009::transferWithAuthorization_1Call {
                from,
                to,
                value,
                validAfter: valid_after,
                validBefore: valid_before,
                nonce,
                signature: Bytes::copy_from_slice(payload.signature.expose()),
            };
            let data = call.abi_encode().into();
            token::Call3 { target: USDC_ADDRESS, allowFailure: false, callData: data }
        };
        let calls = payments.iter().map(call).collect();
        self.transact(STRANGER, MULTICALL3, &token::aggregate3Call { calls }).await;
    }

    pub(crate) async fn usdc_of(&self, account: Address) -> U256 {
        use alloy::providers::Provider as _;
        use alloy::rpc::types::TransactionRequest;
        let call = token::balanceOfCall { account }.abi_encode();
        let request = TransactionRequest::default().to(USDC_ADDRESS).input(call.into());
        let word = self.chain.provider().call(request).await.unwrap();
        U256::from_be_slice(&word)
    }

    /// Puts a contract account at a new address, owned by a development account and with USDC.
    pub(crate) fn wallet(&self, owner: usize) -> Address {
        let wallet = Address::repeat_byte(0x71);
        self.chain.set_code(wallet, WALLET_1271.runtime_code.clone());
        let owner = U256::from_be_slice(dev_signer(owner).address().as_slice());
        self.chain.set_storage(wallet, U256::ZERO, owner);
        self.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(wallet), U256::from(1_000_000));
        wallet
    }
}

pub(crate) fn network_on(
    chain: &Devchain,
    time: &Arc<ManualClock>,
    signer: usize,
    assets: AssetTable,
    settings: Settings,
) -> Result<EvmNetwork, pay402_core::error::Misconfigured> {
    let rpc = Rpc::provided(&network_id(), &chain.provider());
    let signers = vec![dev_signer(signer)];
    EvmNetwork::new(network_id(), rpc, signers, assets, time.clone(), settings)
}

/// Signs a settlement with the network's first signer and its next nonce.
pub(crate) async fn sign_with(network: &EvmNetwork, plan: &SecretBytes) -> (SentAs, SecretBytes) {
    let signer = network.signers().remove(0);
    let nonce = network.consumed_nonces(&signer).await.unwrap();
    let signed = network.sign(&signer, nonce, plan, None).await.unwrap();
    let (transaction, replaced, part) = (signed.transaction, Vec::new(), Part::WHOLE);
    (SentAs { signer, nonce, transaction, replaced, part }, signed.raw)
}

/// Terms for `amount` atomic units of USDC.
pub(crate) fn terms(amount: u64) -> Requirements {
    terms_in(usdc(), amount)
}

pub(crate) fn terms_in(asset: Asset, amount: u64) -> Requirements {
    let tariff = Tariff::Atomic { amount: amount.into(), asset: asset.info };
    ExactServer::new(AssetTable::empty()).requirements(&network_id(), &tariff, PAY_TO, 60).unwrap()
}

/// An authorization that meets `terms`, valid around [`START`].
pub(crate) fn authorization(terms: &Requirements, from: Address) -> Authorization {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NONCES: AtomicU64 = AtomicU64::new(1);
    Authorization {
        from,
        to: terms.pay_to.parse().unwrap(),
        value: terms.amount.to_u256(),
        valid_after: U256::from(START - 60),
        valid_before: U256::from(START + 60),
        nonce: U256::from(NONCES.fetch_add(1, Ordering::Relaxed)).into(),
    }
}

/// Signs `authorization` for USDC and pairs it with `terms`.
pub(crate) fn signed(
    terms: &Requirements,
    authorization: Authorization,
    signer: &PrivateKeySigner,
) -> Payment {
    let asset = Asset::eip3009(
        &terms.network,
        &terms.asset,
        "",
        6,
        (terms.extra_str("name").unwrap_or("USDC"), terms.extra_str("version").unwrap_or("2")),
        pay402_evm::Peg::Other,
    )
    .unwrap();
    let digest = authorization.digest(&token_domain(&asset.info, CHAIN_ID, asset.token()));
    let signature = signer.sign_hash_sync(&digest).unwrap().as_bytes().to_vec();
    carrying(terms, authorization, signature)
}

/// A payment with these very signature bytes.
pub(crate) fn carrying(
    terms: &Requirements,
    authorization: Authorization,
    signature: Vec<u8>,
) -> Payment {
    let payload = Eip3009Payload { authorization, signature: SignatureBytes::new(signature) };
    pair(terms, payload.to_json())
}

pub(crate) fn pair(terms: &Requirements, payload: Map<String, Value>) -> Payment {
    Payment::pair(terms.clone(), presented(terms, payload)).unwrap()
}

pub(crate) fn presented(terms: &Requirements, payload: Map<String, Value>) -> Presented {
    Presented {
        version: WireVersion::V2,
        scheme: Scheme::EXACT,
        network: terms.network.clone(),
        accepted: Some(terms.clone()),
        payload,
        resource: None,
        extensions: Map::new(),
        other: Map::new(),
    }
}

/// A good payment of `amount` by a development account.
pub(crate) fn payment_by(payer: usize, amount: u64) -> Payment {
    let terms = terms(amount);
    let signer = dev_signer(payer);
    signed(&terms, authorization(&terms, signer.address()), &signer)
}

/// A good payment.
pub(crate) fn payment() -> Payment {
    payment_by(PAYER, 10_000)
}

pub(crate) fn authorization_of(payment: &Payment) -> Authorization {
    Eip3009Payload::parse(&payment.presented().payload).unwrap().authorization
}
