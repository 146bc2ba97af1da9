//! One test suite per storage port, run by every backend in one line.
//!
//! ```ignore
//! pay402_core::grants_conformance!(MemoryGrants::default);
//! ```
//!
//! The argument is whatever makes a fresh, empty backend when it is called. Each rule in the header
//! of a port's module has its tests here. The macros expand to `#[tokio::test]` functions in the
//! calling module (which needs `tokio` with `macros` and `rt-multi-thread` as a dev-dependency);
//! core itself stays free of any runtime. One module holds one suite.

pub mod books;
pub mod forget;
pub mod grants;
pub mod history;
pub mod journal;
pub mod ledger;
pub mod watch;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

/// A piece of work that is handed to the runtime.
pub type Task = Pin<Box<dyn Future<Output = ()> + Send>>;

/// The backend under test, and how to run things beside one another.
pub struct Subject<B> {
    /// A fresh, empty backend.
    pub store: Arc<B>,
    /// Starts a task on the runtime of the test.
    pub spawn: fn(Task),
}

impl<B: Send + Sync + 'static> Subject<B> {
    /// Runs `work` `count` times at once, numbered from 0, and returns the results in that order.
    ///
    /// # Panics
    /// When one of them panicked.
    pub async fn at_once<T, F, W>(&self, count: u64, work: W) -> Vec<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
        W: Fn(Arc<B>, u64) -> F,
    {
        let done = Arc::new(Mutex::new(Done { left: count, waker: None, results: Vec::new() }));
        for number in 0..count {
            let slot = Slot { done: Arc::clone(&done), number, result: None };
            let future = work(Arc::clone(&self.store), number);
            (self.spawn)(Box::pin(async move {
                let mut slot = slot;
                slot.result = Some(future.await);
            }));
        }
        let mut results = poll_fn(|context| {
            let mut done = done.lock().unwrap_or_else(PoisonError::into_inner);
            if done.left == 0 {
                return Poll::Ready(std::mem::take(&mut done.results));
            }
            done.waker = Some(context.waker().clone());
            Poll::Pending
        })
        .await;
        results.sort_by_key(|(number, _)| *number);
        results.into_iter().map(|(_, result)| result.expect("no task panicked")).collect()
    }
}

struct Done<T> {
    left: u64,
    waker: Option<Waker>,
    results: Vec<(u64, Option<T>)>,
}

/// Reports its result when it is dropped, so that a task that panics is noticed and not waited for.
struct Slot<T> {
    done: Arc<Mutex<Done<T>>>,
    number: u64,
    result: Option<T>,
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        done.left -= 1;
        done.results.push((self.number, self.result.take()));
        if let Some(waker) = done.waker.take() {
            waker.wake();
        }
    }
}

/// Expands to one `#[tokio::test]` per name. Used by the suites' own macros.
#[doc(hidden)]
#[macro_export]
macro_rules! conformance_tests {
    ($suite:ident, $make:expr, [$($name:ident),+ $(,)?]) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
            async fn $name() {
                let make = $make;
                let subject = $crate::conformance::Subject {
                    store: ::std::sync::Arc::new(make()),
                    spawn: |task| drop(tokio::spawn(task)),
                };
                $crate::conformance::$suite::$name(subject).await;
            }
        )+
    };
}
