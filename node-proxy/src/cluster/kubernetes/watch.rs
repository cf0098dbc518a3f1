//! The watch of one kind: a list, then what changes, for ever.
//!
//! The list comes as a stream of events where the server can do that (`sendInitialEvents`), else page by page. What
//! breaks is resumed from the last version that was seen, a bookmark's included; only when the server no longer knows
//! that version (410), the list is read anew. What was known stays meanwhile.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::api::{ListParams, WatchParams};
use kube::client::Body;
use kube::core::{Request, Status};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::super::objects::{Kind, ObjectKey};
use super::absence::Absence;
use super::backoff::{Backoff, spread};
use super::decode::{Item, read_item, read_key};
use super::lines::Lines;
use super::resource::{GATEWAY_API, Resource};
use crate::error::with_causes;
use crate::telemetry::{Metrics, WatchEnd};

/// Until the head of an answer is there. A list that is read from the server's disk takes its time.
const ANSWER: Duration = Duration::from_secs(60);
/// Without a word on a watch, its connection is given up: a server sends a bookmark about every minute.
pub(super) const SILENCE: Duration = Duration::from_secs(150);
/// For how long a watch is asked for, at least; as much again at random, so that those of many nodes do not end
/// together.
const LIFE: Duration = Duration::from_secs(300);
/// A watch that lasted as long was no failure, however it ended.
const STEADY: Duration = Duration::from_secs(10);
/// How many objects a page has.
const PAGE: u32 = 500;
/// The longest error that is read.
const LONGEST_ERROR: usize = 64 * 1024;
/// What the bookmark at the end of a streamed list is annotated with.
const LIST_END: &str = "k8s.io/initial-events-end";

/// What there is to say of a kind.
#[derive(Debug)]
pub(super) enum Word {
    /// The server does not know the kind, as the text says.
    Absent(String),
    /// A list begins.
    ListBegins,
    /// The list is complete.
    ListEnds,
    /// An object is there; within a list, or since it has changed.
    Is(Box<Item>, Novelty),
    /// An object has gone.
    IsGone(ObjectKey),
    /// It cannot be watched, for the reason that the text gives.
    Trouble(String),
    /// It is watched again.
    Well,
}

/// Whether an object has just been written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Novelty {
    /// It has just been written.
    New,
    /// It is in a list.
    Listed,
}

/// Why a watch is over.
enum End {
    /// The server knows no such kind.
    Absent,
    /// The server has ended it, as it does after some time.
    Closed,
    /// The version to go on from is too old.
    Expired,
    /// It failed.
    Failed(Failure),
    /// The server streams no lists.
    NoStreams,
    /// Nobody listens any more.
    Unheard,
}

/// How a watch failed.
struct Failure {
    message: String,
    /// Nobody answered at all.
    is_unreachable: bool,
    /// How long the server wants to be left alone.
    retry_after: Option<Duration>,
}

/// Watches one kind.
pub(super) struct Watcher {
    pub(super) client: Client,
    pub(super) kind: Kind,
    pub(super) resource: Resource,
    pub(super) words: mpsc::Sender<(Kind, Word)>,
    /// Told when the server answers after it could not be reached: the others need not wait any longer.
    pub(super) reached: Arc<Notify>,
    pub(super) metrics: Arc<Metrics>,
    /// Where in the versions of the kind the one is that the server has.
    pub(super) version: usize,
    /// Whether lists come as streams.
    pub(super) streams: bool,
}

/// A line of a watch.
#[derive(Deserialize)]
pub(super) struct Event {
    #[serde(rename = "type")]
    pub(super) what: String,
    pub(super) object: Value,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: PageMetadata,
    #[serde(default)]
    items: Vec<Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct PageMetadata {
    resource_version: String,
    #[serde(rename = "continue")]
    more: String,
}

impl Watcher {
    /// Watches until nobody listens any more.
    pub(super) async fn run(mut self) {
        let mut from = None;
        let mut backoff = Backoff::OF_TROUBLE;
        let mut absence = None;
        loop {
            let began = Instant::now();
            let end = match self.open(&mut from).await {
                Err(end) => end,
                Ok(lines) => {
                    absence = None;
                    let Err(end) = self.follow(lines, &mut from).await;
                    end
                }
            };
            let was_steady = began.elapsed() >= STEADY;
            if was_steady {
                backoff.reset();
            }
            match end {
                End::Unheard => return,
                End::NoStreams => self.streams = false,
                End::Closed => {
                    self.metrics.watch_ended(self.kind.as_label(), WatchEnd::Closed);
                    if !was_steady {
                        sleep(backoff.next()).await;
                    }
                }
                End::Expired => {
                    self.metrics.watch_ended(self.kind.as_label(), WatchEnd::Expired);
                    from = None;
                    sleep(backoff.next()).await;
                }
                End::Absent => {
                    from = None;
                    self.version = (self.version + 1) % self.resource.versions.len();
                    if self.version > 0 {
                        continue;
                    }
                    let message = self.explain_absence().await;
                    if self.say(Word::Absent(message)).await.is_err() {
                        return;
                    }
                    let absence = absence.get_or_insert_with(|| Absence::of(&self.client, &self.resource));
                    absence.wait().await;
                }
                End::Failed(failure) => {
                    self.metrics.watch_ended(self.kind.as_label(), WatchEnd::Failed);
                    if self.say(Word::Trouble(failure.message)).await.is_err() {
                        return;
                    }
                    let pause = backoff.next().max(failure.retry_after.unwrap_or_default());
                    tokio::select! {
                        () = sleep(pause) => {}
                        () = self.reached.notified(), if failure.is_unreachable => {}
                    }
                }
            }
        }
    }

    /// Opens one watch, from the version `from`, or from a list.
    async fn open(&self, from: &mut Option<String>) -> Result<Lines, End> {
        let lines = match from {
            Some(version) => self.open_watch(&self.watch_params(), version).await?,
            None if self.streams => {
                let lines = self.open_watch(&self.watch_params().initial_events(), "").await?;
                self.say(Word::ListBegins).await?;
                lines
            }
            None => {
                let version = self.list().await?;
                let lines = self.open_watch(&self.watch_params(), &version).await;
                *from = Some(version);
                lines?
            }
        };
        self.say(Word::Well).await?;
        Ok(lines)
    }

    fn watch_params(&self) -> WatchParams {
        let seconds = spread(LIFE).as_secs();
        WatchParams::default().timeout(u32::try_from(seconds).unwrap_or(u32::MAX))
    }

    async fn open_watch(&self, params: &WatchParams, version: &str) -> Result<Lines, End> {
        let request = Request::new(self.path()).watch(params, version);
        Ok(Lines::new(self.send(request, params.send_initial_events).await?))
    }

    /// Passes on what a watch says. Without a version to go on from, it begins with the list.
    async fn follow(&self, mut lines: Lines, from: &mut Option<String>) -> Result<Infallible, End> {
        loop {
            let line = timeout(SILENCE, lines.next())
                .await
                .map_err(|_| failed("the API server has said nothing for too long"))?
                .map_err(|error| failed(with_causes(&error)))?
                .ok_or(End::Closed)?;
            self.metrics.cluster_heard(self.kind.as_label(), line.len() + 1);
            let event: Event = serde_json::from_slice(&line).map_err(|error| failed(with_causes(&error)))?;
            match event.what.as_str() {
                "ADDED" | "MODIFIED" => {
                    let version = version_of(&event.object);
                    let novelty = if from.is_some() { Novelty::New } else { Novelty::Listed };
                    self.tell(event.object, novelty).await?;
                    go_on_from(from, version);
                }
                "DELETED" => {
                    let version = version_of(&event.object);
                    if let Some(key) = read_key(&event.object) {
                        self.say(Word::IsGone(key)).await?;
                    }
                    go_on_from(from, version);
                }
                "BOOKMARK" => {
                    let version = version_of(&event.object);
                    let annotations = event.object.pointer("/metadata/annotations");
                    let ends = annotations.and_then(|annotations| annotations.get(LIST_END));
                    if from.is_none() && ends.and_then(Value::as_str) == Some("true") {
                        *from = version;
                        self.say(Word::ListEnds).await?;
                    } else {
                        go_on_from(from, version);
                    }
                }
                "ERROR" => return Err(error_event(event.object)),
                // A server may say more in years to come.
                other => tracing::debug!(event = other, "an event of a watch is not known"),
            }
        }
    }

    /// Reads the list page by page, and gives the version to watch from.
    async fn list(&self) -> Result<String, End> {
        let mut params = ListParams::default().limit(PAGE);
        let mut page = self.read_page(&params).await?;
        self.say(Word::ListBegins).await?;
        loop {
            for object in page.items {
                self.tell(object, Novelty::Listed).await?;
            }
            if page.metadata.more.is_empty() {
                self.say(Word::ListEnds).await?;
                return Ok(page.metadata.resource_version);
            }
            params = ListParams::default().limit(PAGE).continue_token(&page.metadata.more);
            page = self.read_page(&params).await?;
        }
    }

    async fn read_page(&self, params: &ListParams) -> Result<Page, End> {
        let body = self.send(Request::new(self.path()).list(params), false).await?;
        let read = timeout(SILENCE, body.collect());
        let read = read.await.map_err(|_| failed("the API server's list does not end"))?;
        let bytes = read.map_err(|error| failed(with_causes(&error)))?.to_bytes();
        self.metrics.cluster_heard(self.kind.as_label(), bytes.len());
        serde_json::from_slice(&bytes).map_err(|error| failed(with_causes(&error)))
    }

    fn path(&self) -> String {
        self.resource.path(self.resource.versions[self.version])
    }

    /// Sends a request and waits for the head of a good answer.
    async fn send(
        &self,
        request: Result<http::Request<Vec<u8>>, kube::core::request::Error>,
        is_streamed_list: bool,
    ) -> Result<Body, End> {
        let request = request.map_err(|error| failed(with_causes(&error)))?;
        let answer = timeout(ANSWER, self.client.send(request.map(Body::from)));
        let unreachable =
            |message: String| End::Failed(Failure { message, is_unreachable: true, retry_after: None });
        let answer = match answer.await {
            Err(_) => return Err(unreachable("the API server does not answer".to_owned())),
            Ok(Err(error)) => return Err(unreachable(with_causes(&error))),
            Ok(Ok(answer)) => answer,
        };
        self.reached.notify_waiters();
        let (head, body) = answer.into_parts();
        match head.status {
            status if status.is_success() => Ok(body),
            StatusCode::NOT_FOUND => Err(End::Absent),
            // That right is somebody's choice, and nobody is to wait for it.
            StatusCode::FORBIDDEN if self.kind == Kind::Secret => Err(End::Absent),
            StatusCode::GONE => Err(End::Expired),
            // A server without the feature says that the field is forbidden.
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY if is_streamed_list => {
                Err(End::NoStreams)
            }
            status => {
                let wanted = head.headers.get(http::header::RETRY_AFTER);
                let seconds = wanted.and_then(|value| value.to_str().ok()?.parse().ok());
                Err(End::Failed(Failure {
                    message: format!("the API server answers {}", read_error(status, body).await),
                    is_unreachable: false,
                    retry_after: seconds.map(|seconds: u64| Duration::from_secs(seconds.min(60))),
                }))
            }
        }
    }

    async fn tell(&self, object: Value, novelty: Novelty) -> Result<(), End> {
        match read_item(self.kind, object) {
            Some(item) => self.say(Word::Is(Box::new(item), novelty)).await,
            None => Ok(()),
        }
    }

    async fn say(&self, word: Word) -> Result<(), End> {
        self.words.send((self.kind, word)).await.map_err(|_| End::Unheard)
    }

    /// What is missing, in plain words.
    async fn explain_absence(&self) -> String {
        let Resource { group, versions, .. } = self.resource;
        let (kind, versions) = (self.kind.as_label(), versions.join(" or "));
        if self.kind == Kind::Secret {
            return "Secrets may not be read here, and so no certificate of a Gateway is there: see \
                    install/gateway-certificates.yaml among the manifests"
                .to_owned();
        }
        if group != GATEWAY_API {
            return format!("the API server has no {kind} of version {versions}");
        }
        let group = http::Request::get(format!("/apis/{GATEWAY_API}")).body(Vec::new());
        match self.send(group.map_err(kube::core::request::Error::BuildRequest), false).await {
            Err(End::Absent) => format!(
                "Gateway API is not installed in this cluster: there is no {kind} to read until its CRDs are there"
            ),
            _ => format!(
                "the Gateway API of this cluster is too old or not complete: it has no {kind} of version {versions}, \
                 as Gateway API v1.6 has, and none is read until it does"
            ),
        }
    }
}

fn failed(message: impl ToString) -> End {
    End::Failed(Failure { message: message.to_string(), is_unreachable: false, retry_after: None })
}

/// An error within a watch: most often that the version it began from is too old.
fn error_event(object: Value) -> End {
    match serde_json::from_value::<Status>(object) {
        Ok(status) if status.code == StatusCode::GONE.as_u16() => End::Expired,
        Ok(status) => failed(format!("the API server ends the watch: {}", status.message)),
        Err(error) => failed(with_causes(&error)),
    }
}

async fn read_error(status: StatusCode, body: Body) -> String {
    let read = timeout(ANSWER, Limited::new(body, LONGEST_ERROR).collect()).await;
    let bytes = read.ok().and_then(Result::ok).map_or_else(Bytes::new, |read| read.to_bytes());
    match serde_json::from_slice::<Status>(&bytes) {
        Ok(said) if !said.message.is_empty() => format!("{}: {}", status.as_u16(), said.message),
        _ => status.to_string(),
    }
}

pub(super) fn version_of(object: &Value) -> Option<String> {
    let version = object.pointer("/metadata/resourceVersion")?.as_str()?;
    Some(version.to_owned())
}

/// Within a list there is nothing to go on from before its end.
fn go_on_from(from: &mut Option<String>, version: Option<String>) {
    if from.is_some() && version.is_some() {
        *from = version;
    }
}
