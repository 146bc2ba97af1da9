//! What we call on chain, and the events we read: EIP-3009 tokens and EIP-1271 accounts.
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
}
