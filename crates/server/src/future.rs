//! The future of [`crate::PaymentService`]: at once for the unpaid, boxed for the rest.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::Response;

use crate::body::PaidBody;

type Outcome<RB, E> = Result<Response<PaidBody<RB>>, E>;

/// The answer of a [`crate::PaymentService`].
pub struct PaymentFuture<RB, E> {
    state: State<RB, E>,
}

enum State<RB, E> {
    /// Decided without waiting.
    Ready(Option<Box<Response<PaidBody<RB>>>>),
    /// Verification, handler, settlement.
    Paid(Pin<Box<dyn Future<Output = Outcome<RB, E>> + Send>>),
}

impl<RB, E> PaymentFuture<RB, E> {
    pub(crate) fn ready(response: Response<PaidBody<RB>>) -> Self {
        Self { state: State::Ready(Some(Box::new(response))) }
    }

    pub(crate) fn paid(future: impl Future<Output = Outcome<RB, E>> + Send + 'static) -> Self {
        Self { state: State::Paid(Box::pin(future)) }
    }
}

// Nothing is pinned in place: the response is moved out whole, the other future is boxed.
impl<RB, E> Unpin for PaymentFuture<RB, E> {}

impl<RB, E> Future for PaymentFuture<RB, E> {
    type Output = Outcome<RB, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Ready(response) => {
                let response = response.take().expect("a future is not polled after it ended");
                Poll::Ready(Ok(*response))
            }
            State::Paid(future) => future.as_mut().poll(context),
        }
    }
}
