//! Where the cluster's objects are: at the API server, or in a directory of YAML in its place.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use kube::Client;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::admin::Ready;
use crate::cluster::directory::Directory;
use crate::cluster::kubernetes::{KubernetesSource, MESH_KINDS, Scope, connect};
use crate::cluster::source::{ClusterError, ObjectSource, Update};
use crate::cluster::writer::ClusterView;
use crate::config::ObjectsConfig;
use crate::pod::backing::Backing;
use crate::pod::known::KnownPods;
use crate::telemetry::Metrics;

/// Who has the objects.
pub(super) enum Cluster {
    ApiServer(Client),
    Directory(PathBuf),
}

/// The objects, followed.
pub(super) enum Source {
    ApiServer(Box<KubernetesSource>),
    Directory(Box<Directory>),
}

impl Cluster {
    /// Nothing is asked for yet.
    pub(super) async fn of(objects: &ObjectsConfig) -> Result<Self, ClusterError> {
        Ok(match objects {
            ObjectsConfig::ApiServer { kubeconfig } => Self::ApiServer(connect(kubeconfig.as_deref()).await?),
            ObjectsConfig::Directory(root) => Self::Directory(root.clone()),
        })
    }

    /// Begins to follow the objects; what an API server says last is kept in `state_dir`.
    pub(super) fn follow(
        &self,
        state_dir: &Path,
        (ready, metrics): (&Ready, &Arc<Metrics>),
    ) -> Result<Source, ClusterError> {
        let client = match self {
            Self::ApiServer(client) => client,
            Self::Directory(root) => return Ok(Source::Directory(Box::new(Directory::open(root)?))),
        };
        let ready = ready.clone();
        let tell_age = Box::new(move |old: Option<SystemTime>| ready.set_remark(old.map(remark_on_age)));
        let scope = Scope { kinds: &MESH_KINDS, state_dir: Some(state_dir), tell_age };
        Ok(Source::ApiServer(Box::new(KubernetesSource::start(client, scope, metrics))))
    }

    /// What enrolment asks and tells.
    pub(super) fn back(self, known: KnownPods, about: (&str, &ClusterView, &Arc<Metrics>)) -> Backing {
        match self {
            Self::ApiServer(client) => Backing::of_server(client, known, about),
            Self::Directory(root) => Backing::of_directory(known, root),
        }
    }
}

fn remark_on_age(old: SystemTime) -> String {
    let time = OffsetDateTime::from(old).format(&Rfc3339).unwrap_or_default();
    format!("with the objects of {time}: the API server has not told everything since this proxy started")
}

impl ObjectSource for Source {
    async fn next(&mut self) -> Result<Update, ClusterError> {
        match self {
            Self::ApiServer(source) => source.next().await,
            Self::Directory(source) => source.next().await,
        }
    }
}
