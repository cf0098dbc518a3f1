//! The tries of one request, within the terms of its rule.
//!
//! What is tried again, and what is not: a request that was not sent, always, where the rule has `retry`; one that was
//! sent only if it may be repeated (RFC 9110 section 9.2.2) and has no body that is gone by then.

use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};

use super::dial::Wish;
use crate::accept::Worker;
use crate::balance;
use crate::connect::idle::Repeatable;
use crate::error::FailureReason;
use crate::route::{Retry, Rule, Terms};
use crate::snapshot::service::ServicePortKey;

/// What is said of a request that a rule gave no more time.
pub(super) const LATE: &str = "the rule's timeout";
/// The longest pause between two tries, in times of the rule's backoff.
const MOST_PAUSES: u32 = 2;

/// The tries of one request.
pub(super) struct Attempts<'a> {
    worker: Rc<Worker>,
    port: &'a ServicePortKey,
    /// The end of the whole.
    end: Option<Instant>,
    /// Whose terms hold, if it has any.
    rule: Option<Arc<Rule>>,
    repeatable: Repeatable,
    made: u32,
    /// Where the next try goes.
    pub(super) wish: Wish,
}

/// By when a try must have come to its end, and what to say when it has not.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(Option<(Instant, FailureReason)>);

impl<'a> Attempts<'a> {
    pub(super) fn new(
        worker: &Rc<Worker>,
        port: &'a ServicePortKey,
        (rule, stays_with): (Option<&Arc<Rule>>, Option<u64>),
        repeatable: Repeatable,
    ) -> Self {
        let rule = rule.filter(|rule| rule.terms != Terms::default());
        if rule.is_some_and(|rule| rule.terms.retry.is_some()) {
            worker.deposit_retry(port);
        }
        Self {
            worker: Rc::clone(worker),
            port,
            end: rule.and_then(|rule| rule.terms.request).map(|whole| Instant::now() + whole),
            rule: rule.cloned(),
            repeatable,
            made: 0,
            wish: Wish { tried: Vec::new(), stays_with },
        }
    }

    fn retry(&self) -> Option<&Retry> {
        self.rule.as_ref()?.terms.retry.as_ref()
    }

    /// Whether there may be another try.
    pub(super) fn has_more(&self) -> bool {
        self.retry().is_some()
    }

    /// The limit of a try that begins now.
    pub(super) fn limit(&self) -> Limit {
        let whole = self.end.map(|end| (end, FailureReason::RequestTimeout));
        let each = self.rule.as_ref().and_then(|rule| rule.terms.backend_request);
        let each = each.map(|each| (Instant::now() + each, FailureReason::BackendTimeout));
        Limit(whole.into_iter().chain(each).min_by_key(|(end, _)| *end))
    }

    /// The statuses that are no answers as long as there is another try.
    pub(super) fn codes(&self) -> &[u16] {
        match self.retry() {
            Some(retry) if self.may_go_on(retry, true) && self.worker.has_retry(self.port) => &retry.codes,
            _ => &[],
        }
    }

    fn may_go_on(&self, retry: &Retry, was_sent: bool) -> bool {
        let in_time = self.end.is_none_or(|end| Instant::now() + MOST_PAUSES * retry.backoff < end);
        self.made < retry.attempts && in_time && (!was_sent || self.repeatable == Repeatable::Yes)
    }

    /// Whether the request is tried again, after the rule's pause. `was_sent`: a backend may have it.
    pub(super) async fn goes_on(&mut self, was_sent: bool) -> bool {
        let Some(retry) = self.retry() else { return false };
        let backoff = retry.backoff;
        if !self.may_go_on(retry, was_sent) || !self.worker.withdraw_retry(self.port) {
            return false;
        }
        self.made += 1;
        // Those who failed together do not come back together.
        let part = u32::try_from(balance::random() % 1000).unwrap_or(0);
        sleep(backoff + backoff * part / 1000).await;
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
