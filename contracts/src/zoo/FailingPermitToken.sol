// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 whose EIP-2612 permit always fails
/// @notice For tests only. Anyone may say with which revert data.
contract FailingPermitToken is ZooToken {
    string public constant name = "FailingPermit";
    string public constant symbol = "NOPERMIT";

    bytes public refusal;

    function setRefusal(bytes calldata newRefusal) external {
        refusal = newRefusal;
    }

    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) external view {
        bytes memory answer = refusal;
        assembly ("memory-safe") {
            revert(add(answer, 0x20), mload(answer))
        }
    }
}
