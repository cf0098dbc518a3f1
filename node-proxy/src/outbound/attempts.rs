//! The tries of one request, within the terms of its rule.
//!
//! What is tried again, and what is not: a request that was not sent, always, where the rule has `retry`; one that was
//! sent only if it may be repeated (RFC 9110 section 9.2.2) and has no body that is gone by then.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use crate::accept::Worker;
use crate::balance;
use crate::connect::idle::Repeatable;
use crate::error::FailureReason;
use crate::route::{Retry, Rule};
use crate::snapshot::service::ServicePortKey;

/// The longest pause between two tries, in times of the rule's backoff.
const MOST_PAUSES: u32 = 2;

/// The tries of one request.
pub(super) struct Attempts {
    worker: Rc<Worker>,
    port: ServicePortKey,
    /// The end of the whole.
    end: Option<Instant>,
    /// How long one try may take.
    each: Option<Duration>,
    retry: Option<Retry>,
    repeatable: Repeatable,
    made: u32,
    /// Endpoints that were tried; another try takes another one, if there is.
    pub(super) tried: Vec<SocketAddr>,
}

/// By when a try must have come to its end, and what to say when it has not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(Option<(Instant, FailureReason)>);

impl Attempts {
    pub(super) fn new(
        worker: &Rc<Worker>,
        port: &ServicePortKey,
        rule: Option<&Arc<Rule>>,
        repeatable: Repeatable,
    ) -> Self {
        let terms = rule.map(|rule| rule.terms.clone()).unwrap_or_default();
        if terms.retry.is_some() {
            worker.deposit_retry(port);
        }
        Self {
            worker: Rc::clone(worker),
            port: port.clone(),
            end: terms.request.map(|whole| Instant::now() + whole),
            each: terms.backend_request,
            retry: terms.retry,
            repeatable,
            made: 0,
            tried: Vec::new(),
        }
    }

    /// Whether there may be another try.
    pub(super) const fn has_more(&self) -> bool {
        self.retry.is_some()
    }

    /// The limit of a try that begins now.
    pub(super) fn limit(&self) -> Limit {
        let whole = self.end.map(|end| (end, FailureReason::RequestTimeout));
        let each = self.each.map(|each| (Instant::now() + each, FailureReason::BackendTimeout));
        Limit(whole.into_iter().chain(each).min_by_key(|(end, _)| *end))
    }

    /// The statuses that are no answers as long as there is another try.
    pub(super) fn codes(&self) -> &[u16] {
        match &self.retry {
            Some(retry) if self.may_go_on(retry, true) && self.worker.has_retry(&self.port) => &retry.codes,
            _ => &[],
        }
    }

    fn may_go_on(&self, retry: &Retry, was_sent: bool) -> bool {
        let in_time = self.end.is_none_or(|end| Instant::now() + MOST_PAUSES * retry.backoff < end);
        self.made < retry.attempts && in_time && (!was_sent || self.repeatable == Repeatable::Yes)
    }

    /// Whether the request is tried again, after the rule's pause. `was_sent`: a backend may have it.
    pub(super) async fn goes_on(&mut self, was_sent: bool) -> bool {
        let Some(retry) = &self.retry else { return false };
        if !self.may_go_on(retry, was_sent) || !self.worker.withdraw_retry(&self.port) {
            return false;
        }
        self.made += 1;
        // Those who failed together do not come back together.
        let part = u32::try_from(balance::random() % 1000).unwrap_or(0);
        sleep(retry.backoff + retry.backoff * part / 1000).await;
        true
    }
}

impl Limit {
    /// The end, with what to say then.
    pub(super) const fn end(self) -> Option<(Instant, FailureReason)> {
        self.0
    }

    /// What comes of it, or the reason why nothing has come in time.
    pub(super) async fn hold<T>(self, task: impl Future<Output = T>) -> Result<T, FailureReason> {
        match self.0 {
            None => Ok(task.await),
            Some((end, late)) => timeout_at(end, task).await.map_err(|_| late),
        }
    }
}
