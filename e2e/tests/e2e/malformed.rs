//! Malformed input gets a 400 that names the field: never a 500, never a panic, never a payment.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use pay402_e2e::Market;
use pay402_server::{Admission, RequestMeta};
use serde_json::{Value, json};

/// What a case does to a good message.
enum Twist {
    /// Replaces the value at a JSON pointer.
    Set(&'static str, Value),
    /// Removes the value at a JSON pointer.
    Remove(&'static str),
    /// Replaces the whole text.
    Text(fn(&str) -> String),
}

struct Case {
    name: &'static str,
    twist: Twist,
    /// Must appear in `field` of the answer.
    field: &'static str,
}

const fn set(name: &'static str, pointer: &'static str, value: Value, field: &'static str) -> Case {
    Case { name, twist: Twist::Set(pointer, value), field }
}

const fn remove(name: &'static str, pointer: &'static str, field: &'static str) -> Case {
    Case { name, twist: Twist::Remove(pointer), field }
}

const fn text(name: &'static str, twist: fn(&str) -> String, field: &'static str) -> Case {
    Case { name, twist: Twist::Text(twist), field }
}

type HeaderCase = (&'static str, Vec<(&'static str, String)>, &'static str);

const ABOVE_U256: &str =
    "115792089237316195423570985008687907853269984665640564039457584007913129639936";
// One letter of the payee's checksum turned over.
const BAD_CHECKSUM: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293Bc";

/// Cases on a payment message: the header of a request, and `paymentPayload` of a facilitator call.
fn payment_cases() -> Vec<Case> {
    let value = "/payload/authorization/value";
    let mut cases = vec![
        text("not JSON", |_| "hello".into(), "message"),
        text("empty text", |_| String::new(), "message"),
        text("cut off", |good| good[..good.len() / 2].into(), "message"),
        text("an array", |good| format!("[{good}]"), "message"),
        text("null", |_| "null".into(), "message"),
        text("text after it", |good| format!("{good} {{}}"), "message"),
        text("a key twice", |good| good.replacen('{', "{\"payload\":{},", 1), "message"),
        text(
            "nested 40 deep",
            |good| {
                good.replacen('{', &format!("{{\"x\":{}1{},", "[".repeat(40), "]".repeat(40)), 1)
            },
            "message",
        ),
        text(
            "nested 20,000 deep",
            |_| format!("{}1{}", "[".repeat(6_000), "]".repeat(6_000)),
            "message",
        ),
        text("a lone surrogate", |good| good.replacen("exact", "\\ud800", 1), "message"),
        remove("no version", "/x402Version", "x402Version"),
        set("version 0", "/x402Version", json!(0), "x402Version"),
        set("version 3", "/x402Version", json!(3), "x402Version"),
        set("version as text", "/x402Version", json!("2"), "x402Version"),
        set("version 2.5", "/x402Version", json!(2.5), "x402Version"),
        set("negative version", "/x402Version", json!(-2), "x402Version"),
        remove("no payload", "/payload", "payload"),
        set("payload is text", "/payload", json!("0x"), "payload"),
        remove("no accepted", "/accepted", "accepted"),
        set("accepted is a list", "/accepted", json!([]), "accepted"),
        set(
            "network by its v1 name",
            "/accepted/network",
            json!("base-sepolia"),
            "accepted.network",
        ),
        set("network with a zero", "/accepted/network", json!("eip155:084532"), "accepted.network"),
        set("network in capitals", "/accepted/network", json!("EIP155:84532"), "accepted.network"),
        set("network is a number", "/accepted/network", json!(84532), "accepted.network"),
        remove("no scheme", "/accepted/scheme", "accepted.scheme"),
        remove("no amount", "/accepted/amount", "accepted.amount"),
        set("amount is a number", "/accepted/amount", json!(1000), "accepted.amount"),
        set("amount is negative", "/accepted/amount", json!("-1"), "accepted.amount"),
        set("amount is hexadecimal", "/accepted/amount", json!("0x10"), "accepted.amount"),
        set("amount has an exponent", "/accepted/amount", json!("1e3"), "accepted.amount"),
        set("amount is 2^256", "/accepted/amount", json!(ABOVE_U256), "accepted.amount"),
        set("amount is empty", "/accepted/amount", json!(""), "accepted.amount"),
        set("amount has a comma", "/accepted/amount", json!("1,000"), "accepted.amount"),
        set("timeout is text", "/accepted/maxTimeoutSeconds", json!("60"), "maxTimeoutSeconds"),
        set("timeout is negative", "/accepted/maxTimeoutSeconds", json!(-1), "maxTimeoutSeconds"),
        set("extra is text", "/accepted/extra", json!("USDC"), "accepted.extra"),
        set("extensions is a list", "/extensions", json!([1]), "extensions"),
        set("resource is text", "/resource", json!("http://x"), "resource"),
        remove("resource without url", "/resource/url", "resource.url"),
        remove("no authorization", "/payload/authorization", "authorization"),
        remove("no signature", "/payload/signature", "signature"),
        set("signature is a number", "/payload/signature", json!(7), "signature"),
        set("signature is not hexadecimal", "/payload/signature", json!("0xzz"), "signature"),
        set("signature without 0x", "/payload/signature", json!("aa".repeat(65)), "signature"),
        set("signature of half a byte", "/payload/signature", json!("0xabc"), "signature"),
        remove("no payer", "/payload/authorization/from", "authorization.from"),
        set(
            "payer too short",
            "/payload/authorization/from",
            json!("0x7099"),
            "authorization.from",
        ),
        set(
            "payer is a name",
            "/payload/authorization/from",
            json!("vitalik.eth"),
            "authorization.from",
        ),
        set(
            "payee with a bad checksum",
            "/payload/authorization/to",
            json!(BAD_CHECKSUM),
            "authorization.to",
        ),
        set(
            "payee without 0x",
            "/payload/authorization/to",
            json!("3c44cdddb6a900fa2b585dd299e03d12fa4293bc"),
            "authorization.to",
        ),
        remove("no value", value, "authorization.value"),
        set(
            "validAfter is negative",
            "/payload/authorization/validAfter",
            json!("-5"),
            "validAfter",
        ),
        set("validAfter is a number", "/payload/authorization/validAfter", json!(0), "validAfter"),
        set(
            "validBefore has an exponent",
            "/payload/authorization/validBefore",
            json!("1e99"),
            "validBefore",
        ),
        set("validBefore is empty", "/payload/authorization/validBefore", json!(""), "validBefore"),
        set(
            "nonce of 31 bytes",
            "/payload/authorization/nonce",
            json!(format!("0x{}", "ab".repeat(31))),
            "nonce",
        ),
        set(
            "nonce of 33 bytes",
            "/payload/authorization/nonce",
            json!(format!("0x{}", "ab".repeat(33))),
            "nonce",
        ),
        set("nonce is decimal", "/payload/authorization/nonce", json!("12345"), "nonce"),
    ];
    for (name, bad) in [
        ("value is negative", "-1000"),
        ("value is hexadecimal", "0x3e8"),
        ("value has an exponent", "1e3"),
        ("value is 2^256", ABOVE_U256),
        ("value is empty", ""),
        ("value has a leading zero", "01000"),
        ("value has a sign", "+1000"),
        ("value has a space", " 1000"),
        ("value has an underscore", "1_000"),
        ("value has a point", "1000.0"),
        ("value in Arabic digits", "١٠٠٠"),
    ] {
        cases.push(set(name, value, json!(bad), "authorization.value"));
    }
    cases
}

fn twisted(good: &Value, twist: &Twist) -> String {
    let mut message = good.clone();
    match twist {
        Twist::Text(twist) => return twist(&message.to_string()),
        Twist::Set(pointer, value) => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            message.pointer_mut(parent).unwrap()[key] = value.clone();
        }
        Twist::Remove(pointer) => {
            let (parent, key) = pointer.rsplit_once('/').unwrap();
            let parent = message.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            parent.remove(key).unwrap_or_else(|| panic!("{pointer} is not there to remove"));
        }
    }
    message.to_string()
}

async fn assert_refused(name: &str, field: &str, answer: reqwest::Response) {
    let status = answer.status();
    let body = answer.text().await.unwrap();
    assert_eq!(status, 400, "{name}: {body}");
    let body: Value = serde_json::from_str(&body).unwrap_or_else(|_| panic!("{name}: {body}"));
    let named = body["field"].as_str().unwrap_or_default();
    assert!(named.contains(field), "{name}: names {named:?} instead of {field:?}");
    let message = body["message"].as_str().unwrap_or_default();
    assert!(message.split_whitespace().count() >= 3, "{name}: says only {message:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_payment_gets_a_400_from_server_and_facilitator() {
    let market = Market::start().await;
    let good = market.signed_payment("/paid").await;
    let http = reqwest::Client::new();
    let cases = payment_cases();
    assert!(cases.len() >= 60, "{} cases", cases.len());

    for case in &cases {
        let message = twisted(&good, &case.twist);
        let header = STANDARD.encode(&message);
        let request = http.get(market.url("/paid")).header("payment-signature", header);
        assert_refused(case.name, case.field, request.send().await.unwrap()).await;

        for path in ["/verify", "/settle"] {
            let body = format!(
                "{{\"x402Version\":2,\"paymentPayload\":{message},\"paymentRequirements\":{}}}",
                good["accepted"],
            );
            let request = http.post(market.facilitator_url(path)).body(body);
            let name = format!("{path}: {}", case.name);
            let answer = request.header("content-type", "application/json").send().await.unwrap();
            // Text that breaks the outer JSON too is named by the outer message.
            let field = if matches!(case.twist, Twist::Text(_)) { "" } else { case.field };
            assert_refused(&name, field, answer).await;
        }
    }
    market.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_header_gets_a_400() {
    let market = Market::start().await;
    let good = market.signed_payment("/paid").await.to_string();
    let header = STANDARD.encode(&good);
    let http = reqwest::Client::new();
    let v1 = json!({"x402Version": 1, "scheme": "exact", "network": "base-sepolia",
        "payload": serde_json::from_str::<Value>(&good).unwrap()["payload"]});
    // Name, headers, and what the answer has to name.
    let cases: Vec<HeaderCase> = vec![
        ("not base64", vec![("payment-signature", "%%%".into())], "PAYMENT-SIGNATURE"),
        ("empty", vec![("payment-signature", String::new())], "PAYMENT-SIGNATURE"),
        (
            "no padding",
            vec![("payment-signature", URL_SAFE_NO_PAD.encode("{\"a\":1}x"))],
            "PAYMENT-SIGNATURE",
        ),
        (
            "a space inside",
            vec![("payment-signature", format!("{} {}", &header[..8], &header[8..]))],
            "PAYMENT-SIGNATURE",
        ),
        ("plain JSON", vec![("payment-signature", good.clone())], "PAYMENT-SIGNATURE"),
        (
            "bytes that are no text",
            vec![("payment-signature", STANDARD.encode([0xff, 0xfe, 0x00]))],
            "PAYMENT-SIGNATURE",
        ),
        (
            "20 KB",
            vec![("payment-signature", STANDARD.encode("x".repeat(15_000)))],
            "PAYMENT-SIGNATURE",
        ),
        (
            "200 KB",
            vec![("payment-signature", STANDARD.encode("x".repeat(150_000)))],
            "PAYMENT-SIGNATURE",
        ),
        (
            "twice",
            vec![("payment-signature", header.clone()), ("payment-signature", header.clone())],
            "PAYMENT-SIGNATURE",
        ),
        (
            "both versions",
            vec![
                ("payment-signature", header.clone()),
                ("x-payment", STANDARD.encode(v1.to_string())),
            ],
            "X-PAYMENT",
        ),
        ("v2 in the v1 header", vec![("x-payment", header.clone())], "X-PAYMENT.x402Version"),
        (
            "v1 in the v2 header",
            vec![("payment-signature", STANDARD.encode(v1.to_string()))],
            "PAYMENT-SIGNATURE.x402Version",
        ),
        ("v1 not base64", vec![("x-payment", "!".into())], "X-PAYMENT"),
        (
            "v1 unknown network",
            vec![("x-payment", STANDARD.encode(v1.to_string().replace("base-sepolia", "bse")))],
            "X-PAYMENT.network",
        ),
    ];
    for (name, headers, field) in cases {
        let mut request = http.get(market.url("/paid"));
        for (key, value) in headers {
            request = request.header(key, value);
        }
        assert_refused(name, field, request.send().await.unwrap()).await;
    }
    market.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_header_of_a_megabyte_is_turned_away() {
    let market = Market::start().await;
    let megabyte = "A".repeat(1024 * 1024);
    // The gate itself names the field, whatever server stands in front of it.
    let gate = market.gate().await;
    let request = axum::http::Request::get("http://127.0.0.1/paid")
        .header("host", "127.0.0.1")
        .header("payment-signature", &megabyte);
    let (head, ()) = request.body(()).unwrap().into_parts();
    let admission = gate.admit(RequestMeta::of(&head)).await;
    let Admission::Refuse(answer) = admission else { panic!("{admission:?}") };
    let body: Value = serde_json::from_slice(&answer.body).unwrap();
    assert_eq!((answer.status.as_u16(), &body["field"]), (400, &"PAYMENT-SIGNATURE".into()));

    // On a socket, hyper gives up on a request head that large before any handler sees it.
    let http = reqwest::Client::new();
    for url in [market.url("/paid"), market.facilitator_url("/verify")] {
        let request = http.get(url).header("payment-signature", &megabyte);
        assert_eq!(request.send().await.unwrap().status(), 431);
    }
    market.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_terms_get_a_400_from_the_facilitator() {
    let market = Market::start().await;
    let payload = market.signed_payment("/paid").await;
    let good = json!({"x402Version": 2, "paymentPayload": payload,
        "paymentRequirements": payload["accepted"]});
    let http = reqwest::Client::new();
    let amount = "/paymentRequirements/amount";
    let cases = [
        remove("no payload", "/paymentPayload", "paymentPayload"),
        remove("no requirements", "/paymentRequirements", "paymentRequirements"),
        set("requirements are a list", "/paymentRequirements", json!([]), "paymentRequirements"),
        set("another version outside", "/x402Version", json!(1), "x402Version"),
        set("version 9 outside", "/x402Version", json!(9), "x402Version"),
        set("negative amount", amount, json!("-1"), "paymentRequirements.amount"),
        set("hexadecimal amount", amount, json!("0xff"), "paymentRequirements.amount"),
        set("exponent in the amount", amount, json!("1e6"), "paymentRequirements.amount"),
        set("amount of 2^256", amount, json!(ABOVE_U256), "paymentRequirements.amount"),
        set(
            "payee with a bad checksum",
            "/paymentRequirements/payTo",
            json!(BAD_CHECKSUM),
            "paymentRequirements.payTo",
        ),
        set(
            "payee is no address",
            "/paymentRequirements/payTo",
            json!("0x12"),
            "paymentRequirements.payTo",
        ),
        set(
            "asset is no address",
            "/paymentRequirements/asset",
            json!("USDC"),
            "paymentRequirements.asset",
        ),
        set(
            "asset with a bad checksum",
            "/paymentRequirements/asset",
            json!("0x036CbD53842c5426634e7929541eC2318f3dCF7E"),
            "paymentRequirements.asset",
        ),
        set(
            "unknown form of network",
            "/paymentRequirements/network",
            json!("base"),
            "paymentRequirements.network",
        ),
    ];
    for case in &cases {
        let body = twisted(&good, &case.twist);
        for path in ["/verify", "/settle"] {
            let request = http.post(market.facilitator_url(path)).body(body.clone());
            let answer = request.header("content-type", "application/json").send().await.unwrap();
            assert_refused(&format!("{path}: {}", case.name), case.field, answer).await;
        }
    }
    market.assert_untouched().await;
}
