//! Where a settlement stands, told to the caller that entered it and to nobody else.
//!
//! **Invariants:** looking changes nothing, the right to be told of a success above all; and it
//! tells a success only to who would be told it by settling again, as often as it asks: the holder
//! of the API key and the idempotency key that the entry was made with. Entries that were made
//! without both are nobody's to look at, and do not differ here from ones that are not there.

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::Response;
use pay402_core::error::Malformed;
use pay402_core::journal::{Entry, Outcome, Stage};
use pay402_core::refusal::{Funds, Retry};
use pay402_core::{Digest, PaymentKey};
use serde_json::{Map, Value, json};

use super::answer::{TurnedAway, json_answer, retry_later};
use super::{Api, idempotency_key};
use crate::settle::{hash, refused_by};

/// The header of answers to keyed settle calls that says what to look the settlement up by.
pub(super) static SETTLEMENT_ID: HeaderName = HeaderName::from_static("settlement-id");
/// Stands in an id where the payment's key has a slash, which would end a part of a path.
const PART: &str = "~";

/// What a payment's key is called in a path. It holds nothing but what the chain makes public, and
/// no right to anything.
pub(crate) fn id_of(key: &PaymentKey) -> String {
    key.as_str().replace('/', PART)
}

/// The key that an id stands for.
pub(super) fn key_of(id: &str) -> PaymentKey {
    PaymentKey::from_stored(&id.replace(PART, "/"))
}

/// The same as a header; `None` for a key that cannot be in one, which no family makes.
pub(super) fn header_of(key: &PaymentKey) -> Option<HeaderValue> {
    HeaderValue::from_str(&id_of(key)).ok()
}

pub(super) async fn settlement(
    State(api): State<Api>,
    id: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Response {
    let (key, caller) = match asked(&api, id, &headers) {
        Ok(asked) => asked,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    let found = match api.started() {
        Ok(engine) => engine.entry(&key).await,
        Err(turned_away) => return api.turn_away(turned_away),
    };
    match found {
        Ok(Some(entry)) if entry.new.caller == Some(caller) => {
            json_answer(StatusCode::OK, &standing(&entry))
        }
        Ok(_) => {
            let message = "nothing was entered by this id with this API key and Idempotency-Key";
            json_answer(StatusCode::NOT_FOUND, &json!({"error": "not_found", "message": message}))
        }
        Err(error) => {
            tracing::warn!(%error, "a settlement could not be looked up");
            let message = "the journal is unavailable; ask again later";
            retry_later(&json!({"error": "unavailable", "message": message}))
        }
    }
}

fn asked(
    api: &Api,
    id: Result<Path<String>, PathRejection>,
    headers: &HeaderMap,
) -> Result<(PaymentKey, Digest), TurnedAway> {
    let key = api.0.access.admit_reading(headers)?.ok_or(TurnedAway::Nobody)?;
    let id = id.map_err(|_| Malformed::new("id", "must be text"))?.0;
    let proof = idempotency_key(headers)?.ok_or_else(|| {
        Malformed::new("Idempotency-Key", "is missing; send the one that it was settled with")
    })?;
    let caller = Digest::of(&[key.as_bytes(), proof]);
    Ok((key_of(&id), caller))
}

fn standing(entry: &Entry) -> Value {
    let new = &entry.new;
    let stage = match &entry.stage {
        Stage::Due => "due",
        Stage::Signed(_) => "signed",
        Stage::Sent(_) => "sent",
        Stage::Final(Outcome::Settled { .. }) => "settled",
        Stage::Final(Outcome::Failed { .. }) => "failed",
        Stage::Final(Outcome::Reverted { .. }) => "reverted",
    };
    let mut told = Map::new();
    told.insert("id".into(), id_of(&new.key).into());
    told.insert("network".into(), new.network.as_str().into());
    told.insert("stage".into(), stage.into());
    told.insert("final".into(), matches!(entry.stage, Stage::Final(_)).into());
    told.insert("watched".into(), entry.watch.is_some().into());
    told.insert("payer".into(), new.payer.clone().into());
    told.insert("amount".into(), new.amount.to_string().into());
    told.insert("enteredAt".into(), new.entered_at.0.into());
    told.insert("expiresAt".into(), new.expires.0.into());
    if let Some(transaction) = hash(entry) {
        told.insert("transaction".into(), transaction.into());
    }
    if let Some(refused) = refused_by(entry) {
        let retry = match refused.reason.retry() {
            Retry::Never => "never",
            Retry::Same => "same",
            Retry::NewPayment => "new_payment",
        };
        let funds = match refused.reason.funds() {
            Funds::Untouched => "untouched",
            Funds::MaybeMoved => "maybe_moved",
            Funds::Moved => "moved",
        };
        let refusal = json!({
            "code": refused.reason.code(),
            "message": refused.message,
            "retry": retry,
            "funds": funds,
        });
        told.insert("refusal".into(), refusal);
    }
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use pay402_core::NetworkId;

    use super::*;

    #[test]
    fn an_id_is_one_part_of_a_path_and_leads_back() {
        for nonce in ["0x00ff", "0xkey/3/0x01"] {
            let key = PaymentKey::new(&NetworkId::eip155(8453), "0xa", "0xp", nonce);
            let id = id_of(&key);
            assert!(!id.contains('/') && id.is_ascii(), "{id}");
            assert_eq!(key_of(&id), key);
            assert_eq!(header_of(&key).unwrap(), id.as_str());
        }
    }
}
