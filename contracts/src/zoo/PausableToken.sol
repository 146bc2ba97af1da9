// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 that can be paused, and bar accounts
/// @notice For tests only. Anyone may pause it and bar anyone.
contract PausableToken is ZooToken {
    string public constant name = "Pausable";
    string public constant symbol = "PAUSE";

    bool public paused;
    mapping(address => bool) public isBlacklisted;

    function setPaused(bool value) external {
        paused = value;
    }

    function setBlacklisted(address account, bool value) external {
        isBlacklisted[account] = value;
    }

    function _move(address from, address to, uint256 value) internal override {
        require(!paused, "Pausable: paused");
        require(!isBlacklisted[from] && !isBlacklisted[to], "Blacklistable: account is blacklisted");
        super._move(from, to, value);
    }
}
