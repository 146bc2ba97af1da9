// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// The call a contract account answers to accept a signature (EIP-1271).
interface IERC1271 {
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4);
}
