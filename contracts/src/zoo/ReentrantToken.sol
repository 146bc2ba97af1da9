// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 that calls somebody before it moves anything
/// @notice For tests only. Anyone may say whom and with what; what came of the last call can be read.
contract ReentrantToken is ZooToken {
    string public constant name = "Reentrant";
    string public constant symbol = "REENTER";

    address public target;
    bytes public data;
    bool public lastSuccess;
    bytes public lastAnswer;

    /// A target of zero calls nobody.
    function setCallback(address newTarget, bytes calldata newData) external {
        target = newTarget;
        data = newData;
    }

    function _move(address from, address to, uint256 value) internal override {
        if (target != address(0)) (lastSuccess, lastAnswer) = target.call(data);
        super._move(from, to, value);
    }
}
