//! The chain as an alloy transport: requests run on the caller's task, and nothing goes through a socket.

use std::task::{Context, Poll};

use alloy::rpc::json_rpc::{
    ErrorPayload, RequestPacket, Response, ResponsePacket, ResponsePayload, SerializedRequest,
};
use alloy::transports::{TransportError, TransportFut};
use serde_json::value::to_raw_value;
use tower_service::Service;

use crate::handle::Devchain;
use crate::rpc;

/// An in-process transport; clones share the chain.
#[derive(Clone, Debug)]
pub struct DevTransport {
    chain: Devchain,
}

impl DevTransport {
    pub(crate) fn new(chain: Devchain) -> Self {
        Self { chain }
    }

    fn answer(&self, request: &SerializedRequest) -> Response {
        let payload = match rpc::answer(&self.chain, request.method(), request.params()) {
            Ok(result) => ResponsePayload::Success(result),
            Err(error) => ResponsePayload::Failure(ErrorPayload {
                code: error.code,
                message: error.message.into(),
                data: error.data.and_then(|data| to_raw_value(&data).ok()),
            }),
        };
        Response { id: request.id().clone(), payload }
    }
}

impl Service<RequestPacket> for DevTransport {
    type Response = ResponsePacket;
    type Error = TransportError;
    type Future = TransportFut<'static>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: RequestPacket) -> Self::Future {
        let transport = self.clone();
        Box::pin(async move {
            Ok(match request {
                RequestPacket::Single(request) => {
                    ResponsePacket::Single(transport.answer(&request))
                }
                RequestPacket::Batch(requests) => ResponsePacket::Batch(
                    requests.iter().map(|request| transport.answer(request)).collect(),
                ),
            })
        })
    }
}
