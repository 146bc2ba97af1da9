//! The contract's interface, and the messages that are signed for it.
//!
//! Declared once for both: the structs of calls are the structs of EIP-712. Nothing here makes a
//! call.
#![allow(missing_docs)] // the macro's output carries no docs

alloy::sol! {
    #[derive(Debug, Eq, PartialEq)]
    struct TokenLimit {
        address token;
        uint128 cap;
        uint128 budget;
        uint32 window;
        uint8 slots;
    }

    #[derive(Debug, Eq, PartialEq)]
    struct Session {
        address key;
        uint48 validAfter;
        uint48 expiry;
        bool anyPayee;
        address[] payees;
        TokenLimit[] tokens;
    }

    struct RegisterSessions {
        Session[] sessions;
        uint64 epoch;
        uint48 deadline;
    }

    struct RevokeSession {
        address key;
        uint64 epoch;
        uint48 deadline;
    }

    struct RevokeAll {
        uint64 epoch;
        uint48 deadline;
    }

    struct Payment {
        address token;
        address to;
        uint256 value;
        uint256 nonce;
        uint48 validAfter;
        uint48 deadline;
        uint64 epoch;
    }

    /// What an adopted account answers to.
    interface AgentAccount {
        event SessionRegistered(address indexed key, uint64 indexed epoch, bytes32 policy);
        event SessionRevoked(address indexed key, uint64 indexed epoch);
        event AllRevoked(uint64 indexed newEpoch);
        event Paid(
            address indexed key,
            address indexed token,
            address indexed to,
            uint256 value,
            uint256 nonce
        );

        error OperationExpired();
        error BadRootSignature();
        error TooManySessions();
        error BadKey();
        error SessionExists();
        error BadTimes();
        error BadPayees();
        error BadTokens();
        error BadLimit();
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
        error MalformedSignature();
        error SlotNotAllowed();
        error WrongDigest();

        function registerSessions(
            Session[] sessions,
            uint64 epoch,
            uint48 deadline,
            bytes signature
        ) external;
        function revokeSession(
            address key,
            uint64 epoch,
            uint48 deadline,
            bytes signature
        ) external;
        function revokeAll(uint64 epoch, uint48 deadline, bytes signature) external;

        function epoch() external view returns (uint64);
        function session(address key)
            external
            view
            returns (uint8 state, uint48 validAfter, uint48 expiry, bool anyPayee);
        function tokenLimit(address key, address token)
            external
            view
            returns (uint128 cap, uint128 budget, uint32 window, uint8 slots);
        function isPayeeAllowed(address key, address payee) external view returns (bool);
        function remaining(address key, address token)
            external
            view
            returns (uint256 left, uint256 windowEnd);
        function isNonceUsed(address key, uint256 nonce) external view returns (bool);
    }
}
