// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

/// The two calls that a token is asked to carry out or answer.
interface IToken {
    function transfer(address to, uint256 value) external returns (bool);
    function authorizationState(address authorizer, bytes32 nonce) external view returns (bool);
}

/// @title An account of a person, with keys for agents
/// @notice What an EOA delegates to (EIP-7702) so that an agent's key can pay from it within limits that the chain
/// enforces, while anyone pays the gas. The formats and the trust model are in docs/agent-account.md.
/// @dev The laws, which the tests hold it to:
///
///  1. The root is `address(this)`: the EOA's own key. There is nothing to initialise, no owner in storage, no
///     upgrade, no delegatecall, and the only call that changes another contract is `transfer` of ERC-20.
///  2. Within one epoch a key has one policy, for ever: it is registered once, and a revoked key stays revoked. So
///     registrations and revocations need no nonce to be safe from replay, and wait for each other in no order.
///  3. What a session key may pay is one budget per token and window, whichever road a payment takes: ERC-7710
///     payments are summed in storage; of EIP-3009 authorizations the token itself remembers which were used, and
///     each counts as a whole `cap`.
///  4. A session key changes no configuration, and nothing that it signs is accepted that is not a bounded payment.
contract AgentAccount {
    /// What a session may spend of one token.
    struct TokenLimit {
        address token;
        /// Most atomic units of one payment.
        uint128 cap;
        /// Most atomic units of all payments in one window.
        uint128 budget;
        /// Length of a window in seconds. Windows are counted from the session's `validAfter`.
        uint32 window;
        /// EIP-3009 authorizations that may be used in one window; zero closes that road.
        uint8 slots;
    }

    /// What the root grants to one key.
    struct Session {
        address key;
        /// First second in which the key may pay, and the start of window 0.
        uint48 validAfter;
        /// First second in which it may not any more.
        uint48 expiry;
        bool anyPayee;
        address[] payees;
        TokenLimit[] tokens;
    }

    enum State {
        Unknown,
        Registered,
        Revoked
    }

    /// A limit as stored. The second slot is never zero, so a payment's write is never the dear first one.
    struct Allowance {
        uint128 cap;
        uint128 budget;
        uint128 spent;
        /// The window that `spent` is of.
        uint48 spentWindow;
        uint32 window;
        uint8 slots;
    }

    struct Policy {
        uint48 validAfter;
        uint48 expiry;
        State state;
        bool anyPayee;
        mapping(address token => Allowance) allowances;
        mapping(address payee => bool) payees;
        mapping(uint256 word => uint256 bits) usedNonces;
    }

    /// @custom:storage-location erc7201:pay402.storage.AgentAccount
    struct Account {
        uint64 epoch;
        mapping(uint256 epoch => mapping(address key => Policy)) policies;
    }

    /// One payment by ERC-7710, as signed and asked for.
    struct Payment {
        address key;
        uint64 epoch;
        uint256 nonce;
        uint48 validAfter;
        uint48 deadline;
        address token;
        address to;
        uint256 value;
    }

    /// One EIP-3009 authorization, as embedded in a signature.
    struct Authorization {
        address token;
        address to;
        uint256 value;
        uint48 validAfter;
        uint48 validBefore;
        uint8 slot;
        bytes32 nameHash;
        bytes32 versionHash;
    }

    event SessionRegistered(address indexed key, uint64 indexed epoch, bytes32 policy);
    event SessionRevoked(address indexed key, uint64 indexed epoch);
    event AllRevoked(uint64 indexed newEpoch);
    event Paid(address indexed key, address indexed token, address indexed to, uint256 value, uint256 nonce);

    // Of operations of the root.
    error OperationExpired();
    error BadRootSignature();
    error TooManySessions();
    error BadKey();
    error SessionExists();
    error BadTimes();
    error BadPayees();
    error BadTokens();
    error BadLimit();
    // Of payments.
    error WrongEpoch();
    error BadBatch();
    error UnsupportedMode();
    error MalformedContext();
    error MalformedExecution();
    error NotATransfer();
    error BadToken();
    error NotYetValid();
    error DeadlinePassed();
    error LifetimeTooLong();
    error BadSignature();
    error NonceUsed();
    error SessionUnknown();
    error SessionIsRevoked();
    error SessionNotStarted();
    error SessionExpired();
    error TokenNotAllowed();
    error PayeeNotAllowed();
    error OverCap();
    error OverBudget();
    error AuthorizationStateUnknown();
    error TransferFailed(address token, bytes reason);
    error TransferRefused(address token);
    // Of signatures that a token asks about; these are only ever returned.
    error MalformedSignature();
    error SlotNotAllowed();
    error WrongDigest();

    string private constant NAME = "pay402 AgentAccount";
    string private constant VERSION = "1";

    /// Sessions that one operation may register.
    uint256 public constant MAX_SESSIONS = 8;
    uint256 public constant MAX_PAYEES = 32;
    uint256 public constant MAX_TOKENS = 8;
    uint256 public constant MAX_SLOTS = 16;
    /// Payments of one `redeemDelegations`.
    uint256 public constant MAX_BATCH = 16;
    /// Most seconds between the first and the last moment at which something that a session key signed is good.
    uint256 public constant MAX_LIFETIME = 3600;

    /// key 20, epoch 8, nonce 32, validAfter 6, deadline 6, signature 65.
    uint256 private constant CONTEXT_LENGTH = 137;
    /// token 20, value 32, and the call data of `transfer`: 4 + 32 + 32.
    uint256 private constant EXECUTION_LENGTH = 120;
    /// token 20, to 20, value 16, validAfter 6, validBefore 6, slot 1, nameHash 32, versionHash 32, signature 65.
    uint256 private constant AUTHORIZATION_LENGTH = 198;
    /// Of a token's answer to a failed transfer, how much is passed on.
    uint256 private constant MAX_REASON = 256;
    uint256 private constant NO_SLOT = type(uint256).max;

    bytes4 private constant VALID = 0x1626ba7e;
    bytes4 private constant INVALID = 0xffffffff;
    bytes4 private constant ACCEPTED = 0;

    /// Half of the order of secp256k1: an `s` above it is the malleable twin of a signature.
    uint256 private constant HALF_CURVE_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0;

    /// keccak256(abi.encode(uint256(keccak256("pay402.storage.AgentAccount")) - 1)) & ~0xff, by ERC-7201.
    bytes32 private constant ACCOUNT_SLOT = 0x9b290f66145173c350b73b85902e2a0d43e94c0ad3832d5bcf0978e534063b00;

    bytes32 private constant DOMAIN_TYPEHASH =
        keccak256("EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)");
    bytes32 private constant TOKEN_LIMIT_TYPEHASH =
        keccak256("TokenLimit(address token,uint128 cap,uint128 budget,uint32 window,uint8 slots)");
    bytes32 private constant SESSION_TYPEHASH = keccak256(
        "Session(address key,uint48 validAfter,uint48 expiry,bool anyPayee,address[] payees,TokenLimit[] tokens)TokenLimit(address token,uint128 cap,uint128 budget,uint32 window,uint8 slots)"
    );
    bytes32 private constant REGISTER_TYPEHASH = keccak256(
        "RegisterSessions(Session[] sessions,uint64 epoch,uint48 deadline)Session(address key,uint48 validAfter,uint48 expiry,bool anyPayee,address[] payees,TokenLimit[] tokens)TokenLimit(address token,uint128 cap,uint128 budget,uint32 window,uint8 slots)"
    );
    bytes32 private constant REVOKE_TYPEHASH = keccak256("RevokeSession(address key,uint64 epoch,uint48 deadline)");
    bytes32 private constant REVOKE_ALL_TYPEHASH = keccak256("RevokeAll(uint64 epoch,uint48 deadline)");
    bytes32 private constant PAYMENT_TYPEHASH = keccak256(
        "Payment(address token,address to,uint256 value,uint256 nonce,uint48 validAfter,uint48 deadline,uint64 epoch)"
    );
    bytes32 private constant NONCE_TYPEHASH =
        keccak256("AuthorizationNonce(uint64 epoch,address key,address token,uint48 window,uint8 slot)");
    bytes32 private constant TRANSFER_WITH_AUTHORIZATION_TYPEHASH = keccak256(
        "TransferWithAuthorization(address from,address to,uint256 value,uint256 validAfter,uint256 validBefore,bytes32 nonce)"
    );

    // ---- what an EOA does without code

    receive() external payable {}

    function onERC721Received(address, address, uint256, bytes calldata) external pure returns (bytes4) {
        return this.onERC721Received.selector;
    }

    function onERC1155Received(address, address, uint256, uint256, bytes calldata) external pure returns (bytes4) {
        return this.onERC1155Received.selector;
    }

    function onERC1155BatchReceived(address, address, uint256[] calldata, uint256[] calldata, bytes calldata)
        external
        pure
        returns (bytes4)
    {
        return this.onERC1155BatchReceived.selector;
    }

    /// ERC-165, ERC-721 and ERC-1155 receiver, EIP-1271, ERC-7710.
    function supportsInterface(bytes4 id) external pure returns (bool) {
        return id == 0x01ffc9a7 || id == 0x150b7a02 || id == 0x4e2312e0 || id == VALID
            || id == this.redeemDelegations.selector;
    }

    // ---- operations of the root

    /// Grants each key its policy. By the root itself, or by anyone with the root's signature of
    /// `RegisterSessions`; in the transaction that adopts this code, too.
    function registerSessions(Session[] calldata sessions, uint64 epoch_, uint48 deadline, bytes calldata signature)
        external
    {
        uint256 count = sessions.length;
        if (count == 0 || count > MAX_SESSIONS) revert TooManySessions();
        bytes32[] memory hashes = new bytes32[](count);
        for (uint256 i = 0; i < count; i++) {
            hashes[i] = _hashSession(sessions[i]);
        }
        _requireRoot(
            keccak256(abi.encode(REGISTER_TYPEHASH, keccak256(abi.encodePacked(hashes)), epoch_, deadline)),
            epoch_,
            deadline,
            signature
        );
        for (uint256 i = 0; i < count; i++) {
            _register(sessions[i], epoch_);
            emit SessionRegistered(sessions[i].key, epoch_, hashes[i]);
        }
    }

    /// Ends a key for the rest of the epoch, whether it was registered yet or not.
    function revokeSession(address key, uint64 epoch_, uint48 deadline, bytes calldata signature) external {
        _requireRoot(keccak256(abi.encode(REVOKE_TYPEHASH, key, epoch_, deadline)), epoch_, deadline, signature);
        _policy(epoch_, key).state = State.Revoked;
        emit SessionRevoked(key, epoch_);
    }

    /// Ends every key, and every registration and payment that was signed and has not been made.
    function revokeAll(uint64 epoch_, uint48 deadline, bytes calldata signature) external {
        _requireRoot(keccak256(abi.encode(REVOKE_ALL_TYPEHASH, epoch_, deadline)), epoch_, deadline, signature);
        _account().epoch = epoch_ + 1;
        emit AllRevoked(epoch_ + 1);
    }

    // ---- payments by ERC-7710

    /// Makes payments that session keys or the root signed. Anyone may call it; it is all or nothing.
    function redeemDelegations(
        bytes[] calldata permissionContexts,
        bytes32[] calldata modes,
        bytes[] calldata executionCallDatas
    ) external {
        uint256 count = permissionContexts.length;
        if (count == 0 || count > MAX_BATCH || modes.length != count || executionCallDatas.length != count) {
            revert BadBatch();
        }
        for (uint256 i = 0; i < count; i++) {
            // ERC-7579: one call, which reverts if it fails.
            if (modes[i] != bytes32(0)) revert UnsupportedMode();
            _pay(_parse(permissionContexts[i], executionCallDatas[i]), permissionContexts[i]);
        }
    }

    // ---- signatures (EIP-1271)

    /// Yes for the root's own ECDSA signature of `digest` as it is, and for an EIP-3009 authorization by a session key
    /// that its policy covers at this moment.
    function isValidSignature(bytes32 digest, bytes calldata signature) external view returns (bytes4) {
        return signatureRefusal(digest, signature) == ACCEPTED ? VALID : INVALID;
    }

    /// Why `isValidSignature` says no: the selector of one of the errors above; zero where it says yes.
    function signatureRefusal(bytes32 digest, bytes calldata signature) public view returns (bytes4) {
        if (signature.length == 65 || signature.length == 64) {
            return _recover(digest, signature) == address(this) ? ACCEPTED : BadSignature.selector;
        }
        if (signature.length != AUTHORIZATION_LENGTH) return MalformedSignature.selector;
        address key = _recover(digest, signature[133:]);
        if (key == address(0)) return BadSignature.selector;
        return _authorizationRefusal(key, digest, _parseAuthorization(signature));
    }

    // ---- views

    /// Everything that is signed names it; `revokeAll` raises it. It survives a change of the delegation.
    function epoch() public view returns (uint64) {
        return _account().epoch;
    }

    /// What is known of `key` in this epoch.
    function session(address key)
        external
        view
        returns (State state, uint48 validAfter, uint48 expiry, bool anyPayee)
    {
        Policy storage policy = _policy(epoch(), key);
        return (policy.state, policy.validAfter, policy.expiry, policy.anyPayee);
    }

    /// The limits of `key` for `token`; all zero where it has none.
    function tokenLimit(address key, address token)
        external
        view
        returns (uint128 cap, uint128 budget, uint32 window, uint8 slots)
    {
        Allowance storage allowance = _policy(epoch(), key).allowances[token];
        return (allowance.cap, allowance.budget, allowance.window, allowance.slots);
    }

    function isPayeeAllowed(address key, address payee) external view returns (bool) {
        Policy storage policy = _policy(epoch(), key);
        return policy.anyPayee || policy.payees[payee];
    }

    /// Atomic units of `token` that `key` may still spend in the window of this moment, and the first second of the
    /// next window; zeros where it may not spend at all.
    function remaining(address key, address token) external view returns (uint256 left, uint256 windowEnd) {
        uint64 current = epoch();
        Policy storage policy = _policy(current, key);
        Allowance storage allowance = policy.allowances[token];
        if (_sessionRefusal(policy) != ACCEPTED || allowance.window == 0) return (0, 0);
        uint256 window = _window(policy, allowance);
        (bool known, uint256 used) = _usedSlots(current, key, token, window, allowance.slots, NO_SLOT);
        uint256 spent = _spent(allowance, window) + used * allowance.cap;
        left = known && spent < allowance.budget ? allowance.budget - spent : 0;
        windowEnd = policy.validAfter + (window + 1) * allowance.window;
    }

    /// Whether an ERC-7710 payment of `key` (the root's, where it is this account) with `nonce` was made in this epoch.
    function isNonceUsed(address key, uint256 nonce) external view returns (bool) {
        return _policy(epoch(), key).usedNonces[nonce >> 8] & (1 << (nonce & 0xff)) != 0;
    }

    /// The number of the window of this moment; a session that has not started has none and gets 0.
    function currentWindow(address key, address token) external view returns (uint256) {
        Policy storage policy = _policy(epoch(), key);
        Allowance storage allowance = policy.allowances[token];
        if (allowance.window == 0 || block.timestamp < policy.validAfter) return 0;
        return _window(policy, allowance);
    }

    /// The nonce that an EIP-3009 authorization of `key` must have to use `slot` in `window`.
    function authorizationNonce(address key, address token, uint48 window, uint8 slot)
        external
        view
        returns (bytes32)
    {
        return _authorizationNonce(epoch(), key, token, window, slot);
    }

    /// The domain of what the root and session keys sign (ERC-5267).
    function eip712Domain()
        external
        view
        returns (
            bytes1 fields,
            string memory name,
            string memory version,
            uint256 chainId,
            address verifyingContract,
            bytes32 salt,
            uint256[] memory extensions
        )
    {
        return (hex"0f", NAME, VERSION, block.chainid, address(this), bytes32(0), new uint256[](0));
    }

    // ---- internals: registration

    function _requireRoot(bytes32 structHash, uint64 epoch_, uint48 deadline, bytes calldata signature) private view {
        if (epoch_ != epoch()) revert WrongEpoch();
        if (block.timestamp > deadline) revert OperationExpired();
        if (msg.sender == address(this)) return;
        if (signature.length != 65 || _recover(_digest(structHash), signature) != address(this)) {
            revert BadRootSignature();
        }
    }

    function _register(Session calldata granted, uint64 epoch_) private {
        if (granted.key == address(0) || granted.key == address(this)) revert BadKey();
        Policy storage policy = _policy(epoch_, granted.key);
        if (policy.state != State.Unknown) revert SessionExists();
        if (granted.expiry <= granted.validAfter || granted.expiry <= block.timestamp) revert BadTimes();
        policy.validAfter = granted.validAfter;
        policy.expiry = granted.expiry;
        policy.state = State.Registered;
        policy.anyPayee = granted.anyPayee;

        uint256 payees = granted.payees.length;
        // No payee and "any payee" must not be confused, nor a list be thought to narrow "any".
        if (payees > MAX_PAYEES || granted.anyPayee == (payees != 0)) revert BadPayees();
        for (uint256 i = 0; i < payees; i++) {
            policy.payees[granted.payees[i]] = true;
        }
        uint256 tokens = granted.tokens.length;
        if (tokens == 0 || tokens > MAX_TOKENS) revert BadTokens();
        for (uint256 i = 0; i < tokens; i++) {
            _allow(policy, granted.tokens[i]);
        }
    }

    function _allow(Policy storage policy, TokenLimit calldata limit) private {
        Allowance storage allowance = policy.allowances[limit.token];
        // A second limit for a token would silently replace the first.
        if (limit.token == address(0) || limit.token == address(this) || allowance.window != 0) revert BadTokens();
        if (limit.cap == 0 || limit.cap > limit.budget || limit.window == 0 || limit.slots > MAX_SLOTS) {
            revert BadLimit();
        }
        allowance.cap = limit.cap;
        allowance.budget = limit.budget;
        allowance.window = limit.window;
        allowance.slots = limit.slots;
    }

    function _hashSession(Session calldata granted) private pure returns (bytes32) {
        bytes32[] memory limits = new bytes32[](granted.tokens.length);
        for (uint256 i = 0; i < limits.length; i++) {
            TokenLimit calldata limit = granted.tokens[i];
            limits[i] = keccak256(
                abi.encode(
                    TOKEN_LIMIT_TYPEHASH, limit.token, limit.cap, limit.budget, limit.window, limit.slots
                )
            );
        }
        return keccak256(
            abi.encode(
                SESSION_TYPEHASH,
                granted.key,
                granted.validAfter,
                granted.expiry,
                granted.anyPayee,
                keccak256(abi.encodePacked(granted.payees)),
                keccak256(abi.encodePacked(limits))
            )
        );
    }

    // ---- internals: a payment

    function _parse(bytes calldata context, bytes calldata execution) private view returns (Payment memory payment) {
        if (context.length != CONTEXT_LENGTH) revert MalformedContext();
        if (execution.length != EXECUTION_LENGTH) revert MalformedExecution();
        // The value of the call must be zero, and the call must be `transfer` with a clean address.
        if (
            bytes32(execution[20:52]) != 0 || bytes4(execution[52:56]) != IToken.transfer.selector
                || bytes12(execution[56:68]) != 0
        ) revert NotATransfer();
        payment.key = address(bytes20(context[0:20]));
        payment.epoch = uint64(bytes8(context[20:28]));
        payment.nonce = uint256(bytes32(context[28:60]));
        payment.validAfter = uint48(bytes6(context[60:66]));
        payment.deadline = uint48(bytes6(context[66:72]));
        payment.token = address(bytes20(execution[0:20]));
        payment.to = address(bytes20(execution[68:88]));
        payment.value = uint256(bytes32(execution[88:120]));
        // Calling itself would make this account its own caller, which is how the root is known.
        if (payment.token == address(this)) revert BadToken();
    }

    /// What it writes stands before the token gets control, so a token that calls back finds the money spent.
    function _pay(Payment memory payment, bytes calldata context) private {
        if (payment.epoch != epoch()) revert WrongEpoch();
        if (block.timestamp < payment.validAfter) revert NotYetValid();
        if (block.timestamp > payment.deadline) revert DeadlinePassed();
        bytes32 digest = _digest(
            keccak256(
                abi.encode(
                    PAYMENT_TYPEHASH,
                    payment.token,
                    payment.to,
                    payment.value,
                    payment.nonce,
                    payment.validAfter,
                    payment.deadline,
                    payment.epoch
                )
            )
        );
        address signer = _recover(digest, context[72:137]);
        if (signer == address(0) || signer != payment.key) revert BadSignature();
        Policy storage policy = _policy(payment.epoch, signer);
        _useNonce(policy, payment.nonce);
        if (signer != address(this)) _spend(policy, payment);
        emit Paid(signer, payment.token, payment.to, payment.value, payment.nonce);
        _transfer(payment.token, payment.to, payment.value);
    }

    function _useNonce(Policy storage policy, uint256 nonce) private {
        uint256 bits = policy.usedNonces[nonce >> 8];
        uint256 bit = 1 << (nonce & 0xff);
        if (bits & bit != 0) revert NonceUsed();
        policy.usedNonces[nonce >> 8] = bits | bit;
    }

    function _spend(Policy storage policy, Payment memory payment) private {
        if (payment.deadline - payment.validAfter > MAX_LIFETIME) revert LifetimeTooLong();
        Allowance storage allowance = policy.allowances[payment.token];
        bytes4 refusal = _sessionRefusal(policy);
        if (refusal == ACCEPTED) refusal = _paymentRefusal(policy, allowance, payment.to, payment.value);
        _require(refusal);
        uint256 window = _window(policy, allowance);
        _require(
            _budgetRefusal(allowance, payment.epoch, payment.key, payment.token, payment.value, window, NO_SLOT)
        );
        // Both fit: the sum is at most the budget, and a window is at least one second long.
        allowance.spent = uint128(_spent(allowance, window) + payment.value);
        allowance.spentWindow = uint48(window);
    }

    function _transfer(address token, address to, uint256 value) private {
        bytes memory data = abi.encodeCall(IToken.transfer, (to, value));
        bool success;
        uint256 size;
        uint256 word;
        // At most a word of the answer is copied, whatever its length.
        assembly ("memory-safe") {
            success := call(gas(), token, 0, add(data, 0x20), mload(data), 0x00, 0x20)
            size := returndatasize()
            word := mload(0x00)
        }
        if (!success) {
            if (size > MAX_REASON) size = MAX_REASON;
            bytes memory reason = new bytes(size);
            assembly ("memory-safe") {
                returndatacopy(add(reason, 0x20), 0, size)
            }
            revert TransferFailed(token, reason);
        }
        bool accepted = size == 0 ? token.code.length != 0 : size >= 0x20 && word == 1;
        if (!accepted) revert TransferRefused(token);
    }

    // ---- internals: an EIP-3009 authorization

    function _parseAuthorization(bytes calldata signature)
        private
        pure
        returns (Authorization memory authorization)
    {
        authorization.token = address(bytes20(signature[0:20]));
        authorization.to = address(bytes20(signature[20:40]));
        authorization.value = uint128(bytes16(signature[40:56]));
        authorization.validAfter = uint48(bytes6(signature[56:62]));
        authorization.validBefore = uint48(bytes6(signature[62:68]));
        authorization.slot = uint8(signature[68]);
        authorization.nameHash = bytes32(signature[69:101]);
        authorization.versionHash = bytes32(signature[101:133]);
    }

    function _authorizationRefusal(address key, bytes32 digest, Authorization memory authorization)
        private
        view
        returns (bytes4)
    {
        uint64 current = epoch();
        Policy storage policy = _policy(current, key);
        Allowance storage allowance = policy.allowances[authorization.token];
        bytes4 refusal = _sessionRefusal(policy);
        if (refusal != ACCEPTED) return refusal;
        refusal = _paymentRefusal(policy, allowance, authorization.to, authorization.value);
        if (refusal != ACCEPTED) return refusal;
        if (authorization.slot >= allowance.slots) return SlotNotAllowed.selector;
        if (authorization.validBefore < authorization.validAfter) return BadTimes.selector;
        if (authorization.validBefore - authorization.validAfter > MAX_LIFETIME) return LifetimeTooLong.selector;
        uint256 window = _window(policy, allowance);
        bytes32 nonce = _authorizationNonce(current, key, authorization.token, window, authorization.slot);
        if (_authorizationDigest(authorization, nonce) != digest) return WrongDigest.selector;
        return _budgetRefusal(
            allowance, current, key, authorization.token, authorization.value, window, authorization.slot
        );
    }

    /// The domain names the token as its verifying contract, so no other contract can mean the same digest: not even
    /// if an allowed token claims the domain of another.
    function _authorizationDigest(Authorization memory authorization, bytes32 nonce) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN_TYPEHASH,
                authorization.nameHash,
                authorization.versionHash,
                block.chainid,
                authorization.token
            )
        );
        bytes32 structHash = keccak256(
            abi.encode(
                TRANSFER_WITH_AUTHORIZATION_TYPEHASH,
                address(this),
                authorization.to,
                authorization.value,
                authorization.validAfter,
                authorization.validBefore,
                nonce
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, structHash));
    }

    /// The EIP-712 hash of an `AuthorizationNonce`.
    function _authorizationNonce(uint64 epoch_, address key, address token, uint256 window, uint256 slot)
        private
        pure
        returns (bytes32)
    {
        return keccak256(abi.encode(NONCE_TYPEHASH, epoch_, key, token, window, slot));
    }

    // ---- internals: the rules, the same on both roads. Each gives the selector of the error that refuses.

    function _sessionRefusal(Policy storage policy) private view returns (bytes4) {
        if (policy.state == State.Unknown) return SessionUnknown.selector;
        if (policy.state == State.Revoked) return SessionIsRevoked.selector;
        if (block.timestamp < policy.validAfter) return SessionNotStarted.selector;
        if (block.timestamp >= policy.expiry) return SessionExpired.selector;
        return ACCEPTED;
    }

    function _paymentRefusal(Policy storage policy, Allowance storage allowance, address to, uint256 value)
        private
        view
        returns (bytes4)
    {
        if (allowance.window == 0) return TokenNotAllowed.selector;
        if (!policy.anyPayee && !policy.payees[to]) return PayeeNotAllowed.selector;
        if (value > allowance.cap) return OverCap.selector;
        return ACCEPTED;
    }

    /// `own` is the slot that the payment itself takes, or `NO_SLOT`.
    function _budgetRefusal(
        Allowance storage allowance,
        uint64 epoch_,
        address key,
        address token,
        uint256 value,
        uint256 window,
        uint256 own
    ) private view returns (bytes4) {
        uint256 slots = allowance.slots;
        uint256 cap = allowance.cap;
        uint256 spent = _spent(allowance, window) + value;
        // It fits even if every other slot were used: the token need not be asked.
        uint256 others = own < slots ? slots - 1 : slots;
        if (spent + others * cap <= allowance.budget) return ACCEPTED;
        (bool known, uint256 used) = _usedSlots(epoch_, key, token, window, slots, own);
        if (!known) return AuthorizationStateUnknown.selector;
        return spent + used * cap <= allowance.budget ? ACCEPTED : OverBudget.selector;
    }

    /// How many slots of the window the token has seen used, besides `own`; not known if it will not say.
    function _usedSlots(uint64 epoch_, address key, address token, uint256 window, uint256 slots, uint256 own)
        private
        view
        returns (bool known, uint256 used)
    {
        for (uint256 slot = 0; slot < slots; slot++) {
            if (slot == own) continue;
            bytes memory data = abi.encodeCall(
                IToken.authorizationState, (address(this), _authorizationNonce(epoch_, key, token, window, slot))
            );
            bool answered;
            uint256 word;
            assembly ("memory-safe") {
                answered := staticcall(gas(), token, add(data, 0x20), mload(data), 0x00, 0x20)
                answered := and(answered, gt(returndatasize(), 0x1f))
                word := mload(0x00)
            }
            if (!answered) return (false, 0);
            if (word != 0) used++;
        }
        return (true, used);
    }

    function _window(Policy storage policy, Allowance storage allowance) private view returns (uint256) {
        return (block.timestamp - policy.validAfter) / allowance.window;
    }

    /// What ERC-7710 payments took of the budget of `window`.
    function _spent(Allowance storage allowance, uint256 window) private view returns (uint256) {
        return allowance.spentWindow == window ? allowance.spent : 0;
    }

    function _require(bytes4 refusal) private pure {
        if (refusal == ACCEPTED) return;
        assembly ("memory-safe") {
            mstore(0x00, refusal)
            revert(0x00, 0x04)
        }
    }

    // ---- internals: signatures and storage

    /// Computed at every call: under a delegation `address(this)` is the EOA.
    function _digest(bytes32 structHash) private view returns (bytes32) {
        bytes32 domain = keccak256(
            abi.encode(
                DOMAIN_TYPEHASH, keccak256(bytes(NAME)), keccak256(bytes(VERSION)), block.chainid, address(this)
            )
        );
        return keccak256(abi.encodePacked("\x19\x01", domain, structHash));
    }

    /// Who signed: 65 bytes (r, s, v) or 64 (r, yParity and s: EIP-2098). Zero for the malleable twin, another `v`,
    /// another length, or nobody.
    function _recover(bytes32 digest, bytes calldata signature) private pure returns (address) {
        bytes32 r = bytes32(signature[0:32]);
        uint256 s = uint256(bytes32(signature[32:64]));
        uint8 v;
        if (signature.length == 64) {
            v = uint8(s >> 255) + 27;
            s &= type(uint256).max >> 1;
        } else {
            v = uint8(signature[64]);
        }
        if (s > HALF_CURVE_ORDER || (v != 27 && v != 28)) return address(0);
        return ecrecover(digest, v, r, bytes32(s));
    }

    function _policy(uint256 epoch_, address key) private view returns (Policy storage) {
        return _account().policies[epoch_][key];
    }

    function _account() private pure returns (Account storage account) {
        bytes32 slot = ACCOUNT_SLOT;
        assembly ("memory-safe") {
            account.slot := slot
        }
    }
}
