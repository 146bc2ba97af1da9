// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {GasBurner} from "./GasBurner.sol";
import {ZooWallet} from "./ZooWallet.sol";

/// @title A contract account that wastes gas on every signature, and then accepts it
/// @notice For tests only. It wastes none until anyone tells it how much.
contract GasWallet is ZooWallet, GasBurner {
    function isValidSignature(bytes32, bytes calldata) external view returns (bytes4) {
        _burnGas();
        return VALID;
    }
}
