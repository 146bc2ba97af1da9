//! Questions that are asked together.
//!
//! While no batch is on its way, a question leaves at once, alone if need be; what comes meanwhile goes with
//! the next batch. That one leaves when the first is back, or when a question has waited for
//! [`Batch::PACE`], up to [`Batch::AT_A_TIME`] of them: so a quiet node sees one question at a
//! time, a busy one large batches, and a slow one does not hold up those who come later. After a batch of
//! several, whoever comes waits up to [`Batch::GATHERS`] for others: those who were answered come again.
//!
//! **Invariant:** every question is answered or given up: whoever asks may go away without taking the
//! others along, and a batch that breaks leaves nobody waiting.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// What is asked together, and how.
pub(super) trait Batch: Send + Sync + 'static {
    type Question: Send;
    type Answer: Send;

    /// Batches on their way at a time.
    const AT_A_TIME: usize;
    /// How long a question waits for a batch that is on its way, before another one leaves.
    const PACE: Duration;
    /// How long a question waits for others after a batch of several.
    const GATHERS: Duration;
    /// Questions in one batch.
    const SIZE_MAX: usize;
    /// Questions that wait for a batch; more are given up.
    const WAITING_MAX: usize;

    /// Asks; the answers in the order of the questions.
    fn ask(&self, questions: Vec<Self::Question>)
    -> impl Future<Output = Vec<Self::Answer>> + Send;
}

/// Cheap to clone.
pub(super) struct Together<B: Batch>(Arc<Shared<B>>);

struct Shared<B: Batch> {
    batch: B,
    state: Mutex<State<B>>,
}

/// A question, who is told the answer, and since when.
type Waiting<B> = (<B as Batch>::Question, oneshot::Sender<<B as Batch>::Answer>, Instant);

struct State<B: Batch> {
    waiting: VecDeque<Waiting<B>>,
    on_their_way: usize,
    /// Until when those of the last batch of several are expected to come again.
    gathers_until: Option<Instant>,
}

impl<B: Batch> Together<B> {
    pub(super) fn new(batch: B) -> Self {
        let state =
            Mutex::new(State { waiting: VecDeque::new(), on_their_way: 0, gathers_until: None });
        Self(Arc::new(Shared { batch, state }))
    }

    /// Asks with others. `None` when the question was given up.
    pub(super) async fn ask(&self, question: B::Question) -> Option<B::Answer> {
        let (tell, told) = oneshot::channel();
        {
            let mut state = self.lock();
            if state.waiting.len() >= B::WAITING_MAX {
                return None;
            }
            state.waiting.push_back((question, tell, Instant::now()));
        }
        self.start();
        told.await.ok()
    }

    /// Sends a batch on its way if there is room for one. It is a task of its own: whoever began it may
    /// go away.
    fn start(&self) {
        let patience = {
            let mut state = self.lock();
            if state.on_their_way >= B::AT_A_TIME {
                return;
            }
            state.on_their_way += 1;
            match state.gathers_until {
                _ if state.on_their_way > 1 => B::PACE,
                Some(until) if Instant::now() < until => B::GATHERS,
                _ => Duration::ZERO,
            }
        };
        // Not under the lock: a runtime that is ending drops the task at once.
        tokio::spawn(OnItsWay { together: self.clone(), counts: true }.run(patience));
    }

    fn lock(&self) -> MutexGuard<'_, State<B>> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: Batch> Clone for Together<B> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// One of the batches that may be on their way. Dropped, however that comes, it makes room for another.
struct OnItsWay<B: Batch> {
    together: Together<B>,
    /// Whether it is among those on their way still.
    counts: bool,
}

/// What a batch that may leave does.
enum Turn<B: Batch> {
    /// It leaves with these.
    Leave(Vec<Waiting<B>>),
    /// It waits for others that long.
    Wait(Duration),
    /// Nobody waits.
    End,
}

impl<B: Batch> OnItsWay<B> {
    /// Leaves again and again, each time when somebody has waited as long as that.
    async fn run(mut self, mut patience: Duration) {
        if !patience.is_zero() {
            // Until then another one that is on its way may have taken those who wait.
            tokio::time::sleep(patience).await;
        }
        loop {
            let batch = match self.next(patience) {
                Turn::Leave(batch) => batch,
                Turn::Wait(pause) => {
                    tokio::time::sleep(pause).await;
                    continue;
                }
                Turn::End => return,
            };
            patience = if batch.len() > 1 { B::GATHERS } else { Duration::ZERO };
            let mut tells = Vec::with_capacity(batch.len());
            let questions = batch.into_iter().map(|(question, tell, _)| {
                tells.push(tell);
                question
            });
            let answers = self.together.0.batch.ask(questions.collect()).await;
            if !patience.is_zero() {
                self.together.lock().gathers_until = Some(Instant::now() + patience);
            }
            for (tell, answer) in tells.into_iter().zip(answers) {
                // Whoever left does not want to know.
                _ = tell.send(answer);
            }
        }
    }

    /// Who is next. When nobody waits it makes room, so that whoever comes after that starts another.
    fn next(&mut self, patience: Duration) -> Turn<B> {
        let mut state = self.together.lock();
        let Some((_, _, since)) = state.waiting.front() else {
            state.on_their_way -= 1;
            self.counts = false;
            return Turn::End;
        };
        let left = patience.saturating_sub(since.elapsed());
        if !left.is_zero() && state.waiting.len() < B::SIZE_MAX {
            return Turn::Wait(left);
        }
        let count = state.waiting.len().min(B::SIZE_MAX);
        Turn::Leave(state.waiting.drain(..count).collect())
    }
}

impl<B: Batch> Drop for OnItsWay<B> {
    /// It broke, or the process is ending. Who waits is served by another batch, or given up.
    fn drop(&mut self) {
        if !self.counts {
            return;
        }
        let mut state = self.together.lock();
        state.on_their_way -= 1;
        let given_up = match state.on_their_way {
            0 => std::mem::take(&mut state.waiting),
            _ => VecDeque::new(),
        };
        drop(state);
        // Not under the lock: whoever is told may ask again.
        drop(given_up);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use tokio::task::JoinSet;

    use super::*;

    /// Doubles numbers; breaks on zero, answers too little on a thousand.
    struct Doubling {
        batches: AtomicUsize,
        at_once: AtomicUsize,
        most: AtomicUsize,
    }

    impl Batch for Doubling {
        type Question = u64;
        type Answer = u64;

        const AT_A_TIME: usize = 2;
        const PACE: Duration = Duration::from_millis(5);
        const GATHERS: Duration = Duration::from_millis(2);
        const SIZE_MAX: usize = 10;
        const WAITING_MAX: usize = 100;

        async fn ask(&self, questions: Vec<u64>) -> Vec<u64> {
            assert!(!questions.is_empty() && questions.len() <= Self::SIZE_MAX);
            self.batches.fetch_add(1, Ordering::SeqCst);
            let now = self.at_once.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(25)).await;
            self.at_once.fetch_sub(1, Ordering::SeqCst);
            assert!(!questions.contains(&0), "broken on purpose");
            let known = questions.iter().take_while(|number| **number != 1_000);
            known.map(|number| number * 2).collect()
        }
    }

    fn together() -> Together<Doubling> {
        let none = || AtomicUsize::new(0);
        Together::new(Doubling { batches: none(), at_once: none(), most: none() })
    }

    #[tokio::test(start_paused = true)]
    async fn one_leaves_at_once_and_many_go_together() {
        let together = together();
        let began = Instant::now();
        assert_eq!(together.ask(4).await, Some(8));
        assert_eq!(began.elapsed(), Duration::from_millis(25), "it waited for others");
        let mut asked = JoinSet::new();
        for number in 1..=62 {
            let together = together.clone();
            asked.spawn(async move { (number, together.ask(number).await) });
        }
        for (number, told) in asked.join_all().await {
            assert_eq!(told, Some(number * 2));
        }
        let Doubling { batches, most, .. } = &together.0.batch;
        assert_eq!(batches.load(Ordering::SeqCst), 1 + 62_usize.div_ceil(Doubling::SIZE_MAX));
        assert_eq!(most.load(Ordering::SeqCst), Doubling::AT_A_TIME);
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_later_waits_for_the_pace_and_not_for_the_answer() {
        let together = together();
        let first = tokio::spawn({
            let together = together.clone();
            async move { together.ask(1).await }
        });
        tokio::time::sleep(Duration::from_millis(1)).await;
        let began = Instant::now();
        assert_eq!(together.ask(2).await, Some(4));
        assert_eq!(began.elapsed(), Duration::from_millis(5 + 25));
        assert_eq!(first.await.unwrap(), Some(2));
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_were_answered_together_go_together_again() {
        const MANY: u64 = 8;
        let together = together();
        let mut asked = JoinSet::new();
        for number in 1..=MANY {
            let together = together.clone();
            asked.spawn(async move {
                for _ in 0..5 {
                    assert_eq!(together.ask(number).await, Some(number * 2));
                    // Not all of them come at the same moment.
                    tokio::time::sleep(Duration::from_micros(number * 100)).await;
                }
            });
        }
        asked.join_all().await;
        let batches = together.0.batch.batches.load(Ordering::SeqCst);
        assert!((5..=7).contains(&batches), "{batches}");
        // One that comes later is alone, and leaves at once.
        tokio::time::sleep(Duration::from_millis(10)).await;
        let began = Instant::now();
        assert_eq!(together.ask(4).await, Some(8));
        assert_eq!(began.elapsed(), Duration::from_millis(25));
    }

    #[tokio::test(start_paused = true)]
    async fn a_batch_that_breaks_leaves_nobody_waiting() {
        let together = together();
        for _ in 0..5 {
            assert_eq!(together.ask(0).await, None);
            assert_eq!(together.ask(1_000).await, None, "answered too little");
            let leaving = tokio::spawn({
                let together = together.clone();
                async move { together.ask(3).await }
            });
            tokio::task::yield_now().await;
            leaving.abort();
            assert_eq!(together.ask(2).await, Some(4));
        }
    }

    #[test]
    fn a_runtime_that_ends_leaves_nothing_hanging() {
        for _ in 0..20 {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .worker_threads(2)
                .enable_all()
                .build()
                .unwrap();
            let together = together();
            runtime.block_on(async {
                for number in 1..=64 {
                    let together = together.clone();
                    tokio::spawn(async move {
                        loop {
                            _ = together.ask(number).await;
                        }
                    });
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            });
            drop(runtime);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_bounded() {
        let together = together();
        let mut asked = JoinSet::new();
        for number in 1..=150 {
            let together = together.clone();
            asked.spawn(async move { together.ask(number).await });
        }
        let told = asked.join_all().await;
        let given_up = told.iter().filter(|told| told.is_none()).count();
        assert!((40..=50).contains(&given_up), "{given_up}");
    }
}
