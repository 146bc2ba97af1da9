// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title Many signed payments in one transaction
/// @notice Carries out payments of accounts without code: EIP-3009 transfers, and Permit2 permits through the x402 proxy of
/// scheme `exact`. Both move only what their payer signed, whoever sends them. Anyone may call; there is no owner, no state,
/// and nothing is ever held or approved here.
/// @dev One payment never takes the others down. Each is called with at most `itemGas`, whatever becomes of the call is
/// ignored, and nothing that it returns is copied. An item is begun only while so much gas is left that it gets all of
/// `itemGas` (EIP-150 keeps back one part in 64); the first for which too little is left ends the call, so that what is not
/// carried out is the tail of the list and never an item that was starved.
contract Packer {
    /// Bytes of one item: kind 1, token 20, payer 20, payee 20, amount 16, valid after 5, valid before 5, nonce 32, r 32,
    /// s 32, v 1; whole numbers big-endian, times in seconds. Kind 1 is an EIP-3009 transfer, by the overload that takes v, r and
    /// s; kind 2 is a permit of Permit2; one of any other kind is passed over.
    uint256 public constant ITEM_BYTES = 184;
    /// Gas that must be left beside an item's own: to reach a contract that is new to the transaction, and to end.
    uint256 public constant RESERVE_GAS = 10_000;
    /// The x402 proxy of scheme `exact`, which spends permits.
    address public constant EXACT_PROXY = 0x402085c248EeA27D92E8b30b2C58ed07f9E20001;

    /// The list does not consist of whole items.
    error TornItem();

    /// @param itemGas Most gas of one item.
    /// @param items The payments, one after another.
    /// @return tried How many were begun; what became of them is in their tokens' logs.
    function carryOut(uint256 itemGas, bytes calldata items) external returns (uint256 tried) {
        if (items.length % ITEM_BYTES != 0) revert TornItem();
        uint256 needed = itemGas + itemGas / 63 + RESERVE_GAS;
        uint256 count = items.length / ITEM_BYTES;
        for (; tried < count && gasleft() >= needed; ++tried) {
            uint256 item;
            uint256 kind;
            assembly ("memory-safe") {
                item := add(items.offset, mul(tried, ITEM_BYTES))
                kind := byte(0, calldataload(item))
            }
            if (kind == 1) _transfer(item, itemGas);
            else if (kind == 2) _spend(item, itemGas);
        }
    }

    /// token.transferWithAuthorization(from, to, value, validAfter, validBefore, nonce, v, r, s)
    function _transfer(uint256 item, uint256 itemGas) private {
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, shl(224, 0xe3ee160e))
            mstore(add(data, 4), shr(96, calldataload(add(item, 21))))
            mstore(add(data, 36), shr(96, calldataload(add(item, 41))))
            mstore(add(data, 68), shr(128, calldataload(add(item, 61))))
            mstore(add(data, 100), shr(216, calldataload(add(item, 77))))
            mstore(add(data, 132), shr(216, calldataload(add(item, 82))))
            mstore(add(data, 164), calldataload(add(item, 87)))
            mstore(add(data, 196), byte(0, calldataload(add(item, 183))))
            mstore(add(data, 228), calldataload(add(item, 119)))
            mstore(add(data, 260), calldataload(add(item, 151)))
            pop(call(itemGas, shr(96, calldataload(add(item, 1))), 0, data, 292, 0, 0))
        }
    }

    /// proxy.settle(((token, amount), nonce, deadline), owner, (to, validAfter), signature)
    function _spend(uint256 item, uint256 itemGas) private {
        assembly ("memory-safe") {
            let data := mload(0x40)
            mstore(data, shl(224, 0x13cd3b53))
            mstore(add(data, 4), shr(96, calldataload(add(item, 1))))
            mstore(add(data, 36), shr(128, calldataload(add(item, 61))))
            mstore(add(data, 68), calldataload(add(item, 87)))
            mstore(add(data, 100), shr(216, calldataload(add(item, 82))))
            mstore(add(data, 132), shr(96, calldataload(add(item, 21))))
            mstore(add(data, 164), shr(96, calldataload(add(item, 41))))
            mstore(add(data, 196), shr(216, calldataload(add(item, 77))))
            mstore(add(data, 228), 256)
            mstore(add(data, 260), 65)
            calldatacopy(add(data, 292), add(item, 119), 65)
            // The signature's padding: an item before may have left something there.
            mstore(add(data, 357), 0)
            pop(call(itemGas, EXACT_PROXY, 0, data, 388, 0, 0))
        }
    }
}
