// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 with no kind of permit
/// @notice For tests only.
contract PlainToken is ZooToken {
    string public constant name = "Plain";
    string public constant symbol = "PLAIN";
}
