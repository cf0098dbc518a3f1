//! The trust bundle of this node: one for all its identities, the newest that the CA has.
//!
//! It is asked for again and again, as often as the CA says, and at once when a peer's issuer is not known: a
//! rotation must not wait for the next renewal, which may be half a day off. Each time the node says which bundle
//! *all* its leaves are used with, for the CA signs with a new root when every node has it.

use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::client::BundleAnswer;
use gammarus_ca::{CaClient, ClientError};
use std::future::Future;
use std::pin::Pin;
use tokio::sync::{Notify, watch};

use super::store::{pause_after, random_fraction};
use crate::error::with_causes;

/// Between two questions, when there is no answer that says.
const USUAL_PAUSE: Duration = Duration::from_secs(300);
/// After a new bundle, until the CA is told that it is in use.
const REPORT_PAUSE: Duration = Duration::from_millis(500);
/// A peer whose issuer is not known is no reason to ask more often than this.
const DOUBT_PAUSE: Duration = Duration::from_secs(5);
/// The longest pause after failures.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The newest bundle, later.
pub type Ask<'a> = Pin<Box<dyn Future<Output = Result<BundleAnswer, ClientError>> + Send + 'a>>;

/// Where bundles come from.
pub trait BundleSource: std::fmt::Debug + Send + Sync {
    /// Asks for the newest bundle, and says that the one with the tag `held` is in use.
    fn ask<'a>(&'a self, held: Option<&'a str>) -> Ask<'a>;
}

impl BundleSource for CaClient {
    fn ask<'a>(&'a self, held: Option<&'a str>) -> Ask<'a> {
        Box::pin(self.trust_bundle(held))
    }
}

/// What this node trusts.
#[derive(Debug)]
pub(super) struct NodeTrust {
    source: Arc<dyn BundleSource>,
    current: watch::Sender<Option<Arc<TrustBundle>>>,
    doubt: Notify,
}

impl NodeTrust {
    /// Nothing yet.
    pub(super) fn new(source: Arc<dyn BundleSource>) -> Self {
        Self { source, current: watch::Sender::new(None), doubt: Notify::new() }
    }

    /// The bundle of now.
    pub(super) fn current(&self) -> Option<Arc<TrustBundle>> {
        self.current.borrow().clone()
    }

    /// The bundle of now, and those that follow.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Arc<TrustBundle>>> {
        self.current.subscribe()
    }

    /// A peer's issuer is not known: it may be one of a bundle that is newer than ours.
    pub(super) fn doubt(&self) {
        self.doubt.notify_one();
    }

    /// The bundle for a leaf that has come with `with`. Another than that of now may be newer or, when the answer has
    /// been on its way for long, older: the CA is asked.
    pub(super) async fn settle(&self, with: &Arc<TrustBundle>) -> Arc<TrustBundle> {
        match self.current() {
            Some(current) if current == *with => return current,
            None => self.set(Arc::clone(with)),
            Some(_) => {
                let newest = self.source.ask(None).await;
                self.set(
                    newest.ok().and_then(|answer| answer.bundle).map_or_else(|| Arc::clone(with), Arc::new),
                );
            }
        }
        self.current().unwrap_or_else(|| Arc::clone(with))
    }

    fn set(&self, bundle: Arc<TrustBundle>) {
        self.current.send_if_modified(|current| {
            let is_new = current.as_ref() != Some(&bundle);
            if is_new {
                tracing::info!(bundle = bundle.tag(), roots = bundle.roots().len(), "trust bundle changed");
                *current = Some(bundle);
            }
            is_new
        });
    }

    /// Follows the CA's bundle without end. `in_use` gives the bundle that all leaves are used with, if they agree.
    pub(super) async fn follow(&self, in_use: impl Fn() -> Option<Arc<TrustBundle>>) {
        let (mut pause, mut failures) = (REPORT_PAUSE, 0);
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.doubted() => {}
            }
            let held = in_use();
            match self.source.ask(held.as_ref().map(|bundle| bundle.tag())).await {
                Ok(BundleAnswer { bundle, ask_again }) => {
                    failures = 0;
                    pause = ask_again.unwrap_or(USUAL_PAUSE).mul_f64(0.75 + 0.5 * random_fraction());
                    if let Some(bundle) = bundle {
                        self.set(Arc::new(bundle));
                        pause = pause.min(REPORT_PAUSE);
                    }
                }
                Err(error) => {
                    pause = pause_after(failures, LONGEST_PAUSE).max(error.retry_after().unwrap_or_default());
                    if failures == 0 {
                        let error = with_causes(&error);
                        tracing::warn!(error, "the trust bundle cannot be asked for; the one of now stays");
                    }
                    failures = (failures + 1).min(8);
                }
            }
        }
    }

    async fn doubted(&self) {
        tokio::time::sleep(DOUBT_PAUSE).await;
        self.doubt.notified().await;
    }
}
