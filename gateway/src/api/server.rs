//! Serving a router over TCP; every role uses it.

use std::{convert::Infallible, future::Future, io, net::SocketAddr, pin::pin, time::Duration};

use axum::{Router, extract::ConnectInfo, http::Request, serve::Listener};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use socket2::SockRef;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tower::ServiceExt;

use super::unread;

/// How long a connection may hold its place without asking for anything or taking anything.
#[derive(Debug, Clone, Copy)]
struct Patience {
    /// Until the head of the next request is there.
    head: Duration,
    /// Until the peer takes more of an answer.
    stall: Duration,
}

/// `head` is more than the 90 s for which reqwest, the client of gateway and workers, keeps an idle
/// connection: whoever closes first must not be the server, which would cross the client's next request.
const PATIENCE: Patience = Patience { head: Duration::from_secs(120), stall: Duration::from_secs(60) };

/// Serves `router` on `listener` until `shutdown` resolves. Then no connection is taken any more and
/// running answers may end, for at most `drain_max`. Requests carry their peer's address as
/// `ConnectInfo<SocketAddr>`. A connection is closed that sends no request for 120 s, or takes nothing of
/// its answer for 60 s: clients can stop, and must not use up our file descriptors and queries.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    drain_max: Duration,
) -> io::Result<()> {
    serve_with(listener, router, shutdown, drain_max, PATIENCE).await
}

async fn serve_with(
    mut listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()>,
    drain_max: Duration,
    patience: Patience,
) -> io::Result<()> {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(patience.head);
    let connections = GracefulShutdown::new();
    // Cuts all connections when it is dropped: at the latest with this future.
    let (_cutter, cut) = watch::channel(());
    let mut shutdown = pin!(shutdown);
    loop {
        // axum's accept waits a moment and tries again when file descriptors run out.
        let (stream, peer) = tokio::select! {
            accepted = Listener::accept(&mut listener) => accepted,
            () = &mut shutdown => break,
        };
        prepare(&stream, patience.stall);
        let router = router.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let (head, body) = request.into_parts();
            let (body, unread) = unread::watch(body);
            let mut request = Request::from_parts(head, body);
            request.extensions_mut().insert(ConnectInfo::<SocketAddr>(peer));
            let router = router.clone();
            async move {
                let mut response = router.oneshot(request).await.unwrap_or_else(|e| match e {});
                unread.mark(&mut response);
                Ok::<_, Infallible>(response)
            }
        });
        let connection = connections.watch(builder.serve_connection(TokioIo::new(stream), service));
        let mut cut = cut.clone();
        tokio::spawn(async move {
            tokio::select! {
                ended = connection => if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                },
                _ = cut.changed() => {}
            }
        });
    }
    drop(listener);
    if tokio::time::timeout(drain_max, connections.shutdown()).await.is_err() {
        tracing::warn!("answers still running at the end of the shutdown's time are cut");
    }
    Ok(())
}

fn prepare(stream: &TcpStream, stall: Duration) {
    // Rows leave when they are written: waiting for more of them costs 40 ms.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY");
    }
    // A peer that takes nothing stops the answer's future from being asked, so no timer of ours could
    // see it; the kernel's does. It also ends connections to hosts that are gone.
    if let Err(error) = SockRef::from(stream).set_tcp_user_timeout(Some(stall)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT");
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use axum::{
        body::{Body, Bytes},
        extract::State,
        response::Response,
        routing::{get, post},
    };
    use futures::{StreamExt, stream};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::oneshot,
    };

    use super::*;

    /// For what is to end by it.
    const LITTLE: Patience = Patience { head: Duration::from_millis(300), stall: Duration::from_millis(300) };
    /// For all else: longer than a busy machine takes.
    const MUCH: Patience = Patience { head: Duration::from_secs(300), stall: Duration::from_secs(300) };

    /// Tells when it is dropped.
    struct Guard(Option<oneshot::Sender<()>>);

    impl Drop for Guard {
        fn drop(&mut self) {
            if let Some(gone) = self.0.take() {
                let _ = gone.send(());
            }
        }
    }

    type Slot = Arc<Mutex<Option<Guard>>>;

    /// An answer without end.
    async fn endless(State(slot): State<Slot>) -> Response {
        let guard = slot.lock().expect("no panic").take();
        Response::new(Body::from_stream(stream::repeat(()).map(move |()| {
            let _held = &guard;
            Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 65_536]))
        })))
    }

    async fn start(
        drain_max: Duration,
        patience: Patience,
    ) -> (SocketAddr, oneshot::Receiver<()>, oneshot::Sender<()>) {
        let (gone, is_gone) = oneshot::channel();
        let slot: Slot = Arc::new(Mutex::new(Some(Guard(Some(gone)))));
        let router = Router::new()
            .route("/endless", get(endless))
            .route("/unread", post(|| async { "refused" }))
            .route("/read", post(|body: Bytes| async move { body.len().to_string() }))
            .route("/peer", get(|ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() }))
            .with_state(slot);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        tokio::spawn(async move {
            serve_with(listener, router, async { drop(stopped.await) }, drain_max, patience).await
        });
        (address, is_gone, stop)
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_closes_the_connection() {
        let (address, _gone, _stop) = start(Duration::ZERO, LITTLE).await;
        let mut slow = TcpStream::connect(address).await.expect("a connection");
        slow.write_all(b"GET /peer HTTP/1.1\r\nhost: ").await.expect("written");
        let mut rest = Vec::new();
        let _ = slow.read_to_end(&mut rest).await;
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&rest));
    }

    #[tokio::test]
    async fn a_connection_with_an_unread_body_is_said_to_close() {
        let (address, _gone, _stop) = start(Duration::ZERO, MUCH).await;
        for (path, closes) in [("/unread", true), ("/read", false)] {
            let client = reqwest::Client::builder().no_proxy().build().expect("a client");
            for _ in 0..20 {
                let url = format!("http://{address}{path}");
                let answer = client.post(url).body(vec![b'x'; 1 << 20]).send().await.expect("an answer");
                assert_eq!(answer.headers().contains_key("connection"), closes, "{path}");
                answer.bytes().await.expect("a body");
                // It would be sent into the closing connection.
                client.get(format!("http://{address}/peer")).send().await.expect("the next request");
            }
        }
    }

    #[tokio::test]
    async fn who_sends_on_after_the_answer_still_gets_it() {
        const BYTES: usize = 16 << 20;
        let (address, _gone, _stop) = start(Duration::ZERO, MUCH).await;
        let mut client = TcpStream::connect(address).await.expect("a connection");
        let head = format!("POST /unread HTTP/1.1\r\nhost: x\r\ncontent-length: {BYTES}\r\n\r\n");
        client.write_all(head.as_bytes()).await.expect("written");
        // The answer is there before the body: a client that writes first and reads then.
        client.readable().await.expect("an answer");
        for _ in 0..BYTES >> 16 {
            client.write_all(&[b'x'; 1 << 16]).await.expect("the server takes it");
        }
        let mut answer = String::new();
        client.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.ends_with("refused"), "{answer}");
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_loses_its_answer() {
        let (address, gone, _stop) = start(Duration::ZERO, LITTLE).await;
        let mut idle = TcpStream::connect(address).await.expect("a connection");
        idle.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
        gone.await.expect("the answer was dropped");
    }

    #[tokio::test]
    async fn peers_are_known_and_running_answers_are_cut_at_the_end() {
        let (address, gone, stop) = start(Duration::from_millis(50), MUCH).await;
        let mut one = TcpStream::connect(address).await.expect("a connection");
        let own = one.local_addr().expect("an address").to_string();
        one.write_all(b"GET /peer HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await.expect("written");
        let mut answer = String::new();
        one.read_to_string(&mut answer).await.expect("an answer");
        assert!(answer.ends_with(&own), "{answer}");

        let mut endless = TcpStream::connect(address).await.expect("a connection");
        endless.write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("written");
        let reading = tokio::spawn(async move { endless.read_to_end(&mut Vec::new()).await });
        stop.send(()).expect("it runs");
        // With the connection, not with the process.
        gone.await.expect("the answer was dropped");
        let _ = reading.await.expect("no panic");
    }
}
