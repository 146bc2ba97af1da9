//! What the tests of `AgentAccount` share: its interface, and everything that is signed for it.
//!
//! The typed data here is hashed by alloy from the declarations below and never by the contract's own code, so a test
//! that passes also says that the two agree. Nothing here knows a chain; the tests bring theirs.
#![allow(missing_docs, unreachable_pub, reason = "`sol!` writes no docs, and only `pub`")]
#![allow(clippy::unwrap_used, reason = "this is test code, which the lint does not recognise here")]

use alloy::primitives::aliases::U48;
use alloy::primitives::{Address, B256, Bytes, U256, keccak256};
use alloy::signers::SignerSync;
use alloy::signers::local::PrivateKeySigner;
use alloy::sol_types::{Eip712Domain, SolCall, SolStruct, SolValue};

alloy::sol! {
    #[derive(Debug)]
    struct TokenLimit { address token; uint128 cap; uint128 budget; uint32 window; uint8 slots; }
    #[derive(Debug)]
    struct Session {
        address key; uint48 validAfter; uint48 expiry; bool anyPayee; address[] payees; TokenLimit[] tokens;
    }
    struct RegisterSessions { Session[] sessions; uint64 epoch; uint48 deadline; }
    struct RevokeSession { address key; uint64 epoch; uint48 deadline; }
    struct RevokeAll { uint64 epoch; uint48 deadline; }
    #[derive(Debug)]
    struct Payment {
        address token; address to; uint256 value; uint256 nonce; uint48 validAfter; uint48 deadline; uint64 epoch;
    }
    struct AuthorizationNonce { uint64 epoch; address key; address token; uint48 window; uint8 slot; }
    #[derive(Debug)]
    struct TransferWithAuthorization {
        address from; address to; uint256 value; uint256 validAfter; uint256 validBefore; bytes32 nonce;
    }

    interface Erc20 {
        function transfer(address to, uint256 value) returns (bool);
    }

    #[derive(Debug)]
    interface AgentAccount {
        event SessionRegistered(address indexed key, uint64 indexed epoch, bytes32 policy);
        event SessionRevoked(address indexed key, uint64 indexed epoch);
        event AllRevoked(uint64 indexed newEpoch);
        event Paid(address indexed key, address indexed token, address indexed to, uint256 value, uint256 nonce);

        error OperationExpired();
        error BadRootSignature();
        error TooManySessions();
        error BadKey();
        error SessionExists();
        error BadTimes();
        error BadPayees();
        error BadTokens();
        error BadLimit();
        error WrongEpoch();
        error BadBatch();
        error UnsupportedMode();
        error MalformedContext();
        error MalformedExecution();
        error NotATransfer();
        error BadToken();
        error NotYetValid();
        error DeadlinePassed();
        error LifetimeTooLong();
        error BadSignature();
        error NonceUsed();
        error SessionUnknown();
        error SessionIsRevoked();
        error SessionNotStarted();
        error SessionExpired();
        error TokenNotAllowed();
        error PayeeNotAllowed();
        error OverCap();
        error OverBudget();
        error AuthorizationStateUnknown();
        error TransferFailed(address token, bytes reason);
        error TransferRefused(address token);
        error MalformedSignature();
        error SlotNotAllowed();
        error WrongDigest();

        function registerSessions(Session[] sessions, uint64 epoch, uint48 deadline, bytes signature);
        function revokeSession(address key, uint64 epoch, uint48 deadline, bytes signature);
        function revokeAll(uint64 epoch, uint48 deadline, bytes signature);
        function redeemDelegations(bytes[] permissionContexts, bytes32[] modes, bytes[] executionCallDatas);
        function isValidSignature(bytes32 digest, bytes signature) view returns (bytes4);
        function signatureRefusal(bytes32 digest, bytes signature) view returns (bytes4);
        function epoch() view returns (uint64);
        function session(address key) view returns (uint8 state, uint48 validAfter, uint48 expiry, bool anyPayee);
        function tokenLimit(address key, address token) view returns (uint128 cap, uint128 budget, uint32 window, uint8 slots);
        function isPayeeAllowed(address key, address payee) view returns (bool);
        function remaining(address key, address token) view returns (uint256 left, uint256 windowEnd);
        function isNonceUsed(address key, uint256 nonce) view returns (bool);
        function currentWindow(address key, address token) view returns (uint256);
        function authorizationNonce(address key, address token, uint48 window, uint8 slot) view returns (bytes32);
        function eip712Domain() view returns (bytes1 fields, string name, string version, uint256 chainId, address verifyingContract, bytes32 salt, uint256[] extensions);
        function supportsInterface(bytes4 id) view returns (bool);
        function onERC721Received(address operator, address from, uint256 id, bytes data) returns (bytes4);
        function onERC1155Received(address operator, address from, uint256 id, uint256 value, bytes data) returns (bytes4);
        function onERC1155BatchReceived(address operator, address from, uint256[] ids, uint256[] values, bytes data) returns (bytes4);
    }
}

/// What EIP-1271 answers for yes.
pub(crate) const VALID: [u8; 4] = [0x16, 0x26, 0xba, 0x7e];
/// What EIP-1271 answers for no.
pub(crate) const INVALID: [u8; 4] = [0xff; 4];

/// A signer whose key is made of its name.
pub(crate) fn signer(name: &str) -> PrivateKeySigner {
    PrivateKeySigner::from_bytes(&keccak256(name)).unwrap()
}

pub(crate) fn seconds(time: u64) -> U48 {
    U48::from(time)
}

/// An account: its address and the chain, which every signature is bound to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Account {
    pub(crate) chain_id: u64,
    pub(crate) address: Address,
}

/// The EIP-712 domain of the USDC-like token: name, version.
pub(crate) const USDC_DOMAIN: (&str, &str) = ("USDC", "2");

impl Account {
    pub(crate) fn domain(&self) -> Eip712Domain {
        alloy::sol_types::eip712_domain! {
            name: "pay402 AgentAccount",
            version: "1",
            chain_id: self.chain_id,
            verifying_contract: self.address,
        }
    }

    pub(crate) fn sign<T: SolStruct>(&self, signer: &PrivateKeySigner, message: &T) -> Bytes {
        let digest = message.eip712_signing_hash(&self.domain());
        signer.sign_hash_sync(&digest).unwrap().as_bytes().into()
    }

    pub(crate) fn register(
        &self,
        root: &PrivateKeySigner,
        sessions: Vec<Session>,
        epoch: u64,
        deadline: u64,
    ) -> AgentAccount::registerSessionsCall {
        let deadline = seconds(deadline);
        let message = RegisterSessions { sessions, epoch, deadline };
        let signature = self.sign(root, &message);
        AgentAccount::registerSessionsCall {
            sessions: message.sessions,
            epoch,
            deadline,
            signature,
        }
    }

    pub(crate) fn revoke(
        &self,
        root: &PrivateKeySigner,
        key: Address,
        epoch: u64,
        deadline: u64,
    ) -> AgentAccount::revokeSessionCall {
        let deadline = seconds(deadline);
        let signature = self.sign(root, &RevokeSession { key, epoch, deadline });
        AgentAccount::revokeSessionCall { key, epoch, deadline, signature }
    }

    pub(crate) fn revoke_all(
        &self,
        root: &PrivateKeySigner,
        epoch: u64,
        deadline: u64,
    ) -> AgentAccount::revokeAllCall {
        let deadline = seconds(deadline);
        let signature = self.sign(root, &RevokeAll { epoch, deadline });
        AgentAccount::revokeAllCall { epoch, deadline, signature }
    }

    /// The permission context of a payment.
    pub(crate) fn context(&self, key: &PrivateKeySigner, payment: &Payment) -> Bytes {
        context(key.address(), payment, &self.sign(key, payment))
    }

    pub(crate) fn redeem(
        &self,
        key: &PrivateKeySigner,
        payment: &Payment,
    ) -> AgentAccount::redeemDelegationsCall {
        redeem(self.context(key, payment), execution(payment.token, payment.to, payment.value))
    }
}

/// Packs what the account expects beside the execution.
pub(crate) fn context(key: Address, payment: &Payment, signature: &[u8]) -> Bytes {
    [
        key.as_slice(),
        &payment.epoch.to_be_bytes(),
        &payment.nonce.to_be_bytes::<32>(),
        &payment.validAfter.to_be_bytes::<6>(),
        &payment.deadline.to_be_bytes::<6>(),
        signature,
    ]
    .concat()
    .into()
}

/// ERC-7579's packing of one call: an ERC-20 transfer.
pub(crate) fn execution(token: Address, to: Address, value: U256) -> Bytes {
    packed_call(token, U256::ZERO, &Erc20::transferCall { to, value }.abi_encode())
}

pub(crate) fn packed_call(target: Address, wei: U256, data: &[u8]) -> Bytes {
    [target.as_slice(), &wei.to_be_bytes::<32>(), data].concat().into()
}

pub(crate) fn redeem(context: Bytes, execution: Bytes) -> AgentAccount::redeemDelegationsCall {
    AgentAccount::redeemDelegationsCall {
        permissionContexts: vec![context],
        modes: vec![B256::ZERO],
        executionCallDatas: vec![execution],
    }
}

/// An EIP-3009 authorization that takes a slot of a session.
#[derive(Clone, Debug)]
pub(crate) struct Slotted {
    pub(crate) account: Account,
    pub(crate) token: Address,
    /// The token's EIP-712 name and version.
    pub(crate) domain: (&'static str, &'static str),
    pub(crate) to: Address,
    pub(crate) value: u128,
    pub(crate) valid_after: u64,
    pub(crate) valid_before: u64,
    pub(crate) epoch: u64,
    pub(crate) window: u64,
    pub(crate) slot: u8,
}

impl Slotted {
    pub(crate) fn nonce(&self, key: Address) -> B256 {
        AuthorizationNonce {
            epoch: self.epoch,
            key,
            token: self.token,
            window: seconds(self.window),
            slot: self.slot,
        }
        .eip712_hash_struct()
    }

    pub(crate) fn message(&self, key: Address) -> TransferWithAuthorization {
        TransferWithAuthorization {
            from: self.account.address,
            to: self.to,
            value: U256::from(self.value),
            validAfter: U256::from(self.valid_after),
            validBefore: U256::from(self.valid_before),
            nonce: self.nonce(key),
        }
    }

    pub(crate) fn digest(&self, key: Address) -> B256 {
        self.message(key).eip712_signing_hash(&token_domain(
            self.domain,
            self.account.chain_id,
            self.token,
        ))
    }

    /// The signature that the token hands to the account.
    pub(crate) fn signature(&self, key: &PrivateKeySigner) -> Bytes {
        let signed = key.sign_hash_sync(&self.digest(key.address())).unwrap();
        self.packed(&signed.as_bytes())
    }

    /// The embedded fields, then `signature`.
    pub(crate) fn packed(&self, signature: &[u8]) -> Bytes {
        [
            self.token.as_slice(),
            self.to.as_slice(),
            &self.value.to_be_bytes(),
            &seconds(self.valid_after).to_be_bytes::<6>(),
            &seconds(self.valid_before).to_be_bytes::<6>(),
            &[self.slot],
            keccak256(self.domain.0).as_slice(),
            keccak256(self.domain.1).as_slice(),
            signature,
        ]
        .concat()
        .into()
    }
}

pub(crate) fn token_domain(
    (name, version): (&'static str, &'static str),
    chain_id: u64,
    token: Address,
) -> Eip712Domain {
    Eip712Domain::new(
        Some(name.into()),
        Some(version.into()),
        Some(U256::from(chain_id)),
        Some(token),
        None,
    )
}

/// The location of a namespace by ERC-7201.
pub(crate) fn namespace(id: &str) -> U256 {
    let inner = U256::from_be_bytes(keccak256(id).0) - U256::from(1);
    U256::from_be_bytes(keccak256(inner.abi_encode()).0) & !U256::from(0xff)
}
