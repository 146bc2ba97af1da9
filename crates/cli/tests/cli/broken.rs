//! Responses that break off, and what is said of their payments.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use http::HeaderMap;
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::payment::PaymentRequired;
use pay402_core::resource::ResourceInfo;
use pay402_core::transport::http::{Asking, write_outcome};
use pay402_core::{Amount, NetworkId, Refusal, Refused, Requirements, Scheme, WireVersion};
use pay402_devchain::genesis::USDC_ADDRESS;
use serde_json::{Map, Value, json};

use crate::process::{dev_address, dev_key, pay402, run};

fn network() -> NetworkId {
    NetworkId::eip155(84_532)
}

fn price() -> PaymentRequired {
    let extra = [("name".to_owned(), json!("USDC")), ("version".to_owned(), json!("2"))];
    let offer = Requirements {
        scheme: Scheme::EXACT,
        network: network(),
        amount: Amount::from(1_000),
        asset: USDC_ADDRESS.to_string(),
        pay_to: dev_address(2),
        max_timeout_seconds: 60,
        extra: Map::from_iter(extra),
        other: Map::new(),
    };
    PaymentRequired {
        version: WireVersion::V2,
        error: None,
        resource: ResourceInfo::at(""),
        accepts: vec![offer],
        extensions: Map::new(),
        other: Map::new(),
    }
}

fn head_of(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

/// Sells for a price, if there is one, and breaks off in the middle of what it sells.
fn sell(listener: &TcpListener, price: Option<&Asking>, told: &HeaderMap) {
    loop {
        let mut stream = listener.accept().unwrap().0;
        let is_paid = head_of(&mut stream).contains("payment-signature:");
        let (status, headers, body, length) = match price {
            Some(asking) if !is_paid => (402, asking.headers(), asking.body(), asking.body().len()),
            _ => (200, told, "half of i", 18),
        };
        let mut text =
            format!("HTTP/1.1 {status} X\r\nconnection: close\r\ncontent-length: {length}\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {}\r\n", value.to_str().unwrap());
        }
        // A client that had enough is gone.
        let _ = stream.write_all(format!("{text}\r\n{body}").as_bytes());
    }
}

/// How `pay402 pay` ends when the paid answer carries this outcome and breaks off.
fn buy(asks: bool, outcome: Option<&Settled>) -> (i32, Value) {
    let folder = tempfile::tempdir().unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let mut told = HeaderMap::new();
    if let Some(settled) = outcome {
        write_outcome(&mut told, WireVersion::V2, &network(), settled);
    }
    // It ends with the process of the test.
    std::thread::spawn(move || {
        let asking = asks.then(|| Asking::new(&price()));
        sell(&listener, asking.as_ref(), &told);
    });
    let mut command = pay402(&["pay", "--silent", &url]);
    command.env("EVM_PRIVATE_KEY", dev_key(1)).env("PAY402_STATE_DIR", folder.path());
    let (code, _, stderr) = run(command);
    (code, serde_json::from_str(stderr.lines().last().unwrap()).unwrap())
}

#[test]
fn what_broke_off_says_what_is_known_of_the_payment_and_no_more() {
    let hash = format!("0x{}", "1a".repeat(32));
    let paid = |transaction: &str, charged| {
        Settled::Done(Settlement {
            transaction: transaction.into(),
            network: network(),
            payer: None,
            charged,
        })
    };
    let (code, error) = buy(false, None);
    assert_eq!((code, &error["retryable"], &error["payment"]), (4, &true.into(), &Value::Null));

    let (code, error) = buy(true, Some(&paid(&hash, None)));
    assert_eq!((code, &error["code"], &error["retryable"]), (4, &"network".into(), &false.into()));
    assert_eq!(error["payment"]["status"], "settled", "{error}");
    assert_eq!(error["details"]["transaction"], hash.as_str(), "{error}");
    assert!(error["suggestion"].as_str().unwrap().contains("pays again"), "{error}");

    let refused = Settled::Refused(Refused::from(Refusal::TransactionReverted));
    for outcome in [None, Some(&Settled::Pending { transaction: None }), Some(&refused)] {
        let (code, error) = buy(true, outcome);
        assert_eq!(
            (code, &error["code"], &error["retryable"]),
            (13, &"outcome_unknown".into(), &true.into()),
            "{error}"
        );
        assert_eq!(error["payment"]["status"], "unknown", "{error}");
        assert!(error["suggestion"].as_str().unwrap().contains("not made twice"), "{error}");
    }
}
