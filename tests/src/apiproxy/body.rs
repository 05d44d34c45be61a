//! Bodies the proxy makes, and those it changes on their way.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use serde_json::Value;

/// Why a connection or a body ended early. A type of its own: hyper converts errors into boxes, and a box is not general enough.
#[derive(Debug)]
pub(super) struct Broken(String);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Broken {}

/// Keeps an error's words.
pub(super) fn broken(error: impl std::fmt::Display) -> Broken {
    Broken(error.to_string())
}

/// Any body.
pub(super) type Anything = UnsyncBoxBody<Bytes, Broken>;

/// A body passed on as it comes.
pub(super) fn passed(body: Incoming) -> Anything {
    body.map_err(broken).boxed_unsync()
}

/// An answer of these bytes.
pub(super) fn json(code: StatusCode, text: String) -> Response<Anything> {
    let body = Full::new(Bytes::from(text)).map_err(|never| match never {});
    let mut response = Response::new(body.boxed_unsync());
    *response.status_mut() = code;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A refusal as the API server words it.
pub(super) fn status(code: u16) -> Value {
    let reason = match code {
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        409 => "Conflict",
        410 => "Expired",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "Unknown",
    };
    serde_json::json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "reason": reason, "code": code, "message": format!("the lab's proxy plays {code} {reason}"),
    })
}

/// A watch whose first event is an error, and which then ends.
pub(super) fn watch_error(code: u16) -> Response<Anything> {
    let event = serde_json::json!({ "type": "ERROR", "object": status(code) });
    json(StatusCode::OK, format!("{event}\n"))
}

/// A list without the objects whose name contains one of these.
///
/// # Errors
/// The list does not arrive, or is no list.
pub(super) async fn shortened(
    response: Response<Incoming>,
    hide: &[String],
) -> Result<Response<Anything>, Broken> {
    let (mut parts, body) = response.into_parts();
    let bytes = body.collect().await.map_err(broken)?.to_bytes();
    let mut list: Value = serde_json::from_slice(&bytes).map_err(broken)?;
    if let Some(items) = list.get_mut("items").and_then(Value::as_array_mut) {
        items.retain(|item| !is_named(item, hide));
    }
    let bytes = Bytes::from(serde_json::to_vec(&list).map_err(broken)?);
    parts.headers.insert(CONTENT_LENGTH, bytes.len().into());
    let body = Full::new(bytes).map_err(|never| match never {});
    Ok(Response::from_parts(parts, body.boxed_unsync()))
}

fn is_named(object: &Value, names: &[String]) -> bool {
    let name = object.pointer("/metadata/name").and_then(Value::as_str);
    name.is_some_and(|name| names.iter().any(|part| name.contains(part)))
}

/// A watch stream that loses the events about some objects. Events are lines.
pub(super) struct Lossy<B> {
    inner: B,
    lose: Vec<String>,
    /// The beginning of a line whose end has not come.
    pending: BytesMut,
}

impl<B> Lossy<B> {
    pub(super) fn new(inner: B, lose: Vec<String>) -> Self {
        Self {
            inner,
            lose,
            pending: BytesMut::new(),
        }
    }

    /// The whole lines that may pass.
    fn kept(&mut self, bytes: &Bytes) -> Bytes {
        self.pending.extend_from_slice(bytes);
        let mut kept = BytesMut::new();
        while let Some(end) = self.pending.iter().position(|byte| *byte == b'\n') {
            let line = self.pending.split_to(end + 1);
            let event: Option<Value> = serde_json::from_slice(&line).ok();
            let object = event.as_ref().and_then(|event| event.get("object"));
            if !object.is_some_and(|object| is_named(object, &self.lose)) {
                kept.extend_from_slice(&line);
            }
        }
        kept.freeze()
    }
}

impl<B> Body for Lossy<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        loop {
            let frame = match ready!(Pin::new(&mut self.inner).poll_frame(context)) {
                Some(Ok(frame)) => frame,
                other => return Poll::Ready(other),
            };
            match frame.into_data() {
                Ok(bytes) => {
                    let kept = self.kept(&bytes);
                    // A frame of nothing would end a chunked body.
                    if !kept.is_empty() {
                        return Poll::Ready(Some(Ok(Frame::data(kept))));
                    }
                }
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_about_named_objects_get_lost_wherever_lines_are_cut() {
        let event = |name: &str| {
            format!("{{\"type\":\"ADDED\",\"object\":{{\"metadata\":{{\"name\":\"{name}\"}}}}}}\n")
        };
        let stream = ["web-1", "db-1", "web-2", "db-2"].map(event).concat();
        let expected = ["db-1", "db-2"].map(event).concat();
        for cut in 0..stream.len() {
            let (head, tail) = stream.split_at(cut);
            let mut lossy = Lossy::new((), vec!["web".to_owned()]);
            let mut kept = Vec::new();
            for part in [head, tail] {
                kept.extend_from_slice(&lossy.kept(&Bytes::copy_from_slice(part.as_bytes())));
            }
            assert_eq!(String::from_utf8(kept).unwrap(), expected, "cut at {cut}");
        }
    }
}
