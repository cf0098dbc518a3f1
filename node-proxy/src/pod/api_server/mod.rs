//! Enrolment where an API server keeps the objects: marks and Events are written to it, and it is asked about pods that
//! the watched view has not seen yet.
//!
//! Nothing of this is on the way of a connection. Every question has its own deadline, and none is repeated here: who
//! asks decides about that.

mod daemon_set;
mod direct;
mod events;
mod marks;

use std::time::Duration;

use kube::Client;
use tokio::runtime::Handle;
use tokio::time::timeout;

pub use daemon_set::Installation;
pub use events::EventWriter;
pub use marks::PodMarks;

/// How long an answer may take (design D7).
const ANSWER: Duration = Duration::from_secs(2);

/// The API server, asked from threads that may block.
#[derive(Clone)]
pub struct ApiServer {
    client: Client,
    runtime: Handle,
}

impl std::fmt::Debug for ApiServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ApiServer").finish_non_exhaustive()
    }
}

/// Why the API server did not do what it was asked.
#[derive(Debug, thiserror::Error)]
enum AskError {
    /// It refused, or could not be reached.
    #[error(transparent)]
    Failed(#[from] kube::Error),
    /// It took too long.
    #[error("the API server has not answered within {} ms", ANSWER.as_millis())]
    Late,
}

impl AskError {
    /// The status of its answer, if there was one.
    const fn code(&self) -> Option<u16> {
        match self {
            Self::Failed(kube::Error::Api(status)) => Some(status.code),
            Self::Failed(_) | Self::Late => None,
        }
    }
}

impl ApiServer {
    /// Asks by `client`. Must be called in the runtime that the client was made in, which then drives it.
    #[must_use]
    pub fn new(client: Client) -> Self {
        Self { client, runtime: Handle::current() }
    }

    /// Waits for an answer, on a thread that may block.
    fn wait<T>(&self, question: impl Future<Output = kube::Result<T>>) -> Result<T, AskError> {
        self.runtime.block_on(answer(question))
    }
}

/// Waits for an answer.
async fn answer<T>(question: impl Future<Output = kube::Result<T>>) -> Result<T, AskError> {
    match timeout(ANSWER, question).await {
        Ok(outcome) => Ok(outcome?),
        Err(_) => Err(AskError::Late),
    }
}
