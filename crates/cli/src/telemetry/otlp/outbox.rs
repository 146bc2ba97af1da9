//! Spans on their way to the collector: a bounded queue, and the one task that empties it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use opentelemetry::Context;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::error::OTelSdkResult;
use opentelemetry_sdk::trace::{Span, SpanData, SpanExporter as _, SpanProcessor};
use pay402_core::host::is_loopback;
use pay402_facilitator::SpanCounts;
use reqwest::redirect::Policy;
use tokio::sync::mpsc::{self, Receiver, Sender};
use tokio::time::{Instant, timeout, timeout_at};
use url::Url;

use super::settings::Settings;

/// Longest answer of a collector that is read, in bytes.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// How long what is left may take when the process ends.
const LAST_MAX: Duration = Duration::from_secs(2);

/// The end of the queue that takes spans. Never waits.
#[derive(Debug)]
pub(super) struct Queue {
    out: Sender<SpanData>,
    counts: Arc<SpanCounts>,
}

/// The end of the queue that exports them.
pub(super) struct Outbox {
    waiting: Receiver<SpanData>,
    /// The next to be exported.
    ready: Vec<SpanData>,
    exporter: SpanExporter,
    counts: Arc<SpanCounts>,
    delay: Duration,
    batch: usize,
}

/// A queue as `settings` say.
pub(super) fn pair(
    exporter: SpanExporter,
    settings: &Settings,
    counts: Arc<SpanCounts>,
) -> (Queue, Outbox) {
    let (out, waiting) = mpsc::channel(settings.queue);
    let (delay, batch) = (settings.delay, settings.batch);
    let queue = Queue { out, counts: Arc::clone(&counts) };
    (queue, Outbox { waiting, ready: Vec::new(), exporter, counts, delay, batch })
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if span.span_context.is_sampled() && self.out.try_send(span).is_err() {
            self.counts.dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

impl Outbox {
    /// Exports until `until`, then what is left.
    pub(super) async fn run(mut self, until: impl Future<Output = ()>) {
        let mut until = std::pin::pin!(until);
        loop {
            tokio::select! {
                biased;
                () = &mut until => break,
                () = self.fill() => {}
            }
            let batch = std::mem::take(&mut self.ready);
            let mut exporting = std::pin::pin!(self.export(batch));
            tokio::select! {
                biased;
                () = &mut exporting => {}
                () = &mut until => {
                    _ = timeout(LAST_MAX, exporting).await;
                    break;
                }
            }
        }
        _ = timeout(LAST_MAX, self.finish()).await;
    }

    /// Waits for spans: for as many as go together, or for those of so long.
    async fn fill(&mut self) {
        let due = loop {
            if !self.ready.is_empty() {
                break Instant::now() + self.delay;
            }
            match self.waiting.recv().await {
                Some(span) => self.ready.push(span),
                None => std::future::pending().await,
            }
        };
        while self.ready.len() < self.batch
            && let Ok(Some(span)) = timeout_at(due, self.waiting.recv()).await
        {
            self.ready.push(span);
        }
    }

    /// Exports what is there.
    async fn finish(&mut self) {
        loop {
            while self.ready.len() < self.batch
                && let Ok(span) = self.waiting.try_recv()
            {
                self.ready.push(span);
            }
            if self.ready.is_empty() {
                return;
            }
            let batch = std::mem::take(&mut self.ready);
            self.export(batch).await;
        }
    }

    async fn export(&self, batch: Vec<SpanData>) {
        let count = batch.len() as u64;
        match self.exporter.export(batch).await {
            Ok(()) => self.counts.exported(count),
            Err(_) => {
                tracing::debug!(count, "the collector did not take spans");
                self.counts.dropped(count);
            }
        }
    }
}

/// What the exporter speaks to the collector by. Follows no redirect: a header may hold a token.
pub(super) struct Client(reqwest::Client);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}

impl Client {
    /// A client for the collector at `endpoint`.
    pub(super) fn new(endpoint: &Url, patience: Duration) -> Result<Self, String> {
        let mut builder = reqwest::Client::builder().redirect(Policy::none()).timeout(patience);
        // What is on this machine is asked without a proxy.
        if is_loopback(endpoint) {
            builder = builder.no_proxy();
        }
        builder.build().map(Self).map_err(|error| format!("cannot be called: {error}"))
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        // The URL may hold a token.
        let request = request.try_into().map_err(reqwest::Error::without_url)?;
        let mut answer = self.0.execute(request).await.map_err(reqwest::Error::without_url)?;
        let status = answer.status();
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(reqwest::Error::without_url)? {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err("the answer is too long".into());
            }
            body.extend_from_slice(&chunk);
        }
        let mut response = Response::new(body.into());
        *response.status_mut() = status;
        Ok(response)
    }
}
