//! Segments of which something is to be done, now or after a pause.

use std::collections::{HashMap, HashSet, VecDeque};

use parking_lot::Mutex;
use springhouse_gateway::segment::SegmentId;
use tokio::{sync::Notify, time::Instant};

/// Segments to be looked at, each once.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<Waiting>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    order: VecDeque<String>,
    ids: HashSet<String>,
    /// Those that are pushed later by themselves, and when.
    later: HashMap<String, Instant>,
    leftovers: Vec<SegmentId>,
    closed: bool,
}

impl Queue {
    /// Looks at `id` soon.
    pub(super) fn push(&self, id: &str) {
        {
            let mut state = self.state.lock();
            if state.closed || !state.ids.insert(id.to_owned()) {
                return;
            }
            state.order.push_back(id.to_owned());
        }
        self.more.notify_one();
    }

    /// Notes that `id` is to be pushed at `due`; `false`: it is anyhow, not later than that. So what fails
    /// again and again, whoever else asks for it meanwhile, is tried no oftener than its pause says.
    pub(super) fn is_earliest(&self, id: &str, due: Instant) -> bool {
        let mut state = self.state.lock();
        if state.closed || state.later.get(id).is_some_and(|earlier| *earlier <= due) {
            return false;
        }
        state.later.insert(id.to_owned(), due);
        true
    }

    /// Pushes `id`, unless it was pushed earlier than `due` instead.
    pub(super) fn push_due(&self, id: &str, due: Instant) {
        let is_this = {
            let mut state = self.state.lock();
            let is_this = state.later.get(id) == Some(&due);
            if is_this {
                state.later.remove(id);
            }
            is_this
        };
        if is_this {
            self.push(id);
        }
    }

    /// Parts of an earlier process.
    pub(super) fn set_leftovers(&self, parts: Vec<SegmentId>) {
        self.state.lock().leftovers = parts;
    }

    /// See [`Queue::set_leftovers`].
    pub(super) fn take_leftovers(&self) -> Vec<SegmentId> {
        std::mem::take(&mut self.state.lock().leftovers)
    }

    /// Nobody looks at anything any more.
    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.more.notify_waiters();
    }

    /// The next id; `None` once it is closed.
    pub(super) async fn next(&self) -> Option<String> {
        loop {
            let more = self.more.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            {
                let mut state = self.state.lock();
                if state.closed {
                    return None;
                }
                if let Some(id) = state.order.pop_front() {
                    state.ids.remove(&id);
                    if !state.order.is_empty() {
                        self.more.notify_one();
                    }
                    return Some(id);
                }
            }
            more.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn pauses_do_not_add_up() {
        let queue = Queue::default();
        let now = Instant::now();
        let [soon, later] = [1, 10].map(|s| now + Duration::from_secs(s));
        // It failed, was asked for, and failed again.
        assert!(queue.is_earliest("1", later));
        assert!(!queue.is_earliest("1", later + Duration::from_secs(5)));
        assert!(queue.is_earliest("1", soon), "earlier than it was going to be");
        assert!(queue.is_earliest("2", later));
        queue.push_due("1", soon);
        queue.push("3");
        queue.push_due("1", later);
        queue.push_due("2", later);
        let order = [queue.next().await, queue.next().await, queue.next().await];
        assert_eq!(order.map(Option::unwrap_or_default), ["1", "3", "2"]);
        assert!(queue.state.lock().order.is_empty(), "1 was pushed once");
        assert!(queue.is_earliest("1", later), "the next pause");
        queue.close();
        assert!(!queue.is_earliest("9", soon));
        assert_eq!(queue.next().await, None);
    }
}
