//! A kind that the server does not have: its CRD is watched, so that the kind is read as soon as somebody installs it.
//!
//! Of that one object, and of it the metadata alone: what a CRD says is long, and every node would have it sent. Who may not
//! watch it asks for the kind again now and then, as is done of all that is not there.

use std::time::Duration;

use kube::Client;
use kube::api::WatchParams;
use kube::client::Body;
use kube::core::Request;
use tokio::time::sleep;

use super::backoff::{Backoff, any_part};
use super::lines::Lines;
use super::resource::Resource;
use super::watch::{Event, version_of};

/// Where CRDs are.
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
/// Within this time the nodes of a cluster ask for a kind whose CRD has come: not all at the same moment.
const AFTER_DEFINITION: Duration = Duration::from_secs(2);

/// The wait for a kind that is not there.
pub(super) struct Absence {
    pauses: Backoff,
    /// `None` for what the server has in itself.
    definition: Option<Definition>,
}

impl Absence {
    /// That of a resource; nothing is asked for yet.
    pub(super) fn of(client: &Client, resource: &Resource) -> Self {
        Self { pauses: Backoff::OF_ABSENCE, definition: Definition::of(client, resource) }
    }

    /// Waits until it is time to ask for the kind again.
    pub(super) async fn wait(&mut self) {
        let Self { pauses, definition } = self;
        let changes = async {
            match definition {
                Some(definition) => definition.changes().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = sleep(pauses.next()) => {}
            () = changes => {
                pauses.reset();
                sleep(any_part(AFTER_DEFINITION)).await;
            }
        }
    }
}

/// A CRD, while it is waited for.
struct Definition {
    client: Client,
    name: String,
    /// The version up to which it is known.
    seen: Option<String>,
    /// The watch, while there is one: a connection of its own.
    lines: Option<Lines>,
}

impl Definition {
    fn of(client: &Client, resource: &Resource) -> Option<Self> {
        let name = resource.definition()?;
        Some(Self { client: client.clone(), name, seen: None, lines: None })
    }

    /// Waits until it comes, or changes after it was seen last; for ever, if it cannot be watched. Dropping the future
    /// loses nothing.
    async fn changes(&mut self) {
        if self.follow().await.is_none() {
            self.lines = None;
            std::future::pending::<()>().await;
        }
    }

    async fn follow(&mut self) -> Option<()> {
        loop {
            let lines = match &mut self.lines {
                Some(lines) => lines,
                // What was seen may be too old to go on from: if this fails, the next one begins anew.
                None => self.lines.insert(open(&self.client, &self.name, self.seen.take()).await?),
            };
            let event =
                lines.next().await.ok()?.and_then(|line| serde_json::from_slice::<Event>(&line).ok())?;
            if event.what == "ERROR" {
                self.seen = None;
                return None;
            }
            self.seen = version_of(&event.object);
            if matches!(event.what.as_str(), "ADDED" | "MODIFIED") {
                return Some(());
            }
        }
    }
}

/// A watch from this version; without one, it begins with what is there.
async fn open(client: &Client, name: &str, from: Option<String>) -> Option<Lines> {
    let params = WatchParams::default().fields(&format!("metadata.name={name}"));
    let request = Request::new(DEFINITIONS).watch_metadata(&params, &from.unwrap_or_default()).ok()?;
    let answer = client.send(request.map(Body::from)).await.ok()?;
    answer.status().is_success().then(|| Lines::new(answer.into_body()))
}
