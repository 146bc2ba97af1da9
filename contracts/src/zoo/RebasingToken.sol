// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 whose balances all grow and shrink at once
/// @notice For tests only. What is kept of an account is its share; anyone may change what a share is worth.
contract RebasingToken is ZooToken {
    string public constant name = "Rebasing";
    string public constant symbol = "REBASE";

    uint256 private constant ONE = 1e18;

    /// Atomic units that a share is worth, times 10^18.
    uint256 public index = ONE;

    function rebase(uint256 newIndex) external {
        require(newIndex > 0, "RebasingToken: no index");
        index = newIndex;
    }

    function balanceOf(address account) public view override returns (uint256) {
        return _balances[account] * index / ONE;
    }

    function mint(address to, uint256 amount) external override {
        totalSupply += amount;
        _balances[to] += _sharesOf(amount);
        emit Transfer(address(0), to, amount);
    }

    function _move(address from, address to, uint256 value) internal override {
        uint256 shares = _sharesOf(value);
        require(shares <= _balances[from], "ERC20: transfer amount exceeds balance");
        _balances[from] -= shares;
        _balances[to] += shares;
        emit Transfer(from, to, value);
    }

    /// Rounded down, so that less may arrive than was sent.
    function _sharesOf(uint256 value) private view returns (uint256) {
        return value * ONE / index;
    }
}
