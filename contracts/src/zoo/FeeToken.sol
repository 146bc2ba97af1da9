// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 that keeps 1 % of what is moved
/// @notice For tests only. The fee is rounded up, so that no amount arrives whole.
contract FeeToken is ZooToken {
    string public constant name = "Fee";
    string public constant symbol = "FEE";

    function _move(address from, address to, uint256 value) internal override {
        uint256 fee = value / 100 + (value % 100 == 0 ? 0 : 1);
        super._move(from, to, value - fee);
        super._move(from, address(this), fee);
    }
}
