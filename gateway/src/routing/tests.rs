use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{Notify, mpsc, oneshot},
};

use super::workers::Workers;
use crate::{
    api::{
        client::{ClientError, GatewayClient, Registrar},
        error::{ApiError, ErrorCode},
        tests::{Fixture, code, lease},
        types::{Params, QueryRequest},
    },
    placement::LOAD_FLOOR,
    segment::SegmentId,
};

const QUERY: &str = "/v1/segments/1001/query";

/// A worker that answers with what it was sent.
async fn echo(request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
    let mut seen = json!({
        "path": header("springhouse-path"),
        "generation": header("springhouse-expected-generation"),
        "accept": header("accept"),
        "authorization": header("authorization"),
        "uri": parts.uri.to_string(),
    });
    seen["deadline_ms"] = header("springhouse-deadline-ms").and_then(|v| v.parse::<u64>().ok()).into();
    let body = axum::body::to_bytes(body, 1 << 20).await.expect("a body");
    seen["body"] = String::from_utf8_lossy(&body).into();
    ([("springhouse-generation", "g"), ("connection", "close")], Json(seen)).into_response()
}

fn worker<H, T>(handler: H) -> Router
where
    H: axum::handler::Handler<T, ()>,
    T: 'static,
{
    Router::new().route("/v1/segments/{id}/query", post(handler))
}

async fn spawn(router: Router) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move { axum::serve(listener, router).await });
    url
}

/// A URL where nobody listens.
async fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    format!("http://{}", listener.local_addr().expect("an address"))
}

fn refusing(code: ErrorCode) -> Router {
    worker(move || async move { ApiError::new(code, "no") })
}

#[tokio::test]
async fn a_worker_sees_the_query_as_it_came() {
    let fixture = Fixture::with(|settings| settings.secret = Some("abc".into())).await;
    fixture.register("http", &spawn(worker(echo)).await).await;
    for round in 0..2 {
        if round == 1 {
            fixture.attach("http", worker(echo)).await;
        }
        let request = Request::post(QUERY)
            .header("accept", "application/x-ndjson")
            .header("authorization", "Bearer of the client")
            .body(Body::from(r#"{"sql": "select 1"}"#))
            .expect("a request");
        let (status, text) = fixture.raw(request, [10, 0, 0, 1]).await;
        let seen: Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(status, StatusCode::OK);
        assert_eq!(seen["path"], "/1/1001.sqlite");
        assert_eq!(seen["generation"].as_str().map(str::len), Some(32));
        assert_eq!(seen["accept"], "application/x-ndjson");
        assert_eq!(seen["authorization"], "Bearer abc");
        assert_eq!(seen["uri"], QUERY);
        assert_eq!(seen["body"], r#"{"sql": "select 1"}"#);
        assert!(seen["deadline_ms"].as_u64().is_some_and(|ms| (1..=30_000).contains(&ms)));
        let (_, long) = fixture.send("POST", QUERY, r#"{"timeout_ms": 1}"#).await;
        assert!(long["deadline_ms"].as_u64().is_some_and(|ms| (30_001..=300_000).contains(&ms)));
    }
}

#[tokio::test]
async fn the_next_worker_answers_for_one_that_fails() {
    let fixture = Fixture::new().await;
    fixture.register("dead", &dead_url().await).await;
    fixture.attach("down", refusing(ErrorCode::StoreUnavailable)).await;
    let alone = fixture.send("POST", QUERY, "{}").await;
    assert_eq!(code(&alone), (503, "store_unavailable"), "the last word is a worker's own");
    fixture.register("good", &spawn(worker(echo)).await).await;
    for n in 1001..=1005 {
        let (status, body) = fixture.send("POST", &format!("/v1/segments/{n}/query"), "{}").await;
        assert_eq!(status, StatusCode::OK, "{n}: {body}");
    }
}

#[tokio::test]
async fn nobody_answers() {
    let fixture = Fixture::new().await;
    fixture.register("dead", &dead_url().await).await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (503, "worker_lost"));
    // The other cluster's worker: its refusal is not the client's fault.
    fixture.attach("dead", refusing(ErrorCode::Unauthorized)).await;
    let answer = fixture.send("POST", QUERY, "{}").await;
    assert_eq!(code(&answer), (503, "worker_lost"));
    assert!(answer.1["error"]["message"].to_string().contains("secret"));
}

#[tokio::test]
async fn other_errors_are_the_clients() {
    let fixture = Fixture::new().await;
    let asked = Arc::new(AtomicU32::new(0));
    for name in ["a", "b"] {
        let asked = asked.clone();
        let refuse = move || async move {
            asked.fetch_add(1, Ordering::SeqCst);
            ApiError::new(ErrorCode::Overloaded, "full")
        };
        fixture.attach(name, worker(refuse)).await;
    }
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (429, "overloaded"));
    assert_eq!(asked.load(Ordering::SeqCst), 1, "not retried");
}

#[tokio::test]
async fn a_lost_connection_is_tried_again() {
    let fixture = Fixture::new().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        // Restarting: takes the first connection and drops it, then is well again.
        let (mut first, _) = listener.accept().await.expect("a connection");
        let _ = first.read(&mut [0; 1024]).await;
        drop(first);
        axum::serve(listener, worker(echo)).await
    });
    fixture.register("w", &url).await;
    assert_eq!(fixture.send("POST", QUERY, "{}").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_replaced_segment_is_looked_up_and_asked_for_once_more() {
    let fixture = Fixture::new().await;
    let store = fixture.store.clone();
    let (sent, mut seen) = mpsc::unbounded_channel();
    let handler = move |request: Request| {
        let (store, sent) = (store.clone(), sent.clone());
        async move {
            let expected = request.headers()["springhouse-expected-generation"].clone();
            sent.send(expected).expect("the test listens");
            store.replace("/1/1001.sqlite", 20, 3000);
            ApiError::new(ErrorCode::SegmentReplaced, "replaced").into_response()
        }
    };
    fixture.attach("w", worker(handler)).await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (409, "segment_replaced"));
    let (first, second) = (seen.recv().await, seen.recv().await);
    assert!(first.is_some() && second.is_some() && first != second, "asked with the new generation");
    assert!(seen.try_recv().is_err(), "and not a third time");
}

#[tokio::test]
async fn another_generation_in_an_answer_refreshes_the_catalog() {
    let fixture = Fixture::new().await;
    fixture.attach("w", worker(echo)).await;
    fixture.store.write("/1/1001.sqlite", 77, 3000);
    // The echo names generation "g", which is not the catalog's.
    assert_eq!(fixture.send("POST", QUERY, "{}").await.0, StatusCode::OK);
    while fixture.send("GET", "/v1/segments/1001", "").await.1["size"] != 77 {
        tokio::task::yield_now().await;
    }
}

/// One row, then `rest`.
fn stream(rest: impl futures::Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static) -> Response {
    let first = futures::stream::once(async { Ok(Bytes::from_static(b"first row\n")) });
    Body::from_stream(first.chain(rest)).into_response()
}

async fn serve(fixture: &Fixture) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let gateway = fixture.gateway.clone();
    tokio::spawn(async move { gateway.serve(listener, std::future::pending()).await });
    address
}

async fn ask(address: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.expect("the gateway listens");
    let request = format!("POST {QUERY} HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\n{{}}");
    connection.write_all(request.as_bytes()).await.expect("sent");
    connection
}

/// A worker that dies in the middle, when it is told: its connection closes without a last chunk.
async fn dying(die: Arc<Notify>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            let _ = connection.read(&mut [0; 4096]).await;
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\na\r\nfirst row\n\r\n";
            let _ = connection.write_all(head).await;
            die.notified().await;
        }
    });
    url
}

/// Reads until `end` has come.
async fn read_until(connection: &mut TcpStream, end: &str) -> String {
    let mut answer = String::new();
    while !answer.contains(end) {
        let mut buffer = [0; 1024];
        let n = connection.read(&mut buffer).await.expect("an answer");
        assert_ne!(n, 0, "ended before {end:?}: {answer}");
        answer.push_str(&String::from_utf8_lossy(&buffer[..n]));
    }
    answer
}

#[tokio::test]
async fn a_worker_that_dies_in_the_middle_cuts_the_clients_connection() {
    let fixture = Fixture::new().await;
    let address = serve(&fixture).await;
    let die = Arc::new(Notify::new());
    for local in [false, true] {
        if local {
            let die = die.clone();
            let failing = move || async move {
                stream(futures::stream::once(async move {
                    die.notified().await;
                    Err(std::io::Error::other("worker lost its store"))
                }))
            };
            fixture.attach("w", worker(failing)).await;
        } else {
            fixture.register("w", &dying(die.clone()).await).await;
        }
        let mut connection = ask(&address).await;
        let first = read_until(&mut connection, "first row\n").await;
        assert!(first.starts_with("HTTP/1.1 200"), "{first}");
        die.notify_one();
        let mut rest = Vec::new();
        // Cut: closed or reset, either way without the last chunk.
        let _ = connection.read_to_end(&mut rest).await;
        let rest = String::from_utf8_lossy(&rest);
        assert!(!rest.contains("0\r\n\r\n"), "looks whole: {rest}");
    }
    // A whole answer does end with it.
    fixture.attach("w", worker(|| async { stream(futures::stream::empty()) })).await;
    let mut connection = ask(&address).await;
    let answer = read_until(&mut connection, "0\r\n\r\n").await;
    assert!(answer.contains("springhouse-worker: w"), "{answer}");
}

struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.take().map(|sender| sender.send(()));
    }
}

#[tokio::test]
async fn a_client_that_goes_away_cancels_its_query() {
    let fixture = Fixture::new().await;
    let (sender, mut dropped) = mpsc::unbounded_channel();
    let handler = move || {
        let (gone, when_gone) = oneshot::channel();
        let _ = sender.send(when_gone);
        async move {
            let guard = Dropped(Some(gone));
            stream(futures::stream::pending().map(move |row: Result<Bytes, Infallible>| {
                let _ = &guard;
                row.map_err(|never| match never {})
            }))
        }
    };
    let address = serve(&fixture).await;
    for local in [true, false] {
        if local {
            fixture.attach("w", worker(handler.clone())).await;
        } else {
            let remote = spawn(worker(handler.clone())).await;
            fixture.gateway.registrar().release("w", 1).await.expect("released");
            fixture.register("remote", &remote).await;
        }
        let mut connection = ask(&address).await;
        read_until(&mut connection, "first row").await;
        drop(connection);
        let gone = dropped.recv().await.expect("the worker was asked");
        gone.await.expect("the worker's stream was dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn the_deadline_holds_without_the_workers_help() {
    let fixture = Fixture::with(|settings| settings.lease_ttl = Duration::from_secs(60)).await;
    fixture.attach("w", worker(std::future::pending::<StatusCode>)).await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (504, "deadline_exceeded"));
    // In the middle of an answer.
    fixture.attach("w", worker(|| async { stream(futures::stream::pending()) })).await;
    fixture.register("w", "local").await;
    let request = Request::post(QUERY).body(Body::from("{}")).expect("a request");
    let response = tower::ServiceExt::oneshot(fixture.router(), request).await.expect("infallible");
    let mut body = response.into_body().into_data_stream();
    assert_eq!(body.next().await.expect("a row").expect("a row"), "first row\n");
    assert!(body.next().await.expect("an end").is_err());
    assert!(body.next().await.is_none_or(|end| end.is_err()));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_says_nothing_is_given_up_with_its_lease() {
    let fixture = Fixture::new().await;
    let (stopped, mut asked) = mpsc::unbounded_channel();
    fixture
        .attach(
            "stopped",
            worker(move || {
                stopped.send(()).expect("the test goes on");
                std::future::pending::<StatusCode>()
            }),
        )
        .await;
    let began = tokio::time::Instant::now();
    let query = async { fixture.send("POST", QUERY, "{}").await };
    let next = async {
        asked.recv().await.expect("asked");
        tokio::time::advance(Duration::from_secs(10)).await;
        fixture.attach("stopped", worker(echo)).await;
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(asked.try_recv().is_err(), "its heartbeats come: a slow query is waited for");
        fixture.attach("next", worker(echo)).await;
    };
    // The lease was renewed after 10 s and ends after 25: another worker lives then, but this query has
    // only the ones it began with, and a second chance.
    let (answer, ()) = tokio::join!(query, next);
    assert_eq!(code(&answer), (503, "worker_lost"));
    assert!((25..27).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
    assert_eq!(fixture.send("POST", QUERY, "{}").await.0, StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn a_segment_that_could_not_be_looked_for_is_not_said_to_be_missing() {
    let fixture = Fixture::new().await;
    let mut seen = std::collections::BTreeSet::new();
    for n in 0..1000 {
        let answer = fixture.send("GET", &format!("/v1/segments/absent{n}"), "").await;
        seen.insert(code(&answer).1.to_owned());
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), ["overloaded", "segment_not_found"]);
}

#[tokio::test(start_paused = true)]
async fn warming_then_no_worker() {
    let fixture = Fixture::new().await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (503, "warming"));
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (503, "no_worker"));
    fixture.attach("w", worker(echo)).await;
    assert_eq!(fixture.send("POST", QUERY, "{}").await.0, StatusCode::OK);
    tokio::time::advance(Duration::from_secs(16)).await;
    assert_eq!(code(&fixture.send("POST", QUERY, "{}").await), (503, "no_worker"), "the lease has expired");
}

#[test]
fn load_and_suspicion_change_the_order() {
    let now = std::time::Instant::now();
    let workers = Workers::new(Duration::from_secs(15), now);
    for n in 0..4 {
        workers.renew(&format!("w{n}"), lease(1, "http://h:1"), now).expect("a lease");
    }
    let segment = SegmentId::parse("1001").expect("an id");
    let order =
        || workers.candidates(&segment, now).workers.iter().map(|w| w.name.to_string()).collect::<Vec<_>>();
    let ranked = order();
    let best = workers.candidates(&segment, now).workers[0].clone();
    let load: Vec<_> = (0..LOAD_FLOOR).map(|_| best.begin()).collect();
    assert_eq!(order()[3], ranked[0], "over the bound: last");
    drop(load);
    assert_eq!(order(), ranked);
    best.suspect();
    assert_eq!(order()[3], ranked[0], "suspected: last");
    workers.renew(&ranked[0], lease(1, "http://h:1"), now).expect("a lease");
    assert_eq!(order(), ranked, "its next heartbeat clears it");
    // All over the bound: still asked.
    let all = workers.candidates(&segment, now).workers;
    let _load: Vec<_> = (0..100).flat_map(|_| all.iter().map(|w| w.begin())).collect();
    assert_eq!(order().len(), 4);
}

#[tokio::test]
async fn the_client_speaks_to_the_gateway() {
    let fixture = Fixture::with(|settings| settings.secret = Some("abc".into())).await;
    let url = format!("http://{}", serve(&fixture).await);
    let client = GatewayClient::new(&url, Some("abc".into())).expect("a client");
    let worker_url = spawn(worker(echo)).await;
    let answer = client.renew("w", &lease(7, &worker_url)).await.expect("a lease");
    assert_eq!(answer.ttl_ms, 15_000);
    assert!(matches!(
        client.renew("w", &lease(6, &worker_url)).await,
        Err(ClientError::Refused(error)) if error.code == ErrorCode::Conflict
    ));
    let stranger = GatewayClient::new(&url, None).expect("a client");
    assert!(matches!(
        stranger.renew("x", &lease(1, &worker_url)).await,
        Err(ClientError::Refused(error)) if error.code == ErrorCode::Unauthorized
    ));
    let page = client.segments(Some("100"), None, Some(2)).await.expect("a page");
    assert_eq!((page.segments.len(), page.total), (2, 5));
    let rest = client.segments(Some("100"), page.next.as_deref(), None).await.expect("a page");
    assert_eq!((rest.segments.len(), rest.next), (3, None));
    let id = SegmentId::parse("1001").expect("an id");
    assert_eq!(client.segment(&id).await.expect("a segment").workers, Some(vec!["w".to_owned()]));
    assert_eq!(client.workers().await.expect("workers").workers[0].lease.epoch, 7);
    assert!(client.discover(true).await.expect("a pass").full);
    assert_eq!(client.discovery().await.expect("a status").segments, 5);
    let query =
        QueryRequest { sql: "select 1".into(), params: Params::default(), max_rows: None, timeout_ms: None };
    let response = client.query(&id, &query, Some("application/json")).await.expect("an answer");
    assert!(response.text().await.expect("text").contains("select 1"));
    client.release("w", 7).await.expect("released");
    let nowhere = GatewayClient::new(&dead_url().await, None).expect("a client");
    assert!(matches!(nowhere.workers().await, Err(ClientError::Unreachable { .. })));
    for bad in ["", "localhost:6110", "https://h", "file:///x"] {
        assert!(matches!(GatewayClient::new(bad, None), Err(ClientError::BadUrl(_))), "{bad}");
    }
}
