//! What nodes say when they refuse: the one file that matches their words.
//!
//! Nodes agree on few codes, so their texts decide. What is not understood counts as unknown,
//! never as refused: an unknown outcome is asked about again, a refusal is believed.

use alloy::sol_types::decode_revert_reason;
use pay402_core::network::SendError;

use crate::account;
use crate::rpc::RpcError;

/// Longest text of a node that is passed on, in characters.
const PUBLIC_CHARS_MAX: usize = 160;

/// The JSON-RPC code of a revert.
const REVERT_CODE: i64 = 3;

/// The pool has these very bytes already.
const KNOWN: &[&str] = &[
    "already known",
    "alreadyknown",
    "known transaction",
    "already imported",
    "already in mempool",
];

/// The nonce was consumed by a mined transaction, maybe by these very bytes.
const NONCE_SPENT: &[&str] = &[
    "nonce too low",
    "nonce_too_low",
    "nonce is too low",
    "old nonce",
    "oldnonce",
    "invalid nonce: too low",
];

/// Refused for certain, by a check that comes before the pool.
const REJECTED: &[&str] = &[
    "insufficient funds",
    "insufficientfunds",
    "insufficient_funds",
    "upfront cost exceeds account balance",
    "intrinsic gas too low",
    "exceeds block gas limit",
    "gas limit too high",
    "less than block base fee",
    "fee too low",
    "feetoolow",
    "underpriced",
    "replacementnotallowed",
    "exceeds the configured cap",
    "invalid sender",
    "invalid chain id",
    "chain id mismatch",
    "transaction type not supported",
    "nonce too high",
    "txpool is full",
    "gapped-nonce",
];

/// The call itself failed, not the node.
const EXECUTION: &[&str] =
    &["revert", "out of gas", "outofgas", "gas required exceeds", "invalid opcode", "evm error"];

/// The node keeps no state of so old a block.
const STATE_MISSING: &[&str] = &[
    "missing trie node",
    "state not available",
    "state is not available",
    "historical state",
    "header not found",
    "pruned",
    "block not found",
    "unknown block",
];

/// The node cannot answer now, or not this: another one may, or it later.
const BUSY: &[&str] = &[
    "too many requests",
    "rate limit",
    "rate-limit",
    "request limit",
    "request count exceeded",
    "requests per second",
    "compute units",
    "capacity exceeded",
    "throughput",
    "quota",
    "over capacity",
    "overloaded",
    "server is busy",
    "try again",
    "retry",
    "temporarily",
    "service unavailable",
    "backend",
    "upstream",
    "bad gateway",
    "request timed out",
    "request timeout",
    "timeout waiting",
    "execution aborted (timeout",
    "unfinalized data",
    "still syncing",
    "node is syncing",
    "not synced",
    "behind the head",
];

/// What nodes and providers answer when they are asked too much: HTTP's code, EIP-1474's "limit
/// exceeded", and Infura's and Alchemy's own.
const BUSY_CODES: &[i64] = &[429, -32_005, -32_097, -32_016];

/// It answers smaller questions of the kind.
const TOO_WIDE: &[&str] =
    &["query returned more than", "block range", "blocks range", "range too", "range is too"];

/// Whether a node says that it cannot answer now what another one, or itself later, may.
pub(crate) fn is_busy(error: &RpcError) -> bool {
    // What a contract says while it reverts is no word of the node.
    if error.data.is_some() || execution_failure(error).is_some() {
        return false;
    }
    let text = error.message.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    !says(TOO_WIDE) && (BUSY_CODES.contains(&error.code) || is_state_missing(error) || says(BUSY))
}

/// Whether a node says that it has no state of the block that was asked about.
pub(crate) fn is_state_missing(error: &RpcError) -> bool {
    let text = error.message.to_lowercase();
    STATE_MISSING.iter().any(|phrase| text.contains(phrase))
}

/// Reads the answer to `eth_sendRawTransaction`.
pub(crate) fn sent(error: &RpcError) -> Result<(), SendError> {
    let text = error.message.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if is_busy(error) {
        // Whatever else it says: a node that is asked too much may say that of others' words.
        Err(SendError::Unknown(error.public_text()))
    } else if says(KNOWN) {
        Ok(())
    } else if says(NONCE_SPENT) {
        Err(SendError::NonceSpent)
    } else if says(REJECTED) {
        Err(SendError::Rejected(error.public_text()))
    } else {
        Err(SendError::Unknown(error.public_text()))
    }
}

/// Why a call failed in the EVM; `None` when it was the node that failed.
pub(crate) fn execution_failure(error: &RpcError) -> Option<String> {
    if let Some(words) = error.data.as_ref().and_then(|data| account::words(data)) {
        return Some(words);
    }
    if let Some(reason) = error.data.as_ref().and_then(|data| decode_revert_reason(data)) {
        return Some(public_text(&reason));
    }
    let text = error.message.to_lowercase();
    let failed = error.code == REVERT_CODE || EXECUTION.iter().any(|phrase| text.contains(phrase));
    failed.then(|| error.public_text())
}

/// A node's or a contract's text, fit to be shown: short, printable, and without words that look
/// like a URL, since a node's URL often holds an API key.
pub(crate) fn public_text(text: &str) -> String {
    let words = text.split_whitespace().map(|word| {
        let url = word.contains("://") || word.starts_with("www.");
        if url { "(url)" } else { word }
    });
    let joined = words.collect::<Vec<_>>().join(" ");
    joined.chars().filter(|c| !c.is_control()).take(PUBLIC_CHARS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Bytes;
    use alloy::sol_types::{Revert, SolError as _};

    use super::*;

    fn error(code: i64, message: &str) -> RpcError {
        RpcError { code, message: message.to_owned(), data: None }
    }

    #[test]
    fn nodes_words_are_understood() {
        let reading = |message: &str| sent(&error(-32000, message));
        assert_eq!(reading("already known"), Ok(()));
        assert_eq!(reading("transaction already imported"), Ok(()));
        assert_eq!(reading("nonce too low: next nonce 5, tx nonce 4"), Err(SendError::NonceSpent));
        for refused in [
            "insufficient funds for gas * price + value: balance 0",
            "max fee per gas less than block base fee: address 0x0",
            "replacement transaction underpriced",
            "nonce too high",
        ] {
            let reading = reading(refused);
            assert!(matches!(reading, Err(SendError::Rejected(_))), "{refused}: {reading:?}");
        }
        for unknown in ["", "internal error", "header not found", "too many requests", "timeout"] {
            let reading = reading(unknown);
            assert!(matches!(reading, Err(SendError::Unknown(_))), "{unknown}: {reading:?}");
        }
    }

    /// Of geth, reth, nethermind, erigon, besu and anvil.
    #[test]
    fn each_nodes_words_are_understood() {
        let reading = |message: &str| sent(&error(-32000, message));
        for known in [
            "already known",
            "AlreadyKnown",
            "Known transaction",
            "transaction already imported",
            "transaction already in mempool",
        ] {
            assert_eq!(reading(known), Ok(()), "{known}");
        }
        for spent in [
            "nonce too low: address 0x1, tx: 4 state: 5",
            "nonce too low",
            "OldNonce",
            "OldNonce, Current nonce: 5, nonce of rejected tx: 4",
            "Nonce too low",
            "Transaction nonce is too low. Try incrementing the nonce.",
            "NONCE_TOO_LOW",
        ] {
            assert_eq!(reading(spent), Err(SendError::NonceSpent), "{spent}");
        }
        for refused in [
            "insufficient funds for gas * price + value: address 0x1 have 0 want 1",
            "InsufficientFunds, Account balance: 0, cumulative cost: 1",
            "INSUFFICIENT_FUNDS",
            "Upfront cost exceeds account balance",
            "Insufficient funds for gas * price + value",
            "intrinsic gas too low: gas 1, minimum needed 21000",
            "exceeds block gas limit",
            "FeeTooLow, MaxFeePerGas too low",
            "FeeTooLowToCompete",
            "replacement transaction underpriced",
            "transaction underpriced: gas tip cap 1, minimum needed 1000000",
            "ReplacementNotAllowed",
            "max fee per gas less than block base fee: address 0x1",
            "tx fee (2.00 ether) exceeds the configured cap (1.00 ether)",
            "invalid sender",
            "txpool is full",
        ] {
            let reading = reading(refused);
            assert!(matches!(reading, Err(SendError::Rejected(_))), "{refused}: {reading:?}");
        }
    }

    #[test]
    fn who_cannot_answer_now_is_told_from_who_refuses() {
        for (code, busy) in [
            (-32005, "daily request count exceeded, request rate limited"),
            (429, "Your app has exceeded its compute units per second capacity."),
            (-32005, "limit exceeded"),
            (-32007, "50/second request limit reached - reduce calls per second"),
            (-32000, "header not found"),
            (-32000, "missing trie node 1a (path ) state 0x2b is not available"),
            (-32000, "Too Many Requests, retry in 10s"),
            (-32603, "service temporarily unavailable"),
            (-32000, "no backend is currently healthy to serve traffic"),
            (-32000, "execution aborted (timeout = 5s)"),
            (-32001, "Unable to complete request at this time: upstream"),
        ] {
            let error = error(code, busy);
            assert!(is_busy(&error), "{busy}");
            assert!(matches!(sent(&error), Err(SendError::Unknown(_))), "{busy}");
        }
        for (code, other) in [
            (3, "execution reverted: too many requests"),
            (-32005, "query returned more than 10000 results"),
            (-32602, "block range is too wide"),
            (-32000, "nonce too low"),
            (-32000, "already known"),
            (-32000, "insufficient funds"),
            (-32601, "the method eth_foo does not exist"),
        ] {
            assert!(!is_busy(&error(code, other)), "{other}");
        }
    }

    #[test]
    fn a_failing_call_is_told_from_a_failing_node() {
        let reason = Revert::from("FiatTokenV2: invalid signature");
        let revert = RpcError {
            data: Some(Bytes::from(reason.abi_encode())),
            ..error(3, "execution reverted: FiatTokenV2: invalid signature")
        };
        let why = execution_failure(&revert).unwrap();
        assert!(why.contains("FiatTokenV2: invalid signature"), "{why}");
        assert!(execution_failure(&error(3, "execution reverted")).is_some());
        assert!(execution_failure(&error(-32000, "out of gas")).is_some());
        assert!(execution_failure(&error(-32000, "header not found")).is_none());
        assert!(execution_failure(&error(429, "rate limit exceeded")).is_none());
    }

    #[test]
    fn a_missing_state_is_told_from_a_busy_node() {
        for missing in ["missing trie node 12ab", "historical state is unavailable", "pruned"] {
            assert!(is_state_missing(&error(-32000, missing)), "{missing}");
        }
        for busy in ["too many requests", "internal error", "execution reverted"] {
            assert!(!is_state_missing(&error(-32000, busy)), "{busy}");
        }
    }

    #[test]
    fn shown_texts_are_short_and_hold_no_url() {
        let text = "cannot reach https://node.example/v2/SECRET now\u{7}";
        assert_eq!(public_text(text), "cannot reach (url) now");
        assert_eq!(public_text(&"x".repeat(10_000)).len(), PUBLIC_CHARS_MAX);
    }
}
