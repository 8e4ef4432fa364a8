//! Serving a router over TCP; workers use it too.

use std::{future::Future, io, net::SocketAddr, time::Duration};

use axum::{Router, serve::ListenerExt};
use tokio::{net::TcpListener, sync::oneshot};

/// Serves `router` on `listener` until `shutdown` resolves. Then no connection is taken any more and
/// running answers may end, for at most `drain_max`. Requests carry their peer's address as
/// `ConnectInfo<SocketAddr>`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
    drain_max: Duration,
) -> io::Result<()> {
    // Rows leave when they are written: waiting for more of them costs 40 ms.
    let listener = listener.tap_io(|stream| {
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "TCP_NODELAY");
        }
    });
    let (draining, drain) = oneshot::channel::<()>();
    let service = router.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(listener, service).with_graceful_shutdown(async move {
        shutdown.await;
        let _ = draining.send(());
    });
    let bound = async move {
        match drain.await {
            Ok(()) => tokio::time::sleep(drain_max).await,
            // The server ended by itself.
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = server.into_future() => ended,
        () = bound => {
            tracing::warn!("answers still running at the end of the shutdown's time are cut");
            Ok(())
        }
    }
}
