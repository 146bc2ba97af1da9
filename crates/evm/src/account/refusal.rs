//! Why an account refuses, for people: its errors in words.

use alloy::primitives::Bytes;
use alloy::sol_types::SolInterface as _;

pub use super::abi::AgentAccount::AgentAccountErrors as Refusals;

/// The words for revert data of an account; `None` when it is not one of its errors.
pub fn words(data: &[u8]) -> Option<String> {
    Refusals::abi_decode_validate(data).ok().map(|refusal| explain(&refusal))
}

fn explain(refusal: &Refusals) -> String {
    use Refusals as R;
    let text = match refusal {
        R::OperationExpired(_) => "the root's operation is past its deadline; sign it again",
        R::BadRootSignature(_) => "the operation is not signed by the account's root key",
        R::TooManySessions(_) => "an operation registers 1 to 8 sessions",
        R::BadKey(_) => "a session's key must be neither zero nor the root's own",
        R::SessionExists(_) => {
            "the key had a session in this epoch already, or was revoked; use a new key"
        }
        R::BadTimes(_) => "the times end before they begin, or lie in the past",
        R::BadPayees(_) => "a session names 1 to 32 payees, or allows anybody",
        R::BadTokens(_) => "a session has limits for 1 to 8 different tokens",
        R::BadLimit(_) => "a limit needs 0 < cap <= budget, a window, and at most 16 slots",
        R::WrongEpoch(_) => "the account's epoch changed since this was signed",
        R::BadBatch(_) => "a batch has 1 to 16 payments, with as many modes and executions",
        R::UnsupportedMode(_) => "the account makes single calls only",
        R::MalformedContext(_) => "the permission context is not one of this account's version",
        R::MalformedExecution(_) | R::NotATransfer(_) => {
            "the account does nothing but a plain ERC-20 transfer"
        }
        R::BadToken(_) => "the account does not pay in itself",
        R::NotYetValid(_) => "the payment is not valid yet",
        R::DeadlinePassed(_) => "the payment is past its deadline",
        R::LifetimeTooLong(_) => "what a session key signs is valid for 3600 seconds at most",
        R::BadSignature(_) => "the payment is not signed by the key that it names",
        R::NonceUsed(_) => "the payment was made already",
        R::SessionUnknown(_) => "the session key is not registered; the root can add it",
        R::SessionIsRevoked(_) => "the session key is revoked; the root can add another",
        R::SessionNotStarted(_) => "the session has not started yet",
        R::SessionExpired(_) => "the session has expired; the root can add another key",
        R::TokenNotAllowed(_) => "the session key may not spend this token",
        R::PayeeNotAllowed(_) => "the session key may not pay this payee",
        R::OverCap(_) => "the payment is over the session key's cap for one payment",
        R::OverBudget(_) => "the session key's budget of this window is used up",
        R::AuthorizationStateUnknown(_) => {
            "the token does not tell which authorizations were used, so the budget is not known"
        }
        R::TransferFailed(failed) => {
            return with_reason("the token's transfer failed", &failed.reason);
        }
        R::TransferRefused(_) => "the token refused the transfer",
        R::MalformedSignature(_) => "the signature has a length that the account does not know",
        R::SlotNotAllowed(_) => "the session's limit has no such slot",
        R::WrongDigest(_) => "the signature is not for this authorization or this window",
    };
    text.to_owned()
}

fn with_reason(text: &str, reason: &Bytes) -> String {
    match alloy::sol_types::decode_revert_reason(reason) {
        Some(reason) => format!("{text}: {}", crate::network::errors::public_text(&reason)),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use alloy::primitives::Address;
    use alloy::sol_types::{Revert, SolError as _};

    use super::*;
    use crate::account::Contract;

    #[test]
    fn every_error_has_words_and_nothing_else_has() {
        let mut seen = std::collections::BTreeSet::new();
        for selector in Refusals::SELECTORS {
            let arguments = [&selector[..], &[0; 31], &[1], &[0; 31], &[64], &[0; 32]].concat();
            let data = [words(selector), words(&arguments)];
            let text = data.into_iter().flatten().next();
            let text = text.unwrap_or_else(|| panic!("{selector:?} has no words"));
            seen.insert(text);
        }
        assert!(seen.len() > 30, "{seen:?}");
        assert_eq!(words(b""), None);
        assert_eq!(words(&[0x16, 0x26, 0xba, 0x7e]), None);
        assert_eq!(words(&Revert::from("no").abi_encode()), None);
    }

    #[test]
    fn what_the_token_said_is_passed_on_and_kept_short() {
        let reason = |text: &str| Revert::from(text).abi_encode().into();
        let failed = |text| Contract::TransferFailed { token: Address::ZERO, reason: reason(text) };
        let said = words(&failed("paused at https://x.example/KEY").abi_encode()).unwrap();
        assert!(said.contains("paused at (url)") && !said.contains("KEY"), "{said}");
        let long = words(&failed(&"x".repeat(5_000)).abi_encode()).unwrap();
        assert!(long.len() < 250, "{long}");
    }
}
