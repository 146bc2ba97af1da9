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
        loop {
            // Before it is looked at: this counts from when it is made, not from when it is awaited.
            let turned = self.turned.notified();
            if is_so(&self.run()) {
                return;
            }
            turned.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn who_waits_is_woken_in_the_order_of_waiting_and_what_is_over_stays_so() {
        let switch = Arc::new(Switch::new(Run::Settling));
        let woken = Arc::new(Mutex::new(Vec::new()));
        let waits: Vec<_> = (0..100)
            .map(|number| {
                let (switch, woken) = (Arc::clone(&switch), Arc::clone(&woken));
                tokio::spawn(async move {
                    switch.turned(Run::is_over).await;
                    woken.lock().unwrap().push(number);
                })
            })
            .collect();
        tokio::task::yield_now().await;
        switch.turn(Run::Draining);
        tokio::task::yield_now().await;
        assert!(woken.lock().unwrap().is_empty());
        switch.turn(Run::Stopped);
        switch.turn(Run::Settling);
        for wait in waits {
            wait.await.unwrap();
        }
        assert_eq!(*woken.lock().unwrap(), (0..100).collect::<Vec<_>>());
        assert_eq!(switch.run(), Run::Stopped);
    }
}
