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
const KNOWN: &[&str] =
    &["already known", "known transaction", "already imported", "already in mempool"];

/// The nonce was consumed by a mined transaction, maybe by these very bytes.
const NONCE_SPENT: &[&str] =
    &["nonce too low", "nonce is too low", "old nonce", "invalid nonce: too low"];

/// Refused for certain, by a check that comes before the pool.
const REJECTED: &[&str] = &[
    "insufficient funds",
    "intrinsic gas too low",
    "exceeds block gas limit",
    "gas limit too high",
    "less than block base fee",
    "fee too low",
    "underpriced",
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

/// Whether a node says that it has no state of the block that was asked about.
pub(crate) fn is_state_missing(error: &RpcError) -> bool {
    let text = error.message.to_lowercase();
    STATE_MISSING.iter().any(|phrase| text.contains(phrase))
}

/// Reads the answer to `eth_sendRawTransaction`.
pub(crate) fn sent(error: &RpcError) -> Result<(), SendError> {
    let text = error.message.to_lowercase();
    let says = |phrases: &[&str]| phrases.iter().any(|phrase| text.contains(phrase));
    if says(KNOWN) {
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
