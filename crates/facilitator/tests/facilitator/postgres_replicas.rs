//! Several facilitators over HTTP on one journal: all take calls, one leads.

use std::sync::Arc;
use std::time::Duration;

use axum::http::StatusCode;
use pay402_core::Payment;
use pay402_core::facilitator::Settled;
use pay402_core::journal::{Holder, Journal};
use pay402_core::network::Network;
use pay402_core::refusal::{Reason, Refusal};
use pay402_core::time::UnixTime;
use pay402_core::wire::decode_settled;
use pay402_facilitator::api::{Access, Api, KeyHash, Limits, Named, Role};
use pay402_facilitator::{Engine, Options};
use pay402_store::PgJournal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use crate::api::request;
use crate::bed::{Bed, LONG, SHORT, done, options, pending, refused, stage, until};
use crate::chain::{fee, network, payment, terms};
use crate::cluster::{Cluster, Database};

/// The mark of a call that was forwarded, as `core::transport` writes it.
const FORWARDED: &str = "pay402-forwarded";

/// One process of several, as far as it can be one within a test.
struct Replica {
    engine: Engine,
    url: String,
    serving: JoinHandle<()>,
}

struct Answer {
    status: StatusCode,
    not_leading: Option<String>,
    settlement_id: Option<String>,
    body: Vec<u8>,
}

impl Answer {
    #[track_caller]
    fn settled(&self) -> Settled {
        let read = decode_settled(&self.body, &terms());
        read.unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&self.body)))
    }
}

fn replicated() -> Options {
    Options { lease: Duration::from_secs(3), follows: true, ..options() }
}

impl Replica {
    async fn start(bed: &Bed, database: &Database<'_>, access: Access, options: Options) -> Self {
        let journal = Arc::new(PgJournal::open(&database.url(), None).await.unwrap());
        Self::start_on(bed, journal, access, options).await
    }

    async fn start_on(
        bed: &Bed,
        journal: Arc<dyn Journal>,
        access: Access,
        options: Options,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(bed.chain.clone())];
        let options = Options { advertise: Some(url.clone()), ..options };
        let engine = Engine::start(networks, journal, Arc::clone(&bed.clock) as _, options);
        let engine = engine.await.unwrap();
        let key = KeyHash::of("shop");
        let (name, limits) = ("shop".into(), Limits::default());
        let shop = Named { key, name, role: Role::Caller, limits };
        let api = Api::counting(access, vec![shop], Vec::new());
        api.open(engine.clone());
        let serving =
            tokio::spawn(async move { axum::serve(listener, api.router()).await.unwrap() });
        Self { engine, url, serving }
    }

    fn status(&self) -> &'static str {
        self.engine.health()[0].status
    }

    async fn ask(&self, path: &str, payment: &Payment, more: &[(&str, &str)]) -> Answer {
        let client = reqwest::Client::new();
        let mut asking = client.post(format!("{}{path}", self.url)).json(&request(payment));
        for (name, value) in more {
            asking = asking.header(*name, *value);
        }
        let answer = asking.send().await.unwrap();
        let header = |name| {
            let value = answer.headers().get(name);
            value.map(|value: &reqwest::header::HeaderValue| value.to_str().unwrap().to_owned())
        };
        Answer {
            status: answer.status(),
            not_leading: header("pay402-not-leading"),
            settlement_id: header("settlement-id"),
            body: answer.bytes().await.unwrap().to_vec(),
        }
    }

    async fn settle(&self, nonce: &str) -> Settled {
        self.ask("/settle", &payment(nonce), &[]).await.settled()
    }

    /// Ends it as a crash would: whoever is connected hears no more of it.
    fn crash(self) {
        self.engine.crash();
        self.serving.abort();
    }
}

async fn replicas<const N: usize>(bed: &Bed, database: &Database<'_>) -> [Replica; N] {
    let mut started = Vec::new();
    for _ in 0..N {
        started.push(Replica::start(bed, database, Access::Open, replicated()).await);
    }
    assert_eq!(started[0].status(), "ok");
    assert!(started[1..].iter().all(|replica| replica.status() == "following"));
    started.try_into().ok().unwrap()
}

/// Somebody who is not there any more, or never was, holds the lease at this address.
async fn led_from(database: &Database<'_>, url: &str, lasts: Duration) {
    let journal = PgJournal::open(&database.url(), None).await.unwrap();
    let holder = Holder { name: "elsewhere".into(), url: Some(url.into()) };
    let asked = journal.lease(&network(), &holder, UnixTime(0), lasts).await.unwrap();
    assert!(asked.granted().is_some());
}

fn is_duplicate(settled: &Settled) -> bool {
    matches!(settled, Settled::Refused(refused)
        if refused.reason == Reason::Known(Refusal::DuplicateSettlement))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn every_replica_takes_calls_and_one_of_many_copies_at_all_of_them_succeeds() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let replicas: Arc<[Replica; 3]> = Arc::new(replicas(&bed, &database).await);
    for (nonce, replica) in ["a", "b", "c"].into_iter().zip(&*replicas) {
        let verified = replica.ask("/verify", &payment(nonce), &[]).await;
        assert!(String::from_utf8(verified.body).unwrap().contains("\"isValid\":true"));
        done(&replica.settle(nonce).await);
    }
    for round in 0..5 {
        let mut copies = JoinSet::new();
        for copy in 0..60 {
            let replicas = Arc::clone(&replicas);
            copies.spawn(async move { replicas[copy % 3].settle(&format!("copy {round}")).await });
        }
        let told = copies.join_all().await;
        let successes = told.iter().filter(|told| matches!(told, Settled::Done(_))).count();
        assert_eq!(successes, 1, "{told:?}");
        let others = told.iter().filter(|told| !matches!(told, Settled::Done(_)));
        assert!(others.clone().all(is_duplicate), "{told:?}");
    }
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (8, 8));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_at_a_follower_when_the_leader_dies_gets_the_outcome_all_the_same() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let [leader, second, third]: [Replica; 3] = replicas(&bed, &database).await;
    bed.chain.state().automine = false;
    let second = Arc::new(second);
    let waiting: Vec<_> = ["1", "2"]
        .into_iter()
        .map(|nonce| {
            let second = Arc::clone(&second);
            tokio::spawn(async move { second.settle(nonce).await })
        })
        .collect();
    until("sent", || async { bed.chain.state().handed.len() == 2 }).await;
    let died = Instant::now();
    leader.crash();
    until("taken over", || async { second.status() == "ok" || third.status() == "ok" }).await;
    assert!(died.elapsed() < Duration::from_secs(6), "a lease of 3 s takes {:?}", died.elapsed());
    // A new one is settled at once, whoever it is brought to.
    let new = tokio::spawn(async move { third.settle("3").await });
    until("sent too", || async { bed.chain.state().handed.iter().any(|tx| tx.nonce == 2) }).await;
    bed.chain.state().mine();
    bed.chain.state().automine = true;
    for waits in waiting {
        done(&tokio::time::timeout(LONG, waits).await.unwrap().unwrap());
    }
    done(&tokio::time::timeout(LONG, new).await.unwrap().unwrap());
    assert!(is_duplicate(&second.settle("1").await), "told to a second caller");
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.reverted, state.hashes().len()), (3, 0, 3));
}

/// Releasing first and finishing at the successor is what makes a deployment of new processes quick.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_stops_lets_another_lead_within_a_second_and_its_callers_wait_on() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let [leader, second]: [Replica; 2] = replicas(&bed, &database).await;
    bed.chain.state().automine = false;
    let (leader, second) = (Arc::new(leader), Arc::new(second));
    let waiting: Vec<_> = [("1", &leader), ("2", &second)]
        .into_iter()
        .map(|(nonce, replica)| {
            let replica = Arc::clone(replica);
            tokio::spawn(async move { replica.settle(nonce).await })
        })
        .collect();
    until("sent", || async { bed.chain.state().handed.len() == 2 }).await;
    let stopping = tokio::spawn({
        let leader = Arc::clone(&leader);
        async move { leader.engine.stop(LONG).await }
    });
    let asked = Instant::now();
    until("taken over", || async { second.status() == "ok" }).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "after {:?}", asked.elapsed());
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(!stopping.is_finished(), "it left while its callers waited");
    bed.chain.state().mine();
    for waits in waiting {
        done(&tokio::time::timeout(LONG, waits).await.unwrap().unwrap());
    }
    tokio::time::timeout(LONG, stopping).await.unwrap().unwrap();
    assert_eq!(leader.status(), "stopped");
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (2, 2));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_alone_finishes_what_its_callers_wait_for_before_it_stops() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let [alone]: [Replica; 1] = replicas(&bed, &database).await;
    bed.chain.state().automine = false;
    let alone = Arc::new(alone);
    let waiting = tokio::spawn({
        let alone = Arc::clone(&alone);
        async move { alone.settle("1").await }
    });
    until("sent", || async { bed.chain.state().handed.len() == 1 }).await;
    let stopping = tokio::spawn({
        let alone = Arc::clone(&alone);
        async move { alone.engine.stop(LONG).await }
    });
    until("it takes nothing new", || async { alone.status() == "draining" }).await;
    let refused = alone.ask("/settle", &payment("2"), &[]).await;
    assert_eq!(refused.status, StatusCode::SERVICE_UNAVAILABLE);
    bed.chain.state().mine();
    done(&tokio::time::timeout(LONG, waiting).await.unwrap().unwrap());
    tokio::time::timeout(LONG, stopping).await.unwrap().unwrap();
    assert_eq!(stage(&alone.engine, "2").await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_forwarded_call_is_not_forwarded_again() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let [leader, second]: [Replica; 2] = replicas(&bed, &database).await;
    let hop = second.ask("/settle", &payment("1"), &[(FORWARDED, "60000")]).await;
    assert_eq!(hop.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(hop.not_leading.as_deref(), Some("untouched"));
    assert_eq!(stage(&leader.engine, "1").await, "");
    let unclear = second.ask("/settle", &payment("1"), &[(FORWARDED, "soon")]).await;
    assert_eq!(unclear.status, StatusCode::BAD_REQUEST);
    // At the leader it is settled, within the time that is left for it.
    bed.chain.state().automine = false;
    let begun = Instant::now();
    let hurried = leader.ask("/settle", &payment("1"), &[(FORWARDED, "300")]).await;
    assert!(pending(hurried.settled()).is_some() && begun.elapsed() < Duration::from_secs(5));
    assert_eq!(hurried.not_leading, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_leader_judges_the_caller_itself() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let keys = |keys: &[&str]| Access::Keys(keys.iter().map(|key| KeyHash::of(key)).collect());
    let leader = Replica::start(&bed, &database, keys(&["one"]), replicated()).await;
    let second = Replica::start(&bed, &database, keys(&["one", "two"]), replicated()).await;
    assert_eq!((leader.status(), second.status()), ("ok", "following"));
    let one = ("authorization", "Bearer one");
    let ask = |more| second.ask_owned("/settle", "1", more);
    let stranger = ask(vec![("authorization", "Bearer three")]).await;
    assert_eq!(stranger.status, StatusCode::UNAUTHORIZED);
    // Known at the follower alone.
    let refused = ask(vec![("authorization", "Bearer two")]).await;
    assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    assert_eq!(stage(&leader.engine, "1").await, "");
    // Key and idempotency key travel along: the same caller is told again, at either of them.
    let first = ask(vec![one, ("idempotency-key", "order 1")]).await;
    let transaction = done(&first.settled());
    assert!(first.settlement_id.is_some());
    let again = ask(vec![one, ("idempotency-key", "order 1")]).await;
    assert_eq!(done(&again.settled()), transaction);
    let directly =
        leader.ask_owned("/settle", "1", vec![one, ("idempotency-key", "order 1")]).await;
    assert_eq!(done(&directly.settled()), transaction);
    assert!(is_duplicate(&ask(vec![one, ("idempotency-key", "order 2")]).await.settled()));
    assert!(is_duplicate(&ask(vec![one]).await.settled()));
}

impl Replica {
    async fn ask_owned(&self, path: &str, nonce: &str, more: Vec<(&str, &str)>) -> Answer {
        self.ask(path, &payment(nonce), &more).await
    }
}

/// Wherever it calls, and whoever leads.
#[tokio::test(flavor = "multi_thread")]
async fn a_caller_has_one_budget_at_all_of_them() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let two = || Options {
        gas_budgets: [("shop".to_owned(), (2 * fee(1)).into())].into(),
        ..replicated()
    };
    let keys = || Access::Keys(vec![KeyHash::of("shop")]);
    let leader = Replica::start(&bed, &database, keys(), two()).await;
    let second = Replica::start(&bed, &database, keys(), two()).await;
    assert_eq!((leader.status(), second.status()), ("ok", "following"));
    let shop = || vec![("authorization", "Bearer shop")];
    done(&leader.ask_owned("/settle", "1", shop()).await.settled());
    done(&second.ask_owned("/settle", "2", shop()).await.settled());
    for replica in [&leader, &second] {
        let told = replica.ask_owned("/settle", "3", shop()).await.settled();
        refused(told, Refusal::GasBudgetSpent);
    }
    leader.engine.stop(LONG).await;
    until("it leads", || async { second.status() == "ok" }).await;
    let told = second.ask_owned("/settle", "3", shop()).await.settled();
    assert!(refused(told, Refusal::GasBudgetSpent).message.contains("cost 42000 wei"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_entered_where_no_leader_can_be_reached() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    // A port that is given to nobody: one that was free a moment ago may be another test's by now.
    led_from(&database, "http://127.0.0.1:1", Duration::from_secs(60)).await;
    let replica = Replica::start(&bed, &database, Access::Open, replicated()).await;
    assert_eq!(replica.status(), "following");
    let begun = Instant::now();
    let answer = replica.ask("/settle", &payment("1"), &[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    // Nobody leads later than a lease and a moment after the leader's death.
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(10)).contains(&took), "{took:?}");
    assert_eq!(stage(&replica.engine, "1").await, "");
    // What is only read is answered all the same.
    let verified = replica.ask("/verify", &payment("1"), &[]).await;
    assert_eq!(verified.status, StatusCode::OK);
}

/// A leader that takes a call, whole, and says nothing.
async fn mute() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let taking = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut taken = [0; 8_192];
                _ = stream.read(&mut taken).await;
                _ = stream.shutdown().await;
            });
        }
    });
    (url, taking)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_answer_was_lost_is_pending_at_worst_and_settled_by_the_next_leader_at_best() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let (url, _taking) = mute().await;
    led_from(&database, &url, Duration::from_secs(4)).await;
    let hasty = Options { settle_wait_max: Duration::from_millis(700), ..replicated() };
    let hasty = Replica::start(&bed, &database, Access::Open, hasty).await;
    assert_eq!(hasty.status(), "following");
    // It may have been entered by somebody who is slow.
    assert_eq!(pending(hasty.settle("1").await), None);
    hasty.engine.stop(SHORT).await;
    let patient = Replica::start(&bed, &database, Access::Open, replicated()).await;
    assert_eq!(patient.status(), "following");
    done(&patient.settle("1").await);
    assert_eq!(patient.status(), "ok", "it leads by now");
    let state = bed.chain.state();
    assert_eq!((state.transfers, state.hashes().len()), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_figures_say_who_leads() {
    let bed = Bed::new();
    let database = Cluster::shared().database();
    let [leader, second]: [Replica; 2] = replicas(&bed, &database).await;
    done(&second.settle("1").await);
    let read = async |replica: &Replica, path: &str| {
        let answer = reqwest::get(format!("{}{path}", replica.url)).await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    };
    for (replica, here, settling) in [(&leader, "yes", 1), (&second, "no", 0)] {
        assert_eq!(read(replica, "/readyz").await.0, StatusCode::OK);
        assert_eq!(read(replica, "/health").await.0, StatusCode::OK);
        let (_, figures) = read(replica, "/metrics").await;
        let id = network();
        for line in [
            format!("x402_leader{{network=\"{id}\",url=\"{}\",here=\"{here}\"}} 1", leader.url),
            format!("x402_settling{{network=\"{id}\"}} {settling}"),
            format!(
                "x402_forwards_total{{network=\"{id}\",outcome=\"answered\"}} {}",
                1 - settling
            ),
        ] {
            assert!(figures.contains(&line), "{line} is not in\n{figures}");
        }
    }
    let journal = PgJournal::open(&database.url(), None).await.unwrap();
    leader.engine.stop(SHORT).await;
    until("it leads", || async { second.status() == "ok" }).await;
    second.engine.stop(SHORT).await;
    // Whoever leads from nowhere cannot be asked.
    let hidden = Holder { name: "hidden".into(), url: None };
    let lasts = Duration::from_secs(60);
    journal.lease(&network(), &hidden, UnixTime(0), lasts).await.unwrap().granted().unwrap();
    let third = Replica::start(&bed, &database, Access::Open, replicated()).await;
    assert_eq!(third.status(), "leaderless");
    let (status, problems) = read(&third, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        problems.contains("\"part\":\"lease\"") && problems.contains("advertise"),
        "{problems}"
    );
    let begun = Instant::now();
    let answer = third.ask("/settle", &payment("2"), &[]).await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(begun.elapsed() < Duration::from_secs(2), "it waits for nothing");
}
