// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {GasBurner} from "./GasBurner.sol";

/// @title A factory that deploys nothing (ERC-6492)
/// @notice For tests only. It takes every call, wastes as much gas as anyone told it to, and says that all is well.
contract EvilFactory is GasBurner {
    fallback() external {
        _burnGas();
    }
}
