//! JSON-RPC: from a method's name and raw parameters to a raw result.
//!
//! Synchronous, on the caller's task. Subscriptions are not here, because they need a connection (`server.rs`).

pub(crate) mod convert;
pub(crate) mod dev;
pub(crate) mod eth;
pub(crate) mod filters;
pub(crate) mod params;

use alloy::primitives::{B256, Bytes, U64, keccak256};
use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::error::RpcError;
use crate::handle::Devchain;
use params::Params;

/// Most bytes of one HTTP body or WebSocket message.
pub const BODY_LIMIT: usize = 5 * 1024 * 1024;
/// Most requests in one batch.
pub const BATCH_LIMIT: usize = 1_000;

/// What a method gives.
pub(crate) type Answer = Result<Box<RawValue>, RpcError>;

/// One request as it came.
#[derive(Deserialize)]
pub(crate) struct Request<'a> {
    #[serde(borrow)]
    pub(crate) id: Option<&'a RawValue>,
    pub(crate) method: String,
    #[serde(borrow)]
    pub(crate) params: Option<&'a RawValue>,
}

#[derive(Serialize)]
struct Response<'a> {
    jsonrpc: &'static str,
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<Box<RawValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<RpcError>,
}

/// Answers one request.
pub(crate) fn answer(chain: &Devchain, method: &str, params: Option<&RawValue>) -> Answer {
    let params = Params::parse(params)?;
    match method {
        "web3_clientVersion" => result(concat!("pay402-devchain/", env!("CARGO_PKG_VERSION"))),
        "web3_sha3" => result(keccak256(params.required::<Bytes>(0, "data")?)),
        "net_version" => result(chain.chain_id().to_string()),
        "net_listening" => result(true),
        "net_peerCount" => result(U64::ZERO),
        _ => eth::answer(chain, method, &params)
            .or_else(|| filters::answer(chain, method, &params))
            .or_else(|| dev::answer(chain, method, &params))
            .unwrap_or_else(|| Err(RpcError::method(method))),
    }
}

/// Answers a body: one request or a batch. Nothing is said to notifications, which have no id.
pub(crate) fn answer_body(
    body: &str,
    mut handle: impl FnMut(&Request<'_>) -> Answer,
) -> Option<String> {
    let respond = |request: &str, handle: &mut dyn FnMut(&Request<'_>) -> Answer| {
        match serde_json::from_str::<Request<'_>>(request) {
            Ok(request) => {
                let answer = handle(&request);
                request.id.map(|id| response(Some(id), answer))
            }
            Err(_) => Some(response(None, Err(RpcError::invalid_request("invalid request")))),
        }
    };
    if !body.trim_start().starts_with('[') {
        if serde_json::from_str::<&RawValue>(body).is_err() {
            return Some(response(None, Err(RpcError::parse())));
        }
        return respond(body, &mut handle);
    }
    let Ok(requests) = serde_json::from_str::<Vec<&RawValue>>(body) else {
        return Some(response(None, Err(RpcError::parse())));
    };
    if requests.is_empty() {
        return Some(response(None, Err(RpcError::invalid_request("empty batch"))));
    }
    if requests.len() > BATCH_LIMIT {
        return Some(response(None, Err(RpcError::limit("batch too large"))));
    }
    let responses: Vec<String> =
        requests.iter().filter_map(|request| respond(request.get(), &mut handle)).collect();
    (!responses.is_empty()).then(|| format!("[{}]", responses.join(",")))
}

/// A value as the result of a method.
pub(crate) fn result<T: Serialize>(value: T) -> Answer {
    to_raw_value(&value).map_err(|_| RpcError {
        code: -32603,
        message: "internal error".to_owned(),
        data: None,
    })
}

fn response(id: Option<&RawValue>, answer: Answer) -> String {
    let (result, error) = match answer {
        Ok(result) => (Some(result), None),
        Err(error) => (None, Some(error)),
    };
    serde_json::to_string(&Response { jsonrpc: "2.0", id, result, error })
        .expect("strings, raw JSON and bytes always serialise")
}

/// A hash as the empty result `null` where there is none.
pub(crate) fn maybe<T: Serialize>(value: Option<T>) -> Answer {
    result(value)
}

/// A transaction hash parameter.
pub(crate) fn hash(params: &Params<'_>, index: usize) -> Result<B256, RpcError> {
    params.required(index, "hash")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn echo(request: &Request<'_>) -> Answer {
        result(&request.method)
    }

    #[test]
    fn bodies() {
        let one = answer_body(r#"{"jsonrpc":"2.0","id":1,"method":"a"}"#, echo).unwrap();
        assert_eq!(one, r#"{"jsonrpc":"2.0","id":1,"result":"a"}"#);
        let two = answer_body(r#" [{"id":"x","method":"a"},{"method":"note"},5]"#, echo).unwrap();
        assert_eq!(
            two,
            r#"[{"jsonrpc":"2.0","id":"x","result":"a"},{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"invalid request"}}]"#
        );
        assert_eq!(answer_body(r#"{"method":"note"}"#, echo), None);
        assert!(answer_body("{", echo).unwrap().contains("-32700"));
        assert!(answer_body("[]", echo).unwrap().contains("empty batch"));
        let many = format!("[{}]", vec!["1"; BATCH_LIMIT + 1].join(","));
        assert!(answer_body(&many, echo).unwrap().contains("batch too large"));
    }
}
