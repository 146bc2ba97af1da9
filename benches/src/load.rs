//! A closed loop over HTTP/1.1: so many connections, kept alive, each sending its next request
//! when the last one was answered.
//!
//! Written on the bare socket, because a client library would cost more than the servers that are
//! compared and so hide their difference. It reads what our own servers send: a status line,
//! headers with a `Content-Length`, and a body.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::Result;

/// Longest time for one answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(80);
/// Largest head of an answer, in bytes.
const HEAD_BYTES_MAX: usize = 32 * 1024;
/// Largest body of an answer, in bytes.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// How hard a server is driven.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Connections at once.
    pub(crate) connections: usize,
    /// Requests on each of them.
    pub(crate) each: usize,
}

/// Where requests go, what they are, and which status counts.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    /// The server.
    pub(crate) address: SocketAddr,
    /// Whole requests, sent in turn.
    pub(crate) requests: Arc<[Vec<u8>]>,
    /// The status of every answer; any other one ends the bench.
    pub(crate) status: u16,
    /// What every answer's body contains.
    pub(crate) contains: &'static str,
}

impl Target {
    /// A target for `GET path`.
    pub(crate) fn get(address: SocketAddr, path: &str, status: u16) -> Self {
        let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes();
        Self { address, requests: Arc::new([request]), status, contains: "" }
    }

    /// A target for `POST path` with each of `bodies` in turn, as JSON.
    pub(crate) fn post(address: SocketAddr, path: &str, bodies: &[String]) -> Self {
        Self::post_with(address, path, "", bodies)
    }

    /// The same with further headers, each with its end of line.
    pub(crate) fn post_with(
        address: SocketAddr,
        path: &str,
        headers: &str,
        bodies: &[String],
    ) -> Self {
        let request = |body: &String| {
            let length = body.len();
            format!(
                "POST {path} HTTP/1.1\r\nHost: {address}\r\n{headers}Content-Type: application/json\r\n\
                 Content-Length: {length}\r\n\r\n{body}"
            )
            .into_bytes()
        };
        let requests = bodies.iter().map(request).collect();
        Self { address, requests, status: 200, contains: "" }
    }

    /// The same target, where every answer contains `text`.
    pub(crate) const fn answering(mut self, text: &'static str) -> Self {
        self.contains = text;
        self
    }
}

/// Drives `target` and says how many requests a second were answered.
///
/// # Errors
/// When an answer is not as expected, late, or missing.
pub(crate) async fn per_second(target: &Target, shape: Shape) -> Result<f64> {
    let mut connections = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        connections.push(Connection::open(target.address).await?);
    }
    let began = Instant::now();
    let mut running = JoinSet::new();
    for (index, mut connection) in connections.into_iter().enumerate() {
        let target = target.clone();
        running.spawn(async move {
            for count in 0..shape.each {
                let turn = (index * shape.each + count) % target.requests.len();
                connection.exchange(&target, turn).await?;
            }
            Ok::<_, crate::Failure>(())
        });
    }
    while let Some(done) = running.join_next().await {
        done??;
    }
    Ok((shape.connections * shape.each) as f64 / began.elapsed().as_secs_f64())
}

/// Drives `target` and says how long each answer took, in milliseconds.
///
/// # Errors
/// As [`per_second`].
pub(crate) async fn each_ms(target: &Target, shape: Shape) -> Result<Vec<f64>> {
    let mut connections = Vec::with_capacity(shape.connections);
    for _ in 0..shape.connections {
        connections.push(Connection::open(target.address).await?);
    }
    let mut running = JoinSet::new();
    for (index, mut connection) in connections.into_iter().enumerate() {
        let target = target.clone();
        running.spawn(async move {
            let mut times = Vec::with_capacity(shape.each);
            for count in 0..shape.each {
                let began = Instant::now();
                let turn = (index * shape.each + count) % target.requests.len();
                connection.exchange(&target, turn).await?;
                times.push(began.elapsed().as_secs_f64() * 1_000.0);
            }
            Ok::<_, crate::Failure>(times)
        });
    }
    let mut times = Vec::with_capacity(shape.connections * shape.each);
    while let Some(done) = running.join_next().await {
        times.extend(done??);
    }
    Ok(times)
}

/// How long one exchange takes on one connection, in microseconds.
///
/// # Errors
/// As [`per_second`].
pub(crate) async fn microseconds(target: &Target, count: usize) -> Result<f64> {
    let each = 1_000_000.0 / per_second(target, Shape { connections: 1, each: count }).await?;
    Ok(each)
}

#[derive(Debug)]
struct Connection {
    stream: TcpStream,
    read: Vec<u8>,
}

impl Connection {
    async fn open(address: SocketAddr) -> Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, read: Vec::with_capacity(HEAD_BYTES_MAX) })
    }

    async fn exchange(&mut self, target: &Target, turn: usize) -> Result<()> {
        let exchange = async {
            self.stream.write_all(&target.requests[turn]).await?;
            self.answer(target).await
        };
        tokio::time::timeout(ANSWER_LIMIT, exchange).await.map_err(|_| "an answer is late")?
    }

    async fn answer(&mut self, target: &Target) -> Result<()> {
        self.read.clear();
        let head = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end + 4;
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err("the head of an answer is too large".into());
            }
            self.fill().await?;
        };
        let (status, length) = head_of(&self.read[..head])?;
        while self.read.len() < head + length {
            self.fill().await?;
        }
        if self.read.len() > head + length {
            return Err("more came than one answer".into());
        }
        let body = &self.read[head..];
        if status != target.status || find(body, target.contains.as_bytes()).is_none() {
            let body = String::from_utf8_lossy(body);
            return Err(format!("unexpected answer {status}: {body}").into());
        }
        Ok(())
    }

    async fn fill(&mut self) -> Result<()> {
        match self.stream.read_buf(&mut self.read).await? {
            0 => Err("the connection was closed".into()),
            _ => Ok(()),
        }
    }
}

/// Status and body length.
fn head_of(head: &[u8]) -> Result<(u16, usize)> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1));
    let status = status.ok_or("no status line")?.parse()?;
    let length = lines
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .ok_or("an answer without Content-Length")?;
    let length: usize = length.1.trim().parse()?;
    if length > BODY_BYTES_MAX {
        return Err("an answer is too large".into());
    }
    Ok((status, length))
}

fn find(text: &[u8], part: &[u8]) -> Option<usize> {
    if part.is_empty() {
        return Some(0);
    }
    text.windows(part.len()).position(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bare;

    #[tokio::test]
    async fn a_server_is_driven_and_its_answers_are_checked() {
        let address = bare::serve().await.unwrap();
        let shape = Shape { connections: 3, each: 5 };
        let good = Target::get(address, "/data", 200).answering("temperature");
        assert!(per_second(&good, shape).await.unwrap() > 0.0);
        let bodies = vec![r#"{"a":[1,2]}"#.to_owned()];
        let echo = Target::post(address, "/echo", &bodies).answering(r#"{"a":[1,2]}"#);
        assert!(microseconds(&echo, 3).await.unwrap() > 0.0);
        let missing = Target::get(address, "/missing", 200);
        let error = per_second(&missing, shape).await.unwrap_err();
        assert!(error.to_string().contains("404"), "{error}");
    }
}
