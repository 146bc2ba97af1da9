// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {ZooToken} from "./ZooToken.sol";

/// @title An ERC-20 whose transfers answer and act as it is told
/// @notice For tests only. Anyone may tell it. It claims the EIP-3009 view of used nonces, and never saw one used.
contract PuppetToken is ZooToken {
    enum Mood {
        /// Returns true.
        Plain,
        /// Returns nothing, as some old tokens do.
        Silent,
        /// Returns false and moves nothing.
        False,
        /// Returns a word that is not a bool.
        Garbled,
        /// Reverts with a kilobyte.
        Verbose,
        /// Returns true, and a megabyte after it.
        Bomb,
        /// Calls `target` with `data` after it moved the money, once for each transfer that came from outside.
        Reenter,
        /// Moves money, and will not say which nonces were used.
        Mute
    }

    string public constant name = "Puppet";
    string public constant symbol = "PUPPET";

    Mood public mood;
    address public target;
    bytes public data;
    /// Of its own calls, how many worked, and what the last one answered.
    uint256 public reentered;
    bytes public answer;

    function obey(Mood newMood, address newTarget, bytes calldata newData) external {
        mood = newMood;
        target = newTarget;
        data = newData;
    }

    function transfer(address to, uint256 value) external override returns (bool) {
        Mood now_ = mood;
        if (now_ == Mood.False) return false;
        if (now_ == Mood.Verbose) {
            assembly ("memory-safe") {
                revert(0x80, 0x400)
            }
        }
        _move(msg.sender, to, value);
        if (now_ == Mood.Reenter) _reenter();
        uint256 word = now_ == Mood.Garbled ? 2 : 1;
        uint256 size = now_ == Mood.Silent ? 0 : now_ == Mood.Bomb ? 0x100000 : 0x20;
        assembly ("memory-safe") {
            mstore(0x00, word)
            return(0x00, size)
        }
    }

    function authorizationState(address, bytes32) external view returns (bool) {
        require(mood != Mood.Mute, "mute");
        return false;
    }

    function _reenter() private {
        // What it calls may come back here.
        mood = Mood.Plain;
        bool success;
        (success, answer) = target.call(data);
        if (success) reentered++;
        mood = Mood.Reenter;
    }
}
