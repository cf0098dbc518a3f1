//! News of pods as Events, written one after the other and never waited for.
//!
//! The same news of a pod is written once a minute at most. What comes faster than it can be written, or while the server
//! is away, is dropped and counted: `/status` and the log say it all the same.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::super::news::{Herald, News};
use super::{ApiServer, answer};
use crate::cluster::objects::ObjectKey;
use crate::cluster::writer::ClusterView;
use crate::error::with_causes;
use crate::telemetry::Metrics;

/// Who reports, for all Events of the mesh's node proxies.
const CONTROLLER: &str = "gammarus.io/node-proxy";
/// What an Event says that the mesh did.
const ACTION: &str = "Enrol";
/// How many may wait.
const QUEUE: usize = 256;
/// Between two, so that a node whose pods all have news is no burden.
const APART: Duration = Duration::from_millis(100);
/// For how long the same is not said again of a pod.
const AGAIN: Duration = Duration::from_secs(60);
/// How long is waited for a Pod to be seen, whose uid an Event names.
const SEEN: Duration = Duration::from_secs(1);
/// The longest note that the API server takes, in bytes.
const LONGEST_NOTE: usize = 1024;

/// The one who takes news. Dropped, what waits is still written.
#[derive(Clone, Debug)]
pub struct EventWriter {
    queue: mpsc::Sender<(ObjectKey, News)>,
    metrics: Arc<Metrics>,
}

impl EventWriter {
    /// Writes to this server, as the proxy of `node`; the uids of Pods are those of `view`.
    #[must_use]
    pub fn start(server: &ApiServer, node: &str, view: ClusterView, metrics: Arc<Metrics>) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let reporter = Reporter { controller: CONTROLLER.to_owned(), instance: Some(node.to_owned()) };
        let recorder = Recorder::new(server.client.clone(), reporter);
        let writing = Writing { recorder, view, metrics: metrics.clone(), told: HashMap::new() };
        server.runtime.spawn(writing.run(waiting));
        Self { queue, metrics }
    }
}

impl Herald for EventWriter {
    fn tell(&self, pod: &ObjectKey, news: News) {
        if self.queue.try_send((pod.clone(), news)).is_err() {
            self.metrics.event_dropped();
        }
    }
}

/// What was told of a pod: the reason of the Event, and its cause.
type Told = (ObjectKey, &'static str, String);

struct Writing {
    recorder: Recorder,
    view: ClusterView,
    metrics: Arc<Metrics>,
    told: HashMap<Told, Instant>,
}

impl Writing {
    async fn run(mut self, mut waiting: mpsc::Receiver<(ObjectKey, News)>) {
        let mut pace = interval(APART);
        pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while let Some((pod, news)) = waiting.recv().await {
            if !self.is_new(&pod, &news) {
                continue;
            }
            pace.tick().await;
            let subject = self.reference(&pod).await;
            if let Err(error) = answer(self.recorder.publish(&event(&news), &subject)).await {
                self.metrics.event_dropped();
                tracing::debug!(%pod, reason = news.reason(), error = with_causes(&error), "an Event is not written");
            }
        }
    }

    /// Whether it was not told a moment ago.
    fn is_new(&mut self, pod: &ObjectKey, news: &News) -> bool {
        let now = Instant::now();
        self.told.retain(|_, at| now < *at + AGAIN);
        let told = (pod.clone(), news.reason(), news.cause().to_owned());
        if self.told.contains_key(&told) {
            return false;
        }
        self.told.insert(told, now);
        true
    }

    /// The Pod, with its uid if it is seen: `kubectl describe` shows the Events of exactly that pod.
    async fn reference(&self, pod: &ObjectKey) -> ObjectReference {
        let seen = self.view.wait_for(|objects| objects.pods.get(pod)?.uid.clone());
        let uid = timeout(SEEN, seen).await.ok().flatten();
        ObjectReference {
            api_version: Some("v1".to_owned()),
            kind: Some("Pod".to_owned()),
            namespace: Some(pod.namespace.to_string()),
            name: Some(pod.name.to_string()),
            uid: uid.map(|uid| uid.to_string()),
            ..ObjectReference::default()
        }
    }
}

fn event(news: &News) -> Event {
    // The recorder makes a series of what is alike but for the note.
    let action =
        if news.cause().is_empty() { ACTION.to_owned() } else { format!("{ACTION}/{}", news.cause()) };
    Event {
        type_: if news.is_warning() { EventType::Warning } else { EventType::Normal },
        reason: news.reason().to_owned(),
        note: Some(shortened(news.message())),
        action,
        secondary: None,
    }
}

fn shortened(mut note: String) -> String {
    note.truncate(note.floor_char_boundary(LONGEST_NOTE));
    note
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_cut_where_a_letter_ends() {
        assert_eq!(shortened("short".to_owned()), "short");
        let long = format!("{}ä", "x".repeat(LONGEST_NOTE - 1));
        assert_eq!(shortened(long).len(), LONGEST_NOTE - 1);
    }

    #[test]
    fn news_that_differ_in_their_cause_are_events_of_their_own() {
        let failed = |reason| News::EnrolmentFailed { reason, message: "m".to_owned() };
        let (one, other) = (event(&failed("mark")), event(&failed("rules")));
        assert_eq!((&*one.reason, &*other.reason), ("EnrolmentFailed", "EnrolmentFailed"));
        assert_ne!(one.action, other.action);
        assert_eq!(one.type_, EventType::Warning);
        assert_eq!(event(&News::Enrolled).action, "Enrol");
    }
}
