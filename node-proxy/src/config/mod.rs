//! What the user asks for: flags and environment as typed ([`RawConfig`]), and what they mean ([`Config`]).
//!
//! Every mistake is reported at once, each with its flag and its value. Nothing is opened or contacted here, except
//! that directories which must be there are looked for.

mod controller;
mod ingress;
mod mesh;
mod serving;
mod values;

#[cfg(test)]
mod tests;

use std::fmt;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::demo::app::AppArgs;
use crate::demo::{Afterwards, Programme};
use crate::telemetry::LogFormat;
use controller::{RawController, read_controller};
use ingress::{RawIngress, read_ingress};
use mesh::{RawMesh, read_mesh};
use values::{directory, log_filter, log_format, path};

pub use controller::{ControllerConfig, FeedConfig, StartupTaint};
pub use ingress::{IngressConfig, IngressObjects};
pub use mesh::{EnrolmentConfig, HandOverConfig, MeshConfig, ObjectsConfig};
pub use serving::{CaConfig, DataPathConfig, HostPort, ServingConfig, TelemetryConfig};

/// The command line and environment, as typed.
#[derive(Debug, Parser)]
#[command(name = "node-proxy", about = "The node proxy of the Gammarus mesh", disable_help_subcommand = true)]
pub struct RawConfig {
    #[command(subcommand)]
    mode: RawMode,
}

#[derive(Debug, Subcommand)]
enum RawMode {
    /// The proxy of one node.
    Mesh(Box<RawMesh>),
    /// The proxy of one Gateway.
    Ingress(Box<RawIngress>),
    /// What writes the status of routes.
    Controller(Box<RawController>),
    /// Says what is wrong with the objects of a directory, and exits.
    Check(RawCheck),
    /// What keeps a node's sockets and keys while its proxy is exchanged.
    Holder(RawHolder),
    /// Two nodes on this machine, and what the mesh does between them.
    Demo(RawDemo),
    /// The application that answers in the demo's pods
    #[command(hide = true)]
    DemoApp(AppArgs),
}

#[derive(Debug, Args)]
struct RawCheck {
    /// The directory of YAML
    #[arg(value_name = "DIR")]
    directory: String,
}

#[derive(Debug, Args)]
struct RawHolder {
    /// The socket on which the proxies of this node come
    #[arg(long, env = "GAMMARUS_SOCKET", value_name = "PATH", default_value = "/run/gammarus/holder.sock")]
    socket: String,
    /// How the log looks
    #[arg(long, env = "GAMMARUS_LOG_FORMAT", value_name = "text|json", default_value = "text")]
    log_format: String,
    /// What is logged: a list of [target=]level
    #[arg(long, env = "GAMMARUS_LOG_LEVEL", value_name = "FILTER", default_value = "info")]
    log_level: String,
}

#[derive(Debug, Args)]
struct RawDemo {
    /// Leave everything running at the end, and say what to type
    #[arg(long)]
    keep: bool,
    /// Apply the manifests of this directory instead of the story's own
    #[arg(long, env = "GAMMARUS_MANIFESTS", value_name = "DIR")]
    manifests: Option<String>,
}

/// What to run, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Config {
    /// A look at the objects of a directory.
    Check(PathBuf),
    /// The controller.
    Controller(Box<ControllerConfig>),
    /// The demo.
    Demo(Programme),
    /// The application that answers in the demo's pods.
    DemoApp(AppArgs),
    /// The holder of sockets and keys.
    Holder(HolderConfig),
    /// The proxy of one Gateway.
    Ingress(Box<IngressConfig>),
    /// The proxy of one node.
    Mesh(Box<MeshConfig>),
}

/// The `holder` mode.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HolderConfig {
    /// Where proxies come.
    pub socket: PathBuf,
    /// How lines look.
    pub format: LogFormat,
    /// What is logged; a valid filter.
    pub filter: String,
}

/// One flag that is missing or wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FlagError {
    /// It is needed and was not given.
    #[error("{flag} is required (or {variable} in the environment)", variable = variable(flag))]
    Missing {
        /// The flag.
        flag: &'static str,
    },
    /// Its value will not do.
    #[error("{flag} {value:?}: {problem}")]
    Wrong {
        /// The flag.
        flag: &'static str,
        /// What was given.
        value: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}

fn variable(flag: &str) -> String {
    format!("GAMMARUS_{}", flag.trim_start_matches('-').replace('-', "_").to_uppercase())
}

/// Everything that is wrong with the flags, in their order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct ConfigErrors(pub Vec<FlagError>);

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the configuration cannot be used:")?;
        for error in &self.0 {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

/// Reads values, and remembers what was wrong with them.
#[derive(Default)]
struct Reading {
    errors: Vec<FlagError>,
}

impl Reading {
    fn read<T>(
        &mut self,
        flag: &'static str,
        value: &str,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let result = if value.is_empty() { Err("is empty") } else { parse(value) };
        match result {
            Ok(value) => Some(value),
            Err(problem) => {
                self.errors.push(FlagError::Wrong { flag, value: value.to_owned(), problem });
                None
            }
        }
    }

    fn required<T>(
        &mut self,
        flag: &'static str,
        value: Option<&String>,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Option<T> {
        let Some(value) = value else {
            self.errors.push(FlagError::Missing { flag });
            return None;
        };
        self.read(flag, value, parse)
    }

    /// A flag that need not be there: `Some(None)` when it is not.
    fn given<T>(
        &mut self,
        flag: &'static str,
        value: Option<&String>,
        parse: impl FnOnce(&str) -> Result<T, &'static str>,
    ) -> Option<Option<T>> {
        match value {
            Some(value) => self.read(flag, value, parse).map(Some),
            None => Some(None),
        }
    }

    /// What was read, unless something was wrong; every error came with a `None`, and the other way round.
    fn finish<T>(self, value: Option<T>) -> Result<T, ConfigErrors> {
        match value {
            Some(value) if self.errors.is_empty() => Ok(value),
            _ => Err(ConfigErrors(self.errors)),
        }
    }
}

impl TryFrom<RawConfig> for Config {
    type Error = ConfigErrors;

    fn try_from(raw: RawConfig) -> Result<Self, ConfigErrors> {
        match raw.mode {
            RawMode::Mesh(raw) => read_mesh(&raw).map(|config| Self::Mesh(Box::new(config))),
            RawMode::Ingress(raw) => read_ingress(&raw).map(|config| Self::Ingress(Box::new(config))),
            RawMode::Controller(raw) => {
                read_controller(&raw).map(|config| Self::Controller(Box::new(config)))
            }
            RawMode::Check(raw) => {
                let mut reading = Reading::default();
                let path = reading.read("DIR", &raw.directory, directory);
                reading.finish(path).map(Self::Check)
            }
            RawMode::Holder(raw) => read_holder(&raw).map(Self::Holder),
            RawMode::Demo(raw) => read_demo(&raw).map(Self::Demo),
            RawMode::DemoApp(args) => Ok(Self::DemoApp(args)),
        }
    }
}

fn read_demo(raw: &RawDemo) -> Result<Programme, ConfigErrors> {
    let mut reading = Reading::default();
    let manifests = raw.manifests.as_ref().map(|value| reading.read("--manifests", value, directory));
    let afterwards = if raw.keep { Afterwards::Keep } else { Afterwards::Remove };
    reading.finish(Some(Programme { afterwards, manifests: manifests.flatten() }))
}

fn read_holder(raw: &RawHolder) -> Result<HolderConfig, ConfigErrors> {
    let mut reading = Reading::default();
    let socket = reading.read("--socket", &raw.socket, path);
    let format = reading.read("--log-format", &raw.log_format, log_format);
    let filter = reading.read("--log-level", &raw.log_level, log_filter);
    let config = (|| Some(HolderConfig { socket: socket?, format: format?, filter: filter? }))();
    reading.finish(config)
}
