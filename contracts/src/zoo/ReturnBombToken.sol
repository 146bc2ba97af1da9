// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 with very long answers
/// @notice For tests only. Whoever copies an answer into memory pays for it. `transfer` and `transferFrom` answer
/// `true` and then zeros, `permit` fails with zeros: each `answerBytes` long.
contract ReturnBombToken is ZooToken {
    string public constant name = "ReturnBomb";
    string public constant symbol = "BOMB";

    uint256 public answerBytes = 32;

    function setAnswerBytes(uint256 length) external {
        require(length >= 32, "ReturnBombToken: shorter than `true`");
        answerBytes = length;
    }

    function transfer(address to, uint256 value) external override returns (bool) {
        _move(msg.sender, to, value);
        _answer();
    }

    function transferFrom(address from, address to, uint256 value) external override returns (bool) {
        _spendAllowance(from, value);
        _move(from, to, value);
        _answer();
    }

    function permit(address, address, uint256, uint256, uint8, bytes32, bytes32) external view {
        uint256 length = answerBytes;
        assembly ("memory-safe") {
            revert(mload(0x40), length)
        }
    }

    function _answer() private view {
        uint256 length = answerBytes;
        assembly ("memory-safe") {
            let answer := mload(0x40)
            mstore(answer, 1)
            return(answer, length)
        }
    }
}
