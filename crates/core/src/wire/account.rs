//! What is asked to be sent for an account (`POST /account`), and the answer: our own, in no version of
//! the protocol. The answer has the form of one to settle.

use serde_json::{Map, Value};

use super::json::{self, Fields};
use super::{WireVersion, encode_settled};
use crate::NetworkId;
use crate::error::Malformed;
use crate::facilitator::Settled;

/// A request that was decoded. What is to be sent is in the network family's own form.
#[derive(Clone, PartialEq)]
pub struct AccountRequest {
    /// The network it is to be sent on.
    pub network: NetworkId,
    /// Everything else.
    pub request: Map<String, Value>,
}

/// Decodes a request.
///
/// # Errors
/// The field that is wrong.
pub fn decode_account_request(bytes: &[u8]) -> Result<AccountRequest, Malformed> {
    let mut fields = Fields::root(json::parse(bytes)?, "")?;
    let network = NetworkId::parse(&fields.text("network")?)
        .map_err(|error| Malformed::new("network", error.to_string()))?;
    Ok(AccountRequest { network, request: fields.rest() })
}

/// Encodes an answer.
pub fn encode_account_answer(network: &NetworkId, settled: &Settled) -> Value {
    encode_settled(WireVersion::V2, network, settled)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_network_is_taken_out_and_the_rest_is_the_familys() {
        let body = br#"{"network":"eip155:84532","account":"0xA","call":"0x"}"#;
        let read = decode_account_request(body).unwrap();
        assert_eq!(read.network, NetworkId::eip155(84_532));
        assert_eq!(read.request.keys().collect::<Vec<_>>(), ["account", "call"]);
        for (bad, field) in [
            (&b"[]"[..], "message"),
            (br#"{"account":"0xA"}"#, "network"),
            (br#"{"network":7}"#, "network"),
            (br#"{"network":"moon"}"#, "network"),
            (br#"{"network":"eip155:1","a":1,"a":2}"#, "message"),
        ] {
            assert_eq!(decode_account_request(bad).err().unwrap().field, field);
        }
    }
}
