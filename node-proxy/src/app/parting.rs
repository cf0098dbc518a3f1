//! How a proxy that is told to stop parts with its node's pods: as they are, for the next proxy; or for good, when the mesh
//! is taken off the cluster.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use gammarus_cni::state;
use tokio::time::{sleep, timeout};

use crate::pod::api_server::Installation;
use crate::pod::registry::PodRegistry;

/// How long the plugin's installer may take to take the plugin out of the runtime's configuration.
const INSTALLER: Duration = Duration::from_secs(5);
/// How long pods may take to be released: with all that comes before it less than the 30 s that a pod has to end.
const RELEASE: Duration = Duration::from_secs(20);
/// Between two looks at whether the installer is done.
const LOOK: Duration = Duration::from_millis(50);

/// Releases all pods of the node, if the mesh is being uninstalled: first the plugin, so that nobody joins any more.
pub(super) async fn part(registry: &Arc<PodRegistry>, installation: &Installation, state_dir: &Path) {
    if !installation.is_going().await {
        return;
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
    registry.release_all(RELEASE).await;
}
