//! The one place where a proxy and the controller get their client of the API server.

use std::path::Path;
use std::time::Duration;

use gammarus_ca::cluster;
use kube::Client;

use super::super::source::ClusterError;

/// How long a connection to the API server may take to be made.
const CONNECT: Duration = Duration::from_secs(5);

/// A client of the API server, made as the CA's is ([`cluster::connect`]). Nothing is sent yet. Needs a tokio runtime.
///
/// # Errors
/// If a kubeconfig cannot be used, or none is given and this is no pod.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<Client, ClusterError> {
    Ok(cluster::connect(kubeconfig, CONNECT).await?)
}
