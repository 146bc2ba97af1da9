// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC1271} from "./IERC1271.sol";
import {ISignatureTransfer} from "./ISignatureTransfer.sol";

/// @title Transfers by signature for any ERC-20, for development chains
/// @notice Takes the same calls and the same signatures as the SignatureTransfer half of Permit2, and answers with
/// the same errors, events and storage of nonces. The AllowanceTransfer half (`approve`, `allowance`, `permit`,
/// `transferFrom`, `lockdown`, `invalidateNonces`) is not here, because no payment uses it.
/// @dev Made to be placed by genesis: no constructor, no immutable, and the chain id is read at run time. Slot 0 is
/// the bitmap of nonces, mapping(address => mapping(uint256 => uint256)).
///
/// Kept on purpose, because the contract that payers meet does it too: a token that has no code "transfers"
/// successfully, and a signature's malleable twin is accepted. Whoever needs to know that money moved reads the
/// token's logs.
contract Permit2 is ISignatureTransfer {
    mapping(address => mapping(uint256 => uint256)) public nonceBitmap;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,uint256 chainId,address verifyingContract)");
    bytes32 private constant NAME_HASH = keccak256("Permit2");
    bytes32 private constant TOKEN_PERMISSIONS_TYPEHASH = keccak256("TokenPermissions(address token,uint256 amount)");
    bytes32 private constant SINGLE_TYPEHASH = keccak256(
        "PermitTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
    );
    bytes32 private constant BATCH_TYPEHASH = keccak256(
        "PermitBatchTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline)TokenPermissions(address token,uint256 amount)"
    );
    string private constant SINGLE_WITNESS_TYPE =
        "PermitWitnessTransferFrom(TokenPermissions permitted,address spender,uint256 nonce,uint256 deadline,";
    string private constant BATCH_WITNESS_TYPE =
        "PermitBatchWitnessTransferFrom(TokenPermissions[] permitted,address spender,uint256 nonce,uint256 deadline,";

    /// All but the highest bit of a word: EIP-2098 keeps the parity of a signature in that bit of `s`.
    uint256 private constant ALL_BUT_PARITY = (1 << 255) - 1;

    function DOMAIN_SEPARATOR() public view returns (bytes32) {
        return keccak256(abi.encode(DOMAIN_TYPEHASH, NAME_HASH, block.chainid, address(this)));
    }

    function invalidateUnorderedNonces(uint256 wordPos, uint256 mask) external {
        nonceBitmap[msg.sender][wordPos] |= mask;
        emit UnorderedNonceInvalidation(msg.sender, wordPos, mask);
    }

    function permitTransferFrom(
        PermitTransferFrom memory permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external {
        bytes32 structHash = keccak256(
            abi.encode(SINGLE_TYPEHASH, _hash(permit.permitted), msg.sender, permit.nonce, permit.deadline)
        );
        _transferOne(permit, transferDetails, owner, structHash, signature);
    }

    function permitWitnessTransferFrom(
        PermitTransferFrom memory permit,
        SignatureTransferDetails calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32 typeHash = keccak256(bytes(string.concat(SINGLE_WITNESS_TYPE, witnessTypeString)));
        bytes32 structHash = keccak256(
            abi.encode(typeHash, _hash(permit.permitted), msg.sender, permit.nonce, permit.deadline, witness)
        );
        _transferOne(permit, transferDetails, owner, structHash, signature);
    }

    function permitTransferFrom(
        PermitBatchTransferFrom memory permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes calldata signature
    ) external {
        bytes32 structHash =
            keccak256(abi.encode(BATCH_TYPEHASH, _hash(permit.permitted), msg.sender, permit.nonce, permit.deadline));
        _transferMany(permit, transferDetails, owner, structHash, signature);
    }

    function permitWitnessTransferFrom(
        PermitBatchTransferFrom memory permit,
        SignatureTransferDetails[] calldata transferDetails,
        address owner,
        bytes32 witness,
        string calldata witnessTypeString,
        bytes calldata signature
    ) external {
        bytes32 typeHash = keccak256(bytes(string.concat(BATCH_WITNESS_TYPE, witnessTypeString)));
        bytes32 structHash = keccak256(
            abi.encode(typeHash, _hash(permit.permitted), msg.sender, permit.nonce, permit.deadline, witness)
        );
        _transferMany(permit, transferDetails, owner, structHash, signature);
    }

    // ---- one transfer, many transfers

    function _transferOne(
        PermitTransferFrom memory permit,
        SignatureTransferDetails calldata details,
        address owner,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        uint256 permitted = permit.permitted.amount;
        if (details.requestedAmount > permitted) revert InvalidAmount(permitted);
        _spendNonce(owner, permit.nonce);
        _requireSignedBy(owner, structHash, signature);
        _pull(permit.permitted.token, owner, details.to, details.requestedAmount);
    }

    /// An amount of zero leaves its token out, without calling it.
    function _transferMany(
        PermitBatchTransferFrom memory permit,
        SignatureTransferDetails[] calldata details,
        address owner,
        bytes32 structHash,
        bytes calldata signature
    ) private {
        if (block.timestamp > permit.deadline) revert SignatureExpired(permit.deadline);
        if (details.length != permit.permitted.length) revert LengthMismatch();
        _spendNonce(owner, permit.nonce);
        _requireSignedBy(owner, structHash, signature);
        for (uint256 i = 0; i < details.length; ++i) {
            TokenPermissions memory permitted = permit.permitted[i];
            uint256 amount = details[i].requestedAmount;
            if (amount > permitted.amount) revert InvalidAmount(permitted.amount);
            if (amount > 0) _pull(permitted.token, owner, details[i].to, amount);
        }
    }

    // ---- nonces, hashes, signatures, tokens

    function _spendNonce(address owner, uint256 nonce) private {
        uint256 bit = 1 << (nonce & 0xff);
        uint256 spent = nonceBitmap[owner][nonce >> 8];
        if (spent & bit != 0) revert InvalidNonce();
        nonceBitmap[owner][nonce >> 8] = spent | bit;
    }

    function _hash(TokenPermissions memory permitted) private pure returns (bytes32) {
        return keccak256(abi.encode(TOKEN_PERMISSIONS_TYPEHASH, permitted.token, permitted.amount));
    }

    function _hash(TokenPermissions[] memory permitted) private pure returns (bytes32) {
        bytes32[] memory hashes = new bytes32[](permitted.length);
        for (uint256 i = 0; i < permitted.length; ++i) {
            hashes[i] = _hash(permitted[i]);
        }
        return keccak256(abi.encodePacked(hashes));
    }

    /// An account with code is asked (EIP-1271) and never recovered, even if it is a delegated EOA (EIP-7702);
    /// an account without code is recovered and never asked.
    function _requireSignedBy(address owner, bytes32 structHash, bytes calldata signature) private view {
        bytes32 digest = keccak256(abi.encodePacked("\x19\x01", DOMAIN_SEPARATOR(), structHash));
        if (owner.code.length > 0) {
            bytes4 answer = IERC1271(owner).isValidSignature(digest, signature);
            if (answer != IERC1271.isValidSignature.selector) revert InvalidContractSignature();
            return;
        }
        address signer = _recover(digest, signature);
        if (signer == address(0)) revert InvalidSignature();
        if (signer != owner) revert InvalidSigner();
    }

    /// Takes r, s and v in 65 bytes, or r and s with the parity in its highest bit in 64 (EIP-2098).
    function _recover(bytes32 digest, bytes calldata signature) private pure returns (address) {
        if (signature.length != 65 && signature.length != 64) revert InvalidSignatureLength();
        bytes32 r = bytes32(signature[0:32]);
        bytes32 s = bytes32(signature[32:64]);
        if (signature.length == 65) return ecrecover(digest, uint8(signature[64]), r, s);
        uint8 v = uint256(s) > ALL_BUT_PARITY ? 28 : 27;
        return ecrecover(digest, v, r, s & bytes32(ALL_BUT_PARITY));
    }

    /// Calls the token's `transferFrom`. Success is a call that does not fail and answers nothing, or `true`.
    function _pull(address token, address from, address to, uint256 amount) private {
        bytes memory data = abi.encodeWithSelector(0x23b872dd, from, to, amount);
        bool pulled;
        assembly ("memory-safe") {
            // One word of the answer is copied, so that a long answer costs only the token's own gas.
            let called := call(gas(), token, 0, add(data, 0x20), mload(data), 0, 0x20)
            switch returndatasize()
            case 0 { pulled := called }
            default { pulled := and(called, and(gt(returndatasize(), 0x1f), eq(mload(0), 1))) }
        }
        require(pulled, "TRANSFER_FROM_FAILED");
    }
}
