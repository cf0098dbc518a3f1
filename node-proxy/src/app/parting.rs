//! How a proxy that is told to stop parts with its node's pods: as they are, for the next proxy; or for good, when the mesh
//! is taken off the cluster.

use std::future::pending;
use std::path::Path;
use std::time::Duration;

use gammarus_cni::state;
use tokio::time::{sleep, timeout};

use crate::holder::succession::Succession;
use crate::pod::api_server::Installation;

/// How long the plugin's installer may take to take the plugin out of the runtime's configuration.
const INSTALLER: Duration = Duration::from_secs(5);
/// How long pods may take to be released: with all that comes before it less than the 30 s that a pod has to end.
const RELEASE: Duration = Duration::from_secs(20);
/// Between two looks at whether the installer is done.
const LOOK: Duration = Duration::from_millis(50);

/// Releases all pods of the node, if the mesh is being uninstalled: first the plugin, so that nobody joins any more.
/// Returns whether it is.
pub(super) async fn part(succession: &Succession, installation: &Installation, state_dir: &Path) -> bool {
    if !installation.is_going().await {
        return false;
    }
    tracing::info!("the mesh is being uninstalled");
    let taken_off = async {
        while !state::is_uninstalled(state_dir) {
            sleep(LOOK).await;
        }
    };
    match state::request_uninstall(state_dir) {
        Ok(()) if timeout(INSTALLER, taken_off).await.is_ok() => {}
        // A plugin that finds neither a proxy nor what it knew lets every pod pass.
        Ok(()) => tracing::warn!("nobody has taken the plugin out of the runtime's configuration"),
        Err(error) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "cannot ask for the plugin to be taken off"
            );
        }
    }
    succession.registry.release_all(RELEASE, || succession.drainer.begin()).await;
    true
}

/// Waits until a mesh that is being uninstalled has had the time to leave the node's pods: what a proxy that another one has
/// superseded still serves ends by then. Without an installation that could go, for ever.
pub(super) async fn time_to_part(installation: Option<&Installation>) {
    let Some(installation) = installation else { return pending().await };
    installation.goes().await;
    tracing::info!(
        "the mesh is being uninstalled: the other proxy releases the pods, and this one ends with them"
    );
    sleep(INSTALLER + RELEASE).await;
}
