//! What becomes of uploads that nobody waits for.

use super::*;
use crate::{registry::ledger::Entry, registry::state::Amendment, segment::SegmentId, upload::UploadName};

const OLD: Duration = Duration::from_secs(20);

fn short(settings: &mut Settings) {
    settings.copy_max = OLD / 2;
}

fn name(id: &str, token: u64, attempt: Option<u64>) -> String {
    let id = SegmentId::parse(id).expect("an id");
    let path = id.path_in(&id.canonical_dir());
    UploadName { id, token, attempt }.beside(&path)
}

impl Home {
    /// A whole pass of discovery, and what follows from it for uploads.
    async fn look_for_uploads(&self) {
        self.send("POST", "/v1/discovery?full=true", json!({})).await;
        self.collect().await;
    }

    async fn collect(&self) {
        let core = self.gateway.core();
        core.writing.collect_uploads(core.discovery.take_uploads()).await;
    }

    /// Numbers up to `token` were given.
    fn given(&self, token: u64) {
        let amended = self.gateway.core().state.amend(|_, _| {
            Ok::<_, crate::registry::RegistryError>(Amendment::ledger(vec![Entry::Token(token)], ()))
        });
        amended.expect("memory takes it");
    }
}

#[tokio::test]
async fn what_nobody_waits_for_goes_when_it_has_stood_still() {
    let home = Home::with(1, short).await;
    home.given(1_000);
    let (late, growing) = (name("1001", 7, Some(8)), name("1001", 7, Some(9)));
    home.store.write(&late, 5, 50);
    home.store.write(&growing, 5, 50);
    tokio::time::pause();
    home.look_for_uploads().await;
    tokio::time::advance(OLD - Duration::from_secs(1)).await;
    home.look_for_uploads().await;
    assert_eq!(home.temporaries().len(), 2, "somebody may be writing them");
    home.store.write(&growing, 6, 60);
    tokio::time::advance(Duration::from_secs(2)).await;
    home.collect().await;
    assert_eq!(home.temporaries(), std::slice::from_ref(&growing));
    // It has stood still since it was looked at, as far as anybody knows.
    tokio::time::advance(OLD - Duration::from_secs(1)).await;
    home.collect().await;
    assert_eq!(home.temporaries(), [growing]);
    tokio::time::advance(Duration::from_secs(2)).await;
    home.collect().await;
    assert!(home.temporaries().is_empty());
}

#[tokio::test]
async fn what_is_wanted_or_is_not_ours_stays() {
    let home = Home::with(1, short).await;
    home.given(1_000);
    let foreign = [
        // A mount's, or a version's that had one name for all attempts.
        name("1001", 7, None),
        // Another registry's.
        name("1002", 7, Some(1 << 50)),
        "/1/1003.sqlite._COPYING_".to_owned(),
        "/1/1003.sqlite._COPYING_.0f12".to_owned(),
        "/1/1003._COPYING_.7.8".to_owned(),
    ];
    for path in &foreign {
        home.store.write(path, 5, 50);
    }
    home.provision("1001").await;
    home.execute("1001").await;
    // Promotions whose uploads are there and whose ends nobody knows, and one that is under way.
    home.store.late_renames.store(true, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(code(&home.promote("1001").await), (503, "store_unavailable"));
    let mut all: Vec<String> = home.temporaries();
    assert_eq!(all.len(), foreign.len() + 1);
    tokio::time::pause();
    for _ in 0..4 {
        home.look_for_uploads().await;
        tokio::time::advance(OLD + Duration::from_secs(1)).await;
        home.collect().await;
    }
    assert_eq!(home.temporaries(), all);
    tokio::time::resume();
    home.beat(&home.workers[0], report(1000)).await;
    home.store.late_renames.store(false, std::sync::atomic::Ordering::SeqCst);
    assert_eq!(home.promote("1001").await.0, StatusCode::OK);
    all.retain(|path| foreign.contains(path));
    assert_eq!(home.temporaries(), all);
}
