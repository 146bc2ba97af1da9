// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Something that wastes gas when told to
/// @notice For tests only. Anyone may say how much.
abstract contract GasBurner {
    /// Gas that is wasted each time: 0 for none, the greatest number for all there is.
    uint256 public gasToBurn;

    function setGasToBurn(uint256 amount) external {
        gasToBurn = amount;
    }

    /// All there is goes in one instruction, which fails the call. Any other amount is wasted step by step, and the
    /// call goes on.
    function _burnGas() internal view {
        uint256 amount = gasToBurn;
        if (amount == type(uint256).max) {
            assembly ("memory-safe") {
                invalid()
            }
        }
        uint256 start = gasleft();
        while (start - gasleft() < amount) {}
    }
}
