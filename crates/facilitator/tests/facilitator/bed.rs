//! A test bed: one chain, one journal file, one clock, and engines that come and go.

use std::sync::Arc;
use std::time::Duration;

use pay402_core::facilitator::Settled;
use pay402_core::journal::{Holder, Journal};
use pay402_core::network::Network;
use pay402_core::refusal::Reason;
use pay402_core::time::{ManualClock, UnixTime};
use pay402_core::{Payment, Refusal, Refused};
use pay402_facilitator::options::UNFINISHED_MAX;
use pay402_facilitator::{Engine, Options};
use pay402_store::SqliteJournal;

use crate::chain::{Chain, NOW, network};

pub struct Bed {
    pub chain: Chain,
    pub clock: Arc<ManualClock>,
    folder: tempfile::TempDir,
}

/// Long enough for everything that a test waits for.
pub const LONG: Duration = Duration::from_secs(20);
/// Too short for anything that needs a block which is not mined.
pub const SHORT: Duration = Duration::from_millis(60);

pub fn options() -> Options {
    Options {
        poll_first: Duration::from_millis(1),
        poll_max: Duration::from_millis(10),
        resend_first: Duration::from_millis(20),
        resend_max: Duration::from_millis(40),
        // Nearly everything here is paid by one payer.
        unfinished_per_payer_max: UNFINISHED_MAX,
        strikes_max: 1_000,
        ..Options::default()
    }
}

impl Bed {
    pub fn new() -> Self {
        Self::with_signers(&["0xsigner"])
    }

    pub fn with_signers(signers: &[&str]) -> Self {
        Self {
            chain: Chain::new(signers),
            clock: Arc::new(ManualClock::new(UnixTime(NOW))),
            folder: tempfile::tempdir().unwrap(),
        }
    }

    pub fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("journal.db")
    }

    pub fn journal(&self) -> Arc<dyn Journal> {
        Arc::new(SqliteJournal::open(self.file()).unwrap())
    }

    pub async fn start(&self) -> Engine {
        self.start_on(self.journal(), options()).await
    }

    pub async fn start_with(&self, options: Options) -> Engine {
        self.start_on(self.journal(), options).await
    }

    pub async fn start_on(&self, journal: Arc<dyn Journal>, options: Options) -> Engine {
        let networks: Vec<Arc<dyn Network>> = vec![Arc::new(self.chain.clone())];
        Engine::start(networks, journal, Arc::clone(&self.clock) as _, options).await.unwrap()
    }

    /// Ends `engine` as a crash would and starts another once the lease ran out.
    pub async fn restart(&self, engine: Engine) -> Engine {
        engine.crash();
        drop(engine);
        let now = self.later(30);
        self.clock.set(now);
        self.start().await
    }

    fn later(&self, seconds: u64) -> UnixTime {
        use pay402_core::time::Clock as _;
        self.clock.now().plus_s(seconds)
    }
}

/// Another process takes the lease over, for a minute, and does nothing with it.
pub async fn take_over(bed: &Bed) {
    use pay402_core::time::Clock as _;
    let another = Holder { name: "another".into(), url: None };
    let (now, lasts) = (bed.clock.now(), Duration::from_secs(60));
    let taken = bed.journal().lease(&network(), &another, now, lasts).await.unwrap();
    assert!(taken.granted().is_some());
}

pub async fn settle(engine: &Engine, payment: Payment, wait: Duration) -> Settled {
    engine.settle_for(None, payment, wait).await.unwrap()
}

/// The transaction of a success.
#[track_caller]
pub fn done(settled: &Settled) -> String {
    match settled {
        Settled::Done(settlement) => settlement.transaction.clone(),
        other => panic!("not a success: {other:?}"),
    }
}

#[track_caller]
pub fn refused(settled: Settled, refusal: Refusal) -> Refused {
    match settled {
        Settled::Refused(refused) if refused.reason == Reason::Known(refusal) => refused,
        other => panic!("not refused with {refusal}: {other:?}"),
    }
}

#[track_caller]
pub fn pending(settled: Settled) -> Option<String> {
    match settled {
        Settled::Pending { transaction } => transaction,
        other => panic!("not pending: {other:?}"),
    }
}

/// Waits until `holds`, or fails naming `what`.
pub async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let looking = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(LONG, looking).await.is_ok(), "never happened: {what}");
}

/// The stage of the payment with this nonce; empty when it was never entered.
pub async fn stage(engine: &Engine, nonce: &str) -> &'static str {
    engine.status(&crate::chain::key(nonce)).await.unwrap().map_or("", |standing| standing.stage)
}
