//! The HTTP transport of both versions (spec `transports-v2/http.md`).
//!
//! A 402 of ours serves both: version 2 reads the `PAYMENT-REQUIRED` header, version 1 the body.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_EXPOSE_HEADERS, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue,
};
use serde_json::Value;

use crate::error::Malformed;
use crate::facilitator::Settled;
use crate::payment::{PaymentRequired, Presented, Requirements};
use crate::{NetworkId, WireVersion, wire};

static PAYMENT_REQUIRED: HeaderName = HeaderName::from_static("payment-required");
static PAYMENT_SIGNATURE: HeaderName = HeaderName::from_static("payment-signature");
static PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("payment-response");
static X_PAYMENT: HeaderName = HeaderName::from_static("x-payment");
static SETTLEMENT_OVERRIDES: HeaderName = HeaderName::from_static("settlement-overrides");
static X_PAYMENT_RESPONSE: HeaderName = HeaderName::from_static("x-payment-response");

/// Headers that carry a payment from the client: never forwarded, never logged.
pub static PAYMENT_HEADERS: [HeaderName; 2] =
    [HeaderName::from_static("payment-signature"), HeaderName::from_static("x-payment")];
/// What browsers must be allowed to read.
pub const EXPOSED_HEADERS: &str = "PAYMENT-REQUIRED, PAYMENT-RESPONSE, X-PAYMENT-RESPONSE";
/// Largest payment header that is decoded, in bytes of base64.
pub const HEADER_BYTES_MAX: usize = 16 * 1024;

/// Reads the payment that a request carries, if it carries one.
///
/// # Errors
/// When there is more than one, or it is not strict base64 of a payment.
pub fn read_payment(headers: &HeaderMap) -> Result<Option<Presented>, Malformed> {
    let mut found = None;
    for (name, version) in [(&PAYMENT_SIGNATURE, WireVersion::V2), (&X_PAYMENT, WireVersion::V1)] {
        for value in headers.get_all(name) {
            if found.replace((name, version, value)).is_some() {
                return Err(Malformed::new(
                    title(name),
                    "the request carries more than one payment; send exactly one",
                ));
            }
        }
    }
    let Some((name, version, value)) = found else { return Ok(None) };
    let json = decode_header(name, value)?;
    let presented = wire::decode_presented(&json).map_err(|error| error.within(title(name)))?;
    if presented.version != version {
        let problem = format!("must be {} in this header", version.number());
        return Err(Malformed::new(format!("{}.x402Version", title(name)), problem));
    }
    Ok(Some(presented))
}

/// Adds a payment to a request, in the header of its version. The value is marked sensitive.
///
/// # Errors
/// When it is larger than [`HEADER_BYTES_MAX`]: no server would read it.
pub fn write_payment(headers: &mut HeaderMap, presented: &Presented) -> Result<(), Malformed> {
    let name = match presented.version {
        WireVersion::V1 => &X_PAYMENT,
        WireVersion::V2 => &PAYMENT_SIGNATURE,
    };
    let mut value = encode_header(&wire::encode_presented(presented));
    if value.len() > HEADER_BYTES_MAX {
        let problem = format!("is larger than {HEADER_BYTES_MAX} bytes");
        return Err(Malformed::new(title(name), problem));
    }
    value.set_sensitive(true);
    headers.insert(name, value);
    Ok(())
}

/// Removes every payment from a request, before it goes where no payment belongs.
pub fn strip_payment(headers: &mut HeaderMap) {
    for name in &PAYMENT_HEADERS {
        headers.remove(name);
    }
}

/// Removes the header by which handlers tell some servers what to charge. It says nothing to ours,
/// and nobody else is to see it.
pub fn strip_charge(headers: &mut HeaderMap) {
    headers.remove(&SETTLEMENT_OVERRIDES);
}

/// Reads what a 402 asks for: the v2 header if there is one, else the v1 body.
///
/// # Errors
/// When neither is a readable `PaymentRequired`.
pub fn read_payment_required(
    headers: &HeaderMap,
    body: &[u8],
) -> Result<PaymentRequired, Malformed> {
    match headers.get(&PAYMENT_REQUIRED) {
        Some(value) => {
            let json = decode_header(&PAYMENT_REQUIRED, value)?;
            wire::decode_payment_required(&json).map_err(|e| e.within(title(&PAYMENT_REQUIRED)))
        }
        None => wire::decode_payment_required(body).map_err(|error| error.within("body")),
    }
}

/// Headers and body of a 402 that serves both versions. Encode once, answer often.
#[derive(Clone, Debug)]
pub struct Asking {
    headers: HeaderMap,
    body: String,
}

impl Asking {
    /// Encodes `required` for both versions.
    pub fn new(required: &PaymentRequired) -> Self {
        Self::offering(required, |_| required.accepts.clone())
    }

    /// Encodes `required` for both versions, offering in each what `accepts` says: a facilitator
    /// may settle an offer in one version and not in the other.
    pub fn offering(
        required: &PaymentRequired,
        accepts: impl Fn(WireVersion) -> Vec<Requirements>,
    ) -> Self {
        let encode = |version| {
            let accepts = accepts(version);
            let required = PaymentRequired { version, accepts, ..required.clone() };
            wire::encode_payment_required(&required)
        };
        let mut headers = HeaderMap::new();
        headers.insert(&PAYMENT_REQUIRED, encode_header(&encode(WireVersion::V2)));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        // RFC 9111 §5.2.2.5: an offer is for this client and this moment.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        expose(&mut headers);
        Self { headers, body: encode(WireVersion::V1).to_string() }
    }

    /// The headers.
    pub const fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// The v1 body.
    pub fn body(&self) -> &str {
        &self.body
    }
}

/// Adds the outcome of a settlement to a response, in the header of the request's version.
pub fn write_outcome(
    headers: &mut HeaderMap,
    version: WireVersion,
    network: &NetworkId,
    settled: &Settled,
) {
    let name = match version {
        WireVersion::V1 => &X_PAYMENT_RESPONSE,
        WireVersion::V2 => &PAYMENT_RESPONSE,
    };
    headers.insert(name, encode_header(&wire::encode_settled(version, network, settled)));
    expose(headers);
}

/// Reads the outcome that a response carries, if it carries one. A claim, not a proof.
///
/// # Errors
/// When it carries one that cannot be read.
pub fn read_outcome(
    headers: &HeaderMap,
    terms: &Requirements,
) -> Result<Option<Settled>, Malformed> {
    for name in [&PAYMENT_RESPONSE, &X_PAYMENT_RESPONSE] {
        if let Some(value) = headers.get(name) {
            let json = decode_header(name, value)?;
            let settled = wire::decode_settled(&json, terms);
            return settled.map(Some).map_err(|error| error.within(title(name)));
        }
    }
    Ok(None)
}

/// Keeps a paid response out of shared caches: `private` unless the handler was stricter.
pub fn keep_private(headers: &mut HeaderMap) {
    let strict = headers.get_all(CACHE_CONTROL).iter().any(|value| {
        value.to_str().is_ok_and(|text| {
            text.split(',').any(|directive| {
                let name = directive.trim();
                name.eq_ignore_ascii_case("private") || name.eq_ignore_ascii_case("no-store")
            })
        })
    });
    if !strict {
        // A handler's `public` or `s-maxage` would hand what one has paid for to everyone.
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("private"));
    }
}

/// The status and body of a malformed request: 400, naming the field.
pub fn malformed_response(error: &Malformed) -> (StatusCode, Value) {
    let body = serde_json::json!({
        "error": "malformed", "field": error.field, "message": error.to_string(),
    });
    (StatusCode::BAD_REQUEST, body)
}

fn expose(headers: &mut HeaderMap) {
    headers.append(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED_HEADERS));
}

fn encode_header(value: &Value) -> HeaderValue {
    HeaderValue::try_from(STANDARD.encode(value.to_string())).expect("base64 is ASCII")
}

fn decode_header(name: &HeaderName, value: &HeaderValue) -> Result<Vec<u8>, Malformed> {
    if value.len() > HEADER_BYTES_MAX {
        let problem = format!("is larger than {HEADER_BYTES_MAX} bytes");
        return Err(Malformed::new(title(name), problem));
    }
    STANDARD
        .decode(value.as_bytes())
        .map_err(|_| Malformed::new(title(name), "must be standard base64 with padding"))
}

/// The name as the specification spells it.
fn title(name: &HeaderName) -> &'static str {
    match name.as_str() {
        "payment-required" => "PAYMENT-REQUIRED",
        "payment-signature" => "PAYMENT-SIGNATURE",
        "payment-response" => "PAYMENT-RESPONSE",
        "x-payment" => "X-PAYMENT",
        _ => "X-PAYMENT-RESPONSE",
    }
}
