//! The work of who leads: has everything looked at that may have to be written, several at once.

use std::convert::Infallible;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::lease::Leadership;
use super::queue::Queue;
use super::subject::Subject;

/// Writes at once. Each takes some milliseconds of the API server, and this is what it is to bear of one client.
const MOST_AT_ONCE: usize = 16;

/// Where changes are told of.
#[derive(Clone, Debug)]
pub struct Changes<K = Subject>(mpsc::UnboundedSender<(K, Instant)>);

/// Where they arrive.
#[derive(Debug)]
pub struct Arriving<K = Subject>(mpsc::UnboundedReceiver<(K, Instant)>);

impl<K> Changes<K> {
    /// A way for changes. What arrives is taken at once, by who leads and by who stands by, so that little ever waits in it.
    #[must_use]
    pub fn new() -> (Self, Arriving<K>) {
        let (send, receive) = mpsc::unbounded_channel();
        (Self(send), Arriving(receive))
    }

    /// Something about this has changed now.
    pub fn tell(&self, key: K) {
        // Nobody listens any more when the process ends.
        let _ = self.0.send((key, Instant::now()));
    }
}

impl<K> Arriving<K> {
    async fn next(&mut self) -> (K, Instant) {
        match self.0.recv().await {
            Some(arrived) => arrived,
            None => std::future::pending().await,
        }
    }
}

/// What is done by who leads.
pub trait Work {
    /// What it is done for.
    type Key: Ord + Clone;

    /// Everything that there is.
    fn all(&self) -> Vec<Self::Key>;

    /// Whether this process leads now.
    fn leads(&self, leading: bool);

    /// How many wait or are under way.
    fn queued(&self, count: usize);

    /// Sees to one that changed at `since`. Gives when it is to be looked at again, if it is.
    fn settle(&self, key: &Self::Key, since: Instant) -> impl Future<Output = Option<Instant>>;
}

/// Works for as long as `leadership` is held, each time anew for everything; never before everything has been read once.
pub async fn run<W: Work>(
    work: &W,
    mut leadership: Leadership,
    mut arriving: Arriving<W::Key>,
) -> Infallible {
    loop {
        work.leads(false);
        tokio::select! {
            () = leadership.gained() => {}
            _ = arriving.next() => continue,
        }
        work.leads(true);
        lead(work, &mut leadership, &mut arriving).await;
    }
}

async fn lead<W: Work>(work: &W, leadership: &mut Leadership, arriving: &mut Arriving<W::Key>) {
    let mut queue = Queue::default();
    let began = Instant::now();
    for key in work.all() {
        queue.add(key, began);
    }
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < MOST_AT_ONCE {
            let Some((key, since)) = queue.take(Instant::now()) else { break };
            running.push(async move {
                let again = work.settle(&key, since).await;
                (key, since, again)
            });
        }
        work.queued(queue.len());
        let due = queue.next_due().filter(|_| running.len() < MOST_AT_ONCE);
        tokio::select! {
            () = leadership.lost() => return,
            (key, since) = arriving.next() => queue.add(key, since),
            Some((key, since, again)) = running.next() => queue.end(key, since, again),
            () = sleep_until(due.unwrap_or(began)), if due.is_some() => {}
        }
    }
}
