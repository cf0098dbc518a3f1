//! The work of who leads: has each status looked at that may have to be written, several at once.

use std::convert::Infallible;

use futures::StreamExt as _;
use futures::stream::FuturesUnordered;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use super::lease::Leadership;
use super::queue::Queue;
use super::subject::Subject;
use super::write::StatusWriter;

/// Writes at once. Each takes some milliseconds of the API server, and this is what it is to bear of one client.
const MOST_AT_ONCE: usize = 16;

/// Where changes are told of.
#[derive(Clone, Debug)]
pub struct Changes(mpsc::UnboundedSender<(Subject, Instant)>);

/// Where they arrive.
#[derive(Debug)]
pub struct Arriving(mpsc::UnboundedReceiver<(Subject, Instant)>);

impl Changes {
    /// A way for changes. What arrives is taken at once, by who leads and by who stands by, so that little ever waits in it.
    #[must_use]
    pub fn new() -> (Self, Arriving) {
        let (send, receive) = mpsc::unbounded_channel();
        (Self(send), Arriving(receive))
    }

    /// Something about this has changed now.
    pub fn tell(&self, subject: Subject) {
        // Nobody listens any more when the process ends.
        let _ = self.0.send((subject, Instant::now()));
    }
}

impl Arriving {
    async fn next(&mut self) -> (Subject, Instant) {
        match self.0.recv().await {
            Some(arrived) => arrived,
            None => std::future::pending().await,
        }
    }
}

/// Writes for as long as `leadership` is held, each time anew for everything; never before everything has been read once.
pub async fn run(writer: &StatusWriter, mut leadership: Leadership, mut arriving: Arriving) -> Infallible {
    loop {
        writer.leads(false);
        tokio::select! {
            () = leadership.gained() => {}
            _ = arriving.next() => continue,
        }
        writer.leads(true);
        lead(writer, &mut leadership, &mut arriving).await;
    }
}

async fn lead(writer: &StatusWriter, leadership: &mut Leadership, arriving: &mut Arriving) {
    let mut queue = Queue::default();
    let began = Instant::now();
    for subject in writer.subjects() {
        queue.add(subject, began);
    }
    let mut running = FuturesUnordered::new();
    loop {
        while running.len() < MOST_AT_ONCE {
            let Some((subject, since)) = queue.take(Instant::now()) else { break };
            running.push(async move {
                let again = writer.settle(&subject, since).await;
                (subject, since, again)
            });
        }
        writer.queued(queue.len());
        let due = queue.next_due().filter(|_| running.len() < MOST_AT_ONCE);
        tokio::select! {
            () = leadership.lost() => return,
            (subject, since) = arriving.next() => queue.add(subject, since),
            Some((subject, since, again)) = running.next() => queue.end(subject, since, again),
            () = sleep_until(due.unwrap_or(began)), if due.is_some() => {}
        }
    }
}
