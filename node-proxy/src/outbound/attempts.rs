//! The tries of one request, within the terms of its rule.
//!
//! What is tried again where the rule has `retry`: a request that was not sent, always; one that was sent only if it may
//! be repeated (RFC 9110 section 9.2.2), after an answer with one of the rule's codes as after none. Its body is kept for
//! that while it is sent, up to [`KEPT`] bytes; a longer one is gone by then, and with it the other tries.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use tokio::time::{Instant, sleep, timeout_at};

use super::dial::Wish;
use crate::accept::Worker;
use crate::balance;
use crate::connect::Content;
use crate::error::FailureReason;
use crate::http1::Judge;
use crate::route::{Retry, Rule, Terms};
use crate::snapshot::service::ServicePortKey;

/// What is said of a request that a rule gave no more time.
pub(super) const LATE: &str = "the rule's timeout";
/// The longest pause between two tries, in times of the rule's backoff.
const MOST_PAUSES: u32 = 2;

/// How much of a request's body is kept for another try, in bytes.
const KEPT: usize = 64 * 1024;

/// The tries of one request.
#[derive(Debug)]
pub(super) struct Attempts<'a> {
    worker: Rc<Worker>,
    port: &'a ServicePortKey,
    /// The end of the whole.
    end: Option<Instant>,
    /// Whose terms hold, if it has any.
    rule: Option<Arc<Rule>>,
    is_idempotent: bool,
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
        (is_idempotent, content): (bool, Content),
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
            is_idempotent,
            made: 0,
            wish: Wish { stays_with, content, ..Wish::default() },
        }
    }

    fn retry(&self) -> Option<&Retry> {
        self.rule.as_ref()?.terms.retry.as_ref()
    }

    /// How much of the request's body is to be kept for another try, in bytes; `None` if there will
    /// be none once it was sent.
    pub(super) fn kept(&self) -> Option<usize> {
        (self.is_idempotent && self.retry().is_some()).then_some(KEPT)
    }

    /// The limit of a try that begins now.
    pub(super) fn limit(&self) -> Limit {
        let whole = self.end.map(|end| (end, FailureReason::RequestTimeout));
        let each = self.rule.as_ref().and_then(|rule| rule.terms.backend_request);
        let each = each.map(|each| (Instant::now() + each, FailureReason::BackendTimeout));
        Limit(whole.into_iter().chain(each).min_by_key(|(end, _)| *end))
    }

    /// Takes one more try, if the rule, the time and the budget have one.
    fn take_one(&mut self) -> bool {
        let Some(retry) = self.retry() else { return false };
        let in_time = self.end.is_none_or(|end| Instant::now() + MOST_PAUSES * retry.backoff < end);
        let is_left = self.made < retry.attempts && in_time && self.worker.withdraw_retry(self.port);
        self.made += u32::from(is_left);
        is_left
    }

    /// Whether the request is tried again, after the rule's pause. `was_sent`: a backend may have it.
    pub(super) async fn goes_on(&mut self, was_sent: bool) -> bool {
        let goes_on = (!was_sent || self.is_idempotent) && self.take_one();
        if goes_on {
            self.pause().await;
        }
        goes_on
    }

    /// The rule's pause before another try.
    pub(super) async fn pause(&self) {
        let Some(backoff) = self.retry().map(|retry| retry.backoff) else { return };
        // Those who failed together do not come back together.
        let part = u32::try_from(balance::random() % 1000).unwrap_or(0);
        sleep(backoff + backoff * part / 1000).await;
    }
}

impl Judge for Attempts<'_> {
    fn holds_back(&mut self, status: u16) -> bool {
        let is_listed = self.retry().is_some_and(|retry| retry.codes.contains(&status));
        is_listed && self.is_idempotent && self.take_one()
    }
}

impl Limit {
    /// The end, with what to say then.
    pub(super) const fn end(self) -> Option<(Instant, FailureReason)> {
        self.0
    }

    /// What comes of it, or the reason why nothing has come in time.
    pub(super) async fn hold<T>(self, task: Pin<&mut impl Future<Output = T>>) -> Result<T, FailureReason> {
        match self.0 {
            None => Ok(task.await),
            Some((end, late)) => timeout_at(end, task).await.map_err(|_| late),
        }
    }
}
