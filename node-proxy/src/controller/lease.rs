//! Who writes: of several controllers the one that holds the Lease.
//!
//! A candidate takes the Lease when nobody holds it, or when its holder has not renewed it for as long as it said it
//! would hold. That time begins when the candidate *sees* a renewal, and is measured by the candidate's own clock: the times that
//! are written in a Lease are for people. So clocks may differ as they like, and run at speeds that differ by a third: who
//! holds the Lease stops writing 10 s after it began its last renewal that went well, and nobody takes it within 15 s.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use crate::cluster::kubernetes::backoff::any_part;
use crate::error::Complaint;

/// How long a candidate that sees no renewal leaves the Lease to its holder.
const DURATION: Duration = Duration::from_secs(15);
/// How long a holder writes without a renewal.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
/// Between two looks at the Lease, for its holder between two renewals.
const RETRY: Duration = Duration::from_secs(2);
/// Up to as much more, so that candidates that were started together do not ask together for ever.
const APART: Duration = Duration::from_millis(400);
/// A request that takes longer has failed.
const REQUEST_LIMIT: Duration = Duration::from_secs(4);

/// Whether this process may write.
#[derive(Clone, Debug)]
pub struct Leadership {
    until: watch::Receiver<Option<Instant>>,
}

impl Leadership {
    /// Whether it may write now.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.until.borrow().is_some_and(|until| Instant::now() < until)
    }

    /// Waits until this process may write.
    pub async fn gained(&mut self) {
        while !self.is_held() {
            if self.until.changed().await.is_err() {
                // Nobody will ever say so.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Waits until this process may write no more.
    pub async fn lost(&mut self) {
        loop {
            let until = *self.until.borrow_and_update();
            let Some(until) = until.filter(|until| Instant::now() < *until) else { return };
            tokio::select! {
                changed = self.until.changed() => if changed.is_err() { return },
                () = tokio::time::sleep_until(until) => {}
            }
        }
    }
}

/// One that wants to write.
#[derive(Debug)]
pub struct Candidate {
    api: Api<Lease>,
    name: String,
    identity: String,
    view: View,
    until: watch::Sender<Option<Instant>>,
    complaint: Complaint,
}

/// What a candidate knows of the Lease.
#[derive(Debug, Default)]
struct View {
    /// As it was read or written last.
    lease: Option<Lease>,
    /// When its `spec` was first seen as it is.
    since: Option<Instant>,
}

/// What is to be done about the Lease.
#[derive(Debug, PartialEq)]
enum Step {
    /// Nobody has made it yet.
    Create,
    /// It is ours, and is to stay so.
    Renew,
    /// It is nobody's, or its holder is gone.
    Take,
    /// It is another's.
    Leave,
}

impl View {
    fn see(&mut self, lease: Option<Lease>, now: Instant) {
        let spec = |lease: &Option<Lease>| lease.as_ref().and_then(|lease| lease.spec.clone());
        if self.since.is_none() || spec(&self.lease) != spec(&lease) {
            self.since = Some(now);
        }
        self.lease = lease;
    }

    fn holder(&self) -> Option<&str> {
        let spec = self.lease.as_ref()?.spec.as_ref()?;
        spec.holder_identity.as_deref().filter(|holder| !holder.is_empty())
    }

    fn decide(&self, identity: &str, now: Instant) -> Step {
        let Some(lease) = &self.lease else { return Step::Create };
        match self.holder() {
            None => Step::Take,
            Some(holder) if holder == identity => Step::Renew,
            Some(_) => {
                let promised = lease.spec.as_ref().and_then(|spec| spec.lease_duration_seconds);
                let promised = promised.and_then(|seconds| u64::try_from(seconds).ok());
                let promised = promised.map_or(DURATION, Duration::from_secs);
                let is_over = self.since.is_some_and(|since| now.duration_since(since) >= promised);
                if is_over { Step::Take } else { Step::Leave }
            }
        }
    }

    /// The Lease as it is to be written. Its `resourceVersion` is that of what was seen: whatever has changed since refuses it.
    fn held_by(&self, name: &str, identity: &str) -> Lease {
        let now = MicroTime(Timestamp::now());
        let mut lease = self.lease.clone().unwrap_or_else(|| Lease {
            metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
            spec: None,
        });
        let is_new = lease.spec.is_none();
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        if spec.holder_identity.as_deref() != Some(identity) {
            let transitions = spec.lease_transitions.unwrap_or(0);
            spec.lease_transitions = Some(if is_new { 0 } else { transitions.saturating_add(1) });
            spec.acquire_time = Some(now.clone());
            spec.holder_identity = Some(identity.to_owned());
        }
        spec.renew_time = Some(now);
        spec.lease_duration_seconds = i32::try_from(DURATION.as_secs()).ok();
        lease
    }

    /// The Lease as somebody leaves it who goes.
    fn released(&self) -> Option<Lease> {
        let mut lease = self.lease.clone()?;
        let spec = lease.spec.as_mut()?;
        spec.holder_identity = Some(String::new());
        // Not every implementation takes an empty name for nobody: this is over soon in any case.
        spec.lease_duration_seconds = Some(1);
        spec.renew_time = Some(MicroTime(Timestamp::now()));
        Some(lease)
    }
}

impl Candidate {
    /// A candidate for the Lease `name` of a namespace, who writes `identity` into it.
    #[must_use]
    pub fn new(client: Client, namespace: &str, name: &str, identity: String) -> (Self, Leadership) {
        let (until, receiver) = watch::channel(None);
        let candidate = Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            identity,
            view: View::default(),
            until,
            complaint: Complaint::default(),
        };
        (candidate, Leadership { until: receiver })
    }

    /// What this candidate writes into the Lease.
    #[must_use]
    pub fn identity(&self) -> &str {
        &self.identity
    }

    /// Takes the Lease when it may, and renews it, for ever. Once this has been dropped, and with it whatever writes,
    /// [`Self::resign`] is due.
    pub async fn run(&mut self) -> Infallible {
        loop {
            let began = Instant::now();
            match timeout(REQUEST_LIMIT, self.attempt()).await {
                Ok(Ok(true)) => self.hold(began + RENEW_DEADLINE),
                Ok(Ok(false)) => self.lose("another one holds it"),
                Ok(Err(error)) => self.fail(&error),
                Err(_) => self.fail(&"the API server does not answer"),
            }
            sleep(RETRY + any_part(APART)).await;
        }
    }

    /// Gives the Lease up, if it is held, so that the next one need not wait. To be called when nothing is written any more.
    pub async fn resign(mut self) {
        self.until.send_replace(None);
        match timeout(REQUEST_LIMIT, self.give_up()).await {
            Ok(Ok(true)) => tracing::info!(lease = %self.name, "the lease is given up"),
            Ok(Ok(false)) => {}
            Ok(Err(error)) => tracing::warn!(lease = %self.name, %error, "the lease cannot be given up"),
            Err(_) => tracing::warn!(lease = %self.name, "the lease cannot be given up in time"),
        }
    }

    /// Whether the Lease was ours, and is nobody's now.
    async fn give_up(&mut self) -> kube::Result<bool> {
        // A renewal that was under way may have been written or not.
        let lease = self.api.get_opt(&self.name).await?;
        self.view.see(lease, Instant::now());
        let released = self.view.released().filter(|_| self.view.holder() == Some(&self.identity));
        let Some(lease) = released else { return Ok(false) };
        self.api.replace(&self.name, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// Whether the Lease is ours now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        if self.view.holder() == Some(&self.identity) {
            match self.write(Step::Renew).await {
                // Somebody else has written it: let us see what.
                Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => {}
                written => return written,
            }
        }
        let lease = self.api.get_opt(&self.name).await?;
        self.view.see(lease, Instant::now());
        let step = self.view.decide(&self.identity, Instant::now());
        match self.write(step).await {
            Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(false),
            written => written,
        }
    }

    async fn write(&mut self, step: Step) -> kube::Result<bool> {
        let lease = self.view.held_by(&self.name, &self.identity);
        let params = PostParams::default();
        let written = match step {
            Step::Leave => return Ok(false),
            Step::Create => self.api.create(&params, &lease).await?,
            Step::Renew | Step::Take => self.api.replace(&self.name, &params, &lease).await?,
        };
        self.view.see(Some(written), Instant::now());
        Ok(true)
    }

    fn hold(&mut self, until: Instant) {
        self.complaint.settle();
        if self.until.send_replace(Some(until)).is_none() {
            tracing::info!(lease = %self.name, identity = %self.identity, "leading: this controller writes now");
        }
    }

    fn lose(&mut self, why: &str) {
        self.complaint.settle();
        if self.until.send_replace(None).is_some() {
            tracing::warn!(lease = %self.name, "no longer leading: {why}");
        } else {
            tracing::debug!(lease = %self.name, holder = ?self.view.holder(), "standing by");
        }
    }

    /// What failed may pass: whoever leads goes on until its time is over.
    fn fail(&mut self, error: &dyn fmt::Display) {
        if let Some(error) = self.complaint.raise(error) {
            tracing::warn!(lease = %self.name, error, "the lease cannot be read or written");
        }
        let is_over = self.until.borrow().is_some_and(|until| Instant::now() >= until);
        if is_over {
            self.until.send_replace(None);
            tracing::warn!(lease = %self.name, "no longer leading: the lease was not renewed in time");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(holder: &str, renewed: i64) -> Lease {
        let spec = LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            lease_transitions: Some(3),
            renew_time: Some(MicroTime(Timestamp::from_second(renewed).unwrap())),
            ..LeaseSpec::default()
        };
        Lease { spec: Some(spec), ..Lease::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_lease_is_left_to_its_holder_for_as_long_as_it_is_renewed() {
        let mut view = View::default();
        view.see(None, Instant::now());
        assert_eq!(view.decide("me", Instant::now()), Step::Create);
        // Times that are written in it, of the past or the future, decide nothing.
        for renewed in [0, 4_000_000_000, 1, 4_000_000_001] {
            view.see(Some(lease("other", renewed)), Instant::now());
            for _ in 0..7 {
                tokio::time::advance(Duration::from_secs(2)).await;
                view.see(Some(lease("other", renewed)), Instant::now());
                assert_eq!(view.decide("me", Instant::now()), Step::Leave);
            }
        }
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(view.decide("me", Instant::now()), Step::Take);
        view.see(Some(lease("", 5)), Instant::now());
        assert_eq!(view.decide("me", Instant::now()), Step::Take, "nobody's");
        view.see(Some(lease("me", 6)), Instant::now());
        assert_eq!(view.decide("me", Instant::now()), Step::Renew);
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_that_is_no_renewal_does_not_prolong_a_lease() {
        let mut view = View::default();
        view.see(Some(lease("other", 1)), Instant::now());
        tokio::time::advance(Duration::from_secs(15)).await;
        let mut touched = lease("other", 1);
        touched.metadata.resource_version = Some("99".to_owned());
        view.see(Some(touched), Instant::now());
        assert_eq!(view.decide("me", Instant::now()), Step::Take);
    }

    #[test]
    fn what_is_written_says_who_and_since_when() {
        let mut view = View { lease: Some(lease("other", 1)), since: None };
        let taken = view.held_by("name", "me").spec.unwrap();
        assert_eq!((taken.holder_identity.as_deref(), taken.lease_transitions), (Some("me"), Some(4)));
        assert_eq!((taken.lease_duration_seconds, taken.acquire_time.is_some()), (Some(15), true));
        view.lease = Some(lease("me", 1));
        let renewed = view.held_by("name", "me").spec.unwrap();
        assert_eq!((renewed.lease_transitions, renewed.acquire_time), (Some(3), None));
        let released = view.released().unwrap().spec.unwrap();
        assert_eq!(
            (released.holder_identity.as_deref(), released.lease_duration_seconds),
            (Some(""), Some(1))
        );
        view.lease = None;
        let made = view.held_by("name", "me");
        assert_eq!(
            (made.metadata.name.as_deref(), made.spec.unwrap().lease_transitions),
            (Some("name"), Some(0))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn leadership_ends_by_itself() {
        let (until, receiver) = watch::channel(None);
        let mut leadership = Leadership { until: receiver };
        assert!(!leadership.is_held());
        until.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        leadership.gained().await;
        assert!(leadership.is_held());
        let began = Instant::now();
        tokio::join!(leadership.lost(), async {
            sleep(Duration::from_secs(4)).await;
            until.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        });
        assert_eq!(began.elapsed(), Duration::from_secs(14), "a renewal puts it off");
        assert!(!leadership.is_held());
        until.send_replace(Some(Instant::now() + Duration::from_secs(10)));
        tokio::join!(leadership.lost(), async { until.send_replace(None) });
        assert_eq!(began.elapsed(), Duration::from_secs(14), "and it can be taken away at once");
    }
}
