//! The post on one network: this process leads there, or follows another one.
//!
//! Who holds the network's lease *leads*: it settles, and its desk and crew last as long as that
//! tenure. The others *follow*: they read and verify by themselves, know where the leader is, and
//! ask for the lease until it is free. Who loses the lease follows again and may lead later, at a
//! fresh desk and under a fresh name.
//!
//! **Invariants:** at most one tenure at a time is open here; a tenure that has ended writes nothing,
//! neither after it was taken over (the journal compares tokens) nor after it was given up (its
//! desk has stopped before the lease is released).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pay402_core::error::Misconfigured;
use pay402_core::journal::{Holder, Lease, Leased};
use tokio::sync::watch;

use crate::desk::Desk;
use crate::failpoint::Failpoint;
use crate::lease::{self, ASK_AGAIN};
use crate::run::Run;
use crate::scribe::Scribe;
use crate::window::WINDOW_S;
use crate::worker::{self, Crew};
use crate::{forget, funds, gaps, recover, restored, webhooks};

/// How long who leaves waits for somebody else to lead before it finishes by itself what it began.
const SUCCESSION: Duration = Duration::from_secs(1);

/// Where calls for a network are carried out.
#[derive(Clone)]
pub(crate) enum Place {
    /// Here.
    Here(Crew),
    /// By another process.
    There(Holder),
    /// Nobody is known to lead.
    Nowhere,
}

/// What this process means to do on the network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Intent {
    /// Lead when the lease is free.
    Stand,
    /// Let another one lead, and finish what was begun only where there is none.
    Leave,
}

/// See the module.
pub(crate) struct Post {
    /// For what needs no lease. Nothing is ever settled at it.
    pub(crate) idle: Arc<Desk>,
    place: watch::Sender<Place>,
    intent: watch::Sender<Intent>,
    /// Times that this process asked for the lease anew.
    tenures: AtomicU64,
    /// Calls that are being carried out, here or by forwarding them.
    under_way: AtomicUsize,
}

/// A call that is being carried out.
pub(crate) struct UnderWay<'a>(&'a Post);

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.under_way.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Post {
    /// Leads or follows on the network of `idle`, a desk without a lease: leads, where options do not
    /// let it follow.
    ///
    /// # Errors
    /// What keeps it from leading, or the journal from being used.
    pub(crate) async fn open(idle: Desk) -> Result<Arc<Self>, Misconfigured> {
        let (intent, meant) = watch::channel(Intent::Stand);
        let post = Arc::new(Self {
            idle: Arc::new(idle),
            place: watch::Sender::new(Place::Nowhere),
            intent,
            tenures: AtomicU64::new(0),
            under_way: AtomicUsize::new(0),
        });
        let journal = |problem: String| Misconfigured::new("journal", problem);
        let holder = post.holder();
        let lease = if post.idle.options.follows {
            let asked = lease::ask(&post.idle, &holder).await;
            match asked.map_err(|error| journal(error.to_string()))? {
                Leased::Granted(lease) => Some(lease),
                Leased::Held(leader) => {
                    post.follow(leader);
                    None
                }
            }
        } else {
            Some(lease::acquire(&post.idle, &holder).await?)
        };
        let mut led = None;
        if let Some(lease) = lease {
            let crew = post.sit_down(holder, lease.clone());
            if let Err(error) = post.take_up(&crew, &lease).await {
                crew.desk.turn(Run::Stopped);
                lease::release(&crew.desk, &lease).await;
                return Err(journal(format!("{}: {error}", crew.desk.id)));
            }
            led = Some((crew, lease));
        }
        tokio::spawn(Arc::clone(&post).stand(led, meant));
        Ok(post)
    }

    /// Where calls are carried out. A leader that has lost the lease, or stopped, is none.
    pub(crate) fn place(&self) -> Place {
        match &*self.place.borrow() {
            Place::Here(crew) if crew.desk.run().is_over() => Place::Nowhere,
            place => place.clone(),
        }
    }

    /// The crew of this process, while it leads and after it led for the last time.
    pub(crate) fn crew(&self) -> Option<Crew> {
        match &*self.place.borrow() {
            Place::Here(crew) => Some(crew.clone()),
            Place::There(_) | Place::Nowhere => None,
        }
    }

    /// The desk of the present tenure, or the one without a lease.
    pub(crate) fn desk(&self) -> Arc<Desk> {
        self.crew().map_or_else(|| Arc::clone(&self.idle), |crew| crew.desk)
    }

    /// Waits until somebody else leads than now, or nobody.
    pub(crate) async fn changed(&self) {
        let mut place = self.place.subscribe();
        let over = async {
            match self.crew() {
                Some(crew) => crew.desk.halted().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            _ = place.changed() => {}
            () = over => {}
        }
    }

    /// Whether the journal does not answer, so that who leads cannot be known.
    pub(crate) fn is_blind(&self) -> bool {
        self.idle.journal_down.load(Ordering::Relaxed) && self.crew().is_none()
    }

    /// Counts a call until the answer is dropped.
    pub(crate) fn begin(&self) -> UnderWay<'_> {
        self.under_way.fetch_add(1, Ordering::SeqCst);
        UnderWay(self)
    }

    /// Takes nothing new, and lets another process lead if there is one.
    pub(crate) fn leave(&self) {
        self.intent.send_replace(Intent::Leave);
        if let Some(crew) = self.crew() {
            self.step_down(&crew.desk);
        }
    }

    /// Where others follow, one of them goes on with what was begun, sooner than it could be finished
    /// here.
    fn step_down(&self, desk: &Desk) {
        desk.turn(if self.idle.options.follows { Run::Stopped } else { Run::Draining });
    }

    /// Whether everything is finished that was begun here.
    pub(crate) fn is_finished(&self) -> bool {
        let calls = self.under_way.load(Ordering::SeqCst);
        calls == 0
            && self.crew().is_none_or(|crew| {
                crew.desk.run().is_over() || crew.desk.busy() + crew.desk.waiters.len() == 0
            })
    }

    /// Stops for good, and waits until the lease is released.
    pub(crate) async fn end(&self) {
        self.turn(Run::Stopped);
        // The task that stands holds the other end as long as it does.
        self.intent.closed().await;
    }

    /// Stops for good, as `to` says, without waiting.
    pub(crate) fn turn(&self, to: Run) {
        self.idle.turn(to);
        if let Some(crew) = self.crew() {
            crew.desk.turn(to);
        }
    }

    /// As whom this process asks for the lease. Whoever led under a name never does again.
    fn holder(&self) -> Holder {
        let number = self.tenures.fetch_add(1, Ordering::SeqCst);
        let options = &self.idle.options;
        Holder {
            name: format!("{}/{number}", options.holder),
            url: options.advertise.clone().filter(|_| options.follows),
        }
    }

    fn follow(&self, leader: Holder) {
        self.place.send_if_modified(|place| {
            let moves = !matches!(place, Place::There(known) if *known == leader);
            if moves {
                tracing::info!(network = %self.idle.id, leader = leader.name, "follows");
                *place = Place::There(leader);
            }
            moves
        });
    }

    /// Leads and follows in turn until this process stops, or leaves without having led.
    async fn stand(
        self: Arc<Self>,
        mut led: Option<(Crew, Lease)>,
        mut intent: watch::Receiver<Intent>,
    ) {
        let mut holder = self.holder();
        let mut has_led = false;
        loop {
            if let Some((crew, lease)) = led.take() {
                self.lead(crew, &lease, &mut intent).await;
                if !self.idle.options.follows || self.idle.run().is_over() {
                    return;
                }
                self.place.send_replace(Place::Nowhere);
                holder = self.holder();
                has_led = true;
            }
            // Who leaves and never led has nothing to finish, and is in nobody's way.
            if *intent.borrow() == Intent::Leave && !has_led {
                return;
            }
            let pause = match *intent.borrow() {
                Intent::Stand => ASK_AGAIN,
                Intent::Leave => SUCCESSION,
            };
            tokio::select! {
                biased;
                () = self.idle.halted() => return,
                () = tokio::time::sleep(pause) => {}
            }
            led = self.ask(&holder).await;
        }
    }

    async fn ask(&self, holder: &Holder) -> Option<(Crew, Lease)> {
        let network = &self.idle.id;
        let asked = lease::ask(&self.idle, holder).await;
        let was_down = self.idle.journal_down.swap(asked.is_err(), Ordering::Relaxed);
        match asked {
            Ok(Leased::Granted(lease)) => {
                let crew = self.sit_down(holder.clone(), lease.clone());
                tracing::info!(%network, token = lease.token, "leads");
                if let Err(error) = self.take_up(&crew, &lease).await {
                    tracing::error!(%network, %error, "what others began cannot be taken up here");
                    crew.desk.turn(Run::Stopped);
                }
                Some((crew, lease))
            }
            Ok(Leased::Held(leader)) => {
                self.follow(leader);
                None
            }
            Err(error) => {
                if !was_down {
                    tracing::warn!(%network, %error, "the journal did not answer; waiting");
                }
                None
            }
        }
    }

    /// Opens a tenure.
    fn sit_down(&self, holder: Holder, lease: Lease) -> Crew {
        let run = match (self.idle.run(), *self.intent.borrow()) {
            (over, _) if over.is_over() => over,
            (_, Intent::Stand) => Run::Settling,
            (_, Intent::Leave) => Run::Draining,
        };
        let desk = Arc::new(self.idle.fresh(holder.clone(), lease.clone(), run));
        desk.spawn(lease::keep(Arc::clone(&desk), holder, lease.clone()));
        for webhook in &desk.options.webhooks {
            let delivering = webhooks::deliver(Arc::clone(&desk), lease.clone(), webhook.clone());
            desk.spawn(delivering);
        }
        let scribe = Scribe::start(&desk, lease.clone());
        let crew = worker::start(&desk, scribe);
        desk.spawn(crate::watch::watch(crew.clone(), lease));
        crew
    }

    /// Takes up what earlier tenures left unfinished, then takes calls.
    async fn take_up(&self, crew: &Crew, lease: &Lease) -> Result<(), recover::Unrecovered> {
        let desk = &crew.desk;
        desk.options.failpoints.pass(Failpoint::AfterLeaseBeforeTakeUp).await;
        let since = desk.clock.now().minus_s(WINDOW_S);
        restored::look(desk, lease).await?;
        desk.losses.remember(desk.journal.losses(&desk.id, since).await?);
        let budgeted = desk.budgets.callers();
        if !budgeted.is_empty() {
            desk.budgets.remember(desk.journal.costs(&desk.id, &budgeted, since).await?);
        }
        crate::watch::take_up(desk).await?;
        match recover::recover(crew).await? {
            0 => {}
            count => tracing::info!(network = %desk.id, count, "took up unfinished settlements"),
        }
        if let Err(error) = funds::look(desk).await {
            tracing::warn!(network = %desk.id, %error, "the signers' funds are unknown");
        }
        desk.options.failpoints.pass(Failpoint::AfterTakeUpBeforeCalls).await;
        desk.spawn(recover::search(crew.clone()));
        desk.spawn(gaps::watch(crew.clone()));
        desk.spawn(funds::watch(Arc::clone(desk)));
        desk.spawn(forget::watch(Arc::clone(desk), lease.clone()));
        self.place.send_replace(Place::Here(crew.clone()));
        Ok(())
    }

    /// Leads to the end of the tenure.
    async fn lead(&self, crew: Crew, lease: &Lease, intent: &mut watch::Receiver<Intent>) {
        let desk = &crew.desk;
        tokio::select! {
            biased;
            () = desk.halted() => {}
            // What was opened at the very moment of stopping or leaving is not known to who stopped.
            () = self.idle.halted() => desk.turn(self.idle.run()),
            _ = intent.wait_for(|intent| *intent == Intent::Leave && desk.run() == Run::Settling) => {
                self.step_down(desk);
            }
        }
        tokio::select! {
            biased;
            () = desk.halted() => {}
            () = self.idle.halted() => desk.turn(self.idle.run()),
        }
        match desk.run() {
            Run::LeaseLost => tracing::warn!(network = %desk.id, "another process leads now"),
            // As a crash would: not a word to anybody.
            Run::Crashed => {}
            _ => {
                desk.options.failpoints.pass(Failpoint::AfterStopBeforeRelease).await;
                lease::release(desk, lease).await;
                desk.options.failpoints.pass(Failpoint::AfterReleaseBeforeEnd).await;
            }
        }
    }
}
