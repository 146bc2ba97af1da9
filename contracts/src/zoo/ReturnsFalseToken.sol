// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 that answers `false` where others revert
/// @notice For tests only. It also answers so, and moves nothing, as long as anyone tells it to.
contract ReturnsFalseToken is ZooToken {
    string public constant name = "ReturnsFalse";
    string public constant symbol = "FALSE";

    bool public refusing;

    function setRefusing(bool value) external {
        refusing = value;
    }

    function transfer(address to, uint256 value) external override returns (bool) {
        return _tryMove(msg.sender, to, value);
    }

    function transferFrom(address from, address to, uint256 value) external override returns (bool) {
        if (allowance[from][msg.sender] < value || !_tryMove(from, to, value)) return false;
        _spendAllowance(from, value);
        return true;
    }

    function _tryMove(address from, address to, uint256 value) private returns (bool) {
        if (refusing || _balances[from] < value) return false;
        _move(from, to, value);
        return true;
    }
}
