//! An HTTP/1.1 server on loopback that answers each request as a script says, or not at all.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use pay402_core::facilitator::{Settled, Settlement};
use pay402_core::payment::PaymentRequired;
use pay402_core::transport::http::{Asking, read_payment, write_outcome};
use pay402_core::{Presented, Refused, WireVersion};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Chain, TX, network};

/// A request as the server saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    pub method: String,
    pub path: String,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Seen {
    pub fn payment(&self) -> Option<Presented> {
        read_payment(&self.headers).expect("our client writes readable payments")
    }

    /// The bytes of the payment header, whichever version it is.
    pub fn payment_bytes(&self) -> Option<Vec<u8>> {
        let value = self.headers.get("payment-signature").or(self.headers.get("x-payment"))?;
        Some(value.as_bytes().to_vec())
    }

    pub fn nonce(&self) -> [u8; 32] {
        let payment = self.payment().expect("a paid request");
        let text = payment.payload["authorization"]["nonce"].as_str().expect("a nonce").to_owned();
        let byte = |i: usize| u8::from_str_radix(&text[2 * i..2 * i + 2], 16).expect("hex");
        std::array::from_fn(byte)
    }
}

pub enum Reply {
    Answer(StatusCode, HeaderMap, String),
    /// The connection is closed without an answer.
    Hang,
}

pub fn plain(status: u16, body: &str) -> Reply {
    let status = StatusCode::from_u16(status).expect("a status");
    Reply::Answer(status, HeaderMap::new(), body.into())
}

pub fn with_header(reply: Reply, name: &'static str, value: &str) -> Reply {
    let Reply::Answer(status, mut headers, body) = reply else { return reply };
    let value = HeaderValue::from_str(value).expect("a header value");
    headers.insert(HeaderName::from_static(name), value);
    Reply::Answer(status, headers, body)
}

pub fn ask(required: &PaymentRequired) -> Reply {
    let asking = Asking::new(required);
    Reply::Answer(StatusCode::PAYMENT_REQUIRED, asking.headers().clone(), asking.body().to_owned())
}

/// The 402 of a server that only speaks version 1.
pub fn ask_v1(required: &PaymentRequired) -> Reply {
    plain(402, Asking::new(required).body())
}

pub fn outcome(status: u16, settled: &Settled, body: &str) -> Reply {
    let status = StatusCode::from_u16(status).expect("a status");
    let mut headers = HeaderMap::new();
    write_outcome(&mut headers, WireVersion::V2, &network(), settled);
    Reply::Answer(status, headers, body.into())
}

pub fn refused(status: u16, refused: impl Into<Refused>) -> Reply {
    outcome(status, &Settled::Refused(refused.into()), "{}")
}

/// Content, paid: the chain shows it and the server says so.
pub fn sell(chain: &Chain, seen: &Seen) -> Reply {
    chain.settle(seen.nonce());
    claim_paid()
}

/// Content, with the server's word that it was paid.
pub fn claim_paid() -> Reply {
    claim_charged(None)
}

/// Content, with the server's word of what was charged for it.
pub fn claim_charged(charged: Option<u64>) -> Reply {
    let transaction = if charged == Some(0) { String::new() } else { TX.into() };
    let charged = charged.map(Into::into);
    let settlement = Settlement { transaction, network: network(), payer: None, charged };
    outcome(200, &Settled::Done(settlement), "content")
}

pub struct Server {
    pub address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Answers each request by `script(request, how many came before)`.
    pub async fn start(script: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has ports");
        let address = listener.local_addr().expect("it is bound");
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (script, log) = (Arc::new(script), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (script, log) = (Arc::clone(&script), Arc::clone(&log));
                tokio::spawn(async move { serve(stream, &*script, &log).await });
            }
        });
        Self { address, seen, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("no panic while held").clone()
    }

    pub fn paid(&self) -> Vec<Seen> {
        self.seen().into_iter().filter(|seen| seen.payment_bytes().is_some()).collect()
    }
}

async fn serve(
    mut stream: TcpStream,
    script: &(impl Fn(&Seen, usize) -> Reply + Sync),
    log: &Mutex<Vec<Seen>>,
) -> Option<()> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, path) = (first.next()?.to_owned(), first.next()?.to_owned());
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(": ")?;
        headers.append(HeaderName::try_from(name).ok()?, HeaderValue::from_str(value).ok()?);
    }
    let length = headers.get("content-length").and_then(|v| v.to_str().ok()?.parse().ok());
    let mut body = bytes[end..].to_vec();
    while body.len() < length.unwrap_or(0) {
        if stream.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let seen = Seen { method, path, headers, body };
    let reply = {
        let mut log = log.lock().expect("no panic while held");
        log.push(seen.clone());
        script(&seen, log.len() - 1)
    };
    let Reply::Answer(status, headers, body) = reply else { return None };
    let mut text = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", status.as_u16());
    text += &format!("content-length: {}\r\n", body.len());
    for (name, value) in &headers {
        text += &format!("{name}: {}\r\n", value.to_str().ok()?);
    }
    text += "\r\n";
    text += &body;
    stream.write_all(text.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}
