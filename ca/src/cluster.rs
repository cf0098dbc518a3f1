//! The way to the API server: one client for all that the CA asks it, a deadline for each call, and errors in words.

use std::error::Error;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::NamespaceResourceScope;
use kube::{Client, Config, Resource};
use tokio::runtime::Handle;

use crate::causes::with_causes;

/// How long one call may take: a node waits ten seconds for its leaf, which takes up to three.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Who writes, in the managed fields of what is written.
pub(crate) const FIELD_MANAGER: &str = "gammarus-ca";

/// Why the API server did not do what it was asked for.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClusterError {
    /// There is no answer, or one that says to come again.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// It is not said where it is, or the files that say so cannot be used.
    #[error("there is no way to the API server: {0}")]
    Configuration(String),
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
    /// [`ClusterError::Configuration`], with the file.
    pub async fn connect(kubeconfig: Option<&Path>, namespace: Option<String>) -> Result<Self, ClusterError> {
        let in_words = |error: &dyn Error| ClusterError::Configuration(with_causes(error));
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path).map_err(|error| in_words(&error))?;
                let options = KubeConfigOptions::default();
                let config = Box::pin(Config::from_custom_kubeconfig(file, &options)).await;
                config.map_err(|error| in_words(&error))?
            }
            None => Box::pin(Config::infer()).await.map_err(|error| in_words(&error))?,
        };
        config.connect_timeout = Some(CALL_TIMEOUT);
        // Whoever asks here asks again by itself, and meanwhile says why it waits.
        config.default_retry = false;
        let namespace = namespace.unwrap_or_else(|| config.default_namespace.clone());
        let client = Client::try_from(config).map_err(|error| in_words(&error))?;
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
