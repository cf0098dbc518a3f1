//! The one place where a client of the API server is made.

use std::path::Path;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};

use super::super::source::ClusterError;

/// How long a connection to the API server may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the API server that `kubeconfig` names; without one, of that which `KUBECONFIG` names in the
/// environment; without either, of the cluster whose pod this is. Nothing is sent yet. Needs a tokio runtime.
///
/// Requests are not repeated by it: whoever asks decides about that.
///
/// # Errors
/// If a kubeconfig cannot be used, or none is given and this is no pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClusterError> {
    let given = match kubeconfig {
        Some(path) => Some((path.display().to_string(), Kubeconfig::read_from(path))),
        None => std::env::var("KUBECONFIG").ok().filter(|paths| !paths.is_empty()).and_then(|paths| {
            let read = Kubeconfig::from_env().transpose()?;
            Some((format!("{paths} (KUBECONFIG)"), read))
        }),
    };
    let mut config = match given {
        Some((path, read)) => {
            let wrong = |source| ClusterError::Kubeconfig { path: path.clone(), source: Box::new(source) };
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read.map_err(wrong)?, &options).await.map_err(wrong)?
        }
        None => Config::incluster().map_err(|source| ClusterError::NoPod { source: Box::new(source) })?,
    };
    config.connect_timeout = Some(CONNECT);
    config.default_retry = false;
    Client::try_from(config).map_err(|source| ClusterError::Client { source: Box::new(source) })
}
