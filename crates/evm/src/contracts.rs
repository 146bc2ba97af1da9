//! What we call on chain, and the events we read: tokens, accounts, Permit2 and its proxies,
//! delegation managers, `AgentAccount`, Multicall3.
//!
//! The ABI only; nothing here makes a call.
#![allow(missing_docs)] // the items are the standards' own; the macro's output carries no docs

use alloy::sol;

sol! {
    /// A token with EIP-3009, in both forms of the transfer.
    interface Eip3009 {
        event Transfer(address indexed from, address indexed to, uint256 value);
        event AuthorizationUsed(address indexed authorizer, bytes32 indexed nonce);
        event AuthorizationCanceled(address indexed authorizer, bytes32 indexed nonce);

        function balanceOf(address account) external view returns (uint256);
        function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
        function DOMAIN_SEPARATOR() external view returns (bytes32);

        function transferWithAuthorization(
            address from,
            address to,
            uint256 value,
            uint256 validAfter,
            uint256 validBefore,
            bytes32 nonce,
            uint8 v,
            bytes32 r,
            bytes32 s
        ) external;
        function transferWithAuthorization(
            address from,
            address to,
            uint256 value,
            uint256 validAfter,
            uint256 validBefore,
            bytes32 nonce,
            bytes signature
        ) external;
    }

    /// An account that decides about signatures itself.
    interface Eip1271 {
        function isValidSignature(bytes32 digest, bytes signature) external view returns (bytes4);
    }

    /// What every token has, and what tokens with EIP-2612 add.
    interface Erc20 {
        function decimals() external view returns (uint8);
        function allowance(address owner, address spender) external view returns (uint256);
        function approve(address spender, uint256 value) external returns (bool);
        function transfer(address to, uint256 value) external returns (bool);
        function nonces(address owner) external view returns (uint256);
    }

    /// Permit2, as far as signatures are spent by it.
    interface Permit2 {
        event UnorderedNonceInvalidation(address indexed owner, uint256 word, uint256 mask);

        function nonceBitmap(address owner, uint256 word) external view returns (uint256);
    }

    struct TokenPermissions {
        address token;
        uint256 amount;
    }

    struct PermitTransferFrom {
        TokenPermissions permitted;
        uint256 nonce;
        uint256 deadline;
    }

    /// An EIP-2612 permit as the proxies take it along.
    struct SignedTokenPermit {
        uint256 value;
        uint256 deadline;
        bytes32 r;
        bytes32 s;
        uint8 v;
    }

    struct ExactWitness {
        address to;
        uint256 validAfter;
    }

    struct UptoWitness {
        address to;
        address facilitator;
        uint256 validAfter;
    }

    /// The spender of `exact` permits.
    interface ExactProxy {
        function settle(
            PermitTransferFrom permit,
            address owner,
            ExactWitness witness,
            bytes signature
        ) external;
        function settleWithPermit(
            SignedTokenPermit tokenPermit,
            PermitTransferFrom permit,
            address owner,
            ExactWitness witness,
            bytes signature
        ) external;
    }

    /// The spender of `upto` permits; only the witness's facilitator may call it.
    interface UptoProxy {
        function settle(
            PermitTransferFrom permit,
            uint256 amount,
            address owner,
            UptoWitness witness,
            bytes signature
        ) external;
        function settleWithPermit(
            SignedTokenPermit tokenPermit,
            PermitTransferFrom permit,
            uint256 amount,
            address owner,
            UptoWitness witness,
            bytes signature
        ) external;
    }

    /// A contract that carries out what accounts delegated (ERC-7710).
    interface DelegationManager {
        function redeemDelegations(
            bytes[] permissionContexts,
            bytes32[] modes,
            bytes[] executionCallDatas
        ) external;
    }

    /// Our own contract that carries out many signed payments.
    interface Packer {
        function carryOut(uint256 itemGas, bytes items) external returns (uint256 tried);
    }

    struct Call3 {
        address target;
        bool allowFailure;
        bytes callData;
    }

    /// Several calls as one.
    interface Multicall3 {
        struct Result {
            bool success;
            bytes returnData;
        }

        function aggregate3(Call3[] calls) external payable returns (Result[] results);
    }
}
