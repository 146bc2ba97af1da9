// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Many EIP-3009 payments tried in one question
/// @notice Never deployed. A facilitator runs the creation code by one `eth_call` without a destination; what the
/// constructor returns is the answer. It answers for every payment what a verification has to know, as of one block:
/// whether the payer's account has code, what it holds, whether the nonce is used, whether the transfer works, and what
/// it takes.
/// @dev Every transfer is tried in a call that is undone afterwards, so that no payment sees another's tokens. Gas is
/// capped for each call, and nothing of what a contract returns is copied beyond one word.
contract PaymentTrials {
    struct Payment {
        address token;
        address payer;
        bytes32 nonce;
        /// The call of the token that makes the transfer.
        bytes transfer;
    }

    /// The payer's account has code.
    uint256 private constant HAS_CODE = 1;
    /// The token said what the payer holds.
    uint256 private constant HOLDS = 2;
    /// The token said whether the nonce is used.
    uint256 private constant KNOWS = 4;
    /// The nonce is used.
    uint256 private constant USED = 8;
    /// The transfer works.
    uint256 private constant WORKS = 16;

    /// @param viewGas Most gas of one look at a token.
    /// @param transferGas Most gas of one transfer.
    constructor(Payment[] memory payments, uint256 viewGas, uint256 transferGas) {
        Undone undone = new Undone();
        // The block's time and number, then three words for each payment: flags, what the payer holds, and the gas
        // of the transfer, whose token is known to the machine already.
        uint256[] memory answers = new uint256[](2 + 3 * payments.length);
        answers[0] = block.timestamp;
        answers[1] = block.number;
        for (uint256 i = 0; i < payments.length; i++) {
            Payment memory payment = payments[i];
            (uint256 flags, uint256 held) = look(payment, viewGas);
            // An account with code decides by itself, and is asked in a way of its own.
            if (flags == HOLDS | KNOWS) {
                (bool works, uint256 used) = undone.attempted(payment.token, payment.transfer, transferGas);
                if (works) flags |= WORKS;
                answers[4 + 3 * i] = used;
            }
            answers[2 + 3 * i] = flags;
            answers[3 + 3 * i] = held;
        }
        assembly ("memory-safe") {
            return(add(answers, 32), mul(mload(answers), 32))
        }
    }

    function look(Payment memory payment, uint256 viewGas) private view returns (uint256 flags, uint256 held) {
        if (payment.payer.code.length != 0) flags |= HAS_CODE;
        bool known;
        (known, held) = word(payment.token, abi.encodeWithSignature("balanceOf(address)", payment.payer), viewGas);
        if (known) flags |= HOLDS;
        uint256 used;
        (known, used) = word(
            payment.token,
            abi.encodeWithSignature("authorizationState(address,bytes32)", payment.payer, payment.nonce),
            viewGas
        );
        if (known) flags |= KNOWS;
        if (used != 0) flags |= USED;
    }

    /// One word that a contract answers with.
    function word(address target, bytes memory data, uint256 gasMax) private view returns (bool known, uint256 value) {
        assembly ("memory-safe") {
            mstore(0, 0)
            known := staticcall(gasMax, target, add(data, 32), mload(data), 0, 32)
            known := and(known, gt(returndatasize(), 31))
            if known { value := mload(0) }
        }
    }
}

/// @notice Tries a call and undoes it.
contract Undone {
    /// Whether the call works, and the gas that it takes.
    function attempted(address target, bytes calldata data, uint256 gasMax) external returns (bool, uint256) {
        try this.attempt(target, data, gasMax) {
            return (false, 0);
        } catch (bytes memory said) {
            return said.length == 32 ? (true, abi.decode(said, (uint256))) : (false, 0);
        }
    }

    /// Always reverts: with the gas that the call took if it worked, with nothing if it did not.
    function attempt(address target, bytes calldata data, uint256 gasMax) external {
        assembly ("memory-safe") {
            let copy := mload(0x40)
            calldatacopy(copy, data.offset, data.length)
            let before := gas()
            let worked := call(gasMax, target, 0, copy, data.length, 0, 0)
            mstore(0, sub(before, gas()))
            revert(0, mul(32, worked))
        }
    }
}
