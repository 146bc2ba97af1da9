//! The body of a response that went through a gate.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use pin_project_lite::pin_project;

pin_project! {
    /// Either the inner service's own body, passed on as it is, or bytes of the gate: a refusal, or
    /// content that was held back until it was paid.
    pub struct PaidBody<B> {
        #[pin]
        from: From<B>,
    }
}

pin_project! {
    #[project = FromPinned]
    enum From<B> {
        Inner { #[pin] body: B },
        Gate { #[pin] body: Full<Bytes> },
    }
}

impl<B> PaidBody<B> {
    pub(crate) const fn inner(body: B) -> Self {
        Self { from: From::Inner { body } }
    }

    pub(crate) fn whole(bytes: Bytes) -> Self {
        Self { from: From::Gate { body: Full::new(bytes) } }
    }
}

impl<B: Body<Data = Bytes>> Body for PaidBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.project().from.project() {
            FromPinned::Inner { body } => body.poll_frame(context),
            FromPinned::Gate { body } => body.poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.from {
            From::Inner { body } => body.is_end_stream(),
            From::Gate { body } => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.from {
            From::Inner { body } => body.size_hint(),
            From::Gate { body } => body.size_hint(),
        }
    }
}
