use tokio::net::TcpListener;

use super::*;
use crate::{
    api::{
        client::{ClientError, GatewayClient, Registrar},
        error::ErrorCode,
        hot::{
            ExecuteRequest, Manifest, PromoteRequest, ProvisionRequest, ReleaseRequest, SchemaRequest, Script,
        },
        types::RaiseRequest,
    },
    segment::SegmentId,
};

#[tokio::test]
async fn the_client_writes_promotes_and_raises() {
    let home = Home::with(1, |settings| settings.secret = Some("abc".into())).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let gateway = home.gateway.clone();
    tokio::spawn(async move { gateway.serve(listener, std::future::pending()).await });
    let client = GatewayClient::new(&url, Some("abc".into())).expect("a client");
    let id = SegmentId::parse("1001").expect("an id");

    let put =
        client.put_schema("s", &SchemaRequest { sql: "create table t(a)".into() }).await.expect("taken");
    assert_eq!(
        (put.version, client.schema("s").await.expect("there").sql.as_str()),
        (1, "create table t(a)")
    );
    assert_eq!(client.schemas().await.expect("a list").schemas.len(), 2);
    assert_eq!(client.schema_versions("s").await.expect("a list").schemas.len(), 1);

    let lock = client.provision(&id, &ProvisionRequest::default()).await.expect("a lock");
    assert_eq!(client.locks().await.expect("a list").locks[0].token, lock.token);
    let script = ExecuteRequest::Script(Script { sql: "insert".into(), timeout_ms: None });
    for repeated in [false, true] {
        let answer = client.execute(&id, &script, Some("key")).await.expect("written");
        assert_eq!((answer.change, answer.repeated), (1, repeated));
    }
    let refused = client.release_lock(&id, &ReleaseRequest::default()).await;
    assert!(matches!(refused, Err(ClientError::Refused(error)) if error.code == ErrorCode::Unpromoted));
    let promoted = client.promote(&id, &PromoteRequest { release: true }).await.expect("promoted");
    assert!(promoted.released && promoted.size == 101);
    let shown = client.segment(&id).await.expect("a segment");
    assert_eq!((shown.checksum, shown.lock), (Some(promoted.checksum), None));

    let raised = client.raise(&id, &RaiseRequest::default()).await.expect("raised");
    assert_eq!((raised.copies, raised.assigned), (1, vec!["h0".to_owned()]));
    let assignment = client.assignment("h0", 1, None).await.expect("an assignment");
    assert_eq!((assignment.hold.len(), assignment.base), (1, None));
    let again = client.assignment("h0", 1, Some(assignment.version)).await.expect("an assignment");
    assert_eq!((again.hold.len(), again.base), (0, Some(assignment.version)));
    let segments = vec![home.workers[0].segment("1001")];
    let digest = segments[0].digest();
    let manifest = Manifest { epoch: 1, version: 5, base: None, segments, digest };
    assert!(!client.manifest("h0", &manifest).await.expect("taken").send_all);
    assert_eq!(client.segment(&id).await.expect("a segment").copies.map(|copies| copies.len()), Some(1));
    let stranger = GatewayClient::new(&url, None).expect("a client");
    for refused in [
        stranger.manifest("h0", &manifest).await.map(drop),
        stranger.assignment("h0", 1, None).await.map(drop),
    ] {
        assert!(matches!(refused, Err(ClientError::Refused(e)) if e.code == ErrorCode::Unauthorized));
    }
    assert_eq!(client.pin(&id, "h0", true).await.expect("pinned").pinned, ["h0"]);
    assert_eq!(client.pin(&id, "h0", false).await.expect("not pinned").pinned, Vec::<String>::new());
    assert_eq!(client.lower(&id).await.expect("lowered").copies, 0);
    assert!(client.drain("h0", true).await.expect("draining").draining);
    assert!(!client.drain("h0", false).await.expect("not any more").draining);
    client.delete(&id).await.expect("deleted");
    assert!(
        matches!(client.segment(&id).await, Err(ClientError::Refused(e)) if e.code == ErrorCode::SegmentNotFound)
    );
}
