//! Notices an API server that has gone silent: connections stand, and nothing comes over them.
//!
//! A watch is silent most of the time, so its silence says nothing: a bookmark comes once a minute at best. The Lease is renewed every
//! 10 s over the same network, and any answer to that, a refusal too, is a sign of life. After two renewals in a row without an
//! answer every list and watch under way is given up; once an answer comes again, those asked during the silence are given up
//! too: they may wait on connections that are dead for ever. The watcher resumes each from where it was; nothing is listed anew.
//!
//! Rejected: short watches (`timeoutSeconds` of 25: fifteen requests per node and period, for a fault that is rare); a deadline on
//! each stream (it must exceed the bookmarks' minute); pings of HTTP/2 (the client speaks HTTP/1.1).

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Method, Request, Response};
use http_body::{Body, Frame, SizeHint};
use tokio::sync::watch;
use tower::{BoxError, Layer, Service};

/// Renewals in a row without an answer that make a silence.
const MISSED: u8 = 2;
/// The longest wait for the beginning of the answer to a list or watch. A server under load holds requests back in its queues for
/// up to 15 s (priority and fairness); beyond this it is not coming.
const HEAD: Duration = Duration::from_secs(30);

/// Renewals in a row without an answer. Pure.
#[derive(Debug, Default)]
struct Silence {
    missed: u8,
}

impl Silence {
    /// Takes one renewal's outcome; true: what is under way is to be given up now.
    fn note(&mut self, answered: bool) -> bool {
        let before = self.missed;
        self.missed = if answered {
            0
        } else {
            before.saturating_add(1)
        };
        if answered {
            before >= MISSED
        } else {
            self.missed == MISSED
        }
    }
}

/// Given up because the server is, or was, silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the API server is silent: its connections stand and no byte comes; asking anew")]
pub struct Silent;

/// Told of every sign of life, and lack of one; tells the client's requests.
#[derive(Debug)]
pub struct Pulse {
    silence: Silence,
    give_up: watch::Sender<()>,
}

impl Pulse {
    /// A pulse, and the layer that makes a client obey it.
    pub fn new() -> (Self, ObeyLayer) {
        let (give_up, seen) = watch::channel(());
        let silence = Silence::default();
        let head = HEAD;
        (Self { silence, give_up }, ObeyLayer { seen, head })
    }

    /// The server answered, whatever it said.
    pub fn answered(&mut self) {
        if self.silence.note(true) {
            tracing::info!("the API server answers again; lists and watches are asked anew");
            self.give_up.send_replace(());
        }
    }

    /// The server did not answer in time.
    pub fn missed(&mut self) {
        if self.silence.note(false) {
            tracing::warn!(
                "the API server is silent: connections stand and no byte comes; lists and watches are given up and asked anew. Pods keep working"
            );
            self.give_up.send_replace(());
        }
    }
}

/// Makes a client's lists and watches end when they are to be given up.
#[derive(Clone, Debug)]
pub struct ObeyLayer {
    seen: watch::Receiver<()>,
    head: Duration,
}

impl<S> Layer<S> for ObeyLayer {
    type Service = Obey<S>;

    fn layer(&self, inner: S) -> Obey<S> {
        Obey {
            inner,
            seen: self.seen.clone(),
            head: self.head,
        }
    }
}

/// See [`ObeyLayer`].
#[derive(Clone, Debug)]
pub struct Obey<S> {
    inner: S,
    seen: watch::Receiver<()>,
    head: Duration,
}

type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl<S, Asked, Answer> Service<Request<Asked>> for Obey<S>
where
    S: Service<Request<Asked>, Response = Response<Answer>, Error = BoxError>,
    S::Future: Send + 'static,
    Answer: Send + 'static,
{
    type Response = Response<Abandonable<Answer>>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<Asked>) -> Self::Future {
        let obeys = is_list_or_watch(&request);
        let answer = self.inner.call(request);
        if !obeys {
            return Box::pin(async move {
                let outcome = answer.await;
                outcome.map(|response| response.map(Abandonable::never))
            });
        }
        let (mut seen, head) = (self.seen.clone(), self.head);
        seen.mark_unchanged();
        Box::pin(async move {
            let outcome = tokio::select! {
                outcome = tokio::time::timeout(head, answer) => {
                    outcome.unwrap_or_else(|_elapsed| Err(Silent.into()))
                }
                () = given_up(&mut seen) => Err(Silent.into()),
            };
            let end: BoxFuture<()> = Box::pin(async move { given_up(&mut seen).await });
            outcome.map(|response| {
                response.map(|body| Abandonable {
                    body: Some(body),
                    end: Some(end),
                })
            })
        })
    }
}

/// Other requests have deadlines of their own where they are made.
fn is_list_or_watch<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    request.method() == Method::GET
        && query
            .split('&')
            .any(|pair| pair.starts_with("watch=") || pair.starts_with("limit="))
}

async fn given_up(seen: &mut watch::Receiver<()>) {
    if seen.changed().await.is_err() {
        // Nobody is left to give anything up.
        std::future::pending::<()>().await;
    }
}

/// A body that ends with [`Silent`] once its request is given up.
pub struct Abandonable<B> {
    /// `None` once it was given up: that also closes its connection.
    body: Option<B>,
    end: Option<BoxFuture<()>>,
}

impl<B> Abandonable<B> {
    fn never(body: B) -> Self {
        Self {
            body: Some(body),
            end: None,
        }
    }
}

impl<B> std::fmt::Debug for Abandonable<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Abandonable").finish_non_exhaustive()
    }
}

impl<B> Body for Abandonable<B>
where
    B: Body + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        if let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            (self.end, self.body) = (None, None);
            return Poll::Ready(Some(Err(Silent.into())));
        }
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = Pin::new(body).poll_frame(context);
        frame.map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map(Body::size_hint).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use kube::client::Body as KubeBody;

    use super::*;

    /// Long enough for what is ready to be seen.
    const MOMENT: Duration = Duration::from_millis(50);

    #[test]
    fn two_missed_in_a_row_are_a_silence_and_the_next_answer_ends_it() {
        let outcomes = [
            (false, false),
            (true, false),
            (false, false),
            (false, true),
            (false, false),
            (false, false),
            (true, true),
            (true, false),
            (false, false),
            (false, true),
        ];
        let mut silence = Silence::default();
        for (step, (answered, expected)) in outcomes.into_iter().enumerate() {
            assert_eq!(silence.note(answered), expected, "step {step}");
        }
    }

    fn silence(pulse: &mut Pulse) {
        pulse.missed();
        pulse.missed();
    }

    fn get(path: &str) -> Request<KubeBody> {
        Request::get(path).body(KubeBody::empty()).unwrap()
    }

    /// A server that answers at once and then says nothing.
    #[derive(Clone)]
    struct Mute;

    struct NoBytes;

    impl Body for NoBytes {
        type Data = &'static [u8];
        type Error = BoxError;

        fn poll_frame(
            self: Pin<&mut Self>,
            _context: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Self::Data>, BoxError>>> {
            Poll::Pending
        }
    }

    impl Service<Request<KubeBody>> for Mute {
        type Response = Response<NoBytes>;
        type Error = BoxError;
        type Future = BoxFuture<Result<Self::Response, BoxError>>;

        fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, request: Request<KubeBody>) -> Self::Future {
            if request.uri().path() == "/nothing" {
                return Box::pin(pending());
            }
            Box::pin(ready(Ok(Response::new(NoBytes))))
        }
    }

    async fn next(body: &mut Abandonable<NoBytes>) -> Option<Result<(), String>> {
        let frame = std::future::poll_fn(|context| Pin::new(&mut *body).poll_frame(context));
        let frame = tokio::time::timeout(MOMENT, frame).await;
        let frame = frame.ok()??;
        Some(frame.map(drop).map_err(|error| error.to_string()))
    }

    #[tokio::test]
    async fn a_watch_ends_when_the_server_is_silent_and_a_later_one_lives_on() {
        let (mut pulse, layer) = Pulse::new();
        let mut client = layer.layer(Mute);
        let first = client.call(get("/pods?watch=true")).await.unwrap();
        silence(&mut pulse);
        let ended = next(&mut first.into_body()).await;
        assert_eq!(ended, Some(Err(Silent.to_string())));
        let second = client.call(get("/pods?watch=true")).await.unwrap();
        assert_eq!(
            next(&mut second.into_body()).await,
            None,
            "asked after the silence was told"
        );
    }

    #[tokio::test]
    async fn what_was_asked_during_a_silence_is_given_up_when_an_answer_comes() {
        let (mut pulse, layer) = Pulse::new();
        let mut client = layer.layer(Mute);
        silence(&mut pulse);
        let waiting = tokio::spawn(client.call(get("/nothing?limit=500")));
        tokio::time::sleep(MOMENT).await;
        assert!(!waiting.is_finished());
        pulse.answered();
        let error = waiting.await.unwrap().err().unwrap();
        assert!(error.is::<Silent>(), "{error}");
    }

    #[tokio::test]
    async fn an_answer_that_does_not_begin_in_time_is_given_up() {
        let (_pulse, mut layer) = Pulse::new();
        layer.head = MOMENT;
        let mut client = layer.layer(Mute);
        let error = client.call(get("/nothing?limit=500")).await.err().unwrap();
        assert!(error.is::<Silent>(), "{error}");
    }

    #[tokio::test]
    async fn requests_with_deadlines_of_their_own_are_left_alone() {
        let (mut pulse, layer) = Pulse::new();
        let mut client = layer.layer(Mute);
        let waiting = tokio::spawn(client.call(get("/nothing")));
        silence(&mut pulse);
        tokio::time::sleep(MOMENT).await;
        assert!(!waiting.is_finished());
        waiting.abort();
    }
}
