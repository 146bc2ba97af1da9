//! The tower layer: puts a gate in front of one service.

use tower_layer::Layer;

use crate::Gate;
use crate::service::PaymentService;

/// Puts a [`Gate`] in front of a service. Attach it to the matched route itself (axum:
/// `get(handler).layer(…)` or `Router::route_layer`), never to a second matcher: two matchers that
/// read a path differently are a free road around the gate.
#[derive(Clone)]
pub struct PaymentLayer {
    gate: Gate,
}

impl PaymentLayer {
    /// A layer that sells what lies behind it through `gate`.
    pub const fn new(gate: Gate) -> Self {
        Self { gate }
    }
}

impl<S> Layer<S> for PaymentLayer {
    type Service = PaymentService<S>;

    fn layer(&self, inner: S) -> PaymentService<S> {
        PaymentService::new(self.gate.clone(), inner)
    }
}
