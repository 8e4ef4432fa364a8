//! The worker's lease: taken, renewed three times in its length, given up at a clean stop.

use std::{sync::Arc, time::Duration};

use springhouse_gateway::api::{
    client::{ClientError, Registrar},
    error::ErrorCode,
    types::{LeaseAnswer, LeaseRequest},
};
use tokio::{sync::watch, time::sleep};

/// First pause after a failure; doubles up to [`PAUSE_MAX`], or up to a renewal's where that is shorter: a
/// gateway that is back waits one lease for its workers, and then says that there are none.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Shortest pause between two renewals, whatever the gateway says.
const RENEW_MIN: Duration = Duration::from_millis(50);

/// What the lease is, for `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum LeaseState {
    /// Not yet answered.
    Asking,
    /// Held, as far as we know.
    Held,
    /// The gateway does not answer; the worker serves on, a gateway that is back may still ask it.
    Unanswered(String),
    /// Another process has the name, or the stores differ: there is no use in asking on.
    Refused(String),
}

/// Keeps the lease until it is refused for good or `stop` is set; then gives it up. `request` makes the
/// lease request of the moment; `answers` get what the gateway said last.
pub(super) async fn keep(
    name: &str,
    registrar: Arc<dyn Registrar>,
    request: impl Fn() -> LeaseRequest,
    state: watch::Sender<LeaseState>,
    answers: watch::Sender<Option<LeaseAnswer>>,
    mut stop: watch::Receiver<bool>,
) {
    let epoch = request().epoch;
    let mut pause = PAUSE_MIN;
    let mut pause_max = PAUSE_MAX;
    loop {
        let renewal = async {
            match registrar.renew(name, &request()).await {
                Ok(answer) => {
                    if state.send_replace(LeaseState::Held) != LeaseState::Held {
                        tracing::info!(worker = name, ttl_ms = answer.ttl_ms, "lease taken");
                    }
                    pause = PAUSE_MIN;
                    answers.send_replace(Some(answer.clone()));
                    let renewal = (Duration::from_millis(answer.ttl_ms) / 3).max(RENEW_MIN);
                    pause_max = renewal.min(PAUSE_MAX);
                    renewal
                }
                Err(ClientError::Refused(error)) if error.code == ErrorCode::Conflict => {
                    tracing::error!(worker = name, %error, "the gateway refuses this worker for good");
                    state.send_replace(LeaseState::Refused(error.message));
                    Duration::MAX
                }
                Err(error) => {
                    let line = error.to_string();
                    // Once for each new reason, not for each attempt.
                    if *state.borrow() != LeaseState::Unanswered(line.clone()) {
                        tracing::warn!(worker = name, %error, "the lease cannot be renewed; serving on");
                        state.send_replace(LeaseState::Unanswered(line));
                    }
                    let now = pause.min(pause_max);
                    pause = (pause * 2).min(PAUSE_MAX);
                    now
                }
            }
        };
        let round = async { sleep(renewal.await).await };
        tokio::select! {
            biased;
            () = round => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    if matches!(*state.borrow(), LeaseState::Refused(_)) {
        return;
    }
    if let Err(error) = registrar.release(name, epoch).await {
        tracing::warn!(worker = name, %error, "the lease could not be given up; it will run out");
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, time::Duration};

    use async_trait::async_trait;
    use parking_lot::Mutex;
    use springhouse_gateway::api::{
        error::ApiError,
        hot::{Assignment, Manifest, ManifestAnswer},
        types::Tier,
    };
    use tokio::time::Instant;

    use super::*;

    /// Answers from a script, then always with success; notes when it was asked.
    #[derive(Debug, Default)]
    struct Script {
        answers: Mutex<VecDeque<ClientError>>,
        asked: Mutex<Vec<Instant>>,
        released: Mutex<Vec<u64>>,
        seen: tokio::sync::Notify,
    }

    #[async_trait]
    impl Registrar for Script {
        async fn renew(&self, _: &str, _: &LeaseRequest) -> Result<LeaseAnswer, ClientError> {
            self.asked.lock().push(Instant::now());
            self.seen.notify_one();
            match self.answers.lock().pop_front() {
                Some(error) => Err(error),
                None => Ok(LeaseAnswer {
                    ttl_ms: 9000,
                    gateway_epoch: 1,
                    assignment_version: None,
                    manifest_version: None,
                }),
            }
        }

        async fn release(&self, _: &str, epoch: u64) -> Result<(), ClientError> {
            self.released.lock().push(epoch);
            Ok(())
        }

        async fn manifest(&self, _: &str, _: &Manifest) -> Result<ManifestAnswer, ClientError> {
            Ok(ManifestAnswer { send_all: false, fenced: Vec::new() })
        }

        async fn assignment(&self, _: &str, _: u64, _: Option<u64>) -> Result<Assignment, ClientError> {
            Ok(Assignment { version: 0, base: None, hold: vec![], drop: vec![] })
        }
    }

    fn request() -> LeaseRequest {
        LeaseRequest {
            epoch: 42,
            url: "http://127.0.0.1:1".into(),
            tier: Tier::Cold,
            store: "file:///x".into(),
            weight: 100,
            access: "direct".into(),
            version: "0".into(),
            queries_running: 0,
            hot: None,
        }
    }

    fn unreachable() -> ClientError {
        ClientError::Unreachable { url: "http://gw".into(), reason: "refused".into() }
    }

    #[tokio::test(start_paused = true)]
    async fn renews_thrice_a_ttl_backs_off_and_gives_up_at_the_end() {
        let script = Arc::new(Script {
            answers: Mutex::new([unreachable(), unreachable()].into()),
            ..Script::default()
        });
        let (state, seen) = watch::channel(LeaseState::Asking);
        let (stop, stopped) = watch::channel(false);
        let registrar: Arc<dyn Registrar> = script.clone();
        let task = tokio::spawn(async move {
            keep("w", registrar, request, state, watch::Sender::new(None), stopped).await
        });
        while script.asked.lock().len() < 5 {
            script.seen.notified().await;
        }
        let asked = script.asked.lock().clone();
        let gaps: Vec<_> = asked.windows(2).map(|pair| (pair[1] - pair[0]).as_millis()).collect();
        assert_eq!(gaps, [100, 200, 3000, 3000]);
        assert_eq!(*seen.borrow(), LeaseState::Held);
        stop.send_replace(true);
        task.await.expect("ends");
        assert_eq!(*script.released.lock(), [42]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_is_back_is_told_within_its_lease() {
        let script = Arc::new(Script::default());
        let (state, _seen) = watch::channel(LeaseState::Asking);
        let (stop, stopped) = watch::channel(false);
        let registrar: Arc<dyn Registrar> = script.clone();
        let task = tokio::spawn(async move {
            keep("w", registrar, request, state, watch::Sender::new(None), stopped).await
        });
        let asked = async |times: usize| {
            while script.asked.lock().len() < times {
                script.seen.notified().await;
            }
        };
        asked(1).await;
        script.answers.lock().extend((0..30).map(|_| unreachable()));
        asked(31).await;
        let asked = script.asked.lock().clone();
        let longest = asked.windows(2).map(|pair| pair[1] - pair[0]).max();
        assert_eq!(longest, Some(Duration::from_secs(3)), "a third of the lease");
        stop.send_replace(true);
        task.await.expect("ends");
    }

    #[tokio::test(start_paused = true)]
    async fn a_conflict_ends_the_asking_but_not_the_serving() {
        let conflict = ClientError::Refused(ApiError::new(ErrorCode::Conflict, "a newer one has the name"));
        let script = Arc::new(Script { answers: Mutex::new([conflict].into()), ..Script::default() });
        let (state, mut seen) = watch::channel(LeaseState::Asking);
        let (stop, stopped) = watch::channel(false);
        let registrar: Arc<dyn Registrar> = script.clone();
        let task = tokio::spawn(async move {
            keep("w", registrar, request, state, watch::Sender::new(None), stopped).await
        });
        seen.wait_for(|state| matches!(state, LeaseState::Refused(_))).await.expect("refused");
        tokio::time::sleep(Duration::from_secs(3600)).await;
        assert_eq!(script.asked.lock().len(), 1);
        stop.send_replace(true);
        task.await.expect("ends");
        assert!(script.released.lock().is_empty(), "it is not ours to give up");
    }
}
