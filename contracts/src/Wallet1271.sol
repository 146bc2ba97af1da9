// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// @title The smallest contract account that can pay
/// @notice Accepts what its owner signed (EIP-1271) and runs what its owner sends. For tests: it has no recovery,
/// no modules and no replay domain of its own.
/// @dev slot 0 holds the owner. Where it is empty the owner is the account itself, which is what an EOA that
/// delegates to this code (EIP-7702) needs: its own key signs for it.
contract Wallet1271 {
    address private _owner;

    /// `isValidSignature(bytes32,bytes)`, which is also the answer that means yes.
    bytes4 private constant VALID = 0x1626ba7e;
    bytes4 private constant INVALID = 0xffffffff;
    uint256 private constant HALF_CURVE_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    constructor(address initialOwner) payable {
        _owner = initialOwner;
    }

    receive() external payable {}

    function owner() public view returns (address) {
        return _owner == address(0) ? address(this) : _owner;
    }

    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        if (signature.length != 65) return INVALID;
        bytes32 s = bytes32(signature[32:64]);
        if (uint256(s) > HALF_CURVE_ORDER) return INVALID;
        address signer = ecrecover(digest, uint8(signature[64]), bytes32(signature[0:32]), s);
        return signer != address(0) && signer == owner() ? VALID : INVALID;
    }

    function execute(address target, uint256 value, bytes calldata data) external payable returns (bytes memory) {
        require(msg.sender == owner(), "Wallet1271: caller is not the owner");
        (bool success, bytes memory answer) = target.call{value: value}(data);
        if (!success) {
            assembly ("memory-safe") {
                revert(add(answer, 0x20), mload(answer))
            }
        }
        return answer;
    }
}
