//! Accounts of every kind: deployed contracts, wallets that are not deployed yet, delegated keys.

use alloy::consensus::{SignableTransaction as _, TxEip1559, TxEip7702, TxEnvelope};
use alloy::eips::Encodable2718 as _;
use alloy::eips::eip7702::Authorization as Delegation;
use alloy::primitives::{Address, B256, Bytes, TxKind, U256, b256, keccak256};
use alloy::providers::Provider as _;
use alloy::rpc::types::{TransactionReceipt, TransactionRequest};
use alloy::signers::SignerSync as _;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{SolCall, SolValue as _};
use pay402_devchain::genesis::{
    CREATE2_DEPLOYER, PERMIT2, USDC_ADDRESS, WALLET_1271, dev_signer, usdc_balance_slot,
};
use pay402_devchain::zoo;

use crate::support::{CHAIN_ID, House, STRANGER};

pub(crate) mod abi {
    alloy::sol! {
        function deploy(address owner, bytes32 salt) returns (address wallet);
        function execute(address target, uint256 value, bytes data) payable returns (bytes);
        function setFlipsAt(uint256 firstRefusingBlock);
        function setGasToBurn(uint256 amount);
        function mint(address to, uint256 amount);
        function approve(address spender, uint256 value) returns (bool);
    }
}

/// What ends a signature that brings a deployment along (ERC-6492).
const MAGIC: B256 = b256!("0x6492649264926492649264926492649264926492649264926492649264926492");
/// The token's slot of allowances.
const USDC_ALLOWANCES_SLOT: U256 = U256::from_limbs([3, 0, 0, 0]);
/// Tells the wallets of one owner apart.
const SALT: B256 = B256::repeat_byte(0x5a);

/// The contract that the stranger's first transaction makes, on any chain.
pub(crate) fn first_contract() -> Address {
    dev_signer(STRANGER).address().create(0)
}

/// A wallet that is not deployed, and how it comes to be.
#[derive(Clone, Debug)]
pub(crate) struct Undeployed {
    pub(crate) address: Address,
    pub(crate) factory: Address,
    pub(crate) calldata: Bytes,
}

impl Undeployed {
    /// As the zoo's factory at `factory` makes it; again is well with it.
    pub(crate) fn by_factory(factory: Address, owner: usize) -> Self {
        let owner = dev_signer(owner).address();
        let code = WALLET_1271.creation(&owner.abi_encode());
        let calldata = abi::deployCall { owner, salt: SALT }.abi_encode().into();
        Self { address: factory.create2(SALT, keccak256(code)), factory, calldata }
    }

    /// As the deployer that every network has makes it; again fails.
    pub(crate) fn by_deployer(owner: usize) -> Self {
        let code = WALLET_1271.creation(&dev_signer(owner).address().abi_encode());
        let address = CREATE2_DEPLOYER.create2(SALT, keccak256(&code));
        let calldata = [SALT.as_slice(), &code].concat().into();
        Self { address, factory: CREATE2_DEPLOYER, calldata }
    }

    /// The signature with its deployment.
    pub(crate) fn wrap(&self, signature: Vec<u8>) -> Vec<u8> {
        wrap(self.factory, &self.calldata, signature)
    }
}

/// A signature that brings a deployment along (ERC-6492).
pub(crate) fn wrap(factory: Address, calldata: &Bytes, signature: Vec<u8>) -> Vec<u8> {
    let fields = (factory, calldata.clone(), Bytes::from(signature)).abi_encode_params();
    [&fields, MAGIC.as_slice()].concat()
}

pub(crate) fn magic() -> Vec<u8> {
    MAGIC.to_vec()
}

impl House {
    /// Sends a transaction of a development account; it may fail.
    pub(crate) async fn send_as(
        &self,
        from: usize,
        to: TxKind,
        input: Bytes,
    ) -> TransactionReceipt {
        let signer = dev_signer(from);
        let transaction = TxEip1559 {
            chain_id: CHAIN_ID,
            nonce: self.nonce_of(signer.address()).await,
            gas_limit: 5_000_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to,
            input,
            ..TxEip1559::default()
        };
        let signature = signer.sign_hash_sync(&transaction.signature_hash()).unwrap();
        self.receipt_of(transaction.into_signed(signature).into()).await
    }

    async fn receipt_of(&self, transaction: TxEnvelope) -> TransactionReceipt {
        let provider = self.chain.provider();
        let pending = provider.send_raw_transaction(&transaction.encoded_2718()).await.unwrap();
        pending.get_receipt().await.unwrap()
    }

    async fn nonce_of(&self, account: Address) -> u64 {
        self.chain.provider().get_transaction_count(account).await.unwrap()
    }

    /// Deploys a contract, by the stranger.
    pub(crate) async fn deploy(&self, creation: Bytes) -> Address {
        let receipt = self.send_as(STRANGER, TxKind::Create, creation).await;
        assert!(receipt.status());
        receipt.contract_address.unwrap()
    }

    /// Tells a contract of the zoo something, as anyone may.
    pub(crate) async fn tell<C: SolCall>(&self, contract: Address, call: &C) {
        let receipt = self.send_as(STRANGER, contract.into(), call.abi_encode().into()).await;
        assert!(receipt.status());
    }

    /// Deploys the zoo's factory as the first transaction of the stranger.
    pub(crate) async fn factory(&self) -> Address {
        let factory = self.deploy(zoo::WALLET_FACTORY.creation(&[])).await;
        assert_eq!(factory, first_contract());
        factory
    }

    /// Gives an account tokens, and Permit2 leave to move them.
    pub(crate) fn fund(&self, account: Address) {
        self.chain.set_storage(USDC_ADDRESS, usdc_balance_slot(account), U256::from(1_000_000));
        let of =
            |key: Address, slot: U256| U256::from_be_bytes(keccak256((key, slot).abi_encode()).0);
        let slot = of(PERMIT2, of(account, USDC_ALLOWANCES_SLOT));
        self.chain.set_storage(USDC_ADDRESS, slot, U256::MAX);
    }

    pub(crate) async fn code_of(&self, account: Address) -> Bytes {
        self.chain.provider().get_code_at(account).await.unwrap()
    }

    /// Lets a key's account delegate to `code` (EIP-7702) by a real transaction, which the stranger
    /// pays for. To the zero address ends it.
    pub(crate) async fn delegate(&self, account: &PrivateKeySigner, code: Address) {
        let sponsor = dev_signer(STRANGER);
        let delegation = Delegation {
            chain_id: U256::from(CHAIN_ID),
            address: code,
            nonce: self.nonce_of(account.address()).await,
        };
        let signature = account.sign_hash_sync(&delegation.signature_hash()).unwrap();
        let transaction = TxEip7702 {
            chain_id: CHAIN_ID,
            nonce: self.nonce_of(sponsor.address()).await,
            gas_limit: 200_000,
            max_fee_per_gas: 20_000_000_000,
            max_priority_fee_per_gas: 1_000_000_000,
            to: sponsor.address(),
            authorization_list: vec![delegation.into_signed(signature)],
            ..TxEip7702::default()
        };
        let signature = sponsor.sign_hash_sync(&transaction.signature_hash()).unwrap();
        assert!(self.receipt_of(transaction.into_signed(signature).into()).await.status());
        let expected = match code {
            Address::ZERO => Bytes::new(),
            code => [&[0xef, 0x01, 0x00], code.as_slice()].concat().into(),
        };
        assert_eq!(self.code_of(account.address()).await, expected);
    }

    /// The transactions of a block, with target and gas limit.
    pub(crate) async fn calls_in(&self, block: u64) -> Vec<TransactionRequest> {
        let block = self.chain.provider().get_block(block.into()).full().await.unwrap().unwrap();
        block.transactions.into_transactions().map(TransactionRequest::from_transaction).collect()
    }
}
