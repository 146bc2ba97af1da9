//! Whether a process settles on a network, and how everybody there is told when that changes.

use std::sync::{Mutex, PoisonError};

use tokio::sync::Notify;

/// Whether this process settles on a network.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Run {
    /// It has no lease; it reads, verifies and answers for others.
    Following,
    /// It does.
    Settling,
    /// It finishes what it has and takes nothing new.
    Draining,
    /// It was stopped.
    Stopped,
    /// Another process took the lease over.
    LeaseLost,
    /// The engine is treated as crashed: nothing more is written. For tests.
    Crashed,
}

impl Run {
    /// Whether nothing more may be done at the desk.
    pub(crate) const fn is_over(&self) -> bool {
        matches!(self, Self::Stopped | Self::LeaseLost | Self::Crashed)
    }
}

/// Holds how a process stands on a network. Whoever waits for a change is woken in the order of waiting, so that
/// a simulated run is the same each time; a channel of tokio's `watch` wakes in an order that it draws.
#[derive(Debug)]
pub(crate) struct Switch {
    run: Mutex<Run>,
    turned: Notify,
}

impl Switch {
    pub(crate) fn new(run: Run) -> Self {
        Self { run: Mutex::new(run), turned: Notify::new() }
    }

    pub(crate) fn run(&self) -> Run {
        *self.run.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns it, unless everything stands still already.
    pub(crate) fn turn(&self, to: Run) {
        let mut run = self.run.lock().unwrap_or_else(PoisonError::into_inner);
        if run.is_over() || *run == to {
            return;
        }
        *run = to;
        drop(run);
        self.turned.notify_waiters();
    }

    /// Waits until it stands so.
    pub(crate) async fn turned(&self, is_so: impl Fn(&Run) -> bool) {
        until(&self.turned, || is_so(&self.run())).await;
    }
}

/// Waits until it is so, and looks again whenever all who wait for that are notified.
pub(crate) async fn until(notified: &Notify, is_so: impl Fn() -> bool) {
    loop {
        // Before it is looked at: this counts from when it is made, not from when it is awaited.
        let changed = notified.notified();
        if is_so() {
            return;
        }
        changed.await;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// The order in which those who wait are woken.
    async fn order() -> Vec<usize> {
        let switch = Arc::new(Switch::new(Run::Settling));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let wait = |number| {
            let (switch, woken) = (Arc::clone(&switch), Arc::clone(&woken));
            tokio::spawn(async move {
                switch.turned(Run::is_over).await;
                woken.lock().unwrap().push(number);
            })
        };
        let waits: Vec<_> = (0..100).map(wait).collect();
        for to in [Run::Draining, Run::Stopped, Run::Settling] {
            tokio::time::sleep(Duration::from_millis(1)).await;
            assert_eq!(woken.lock().unwrap().len(), if switch.run().is_over() { 100 } else { 0 });
            switch.turn(to);
        }
        for wait in waits {
            wait.await.unwrap();
        }
        assert_eq!(switch.run(), Run::Stopped, "what is over stays so");
        woken.lock().unwrap().clone()
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_woken_in_an_order_that_is_always_the_same() {
        let first = order().await;
        for _ in 0..10 {
            assert_eq!(order().await, first);
        }
    }
}
