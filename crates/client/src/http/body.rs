//! Looking at the beginning of a response body without taking it from the caller.

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use pay402_core::wire::MESSAGE_BYTES_MAX;
use reqwest::{Body, Response, ResponseBuilderExt};

/// Reads up to one byte more than the largest message, and gives the response back whole.
pub(super) async fn peek(mut response: Response) -> reqwest::Result<(Bytes, Response)> {
    let mut seen = BytesMut::new();
    let mut ended = false;
    while seen.len() <= MESSAGE_BYTES_MAX {
        match response.chunk().await? {
            Some(chunk) => seen.extend_from_slice(&chunk),
            None => {
                ended = true;
                break;
            }
        }
    }
    let seen = seen.freeze();
    let mut head = http::Response::builder()
        .status(response.status())
        .version(response.version())
        .url(response.url().clone());
    if let Some(headers) = head.headers_mut() {
        *headers = response.headers().clone();
    }
    let body = if ended {
        Body::from(seen.clone())
    } else {
        let first = stream::iter([Ok(seen.clone())]);
        Body::wrap_stream(first.chain(response.bytes_stream()))
    };
    let whole = head.body(body).expect("parts of a response make a response");
    Ok((seen, whole.into()))
}
