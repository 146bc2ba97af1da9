//! Permit2 and the x402 proxies: their interfaces, and permits hashed by alloy's typed data, not by the contracts.

use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolStruct, eip712_domain};
use pay402_devchain::genesis::{EXACT_PERMIT2_PROXY, PERMIT2, UPTO_PERMIT2_PROXY, USDC_ADDRESS};

use super::Harness;

/// What is called.
pub mod abi {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct PermitTransferFrom { TokenPermissions permitted; uint256 nonce; uint256 deadline; }
        struct PermitBatchTransferFrom { TokenPermissions[] permitted; uint256 nonce; uint256 deadline; }
        struct SignatureTransferDetails { address to; uint256 requestedAmount; }
        struct EIP2612Permit { uint256 value; uint256 deadline; bytes32 r; bytes32 s; uint8 v; }

        interface Permit2 {
            event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);
            error InvalidAmount(uint256 maxAmount);
            error LengthMismatch();
            error SignatureExpired(uint256 signatureDeadline);
            error InvalidNonce();
            error InvalidSignatureLength();
            error InvalidSignature();
            error InvalidSigner();
            error InvalidContractSignature();
            function DOMAIN_SEPARATOR() view returns (bytes32);
            function nonceBitmap(address owner, uint256 word) view returns (uint256);
            function invalidateUnorderedNonces(uint256 wordPos, uint256 mask);
            function permitTransferFrom(PermitTransferFrom permit, SignatureTransferDetails transferDetails, address owner, bytes signature);
            function permitTransferFrom(PermitBatchTransferFrom permit, SignatureTransferDetails[] transferDetails, address owner, bytes signature);
            function permitWitnessTransferFrom(PermitTransferFrom permit, SignatureTransferDetails transferDetails, address owner, bytes32 witness, string witnessTypeString, bytes signature);
            function permitWitnessTransferFrom(PermitBatchTransferFrom permit, SignatureTransferDetails[] transferDetails, address owner, bytes32 witness, string witnessTypeString, bytes signature);
        }

        interface Proxy {
            event Settled();
            event SettledWithPermit();
            event EIP2612PermitFailedWithReason(address indexed token, address indexed owner, string reason);
            event EIP2612PermitFailedWithPanic(address indexed token, address indexed owner, uint256 errorCode);
            event EIP2612PermitFailedWithData(address indexed token, address indexed owner, bytes data);
            error InvalidAmount();
            error InvalidOwner();
            error InvalidDestination();
            error PaymentTooEarly();
            error Permit2612AmountMismatch();
            error ReentrancyGuardReentrantCall();
            error AmountExceedsPermitted();
            error UnauthorizedFacilitator();
            function PERMIT2() view returns (address);
            function WITNESS_TYPEHASH() view returns (bytes32);
            function WITNESS_TYPE_STRING() view returns (string);
        }

        interface ExactProxy {
            struct Witness { address to; uint256 validAfter; }
            function settle(PermitTransferFrom permit, address owner, Witness witness, bytes signature);
            function settleWithPermit(EIP2612Permit permit2612, PermitTransferFrom permit, address owner, Witness witness, bytes signature);
        }

        interface UptoProxy {
            struct Witness { address to; address facilitator; uint256 validAfter; }
            function settle(PermitTransferFrom permit, uint256 amount, address owner, Witness witness, bytes signature);
            function settleWithPermit(EIP2612Permit permit2612, PermitTransferFrom permit, uint256 amount, address owner, Witness witness, bytes signature);
        }
    }
}

/// What is signed. The names of the types are part of every hash.
pub mod signed {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct PermitTransferFrom { TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; }
        struct PermitBatchTransferFrom { TokenPermissions[] permitted; address spender; uint256 nonce; uint256 deadline; }
        struct Permit { address owner; address spender; uint256 value; uint256 nonce; uint256 deadline; }
    }
}

pub mod exact {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; uint256 validAfter; }
        struct PermitWitnessTransferFrom { TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; Witness witness; }
    }
}

pub mod upto {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Witness { address to; address facilitator; uint256 validAfter; }
        struct PermitWitnessTransferFrom { TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; Witness witness; }
    }
}

/// A witness of no scheme, to a permit of one token and of many.
pub mod order {
    alloy::sol! {
        struct TokenPermissions { address token; uint256 amount; }
        struct Order { uint256 id; }
        struct PermitWitnessTransferFrom { TokenPermissions permitted; address spender; uint256 nonce; uint256 deadline; Order order; }
        struct PermitBatchWitnessTransferFrom { TokenPermissions[] permitted; address spender; uint256 nonce; uint256 deadline; Order order; }
    }
    pub const TYPE_STRING: &str =
        "Order order)Order(uint256 id)TokenPermissions(address token,uint256 amount)";
}

/// A permit of one token as yet unsigned, and the domain that it will be signed for.
#[derive(Clone, Debug)]
pub struct Permit {
    pub chain_id: u64,
    pub contract: Address,
    pub token: Address,
    pub amount: U256,
    pub spender: Address,
    pub nonce: U256,
    pub deadline: U256,
}

impl Permit {
    /// A permit of USDC that is valid now, with a nonce of its own.
    pub fn new(harness: &Harness, spender: Address, amount: u64) -> Self {
        Self {
            chain_id: harness.chain.chain_id(),
            contract: PERMIT2,
            token: USDC_ADDRESS,
            amount: U256::from(amount),
            spender,
            nonce: super::fresh_nonce().into(),
            deadline: U256::from(harness.chain.now() + 600),
        }
    }

    pub fn domain(&self) -> Eip712Domain {
        eip712_domain! {
            name: "Permit2",
            chain_id: self.chain_id,
            verifying_contract: self.contract,
        }
    }

    /// As an argument.
    pub fn call(&self) -> abi::PermitTransferFrom {
        abi::PermitTransferFrom {
            permitted: abi::TokenPermissions { token: self.token, amount: self.amount },
            nonce: self.nonce,
            deadline: self.deadline,
        }
    }

    pub fn digest(&self) -> B256 {
        signed::PermitTransferFrom {
            permitted: signed::TokenPermissions { token: self.token, amount: self.amount },
            spender: self.spender,
            nonce: self.nonce,
            deadline: self.deadline,
        }
        .eip712_signing_hash(&self.domain())
    }

    pub fn exact_digest(&self, witness: &exact::Witness) -> B256 {
        exact::PermitWitnessTransferFrom {
            permitted: exact::TokenPermissions { token: self.token, amount: self.amount },
            spender: self.spender,
            nonce: self.nonce,
            deadline: self.deadline,
            witness: witness.clone(),
        }
        .eip712_signing_hash(&self.domain())
    }

    pub fn upto_digest(&self, witness: &upto::Witness) -> B256 {
        upto::PermitWitnessTransferFrom {
            permitted: upto::TokenPermissions { token: self.token, amount: self.amount },
            spender: self.spender,
            nonce: self.nonce,
            deadline: self.deadline,
            witness: witness.clone(),
        }
        .eip712_signing_hash(&self.domain())
    }

    pub fn order_digest(&self, id: u64) -> B256 {
        order::PermitWitnessTransferFrom {
            permitted: order::TokenPermissions { token: self.token, amount: self.amount },
            spender: self.spender,
            nonce: self.nonce,
            deadline: self.deadline,
            order: order::Order { id: U256::from(id) },
        }
        .eip712_signing_hash(&self.domain())
    }

    /// The transfer of `amount` to `to`, signed by `signer` and out of its account.
    pub fn transfer(
        &self,
        signer: &PrivateKeySigner,
        to: Address,
        amount: U256,
    ) -> abi::Permit2::permitTransferFrom_0Call {
        self.transfer_with(signer.address(), to, amount, sign(signer, self.digest()))
    }

    pub fn transfer_with(
        &self,
        owner: Address,
        to: Address,
        amount: U256,
        signature: Bytes,
    ) -> abi::Permit2::permitTransferFrom_0Call {
        abi::Permit2::permitTransferFrom_0Call {
            permit: self.call(),
            transferDetails: abi::SignatureTransferDetails { to, requestedAmount: amount },
            owner,
            signature,
        }
    }
}

/// A signature as r, s and v in 65 bytes.
pub fn sign(signer: &PrivateKeySigner, digest: B256) -> Bytes {
    signer.sign_hash_sync(&digest).unwrap().as_bytes().into()
}

/// The same signature in the 64 bytes of EIP-2098.
pub fn compact(signature: &Bytes) -> Bytes {
    let mut short = signature[..64].to_vec();
    short[32] |= (signature[64] - 27) << 7;
    short.into()
}

/// The other signature that the same key has under the same digest.
pub fn twin(signature: &Bytes) -> Bytes {
    let order = U256::from_str_radix(
        "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        16,
    )
    .unwrap();
    let mut twin = signature.to_vec();
    let s = order - U256::from_be_slice(&signature[32..64]);
    twin[32..64].copy_from_slice(&s.to_be_bytes::<32>());
    twin[64] = 55 - twin[64];
    twin.into()
}

/// A payment of scheme `exact`: a permit for its proxy, and where the money goes.
#[derive(Clone, Debug)]
pub struct ExactPayment {
    pub permit: Permit,
    pub to: Address,
    pub valid_after: U256,
}

impl ExactPayment {
    pub fn new(harness: &Harness, to: Address, amount: u64) -> Self {
        let permit = Permit::new(harness, EXACT_PERMIT2_PROXY, amount);
        Self { permit, to, valid_after: U256::ZERO }
    }

    pub fn digest(&self) -> B256 {
        self.permit.exact_digest(&exact::Witness { to: self.to, validAfter: self.valid_after })
    }

    pub fn settle(&self, signer: &PrivateKeySigner) -> abi::ExactProxy::settleCall {
        self.settle_with(signer.address(), sign(signer, self.digest()))
    }

    pub fn settle_with(&self, owner: Address, signature: Bytes) -> abi::ExactProxy::settleCall {
        abi::ExactProxy::settleCall {
            permit: self.permit.call(),
            owner,
            witness: self.witness(),
            signature,
        }
    }

    pub fn settle_with_permit(
        &self,
        signer: &PrivateKeySigner,
        permit2612: abi::EIP2612Permit,
    ) -> abi::ExactProxy::settleWithPermitCall {
        abi::ExactProxy::settleWithPermitCall {
            permit2612,
            permit: self.permit.call(),
            owner: signer.address(),
            witness: self.witness(),
            signature: sign(signer, self.digest()),
        }
    }

    const fn witness(&self) -> abi::ExactProxy::Witness {
        abi::ExactProxy::Witness { to: self.to, validAfter: self.valid_after }
    }
}

/// A payment of scheme `upto`: a permit for its proxy, where the money goes, and who may settle.
#[derive(Clone, Debug)]
pub struct UptoPayment {
    pub permit: Permit,
    pub to: Address,
    pub facilitator: Address,
    pub valid_after: U256,
}

impl UptoPayment {
    pub fn new(harness: &Harness, facilitator: Address, to: Address, ceiling: u64) -> Self {
        let permit = Permit::new(harness, UPTO_PERMIT2_PROXY, ceiling);
        Self { permit, to, facilitator, valid_after: U256::ZERO }
    }

    pub fn digest(&self) -> B256 {
        self.permit.upto_digest(&upto::Witness {
            to: self.to,
            facilitator: self.facilitator,
            validAfter: self.valid_after,
        })
    }

    pub fn settle(&self, signer: &PrivateKeySigner, amount: u64) -> abi::UptoProxy::settleCall {
        abi::UptoProxy::settleCall {
            permit: self.permit.call(),
            amount: U256::from(amount),
            owner: signer.address(),
            witness: self.witness(),
            signature: sign(signer, self.digest()),
        }
    }

    pub fn settle_with_permit(
        &self,
        signer: &PrivateKeySigner,
        permit2612: abi::EIP2612Permit,
        amount: u64,
    ) -> abi::UptoProxy::settleWithPermitCall {
        abi::UptoProxy::settleWithPermitCall {
            permit2612,
            permit: self.permit.call(),
            amount: U256::from(amount),
            owner: signer.address(),
            witness: self.witness(),
            signature: sign(signer, self.digest()),
        }
    }

    const fn witness(&self) -> abi::UptoProxy::Witness {
        abi::UptoProxy::Witness {
            to: self.to,
            facilitator: self.facilitator,
            validAfter: self.valid_after,
        }
    }
}

/// A first EIP-2612 permit of USDC by `holder` for Permit2.
pub fn usdc_permit(
    harness: &Harness,
    holder: &PrivateKeySigner,
    value: U256,
) -> abi::EIP2612Permit {
    let deadline = U256::from(harness.chain.now() + 600);
    let domain = eip712_domain! {
        name: "USDC",
        version: "2",
        chain_id: harness.chain.chain_id(),
        verifying_contract: USDC_ADDRESS,
    };
    let signature = sign(
        holder,
        signed::Permit {
            owner: holder.address(),
            spender: PERMIT2,
            value,
            nonce: U256::ZERO,
            deadline,
        }
        .eip712_signing_hash(&domain),
    );
    abi::EIP2612Permit {
        value,
        deadline,
        r: B256::from_slice(&signature[..32]),
        s: B256::from_slice(&signature[32..64]),
        v: signature[64],
    }
}

/// The revert data of `Error(string)`.
pub fn words(message: &str) -> Vec<u8> {
    use alloy::sol_types::{Revert, SolError};
    Revert::from(message).abi_encode()
}

/// The slot of Permit2's storage with word `word` of the nonces of `owner`.
pub fn bitmap_slot(owner: Address, word: U256) -> U256 {
    let inner = keccak256([owner.into_word().as_slice(), &[0; 32]].concat());
    keccak256([word.to_be_bytes::<32>().as_slice(), inner.as_slice()].concat()).into()
}
