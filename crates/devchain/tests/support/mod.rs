//! What the integration tests share: a chain, a signer of transactions, and the contracts' interfaces.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(missing_docs, reason = "`sol!` writes no docs")]
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

pub mod permit2;
pub mod zoo;

use std::sync::atomic::{AtomicU64, Ordering};

use alloy::consensus::{SignableTransaction, TxEip1559, TxEip7702, TxEnvelope};
use alloy::eips::BlockId;
use alloy::eips::eip2718::Encodable2718;
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::network::TxSignerSync;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, keccak256};
use alloy::providers::{DynProvider, Provider};
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue};
use alloy::transports::{RpcError, TransportErrorKind};
use pay402_devchain::genesis::{USDC_ADDRESS, dev_signer, usdc_balance_slot};
use pay402_devchain::{Config, Devchain, Mining};

alloy::sol! {
    interface Usdc {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);
        function name() view returns (string);
        function version() view returns (string);
        function decimals() view returns (uint8);
        function totalSupply() view returns (uint256);
        function balanceOf(address account) view returns (uint256);
        function allowance(address holder, address spender) view returns (uint256);
        function approve(address spender, uint256 value) returns (bool);
        function increaseAllowance(address spender, uint256 increment) returns (bool);
        function decreaseAllowance(address spender, uint256 decrement) returns (bool);
        function transfer(address to, uint256 value) returns (bool);
        function transferFrom(address from, address to, uint256 value) returns (bool);
        function mint(address to, uint256 amount) returns (bool);
        function pause();
        function unpause();
        function blacklist(address account);
        function unBlacklist(address account);
        function isBlacklisted(address account) view returns (bool);
        function burn(uint256 amount);
        function DOMAIN_SEPARATOR() view returns (bytes32);
        function PERMIT_TYPEHASH() view returns (bytes32);
        function TRANSFER_WITH_AUTHORIZATION_TYPEHASH() view returns (bytes32);
        function authorizationState(address authorizer, bytes32 nonce) view returns (bool);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, uint8 v, bytes32 r, bytes32 s);
        function transferWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
        function receiveWithAuthorization(address from, address to, uint256 value, uint256 validAfter, uint256 validBefore, bytes32 nonce, bytes signature);
        function cancelAuthorization(address authorizer, bytes32 nonce, bytes signature);
        function permit(address holder, address spender, uint256 value, uint256 deadline, uint8 v, bytes32 r, bytes32 s);
        function permit(address holder, address spender, uint256 value, uint256 deadline, bytes signature);
    }
}

pub mod multicall {
    alloy::sol! {
        struct Call { address target; bytes callData; }
        struct Call3 { address target; bool allowFailure; bytes callData; }
        struct Result { bool success; bytes returnData; }
        function aggregate(Call[] calls) payable returns (uint256 blockNumber, bytes[] returnData);
        function aggregate3(Call3[] calls) payable returns (Result[] returnData);
        function getChainId() view returns (uint256 chainid);
        function getCurrentBlockTimestamp() view returns (uint256 timestamp);
    }
}

/// Who receives plain transfers.
pub const PAYEE: Address = Address::repeat_byte(0xee);

/// A chain with id 84532 and a provider on it.
pub struct Harness {
    pub chain: Devchain,
    pub provider: DynProvider,
}

/// An EIP-3009 authorization.
#[derive(Clone)]
pub struct Authorization {
    pub chain_id: u64,
    pub from: Address,
    pub to: Address,
    pub value: U256,
    pub valid_after: U256,
    pub valid_before: U256,
    pub nonce: B256,
}

impl Harness {
    pub fn new() -> Self {
        Self::with(Mining::Instant)
    }

    pub fn with(mining: Mining) -> Self {
        let chain = Devchain::start(Config { chain_id: 84_532, mining, ..Config::default() });
        Self { provider: chain.provider(), chain }
    }

    /// A signed type-2 transaction of development account `from`.
    pub fn signed(&self, from: usize, tx: TxEip1559) -> TxEnvelope {
        let mut tx = TxEip1559 { chain_id: 84_532, ..tx };
        if tx.gas_limit == 0 {
            tx.gas_limit = 300_000;
        }
        if tx.max_fee_per_gas == 0 {
            tx.max_fee_per_gas = 20_000_000_000;
            tx.max_priority_fee_per_gas = 1_000_000_000;
        }
        let signature = dev_signer(from).sign_transaction_sync(&mut tx).unwrap();
        tx.into_signed(signature).into()
    }

    pub async fn raw(&self, tx: &TxEnvelope) -> Result<B256, RpcError<TransportErrorKind>> {
        let raw = Bytes::from(tx.encoded_2718());
        self.provider.raw_request("eth_sendRawTransaction".into(), (raw,)).await
    }

    /// The words of a refusal.
    pub async fn refused(&self, tx: &TxEnvelope) -> String {
        self.raw(tx).await.unwrap_err().as_error_resp().unwrap().message.to_string()
    }

    pub async fn receipt(&self, hash: B256) -> Option<TransactionReceipt> {
        self.provider.get_transaction_receipt(hash).await.unwrap()
    }

    pub async fn send<C: SolCall>(&self, from: usize, to: Address, call: &C) -> TransactionReceipt {
        self.send_unchecked(from, to, call.abi_encode()).await
    }

    pub async fn send_unchecked(
        &self,
        from: usize,
        to: Address,
        data: Vec<u8>,
    ) -> TransactionReceipt {
        let nonce = self.provider.get_transaction_count(dev_signer(from).address()).await.unwrap();
        let tx = TxEip1559 {
            nonce,
            gas_limit: 2_000_000,
            to: TxKind::Call(to),
            input: data.into(),
            ..TxEip1559::default()
        };
        let hash = self.raw(&self.signed(from, tx)).await.unwrap();
        self.receipt(hash).await.expect("instant mining gives the receipt at once")
    }

    /// Deploys a contract from development account `from`.
    pub async fn deploy(&self, from: usize, creation: Bytes) -> Address {
        let nonce = self.provider.get_transaction_count(dev_signer(from).address()).await.unwrap();
        let tx = TxEip1559 {
            nonce,
            gas_limit: 5_000_000,
            to: TxKind::Create,
            input: creation,
            ..TxEip1559::default()
        };
        let hash = self.raw(&self.signed(from, tx)).await.unwrap();
        let receipt = self.receipt(hash).await.unwrap();
        assert!(receipt.status());
        receipt.contract_address.unwrap()
    }

    /// Lets `account` delegate to the code at `to` (EIP-7702), in a transaction that `from` pays for.
    pub async fn delegate(&self, from: usize, account: &PrivateKeySigner, to: Address) {
        let sponsor = dev_signer(from);
        let count = async |address| self.provider.get_transaction_count(address).await.unwrap();
        let delegation = Delegation {
            chain_id: U256::from(84_532),
            address: to,
            nonce: count(account.address()).await,
        };
        let signature = account.sign_hash_sync(&delegation.signature_hash()).unwrap();
        let mut tx = TxEip7702 {
            chain_id: 84_532,
            nonce: count(sponsor.address()).await,
            gas_limit: 100_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: PAYEE,
            authorization_list: vec![delegation.into_signed(signature)],
            ..TxEip7702::default()
        };
        let signature = sponsor.sign_transaction_sync(&mut tx).unwrap();
        let hash = self.raw(&tx.into_signed(signature).into()).await.unwrap();
        assert!(self.receipt(hash).await.unwrap().status());
        let code = self.provider.get_code_at(account.address()).await.unwrap();
        assert_eq!(code, [&[0xef, 0x01, 0x00], to.as_slice()].concat());
    }

    /// Asserts that a call reverts with exactly `message`, in the shape clients parse.
    pub async fn reverts<C: SolCall>(&self, from: usize, to: Address, call: &C, message: &str) {
        let request = TransactionRequest::default()
            .from(dev_signer(from).address())
            .to(to)
            .input(call.abi_encode().into_bytes());
        for error in [
            self.provider.call(request.clone()).await.unwrap_err(),
            self.provider.estimate_gas(request).await.unwrap_err(),
        ] {
            let payload = error.as_error_resp().unwrap();
            assert_eq!(payload.message, format!("execution reverted: {message}"));
            assert_eq!(payload.code, 3);
            let data: Bytes = serde_json::from_str(payload.data.as_ref().unwrap().get()).unwrap();
            assert_eq!(data[..4], [0x08, 0xc3, 0x79, 0xa0]);
            assert_eq!(String::abi_decode(&data[4..]).unwrap(), message);
        }
    }

    /// What a call would answer in the next block: what it returns, or what it reverts with.
    pub async fn answer<C: SolCall>(
        &self,
        from: usize,
        to: Address,
        call: &C,
    ) -> Result<Bytes, Bytes> {
        self.answer_to(from, to, call.abi_encode()).await
    }

    pub async fn answer_to(&self, from: usize, to: Address, data: Vec<u8>) -> Result<Bytes, Bytes> {
        let request = TransactionRequest::default()
            .from(dev_signer(from).address())
            .to(to)
            .input(data.into_bytes());
        self.provider.call(request).await.map_err(|error| {
            let payload = error.as_error_resp().unwrap();
            assert_eq!(payload.code, 3, "{}", payload.message);
            serde_json::from_str(payload.data.as_ref().unwrap().get()).unwrap()
        })
    }

    /// Asserts that a call reverts with exactly the bytes `data`.
    pub async fn reverts_with<C: SolCall>(
        &self,
        from: usize,
        to: Address,
        call: &C,
        data: Vec<u8>,
    ) {
        assert_eq!(self.answer(from, to, call).await, Err(data.into()));
    }

    pub async fn read<C: SolCall>(&self, call: &C) -> C::Return {
        self.read_at(USDC_ADDRESS, call).await
    }

    pub async fn read_at<C: SolCall>(&self, to: Address, call: &C) -> C::Return {
        self.read_in(to, call, BlockId::latest()).await
    }

    pub async fn read_in<C: SolCall>(&self, to: Address, call: &C, block: BlockId) -> C::Return {
        let request = TransactionRequest::default().to(to).input(call.abi_encode().into_bytes());
        let output = self.provider.call(request).block(block).await.unwrap();
        C::abi_decode_returns(&output).unwrap()
    }

    pub async fn usdc(&self, account: Address) -> U256 {
        self.read(&Usdc::balanceOfCall { account }).await
    }

    /// Gives `account` USDC by writing the token's storage.
    pub fn set_usdc(&self, account: Address, units: u64) {
        self.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(account), U256::from(units));
    }
}

/// A plain transfer of 1 wei.
pub fn transfer(nonce: u64) -> TxEip1559 {
    TxEip1559 {
        nonce,
        gas_limit: 21_000,
        to: TxKind::Call(PAYEE),
        value: U256::from(1),
        ..TxEip1559::default()
    }
}

/// A fresh authorization that is valid now.
pub fn authorization(
    harness: &Harness,
    payer: &PrivateKeySigner,
    to: Address,
    value: u64,
) -> Authorization {
    Authorization {
        chain_id: harness.chain.chain_id(),
        from: payer.address(),
        to,
        value: U256::from(value),
        valid_after: U256::ZERO,
        valid_before: U256::from(harness.chain.now() + 600),
        nonce: fresh_nonce(),
    }
}

fn fresh_nonce() -> B256 {
    static COUNTER: AtomicU64 = AtomicU64::new(1);
    B256::from(U256::from(COUNTER.fetch_add(1, Ordering::Relaxed)))
}

impl Authorization {
    pub fn digest(&self, primary: &str) -> B256 {
        let domain_type = keccak256(
            "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
        );
        let domain = keccak256(
            (
                domain_type,
                keccak256("USDC"),
                keccak256("2"),
                U256::from(self.chain_id),
                USDC_ADDRESS,
            )
                .abi_encode(),
        );
        let type_hash = keccak256(format!(
            "{primary}(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
        ));
        let message = keccak256(
            (
                type_hash,
                self.from,
                self.to,
                self.value,
                self.valid_after,
                self.valid_before,
                self.nonce,
            )
                .abi_encode(),
        );
        keccak256([&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat())
    }

    pub fn sign(&self, signer: &PrivateKeySigner) -> Bytes {
        let digest = self.digest("TransferWithAuthorization");
        signer.sign_hash_sync(&digest).unwrap().as_bytes().into()
    }

    pub fn sign_receive(&self, signer: &PrivateKeySigner) -> Bytes {
        let digest = self.digest("ReceiveWithAuthorization");
        signer.sign_hash_sync(&digest).unwrap().as_bytes().into()
    }

    pub fn vrs_call(&self, signer: &PrivateKeySigner) -> Usdc::transferWithAuthorization_0Call {
        let signature = self.sign(signer);
        Usdc::transferWithAuthorization_0Call {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            v: signature[64],
            r: B256::from_slice(&signature[..32]),
            s: B256::from_slice(&signature[32..64]),
        }
    }

    pub fn bytes_call(&self, signature: Bytes) -> Usdc::transferWithAuthorization_1Call {
        Usdc::transferWithAuthorization_1Call {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            signature,
        }
    }

    pub fn receive_call(&self, signer: &PrivateKeySigner) -> Usdc::receiveWithAuthorizationCall {
        Usdc::receiveWithAuthorizationCall {
            from: self.from,
            to: self.to,
            value: self.value,
            validAfter: self.valid_after,
            validBefore: self.valid_before,
            nonce: self.nonce,
            signature: self.sign_receive(signer),
        }
    }

    pub fn cancel_call(&self, signer: &PrivateKeySigner) -> Usdc::cancelAuthorizationCall {
        let domain_digest = {
            let domain_type = keccak256(
                "EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)",
            );
            let domain = keccak256(
                (
                    domain_type,
                    keccak256("USDC"),
                    keccak256("2"),
                    U256::from(self.chain_id),
                    USDC_ADDRESS,
                )
                    .abi_encode(),
            );
            let type_hash = keccak256("CancelAuthorization(address authorizer,bytes32 nonce)");
            let message = keccak256((type_hash, self.from, self.nonce).abi_encode());
            keccak256([&[0x19, 0x01], domain.as_slice(), message.as_slice()].concat())
        };
        Usdc::cancelAuthorizationCall {
            authorizer: self.from,
            nonce: self.nonce,
            signature: signer.sign_hash_sync(&domain_digest).unwrap().as_bytes().into(),
        }
    }

    pub fn state_call(&self) -> Usdc::authorizationStateCall {
        Usdc::authorizationStateCall { authorizer: self.from, nonce: self.nonce }
    }
}

/// Call data as the input of a request.
trait IntoInput {
    fn into_bytes(self) -> alloy::rpc::types::TransactionInput;
}

impl IntoInput for Vec<u8> {
    fn into_bytes(self) -> alloy::rpc::types::TransactionInput {
        alloy::rpc::types::TransactionInput::new(self.into())
    }
}
