//! Tasks that stop together. Nothing in the service is spawned outside one.

use std::future::Future;

use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// A group of tasks with one way to stop.
#[derive(Clone, Debug, Default)]
pub struct Crew {
    stop: CancellationToken,
    tasks: TaskTracker,
}

impl Crew {
    /// Starts a task the service cannot do without: when it ends, even by a panic, the crew stops.
    pub fn spawn_vital<F: Future<Output = ()> + Send + 'static>(&self, task: impl FnOnce(CancellationToken) -> F) {
        let (ends_the_crew, task) = (self.stop.clone().drop_guard(), task(self.stop.clone()));
        self.tasks.spawn(async move {
            let _guard = ends_the_crew;
            task.await;
        });
    }

    /// Starts a task that may end at any time, such as one connection's.
    pub fn spawn<F: Future<Output = ()> + Send + 'static>(&self, task: F) {
        self.tasks.spawn(task);
    }

    /// Completes when the crew was told to stop, or lost a vital task.
    pub async fn stopped(&self) {
        self.stop.cancelled().await;
    }

    /// The token that all tasks of the crew watch.
    pub fn stop_token(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Asks all tasks to finish and waits for them until `by`. Returns how many did not.
    pub async fn dismiss(&self, by: Instant) -> usize {
        self.stop.cancel();
        self.tasks.close();
        if tokio::time::timeout_at(by, self.tasks.wait()).await.is_err() {
            return self.tasks.len();
        }
        0
    }
}
