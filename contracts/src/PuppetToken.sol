// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title A token that does as it is told
/// @notice For tests: a plain ERC-20 that anyone may mint, and that on command answers or acts as bad tokens do.
/// @dev slot 0 holds the balances.
contract PuppetToken {
    enum Mood {
        /// Moves the money and returns true.
        Plain,
        /// Moves the money and returns nothing, as some old tokens do.
        Silent,
        /// Returns false and moves nothing.
        False,
        /// Moves the money and returns a word that is not a bool.
        Garbled,
        /// Reverts with a reason of a kilobyte.
        Verbose,
        /// Moves the money, returns true, and a megabyte of zeros after it.
        Bomb,
        /// Calls `target` with `data` whenever it moves money, and remembers how that went.
        Reenter,
        /// Moves money, and will not say which authorizations were used.
        Mute
    }

    mapping(address => uint256) public balanceOf;
    Mood public mood;
    address public target;
    bytes public data;
    uint256 public reentered;
    bytes public answer;

    event Transfer(address indexed from, address indexed to, uint256 value);

    function mint(address to, uint256 value) external {
        balanceOf[to] += value;
        emit Transfer(address(0), to, value);
    }

    function obey(Mood mood_, address target_, bytes calldata data_) external {
        mood = mood_;
        target = target_;
        data = data_;
    }

    function transfer(address to, uint256 value) external returns (bool) {
        if (mood == Mood.False) return false;
        if (mood == Mood.Verbose) {
            assembly ("memory-safe") {
                revert(0x80, 0x400)
            }
        }
        balanceOf[msg.sender] -= value;
        balanceOf[to] += value;
        emit Transfer(msg.sender, to, value);
        if (mood == Mood.Reenter) _reenter();
        if (mood == Mood.Silent) {
            assembly ("memory-safe") {
                return(0, 0)
            }
        }
        if (mood == Mood.Garbled) {
            assembly ("memory-safe") {
                mstore(0, 2)
                return(0, 0x20)
            }
        }
        if (mood == Mood.Bomb) {
            assembly ("memory-safe") {
                mstore(0, 1)
                return(0, 0x100000)
            }
        }
        return true;
    }

    /// Has no authorizations: none is ever used.
    function authorizationState(address, bytes32) external view returns (bool) {
        require(mood != Mood.Mute, "mute");
        return false;
    }

    function _reenter() private {
        // Once: the call that it makes comes back here.
        mood = Mood.Plain;
        (bool success, bytes memory returned) = target.call(data);
        if (success) reentered++;
        answer = returned;
        mood = Mood.Reenter;
    }
}
