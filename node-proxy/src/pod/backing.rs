//! Whom enrolment asks and tells: files beside the objects, or the API server that keeps them.

use std::path::PathBuf;
use std::sync::Arc;

use kube::Client;

use super::api_server::{ApiServer, EventWriter, Installation, PodMarks};
use super::facts::{MarkWriter, PodFacts};
use super::known::{DirectoryMarks, KnownPods};
use super::news::{Herald, Quiet};
use crate::cluster::writer::ClusterView;
use crate::telemetry::Metrics;

/// The name of the DaemonSet whose pods are the nodes' proxies.
const DAEMON_SET: &str = "gammarus-node";

/// What is behind enrolment.
#[derive(Clone)]
pub struct Backing {
    /// What the cluster says.
    pub facts: Arc<dyn PodFacts>,
    /// Where marks are written.
    pub marks: Arc<dyn MarkWriter>,
    /// Who tells people of their pods.
    pub herald: Arc<dyn Herald>,
    /// What the proxy is a part of, where that can be taken off the cluster.
    pub installation: Option<Installation>,
}

impl Backing {
    /// A directory of objects.
    #[must_use]
    pub fn of_directory(known: KnownPods, root: PathBuf) -> Self {
        let marks = Arc::new(DirectoryMarks::new(root));
        Self { facts: Arc::new(known), marks, herald: Arc::new(Quiet), installation: None }
    }

    /// An API server, whose watched objects `view` shows to the proxy of `node`. Needs a tokio runtime.
    #[must_use]
    pub fn of_server(
        client: Client,
        known: KnownPods,
        (node, view, metrics): (&str, &ClusterView, &Arc<Metrics>),
    ) -> Self {
        let server = ApiServer::new(client);
        Self {
            facts: Arc::new(known.asking(server.clone())),
            marks: Arc::new(PodMarks::new(server.clone())),
            herald: Arc::new(EventWriter::start(&server, node, view.clone(), Arc::clone(metrics))),
            installation: Some(Installation::follow(&server, DAEMON_SET)),
        }
    }
}
