//! The load: 200 HTTP requests (from outside half of them in TLS), 20 words on held connections and 20 new connections a second, half of them from each
//! source, and 50 gRPC calls on one connection of each, all at their times whether earlier ones are answered or not.

#![allow(dead_code, reason = "every test that has this among its modules uses a part of it")]

use std::collections::BTreeSet;
use std::io::{self, Write};
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use node_proxy::demo::command::until;
use tokio::sync::watch;
use tokio::task::{JoinSet, LocalSet};
use tokio::time::{MissedTickBehavior, interval};

use crate::calls::Calls;
use crate::connections::Connections;
use crate::counts::{Counts, Kind, PATIENCE, Tally};
use crate::requests::Requests;
use crate::source::Source;

/// Connections that are held open, from each source.
const HELD: u32 = 10;

/// A load that goes on until it is finished.
#[derive(Debug)]
pub(crate) struct Load {
    tally: Tally,
    kinds: BTreeSet<Kind>,
    stop: watch::Sender<()>,
    thread: Option<JoinHandle<()>>,
    calls: Vec<Calls>,
}

impl Load {
    /// Begins some kinds with what these sources ask of whom they know, and returns once it is under way.
    #[track_caller]
    pub(crate) fn begin(kinds: &[Kind], sources: Vec<Source>) -> Self {
        let kinds: BTreeSet<_> = kinds.iter().copied().collect();
        let of_each = Kind::Grpc.per_second(&kinds) / u32::try_from(sources.len()).unwrap();
        let callers = sources.iter().filter(|_| kinds.contains(&Kind::Grpc));
        // First, and with a connection: what is done to a load is done to all of its kinds.
        let calls = callers.map(|source| Calls::begin(source, of_each)).collect();
        let tally = Tally::begin();
        let (stop, stopped) = watch::channel(());
        let of_thread = (kinds.clone(), tally.clone());
        let thread = thread::spawn(move || generate(sources, &of_thread, &stopped));
        let load = Self { tally, kinds, stop, thread: Some(thread), calls };
        load.pass(Duration::from_secs(1));
        load
    }

    /// Notes what is done now.
    pub(crate) fn note(&self, what: &str) {
        self.tally.note(what);
    }

    /// For how long it has gone on.
    pub(crate) fn elapsed(&self) -> Duration {
        self.tally.elapsed()
    }

    /// Waits until so much more of the load has gone out and come back as belongs to this time.
    #[track_caller]
    pub(crate) fn pass(&self, time: Duration) {
        // What calls come to is known at the end.
        let counted = self.kinds.iter().filter(|kind| **kind != Kind::Grpc);
        let per_second: u32 = counted.map(|kind| kind.per_second(&self.kinds)).sum();
        let enough =
            self.concluded() + u64::from(per_second) * u64::try_from(time.as_millis()).unwrap() / 1000;
        let passed = until(time * 10 + Duration::from_secs(20), || self.concluded() >= enough);
        assert!(passed, "the load stands still:\n{:#}", *self.tally.counts());
    }

    /// Waits until something of each kind has failed.
    #[track_caller]
    pub(crate) fn fail(&self) {
        let has_failed = |kind| match kind {
            Kind::Grpc => self.calls.iter().any(Calls::has_failed),
            _ => self.tally.counts().failed(kind) > 0,
        };
        let failed = until(PATIENCE, || self.kinds.iter().copied().all(has_failed));
        assert!(failed, "not all kinds have failed:\n{:#}", *self.tally.counts());
    }

    /// Ends it, waits for what is under way, and prints the counts.
    #[track_caller]
    pub(crate) fn finish(mut self, title: &str) -> Counts {
        let counts = self.end();
        say(&format!("{title}: {counts}"));
        counts
    }

    fn end(&mut self) -> Counts {
        self.stop.send_replace(());
        let ended = self.thread.take().map(JoinHandle::join);
        let mut counts = self.tally.counts().clone();
        counts.lasted = self.tally.elapsed();
        for kind in &self.kinds {
            counts.kinds.entry(*kind).or_default();
        }
        for calls in self.calls.drain(..) {
            calls.end(self.tally.begun_at, &mut counts);
        }
        assert!(ended.is_some_and(|ended| ended.is_ok()), "the thread of the load has panicked\n{counts:#}");
        counts
    }

    /// All of this process that have been answered or have failed.
    fn concluded(&self) -> u64 {
        let counts = self.tally.counts();
        counts.answered() + counts.failures.len() as u64
    }
}

/// Prints a line; not by the macros, whose text nobody sees when the test passes.
pub(crate) fn say(line: &str) {
    io::stdout().write_all(format!("{line}\n").as_bytes()).unwrap();
}

impl Drop for Load {
    fn drop(&mut self) {
        // A test that has failed in the middle of it wants to know what it was like.
        if self.thread.is_some() && thread::panicking() {
            self.stop.send_replace(());
            let _also_over = self.thread.take().map(JoinHandle::join);
            eprintln!("the load so far: {:#}", *self.tally.counts());
        }
    }
}

/// The thread of the load.
fn generate(sources: Vec<Source>, load: &(BTreeSet<Kind>, Tally), stopped: &watch::Receiver<()>) {
    let (kinds, tally) = load;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let of_each = u32::try_from(sources.len()).unwrap();
    let local = LocalSet::new();
    for source in sources.into_iter().map(Rc::new) {
        let connections = Connections::new(&source);
        let rate = |kind: Kind| Pace { kind, per_second: kind.per_second(kinds) / of_each };
        for (kind, tls) in [(Kind::Http, None), (Kind::Https, source.tls.clone())] {
            if kinds.contains(&kind) {
                assert_eq!(tls.is_some(), kind == Kind::Https, "requests in TLS need somebody to trust in");
                let requests = Requests::new(&source, tls);
                let ask = move || requests.clone().ask();
                local.spawn_local(rate(kind).keep(tally.clone(), stopped.clone(), ask));
            }
        }
        if kinds.contains(&Kind::Fresh) {
            let opening = connections.clone();
            let open = move || opening.clone().open_and_end();
            local.spawn_local(rate(Kind::Fresh).keep(tally.clone(), stopped.clone(), open));
        }
        for _ in 0..if kinds.contains(&Kind::Held) { HELD } else { 0 } {
            local.spawn_local(hold(connections.clone(), tally.clone(), stopped.clone()));
        }
    }
    runtime.block_on(local);
}

/// How often something is attempted.
#[derive(Clone, Copy, Debug)]
struct Pace {
    kind: Kind,
    per_second: u32,
}

impl Pace {
    /// Attempts it at its times until it is told to stop, and waits for those under way.
    async fn keep<A>(self, tally: Tally, mut stopped: watch::Receiver<()>, attempt: impl Fn() -> A)
    where
        A: Future<Output = Result<(), String>> + 'static,
    {
        let mut ticks = interval(Duration::from_secs(1) / self.per_second);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        while is_next(&mut ticks, &mut stopped).await {
            let (tally, attempt) = (tally.clone(), attempt());
            under_way.spawn_local(async move { tally.count(self.kind, attempt).await });
            while under_way.try_join_next().is_some() {}
        }
        while under_way.join_next().await.is_some() {}
    }
}

/// Waits for the next time (true) or the end (false).
async fn is_next(ticks: &mut tokio::time::Interval, stopped: &mut watch::Receiver<()>) -> bool {
    tokio::select! {
        _ = ticks.tick() => true,
        _ = stopped.changed() => false,
    }
}

/// One connection that is held, with a word every second. One that has failed is counted as that, and there is a new one.
async fn hold(connections: Connections, tally: Tally, mut stopped: watch::Receiver<()>) {
    let mut held = None;
    let mut ticks = interval(Duration::from_secs(1));
    while is_next(&mut ticks, &mut stopped).await {
        let saying = async {
            let mut open = match held.take() {
                Some(open) => open,
                None => connections.hold().await?,
            };
            open.say().await?;
            held = Some(open);
            Ok(())
        };
        tally.count(Kind::Held, saying).await;
    }
    if let Some(held) = held {
        tally.count(Kind::Held, held.end()).await;
    }
}
