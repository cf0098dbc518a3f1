//! The way to the API server: one client for all that the CA asks it, a deadline for each call, and errors in words. A
//! node's proxy and the controller have their client made here, too.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use kube::api::Api;
use kube::config::{InClusterError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource};
use tokio::runtime::Handle;

/// How long one call may take: a node waits ten seconds for its leaf, which takes up to three.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Who writes, in the managed fields of what is written.
pub(crate) const FIELD_MANAGER: &str = "gammarus-ca";

/// Why there is no client of the API server.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A client could not be made.
    #[error("no connection to the API server can be set up")]
    Client {
        /// Why.
        source: Box<kube::Error>,
    },
    /// A kubeconfig cannot be used.
    #[error("the kubeconfig {path} cannot be used")]
    Kubeconfig {
        /// Its file.
        path: String,
        /// Why.
        source: Box<KubeconfigError>,
    },
    /// Nothing says how the API server is reached.
    #[error(
        "neither --objects nor --kubeconfig is given, KUBECONFIG is not set, and this is no pod of a cluster"
    )]
    NoPod {
        /// What a pod would have.
        source: Box<InClusterError>,
    },
}

/// A client of the API server that `kubeconfig` names; without one, of that which `KUBECONFIG` names in the
/// environment; without either, of the cluster whose pod this is. A connection may take `patience` to be made. Nothing is
/// sent yet. Needs a tokio runtime.
///
/// Requests are not repeated by it: whoever asks decides about that, and meanwhile says why it waits.
///
/// # Errors
/// If a kubeconfig cannot be used, or none is given and this is no pod.
pub async fn connect(kubeconfig: Option<&Path>, patience: Duration) -> Result<Client, ConnectError> {
    let given = match kubeconfig {
        Some(path) => Some((path.display().to_string(), Kubeconfig::read_from(path))),
        None => std::env::var("KUBECONFIG").ok().filter(|paths| !paths.is_empty()).and_then(|paths| {
            let read = Kubeconfig::from_env().transpose()?;
            Some((format!("{paths} (KUBECONFIG)"), read))
        }),
    };
    let mut config = match given {
        Some((path, read)) => {
            let wrong = |source| ConnectError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let options = KubeConfigOptions::default();
            let config = Box::pin(Config::from_custom_kubeconfig(read.map_err(wrong)?, &options));
            config.await.map_err(wrong)?
        }
        None => Config::incluster().map_err(|source| ConnectError::NoPod { source: Box::new(source) })?,
    };
    config.connect_timeout = Some(patience);
    config.default_retry = false;
    Client::try_from(config).map_err(|source| ConnectError::Client { source: Box::new(source) })
}

/// Why the API server did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no answer, or one that says to come again.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// What was to be changed is no longer as it was read.
    #[error("somebody else has changed it meanwhile")]
    Conflict,
    /// It says no.
    #[error("the API server refuses: {0}")]
    Refused(String),
}

impl From<kube::Error> for ClusterError {
    fn from(error: kube::Error) -> Self {
        match error {
            kube::Error::Api(status) => match status.code {
                409 => Self::Conflict,
                429 | 500.. => Self::Away(status.message),
                _ => Self::Refused(status.message),
            },
            error => Self::Away(first_cause(&error)),
        }
    }
}

/// What lies below all: the rest repeats it.
fn first_cause(error: &dyn Error) -> String {
    error.source().map_or_else(|| error.to_string(), first_cause)
}

/// A client of the API server, and the namespace that this process is in.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
    runtime: Handle,
}

impl fmt::Debug for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cluster").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Cluster {
    /// By a kubeconfig, or as `KUBECONFIG` or the pod's own service account say. Nothing is asked yet.
    ///
    /// # Errors
    /// As [`connect`].
    pub async fn connect(kubeconfig: Option<&Path>, namespace: Option<String>) -> Result<Self, ConnectError> {
        let client = connect(kubeconfig, CALL_TIMEOUT).await?;
        let namespace = namespace.unwrap_or_else(|| client.default_namespace().to_owned());
        Ok(Self { client, namespace, runtime: Handle::current() })
    }

    /// The namespace of the CA itself.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The client.
    pub(crate) fn client(&self) -> Client {
        self.client.clone()
    }

    /// The objects of one kind in the own namespace.
    pub(crate) fn own<K>(&self) -> Api<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType: Default>,
    {
        Api::namespaced(self.client(), &self.namespace)
    }

    /// One call, within its time.
    pub(crate) async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        match tokio::time::timeout(CALL_TIMEOUT, Box::pin(call)).await {
            Ok(outcome) => Ok(outcome?),
            Err(_) => Err(ClusterError::Away(format!("no answer within {} seconds", CALL_TIMEOUT.as_secs()))),
        }
    }

    /// The same on a thread that may block.
    pub(crate) fn wait<T>(
        &self,
        call: impl Future<Output = Result<T, kube::Error>>,
    ) -> Result<T, ClusterError> {
        self.runtime.block_on(self.ask(call))
    }
}
