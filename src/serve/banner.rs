//! What a person sees who has just started a role: where it is, what it reads, what to try.
//!
//! On standard output, and only once the role answers: a script may wait for it.

use std::{
    io::{self, Write},
    net::SocketAddr,
    path::Path,
};

use axum::{Router, body::to_bytes};
use springhouse_fuse::store::StoreUrl;
use springhouse_gateway::api::types::SegmentList;

use super::http;
use crate::worker::Worker;

/// Of gateway and worker in one process.
pub(super) async fn serve(
    address: SocketAddr,
    trough: Option<String>,
    store: &StoreUrl,
    worker: &Worker,
    data: &Path,
    router: &Router,
) {
    let url = http::url(address);
    let segment = some_segment(router).await.unwrap_or_else(|| "SEGMENT".into());
    print(&[
        ("springhouse serve", &format!("answers at {url}")),
        ("trough", trough.as_deref().unwrap_or_default()),
        ("store", &store.to_string()),
        ("access", &access(worker)),
        ("data", &data.display().to_string()),
        (
            "try",
            &format!(
                "curl -s {url}/v1/segments/{segment}/query -H 'content-type: application/json' \
                 -d '{{\"sql\": \"SELECT name FROM sqlite_schema\"}}'"
            ),
        ),
    ]);
}

/// Of a gateway alone.
pub(super) fn gateway(address: SocketAddr, trough: Option<String>, store: &StoreUrl, data: &Path) {
    let url = http::url(address);
    print(&[
        ("springhouse gateway", &format!("answers at {url}")),
        ("trough", trough.as_deref().unwrap_or_default()),
        ("store", &store.to_string()),
        ("data", &data.display().to_string()),
        ("try", &format!("curl -s {url}/v1/workers")),
    ]);
}

/// Of a worker alone.
pub(super) fn worker(name: &str, url: &str, store: &StoreUrl, worker: &Worker, gateway: &str) {
    print(&[
        ("springhouse worker", &format!("{name} answers at {url}")),
        ("store", &store.to_string()),
        ("access", &access(worker)),
        ("gateway", gateway),
    ]);
}

fn access(worker: &Worker) -> String {
    match (worker.access(), Path::new("/dev/fuse").exists()) {
        ("direct", false) => "direct, as this host has no /dev/fuse".into(),
        (access, _) => access.to_owned(),
    }
}

/// The first segment of the catalog, if the first look at the store is that far already.
async fn some_segment(router: &Router) -> Option<String> {
    let answer = http::ask(router, "/v1/segments?limit=1").await;
    let bytes = to_bytes(answer.into_body(), 64 << 10).await.ok()?;
    let list: SegmentList = serde_json::from_slice(&bytes).ok()?;
    list.segments.into_iter().next().map(|segment| segment.id)
}

/// What has no value is left out.
fn print(lines: &[(&str, &str)]) {
    let mut text = String::new();
    for (at, (name, value)) in lines.iter().filter(|(_, value)| !value.is_empty()).enumerate() {
        text.push_str(&if at == 0 { format!("{name} {value}\n") } else { format!("  {name:<8} {value}\n") });
    }
    let mut out = io::stdout().lock();
    // Who closed standard output does not want to read it; the role runs all the same.
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}
