//! What became of a load: how much was sent, how much was answered well, and each failure with its time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::time::timeout;

/// How long an answer may take before it counts as none.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// The kinds of load.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// HTTP/1.1 requests in plain text.
    Http,
    /// HTTP/1.1 requests in TLS.
    Https,
    /// gRPC calls.
    Grpc,
    /// Words on opaque connections that stay open.
    Held,
    /// Opaque connections that are opened for one word.
    Fresh,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Http => "http",
            Self::Https => "https",
            Self::Grpc => "grpc",
            Self::Held => "held",
            Self::Fresh => "fresh",
        })
    }
}

/// How many of a kind.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Count {
    pub(crate) sent: u64,
    pub(crate) ok: u64,
    /// The longest that one took which was answered.
    pub(crate) slowest: Duration,
    /// When that one began, since the load's beginning.
    pub(crate) slowest_at: Duration,
}

impl Count {
    /// One that was answered.
    pub(crate) fn answered(&mut self, (at, took): (Duration, Duration)) {
        if took > self.slowest {
            (self.slowest_at, self.slowest) = (at, took);
        }
    }
}

/// One that was not answered, or not as it should have been.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    /// When it began, since the load's beginning.
    pub(crate) at: Duration,
    pub(crate) took: Duration,
    pub(crate) text: String,
}

/// What a load has come to.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) kinds: BTreeMap<Kind, Count>,
    pub(crate) failures: Vec<Failure>,
    /// What was done meanwhile.
    notes: Vec<(Duration, String)>,
    /// How many connections a gRPC client had, one after the other; of the one that had the most.
    pub(crate) grpc_connections: u64,
    pub(crate) lasted: Duration,
}

/// The counts of a load that goes on.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    begun: Instant,
    pub(crate) begun_at: SystemTime,
    counts: Arc<Mutex<Counts>>,
}

impl Tally {
    pub(crate) fn begin() -> Self {
        Self { begun: Instant::now(), begun_at: SystemTime::now(), counts: Arc::default() }
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Writes down what is done, to be seen beside the failures that follow it.
    pub(crate) fn note(&self, what: &str) {
        let at = self.elapsed();
        self.counts().notes.push((at, what.to_owned()));
    }

    /// One attempt, from its beginning to its end; says whether it was good.
    pub(crate) async fn count(&self, kind: Kind, attempt: impl Future<Output = Result<(), String>>) -> bool {
        let at = self.elapsed();
        self.counts().kinds.entry(kind).or_default().sent += 1;
        let outcome = timeout(PATIENCE, attempt).await.unwrap_or_else(|_| Err("no answer".to_owned()));
        let took = self.elapsed() - at;
        let mut counts = self.counts();
        match outcome {
            Ok(()) => {
                let count = counts.kinds.entry(kind).or_default();
                count.ok += 1;
                count.answered((at, took));
                true
            }
            Err(text) => {
                counts.failures.push(Failure { kind, at, took, text });
                false
            }
        }
    }
}

impl Counts {
    /// How many of a kind have failed.
    pub(crate) fn failed(&self, kind: Kind) -> usize {
        self.failures.iter().filter(|failure| failure.kind == kind).count()
    }

    /// All that were answered.
    pub(crate) fn answered(&self) -> u64 {
        self.kinds.values().map(|count| count.ok).sum()
    }

    /// Nothing has failed, and the load was as much as it should be.
    #[track_caller]
    pub(crate) fn check(&self) {
        self.check_amount();
        assert!(self.failures.is_empty(), "{self:#}");
    }

    /// There was as much load as there should be: a client that was starved would see nothing.
    #[track_caller]
    pub(crate) fn check_amount(&self) {
        let kinds = self.kinds.keys().copied().collect();
        for (kind, count) in &self.kinds {
            let expected = f64::from(kind.per_second(&kinds)) * self.lasted.as_secs_f64();
            #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
            let sent = count.sent as f64;
            assert!(sent > expected * 0.8, "{kind}: {expected} should have been sent\n{self:#}");
        }
    }
}

impl Kind {
    /// Those of clients from outside.
    pub(crate) const OUTSIDE: [Self; 5] = [Self::Http, Self::Https, Self::Grpc, Self::Held, Self::Fresh];

    /// How many of it are sent in a second beside the others, from both sources together.
    pub(crate) fn per_second(self, among: &BTreeSet<Self>) -> u32 {
        match self {
            Self::Http | Self::Https if among.contains(&Self::Http) && among.contains(&Self::Https) => 100,
            Self::Http | Self::Https => 200,
            // On one connection from each.
            Self::Grpc => 100,
            Self::Held | Self::Fresh => 20,
        }
    }
}

/// The counts; in the alternate form with what was done and what has failed.
impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:.1} s", self.lasted.as_secs_f64())?;
        for (kind, Count { sent, ok, slowest, slowest_at }) in &self.kinds {
            let (slowest, at) = (slowest.as_millis(), slowest_at.as_secs_f64());
            write!(f, "\n  {kind}: {sent} sent, {ok} ok, the slowest after {slowest} ms, begun at {at:.3}")?;
        }
        if f.alternate() { self.write_events(f) } else { Ok(()) }
    }
}

impl Counts {
    fn write_events(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        /// More would hide the first ones.
        const SHOWN: usize = 60;
        let notes = self.notes.iter().map(|(at, what)| (*at, format!("-- {what}")));
        let shown = self.failures.iter().take(SHOWN);
        let failures = shown.map(|Failure { kind, at, took, text }| {
            (*at, format!("{kind} FAILED after {} ms: {text}", took.as_millis()))
        });
        let mut lines: Vec<_> = notes.chain(failures).collect();
        lines.sort_by_key(|(at, _)| *at);
        for (at, line) in lines {
            write!(f, "\n  {:7.3} {line}", at.as_secs_f64())?;
        }
        match self.failures.len().saturating_sub(SHOWN) {
            0 => Ok(()),
            more => write!(f, "\n  and {more} more failures"),
        }
    }
}
