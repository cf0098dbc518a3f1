//! Wiring only: one function per mode. Nothing is decided here.

use crate::config::{DemoConfig, MeshConfig};

/// Runs the proxy of one node until it is told to stop.
///
/// # Errors
/// If anything that it cannot do without is missing.
pub fn run_mesh(config: MeshConfig) -> anyhow::Result<()> {
    anyhow::bail!("the mesh mode is not wired for node {}", config.node)
}

/// Plays the demo.
///
/// # Errors
/// If a step of the story does not go as told.
pub fn run_demo(config: DemoConfig) -> anyhow::Result<()> {
    anyhow::bail!("the demo is not wired ({:?})", config.afterwards)
}
