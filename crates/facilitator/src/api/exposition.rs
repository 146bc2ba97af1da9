//! The figures of the process in the text format of Prometheus.
//!
//! They tell how busy the business is, so they are for this machine or for those with an API key.

use std::fmt;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use pay402_core::error::Unavailable;
use pay402_core::journal::Backlog;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeMetric as _, MetricEncoder, NoLabelSet, prometheus_text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;

use super::Api;
use super::fitness::{Look, look};
use crate::Engine;
use crate::desk::Desk;
use crate::metrics::{Calls, Durations, Forwards, NetworkMetrics, RpcCounts, Settlements, gwei_of};
use crate::post::{Place, Post};

/// What stands for the network and the scheme of calls that nobody here serves.
const OTHER: &str = "other";

pub(super) async fn metrics(State(api): State<Api>, headers: HeaderMap) -> Response {
    let engine = match api.0.access.admit_reading(&headers).and_then(|_| api.started()) {
        Ok(engine) => engine.clone(),
        Err(turned_away) => return api.turn_away(turned_away),
    };
    let look = look(&api, &engine).await;
    let mut registry = Registry::with_prefix("x402");
    registry.register_collector(Box::new(Scrape { api, engine, look }));
    let mut text = String::new();
    // Writing into a text fails only where a figure is of no kind that the format has.
    if prometheus_text::encode(&mut text, &registry).is_err() {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    let mut answer = Response::new(Body::from(text));
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(prometheus_text::CONTENT_TYPE));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

fn desks(engine: &Engine) -> impl Iterator<Item = &Desk> {
    engine.posts().into_iter().map(|post| &*post.idle)
}

type Label = (&'static str, String);

fn label(name: &'static str, value: &str) -> Label {
    (name, value.to_owned())
}

/// Everything as it is now.
struct Scrape {
    api: Api,
    engine: Engine,
    look: Look,
}

impl fmt::Debug for Scrape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Scrape")
    }
}

impl Collector for Scrape {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        page.calls(&self.engine)?;
        page.entries(&self.engine)?;
        page.backlogs(&self.engine, &self.look)?;
        page.lanes(&self.engine, &self.look)?;
        page.losses(&self.engine)?;
        page.budgets(&self.engine)?;
        page.journal(&self.engine, &self.look)?;
        page.webhooks(&self.engine)?;
        page.rpc(&self.api)?;
        page.spans(&self.api)?;
        page.process(&self.api)
    }
}

struct Page<'a>(DescriptorEncoder<'a>);

impl Page<'_> {
    fn calls(&mut self, engine: &Engine) -> fmt::Result {
        let (mut verifications, mut settlements) = (Vec::new(), Vec::new());
        let mut tell = |network: &str, scheme: &str, calls: &Calls| {
            let of = || vec![label("network", network), label("scheme", scheme)];
            verifications.extend(outcomes(of, [("valid", calls.verifications.valid.read())]));
            verifications.extend(refused(of, "invalid", calls.verifications.invalid.read()));
            let unavailable = calls.verifications.unavailable.read();
            verifications.extend(outcomes(of, [("unavailable", unavailable)]));
            settlements.extend(answers(of, &calls.settlements));
        };
        for desk in desks(engine) {
            for (scheme, calls) in desk.metrics.by_scheme() {
                tell(desk.id.as_str(), scheme, calls);
            }
        }
        tell(OTHER, OTHER, engine.calls_elsewhere());
        let help = "Answers to /verify and to verify calls in process, by outcome and refusal code";
        self.counters("verifications", help, verifications)?;
        let help = "Answers to /settle and to settle calls in process, by outcome and refusal code; \
                    a repeat is an answer of its own";
        self.counters("settlements", help, settlements)?;
        let accounts = desks(engine).flat_map(|desk| {
            answers(|| vec![label("network", desk.id.as_str())], &desk.metrics.accounts)
        });
        let accounts: Vec<_> = accounts.collect();
        self.counters(
            "account_requests",
            "Answers to /account, by outcome and refusal code",
            accounts,
        )?;
        let forwards = desks(engine).flat_map(|desk| {
            let Forwards { answered, untouched, lost } = &desk.metrics.forwards;
            let told = [("answered", answered), ("untouched", untouched), ("lost", lost)];
            told.map(|(outcome, count)| {
                let network = label("network", desk.id.as_str());
                (vec![network, label("outcome", outcome)], count.read())
            })
        });
        let forwards: Vec<_> = forwards.collect();
        let help = "Calls that were forwarded to the process that leads; untouched means that nothing \
                    was entered, lost that nobody knows";
        self.counters("forwards", help, forwards)?;
        let help = "How long verify calls took, whatever they were answered";
        self.durations("verification_duration_seconds", help, engine, |m| &m.verifying)?;
        let help = "How long those settle calls took that were told a settlement";
        self.durations("settlement_duration_seconds", help, engine, |m| &m.settling)
    }

    fn entries(&mut self, engine: &Engine) -> fmt::Result {
        let mut closed = Vec::new();
        let mut gas = Vec::new();
        for desk in desks(engine) {
            let of = || vec![label("network", desk.id.as_str())];
            closed.extend(outcomes(of, [("settled", desk.metrics.settled.read())]));
            closed.extend(refused(of, "failed", desk.metrics.failed.read()));
            gas.push((of(), desk.metrics.gas.gwei()));
        }
        let help = "Journal entries that reached their end, once each: payments, and errands such \
                    as adoptions";
        self.counters("entries_closed", help, closed)?;
        let (mut reopened, mut watched) = (Vec::new(), Vec::new());
        let (mut forgotten, mut cancelled) = (Vec::new(), Vec::new());
        let (mut reverted, mut lost) = (Vec::new(), Vec::new());
        for post in engine.posts() {
            let desk = &post.idle;
            let of = || vec![label("network", desk.id.as_str())];
            reopened.push((of(), desk.metrics.reopened.read()));
            forgotten.push((of(), desk.metrics.forgotten.read()));
            cancelled.push((of(), desk.metrics.cancelled.read()));
            // Only who leads watches.
            let blocks = post.crew().map_or(0, |crew| crew.desk.watched.len());
            watched.push((of(), u64::try_from(blocks).unwrap_or(u64::MAX)));
            for (asset, loss) in desk.metrics.reverted.read() {
                let of = || vec![label("network", desk.id.as_str()), label("asset", &asset)];
                reverted.push((of(), loss.count));
                lost.push((of(), loss.amount));
            }
        }
        let help = "Closed entries that were opened again since the chain undid their block";
        self.counters("entries_reopened", help, reopened)?;
        let help =
            "Entries that were deleted since they are over for good, as long as they were retained";
        self.counters("entries_forgotten", help, forgotten)?;
        let help = "Transactions that were signed to cancel one whose payments had all expired";
        self.counters("transactions_cancelled", help, cancelled)?;
        let help = "Settlements that were told, that the chain undid, and that cannot be had again";
        self.counters("settlements_reverted", help, reverted)?;
        let help = "What was charged by them, in atomic units of the asset";
        self.counters("settlements_reverted_amount", help, lost)?;
        let help = "Blocks that closed entries and are not buried yet";
        self.gauges("watched_blocks", help, watched)?;
        let help = "From an entry to its end, in whole seconds";
        self.durations("entry_duration_seconds", help, engine, |m| &m.entries)?;
        let help = "Fees of the transactions of closed entries, in whole gwei; what is below one is \
                    carried over";
        self.counters("gas_spent_gwei", help, gas)
    }

    fn backlogs(&mut self, engine: &Engine, look: &Look) -> fmt::Result {
        let known = || {
            let known = look.backlogs.iter();
            known.filter_map(|(network, backlog)| Some((network, backlog.as_ref().ok()?)))
        };
        let stages = known().flat_map(|(network, backlog)| {
            let Backlog { due, signed, sent, .. } = *backlog;
            [("due", due), ("signed", signed), ("sent", sent)].map(|(stage, count)| {
                (vec![label("network", network.as_str()), label("stage", stage)], count)
            })
        });
        let stages: Vec<_> = stages.collect();
        self.gauges("entries", "Unfinished journal entries by stage", stages)?;
        let oldest = desks(engine).filter_map(|desk| {
            let (network, backlog) = known().find(|(network, _)| **network == desk.id)?;
            let now = desk.clock.now().0;
            let age = backlog.oldest.map_or(0, |oldest| now.saturating_sub(oldest.0));
            Some((vec![label("network", network.as_str())], age))
        });
        let oldest: Vec<_> = oldest.collect();
        let help = "How long the oldest unfinished entry has been in the journal; 0 when everything \
                    is finished";
        self.gauges("oldest_unfinished_age_seconds", help, oldest)
    }

    fn lanes(&mut self, engine: &Engine, look: &Look) -> fmt::Result {
        let (mut in_flight, mut rejections) = (Vec::new(), Vec::new());
        let (mut in_a_row, mut low, mut unmined) = (Vec::new(), Vec::new(), Vec::new());
        for desk in engine.posts().into_iter().filter_map(|post| post.crew()).map(|it| it.desk) {
            for (index, lane) in desk.lanes.iter().enumerate() {
                let of = vec![label("network", desk.id.as_str()), label("signer", &lane.signer)];
                unmined.push((of, u64::try_from(desk.berths.taken(index)).unwrap_or(u64::MAX)));
            }
        }
        for desk in desks(engine) {
            let backlog = look.backlogs.iter().find(|(network, _)| *network == desk.id);
            let backlog = backlog.and_then(|(_, backlog)| backlog.as_ref().ok());
            // Only our own signers: whoever sends an approval of its own is a payer.
            for lane in desk.lanes.iter() {
                let of = || vec![label("network", desk.id.as_str()), label("signer", &lane.signer)];
                if let Some(backlog) = backlog {
                    let count = backlog.by_signer.get(&lane.signer).copied().unwrap_or(0);
                    in_flight.push((of(), count));
                }
                rejections.push((of(), lane.rejected.read()));
                in_a_row.push((of(), u64::from(lane.rejections())));
                low.push((of(), u64::from(lane.is_low())));
            }
        }
        let help = "Transactions of this signer that wait to be mined, where this process leads";
        self.gauges("lane_unmined", help, unmined)?;
        let help = "Unfinished entries whose transaction this signer sends";
        self.gauges("lane_in_flight", help, in_flight)?;
        let help = "Transactions of this signer that a node refused";
        self.counters("lane_rejections", help, rejections)?;
        let help =
            "Refusals since a node last took a transaction of this signer; it rests meanwhile";
        self.gauges("lane_rejections_in_a_row", help, in_a_row)?;
        let help =
            "Whether this signer has too little to pay gas with; it is given nothing new then";
        self.gauges("lane_low", help, low)
    }

    /// Only who leads knows them.
    fn losses(&mut self, engine: &Engine) -> fmt::Result {
        let (mut lost, mut open) = (Vec::new(), Vec::new());
        for crew in engine.posts().into_iter().filter_map(|post| post.crew()) {
            let of = || vec![label("network", crew.desk.id.as_str())];
            let (losses, now) = (&crew.desk.losses, crew.desk.clock.now());
            lost.push((of(), gwei_of(losses.total(now))));
            open.push((of(), u64::from(losses.stopped(now).is_some())));
        }
        let help = "What settlements cost in gas that failed or were reverted within the last hour, in \
                    whole gwei, where this process leads";
        self.gauges("gas_lost_last_hour_gwei", help, lost)?;
        let help = "Whether the circuit breaker is open: nothing new is accepted";
        self.gauges("breaker_open", help, open)
    }

    /// Only who leads knows what is spent.
    fn budgets(&mut self, engine: &Engine) -> fmt::Result {
        let (mut spent, mut bounds) = (Vec::new(), Vec::new());
        for crew in engine.posts().into_iter().filter_map(|post| post.crew()) {
            let desk = &crew.desk;
            for account in desk.budgets.accounts(desk.clock.now()) {
                let network = label("network", desk.id.as_str());
                let of = vec![network, label("caller", &account.caller)];
                spent.push((of.clone(), gwei_of(account.booked)));
                bounds.push((of, gwei_of(account.bound)));
            }
        }
        let help = "What settlements cost in gas within the last hour that a caller with a budget entered, \
                    in whole gwei, where this process leads";
        self.gauges("caller_gas_last_hour_gwei", help, spent)?;
        let help = "The budget of such a caller: from this on nothing new of it is accepted";
        self.gauges("caller_gas_per_hour_max_gwei", help, bounds)
    }

    fn journal(&mut self, engine: &Engine, look: &Look) -> fmt::Result {
        let of = |desk: &Desk| vec![label("network", desk.id.as_str())];
        let queued = |post: &Arc<Post>| {
            let queued = post.crew().map_or(0, |crew| crew.scribe.queued());
            (of(&post.idle), u64::try_from(queued).unwrap_or(u64::MAX))
        };
        let queued: Vec<_> = engine.posts().into_iter().map(queued).collect();
        self.gauges("journal_queue", "Changes that wait for their commit", queued)?;
        let up = |(network, backlog): &(_, Result<Backlog, Unavailable>)| {
            (
                vec![label("network", pay402_core::NetworkId::as_str(network))],
                u64::from(backlog.is_ok()),
            )
        };
        let up: Vec<_> = look.backlogs.iter().map(up).collect();
        self.gauges("journal_up", "Whether the journal answers", up)?;
        let settling = engine.health().into_iter().map(|health| {
            let labels = vec![label("network", health.network.as_str())];
            (labels, u64::from(health.status == "ok"))
        });
        let settling: Vec<_> = settling.collect();
        let help = "Whether this process holds the lease, can renew it, and takes payments";
        self.gauges("settling", help, settling)?;
        let leads = |post: &Arc<Post>| {
            let (url, here) = match post.place() {
                Place::Here(crew) => (crew.desk.holder.as_ref()?.url.clone(), "yes"),
                Place::There(leader) => (leader.url, "no"),
                Place::Nowhere => return None,
            };
            let url = label("url", url.as_deref().unwrap_or_default());
            Some((vec![label("network", post.idle.id.as_str()), url, label("here", here)], 1))
        };
        let leads: Vec<_> = engine.posts().into_iter().filter_map(leads).collect();
        let help =
            "Who leads: the address that calls are forwarded to, and whether it is this process";
        self.gauges("leader", help, leads)
    }

    fn webhooks(&mut self, engine: &Engine) -> fmt::Result {
        let counts = engine.webhooks().iter().flat_map(|webhook| {
            webhook.counts().map(|(outcome, count)| {
                (vec![label("webhook", webhook.name()), label("outcome", outcome)], count)
            })
        });
        let counts: Vec<_> = counts.collect();
        let help =
            "Events that receivers took, that were sent to them again, and that were given up";
        self.counters("webhook_events", help, counts)
    }

    fn spans(&mut self, api: &Api) -> fmt::Result {
        let Some(counts) = api.0.spans.get() else { return Ok(()) };
        let counts = counts.read().map(|(outcome, count)| (vec![label("outcome", outcome)], count));
        let help =
            "Spans that were exported, and that were dropped: not taken, or without room to wait";
        self.counters("trace_spans", help, counts.to_vec())
    }

    fn rpc(&mut self, api: &Api) -> fmt::Result {
        let calls = api.0.rpc.iter().flat_map(|counts| {
            counts.read().map(|(method, outcome, count)| {
                let mut labels = of_node(counts);
                labels.extend([label("method", method), label("outcome", outcome)]);
                (labels, count)
            })
        });
        let calls: Vec<_> = calls.collect();
        let help = "Questions to nodes by method; one in a batch counts as one. An error may be a \
                    simulation that reverted";
        self.counters("rpc_calls", help, calls)?;
        let nodes = &api.0.rpc;
        let newest = |network: &str| {
            let of = nodes.iter().filter(|counts| counts.network() == network);
            of.map(|counts| counts.head()).max().unwrap_or(0)
        };
        let each = |value: &dyn Fn(&RpcCounts) -> u64| -> Vec<Sample> {
            nodes.iter().map(|counts| (of_node(counts), value(counts))).collect()
        };
        let help = "Whether a node is asked: it answers, and is on the right chain";
        self.gauges("rpc_node_up", help, each(&|counts| u64::from(counts.is_well())))?;
        let behind = |counts: &RpcCounts| newest(counts.network()).saturating_sub(counts.head());
        let help =
            "How many blocks a node was behind the newest that any node of its network showed";
        self.gauges("rpc_node_lag_blocks", help, each(&behind))?;
        let help = "Looks at a payment of which a node showed something else than another one; one \
                    that is behind does so too";
        self.counters("rpc_disagreements", help, each(&|counts| counts.disagreements()))?;
        let help = "Round trips to a node that were answered, in seconds";
        let name = "rpc_round_trip_duration_seconds";
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for counts in nodes {
            histogram(metric.encode_family(&of_node(counts))?, counts.durations())?;
        }
        Ok(())
    }

    fn process(&mut self, api: &Api) -> fmt::Result {
        let turned_away = api.0.turned_away.read();
        let turned_away: Vec<_> =
            turned_away.map(|(reason, count)| (vec![label("reason", reason)], count)).collect();
        let help = "Requests that were refused before anything was read of a payment";
        self.counters("requests_turned_away", help, turned_away)?;
        let version = vec![(vec![label("version", env!("CARGO_PKG_VERSION"))], 1)];
        self.gauges("build_info", "The version of pay402 that runs", version)
    }

    fn counters(&mut self, name: &str, help: &str, samples: Vec<(Vec<Label>, u64)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in samples {
            ConstCounter::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn gauges(&mut self, name: &str, help: &str, samples: Vec<(Vec<Label>, u64)>) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Gauge)?;
        for (labels, value) in samples {
            let value = i64::try_from(value).unwrap_or(i64::MAX);
            ConstGauge::new(value).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }

    fn durations(
        &mut self,
        name: &str,
        help: &str,
        engine: &Engine,
        of: fn(&NetworkMetrics) -> &Durations,
    ) -> fmt::Result {
        let mut metric = self.0.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for desk in desks(engine) {
            let labels = vec![label("network", desk.id.as_str())];
            histogram(metric.encode_family(&labels)?, of(&desk.metrics))?;
        }
        Ok(())
    }
}

fn histogram(mut metric: MetricEncoder<'_>, durations: &Durations) -> fmt::Result {
    let buckets = durations
        .buckets()
        .map(|(bound, count)| (bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()), count));
    let buckets: Vec<_> = buckets.collect();
    let count = buckets.iter().map(|(_, count)| count).sum();
    let sum = durations.sum().as_secs_f64();
    metric.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
}

type Sample = (Vec<Label>, u64);

fn of_node(counts: &RpcCounts) -> Vec<Label> {
    vec![label("network", counts.network()), label("node", counts.node())]
}

fn outcomes<const N: usize>(
    of: impl Fn() -> Vec<Label>,
    counts: [(&'static str, u64); N],
) -> [Sample; N] {
    counts.map(|(outcome, count)| (with(of(), outcome, ""), count))
}

fn refused(
    of: impl Fn() -> Vec<Label>,
    outcome: &'static str,
    counts: impl Iterator<Item = (&'static str, u64)>,
) -> Vec<Sample> {
    counts.map(|(reason, count)| (with(of(), outcome, reason), count)).collect()
}

fn answers(of: impl Fn() -> Vec<Label>, told: &Settlements) -> Vec<Sample> {
    let told_apart = [
        ("settled", told.settled.read()),
        ("pending", told.pending.read()),
        ("unavailable", told.unavailable.read()),
    ];
    let mut samples = Vec::from(outcomes(&of, told_apart));
    samples.extend(refused(&of, "refused", told.refused.read()));
    samples
}

fn with(mut labels: Vec<Label>, outcome: &'static str, reason: &'static str) -> Vec<Label> {
    labels.extend([label("outcome", outcome), label("reason", reason)]);
    labels
}
