// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooWallet} from "./ZooWallet.sol";

/// @title A contract account that changes its mind
/// @notice For tests only. It accepts every signature before block `flipsAt`, and none from there on.
contract FlipWallet is ZooWallet {
    uint256 public flipsAt;

    constructor(uint256 firstRefusingBlock) {
        flipsAt = firstRefusingBlock;
    }

    function setFlipsAt(uint256 firstRefusingBlock) external {
        flipsAt = firstRefusingBlock;
    }

    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        return block.number < flipsAt ? VALID : INVALID;
    }
}
