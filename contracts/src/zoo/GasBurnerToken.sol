// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {GasBurner} from "./GasBurner.sol";
import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 that wastes gas whenever something is moved
/// @notice For tests only. It is honest until anyone tells it how much to waste.
contract GasBurnerToken is ZooToken, GasBurner {
    string public constant name = "GasBurner";
    string public constant symbol = "BURN";

    function _move(address from, address to, uint256 value) internal override {
        _burnGas();
        super._move(from, to, value);
    }
}
