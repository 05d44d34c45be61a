//! The proxy at work: TLS towards the client, TLS towards the API server, one connection there for each one here.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper::header::{ACCEPT_ENCODING, AUTHORIZATION};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::body::{self, Anything, Broken, broken};
use super::rule::{Asked, Book, Verdict, Who};
use super::wire::Line;

/// How long the API server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(5);

/// What every connection needs.
pub(super) struct Front {
    pub(super) book: Arc<Mutex<Book>>,
    pub(super) accept: TlsAcceptor,
    pub(super) connect: TlsConnector,
    pub(super) server: SocketAddr,
    pub(super) name: ServerName<'static>,
    /// Whose connections end now.
    pub(super) cuts: broadcast::Sender<Who>,
}

impl Front {
    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves until it is dropped.
pub(super) async fn run(listener: TcpListener, front: Arc<Front>) {
    loop {
        let Ok((stream, peer)) = listener.accept().await else {
            // Out of descriptors, or the client is gone already: neither is for ever.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let peer = peer.ip().to_canonical();
        if front.book().refuses(peer) {
            reset(&stream);
            continue;
        }
        let front = Arc::clone(&front);
        tokio::spawn(async move {
            let mut cuts = front.cuts.subscribe();
            let line = Line::new(stream, peer, Arc::clone(&front.book));
            tokio::select! {
                // A client that breaks off is its own business.
                _ended = connection(line, peer, &front) => {}
                () = cut(&mut cuts, peer) => {}
            }
        });
    }
}

/// Closing will tell the client that the connection was reset.
fn reset(stream: &TcpStream) {
    // Only the way it is closed depends on it.
    let _ = stream.set_zero_linger();
}

async fn cut(cuts: &mut broadcast::Receiver<Who>, peer: IpAddr) {
    loop {
        match cuts.recv().await {
            Ok(who) if who.connects(peer) => return,
            Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
        }
    }
}

async fn connection(line: Line, peer: IpAddr, front: &Arc<Front>) -> Result<(), Broken> {
    let stream = front.accept.accept(line).await.map_err(broken)?;
    let upstream = Arc::new(tokio::sync::Mutex::new(None));
    let service = service_fn(|request| {
        let (front, upstream) = (Arc::clone(front), Arc::clone(&upstream));
        async move { answer(request, peer, &front, &upstream).await }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(stream), service)
        .await;
    served.map_err(broken)
}

type Upstream = tokio::sync::Mutex<Option<SendRequest<Incoming>>>;

async fn answer(
    request: Request<Incoming>,
    peer: IpAddr,
    front: &Front,
    upstream: &Upstream,
) -> Result<Response<Anything>, Broken> {
    let authorization = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let asked = Asked::parse(
        peer,
        request.method().as_str(),
        request.uri().path(),
        request.uri().query().unwrap_or_default(),
        authorization,
    );
    let verdict = front.book().judge(asked, Instant::now());
    tokio::time::sleep(verdict.delay).await;
    if let Some(code) = verdict.status {
        let code = StatusCode::from_u16(code).map_err(broken)?;
        return Ok(body::json(code, body::status(code.as_u16()).to_string()));
    }
    if let Some(code) = verdict.watch_error {
        return Ok(body::watch_error(code));
    }
    let response = ask(adapted(request, &verdict)?, front, upstream).await?;
    if !verdict.hide.is_empty() {
        return body::shortened(response, &verdict.hide).await;
    }
    if !verdict.lose.is_empty() {
        return Ok(response.map(|inner| {
            body::Lossy::new(inner, verdict.lose)
                .map_err(broken)
                .boxed_unsync()
        }));
    }
    Ok(response.map(body::passed))
}

/// The request as the API server gets it: bodies must come readable, lists perhaps in small pages.
fn adapted(mut request: Request<Incoming>, verdict: &Verdict) -> Result<Request<Incoming>, Broken> {
    request.headers_mut().remove(ACCEPT_ENCODING);
    let Some(page) = verdict.page else {
        return Ok(request);
    };
    let query = request.uri().query().unwrap_or_default();
    let kept = query
        .split('&')
        .filter(|pair| !pair.is_empty() && !pair.starts_with("limit="));
    let query = kept.fold(format!("limit={page}"), |text, pair| text + "&" + pair);
    *request.uri_mut() =
        Uri::try_from(format!("{}?{query}", request.uri().path())).map_err(broken)?;
    Ok(request)
}

/// Passes a request on, over this client's own connection to the API server.
async fn ask(
    request: Request<Incoming>,
    front: &Front,
    upstream: &Upstream,
) -> Result<Response<Incoming>, Broken> {
    let mut slot = upstream.lock().await;
    let usable = match slot.as_mut() {
        Some(sender) => sender.ready().await.is_ok(),
        None => false,
    };
    if !usable {
        *slot = Some(dial(front).await?);
    }
    let sender = slot
        .as_mut()
        .ok_or_else(|| broken("no connection to the API server"))?;
    sender.send_request(request).await.map_err(broken)
}

async fn dial(front: &Front) -> Result<SendRequest<Incoming>, Broken> {
    let connect = async {
        let stream = TcpStream::connect(front.server).await?;
        front.connect.connect(front.name.clone(), stream).await
    };
    let stream = tokio::time::timeout(CONNECT, connect)
        .await
        .map_err(broken)?;
    let stream = stream.map_err(broken)?;
    let shaken = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await;
    let (sender, connection) = shaken.map_err(broken)?;
    // It ends with the sender; why it ended, the request's own error says.
    tokio::spawn(connection);
    Ok(sender)
}
