//! The proxy's own log: text or JSON on standard error, with a filter that can change while it runs.
//!
//! Access lines do not pass through here: they are too many for a general subscriber.

use std::io;

pub use gammarus_ca::log::LogFormat;
use gammarus_ca::log::QUIET;
use tracing::Subscriber;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use super::TelemetryError;

/// Changes the filter of the running log.
#[derive(Clone, Debug)]
pub struct LogControl {
    filter: reload::Handle<EnvFilter, Registry>,
}

impl LogControl {
    /// The filter in force, as it was asked for.
    #[must_use]
    pub fn filter(&self) -> Option<String> {
        let all = self.filter.with_current(ToString::to_string).ok()?;
        let asked: Vec<&str> = all.split(',').filter(|directive| *directive != QUIET).collect();
        Some(asked.join(","))
    }

    /// Puts another filter in force at once.
    ///
    /// # Errors
    /// If `filter` is not one, or the log is gone; the old filter stays.
    pub fn set_filter(&self, filter: &str) -> Result<(), TelemetryError> {
        self.filter.reload(parse_filter(filter)?).map_err(TelemetryError::LogGone)
    }
}

/// Reads a filter: a list of `[target=]level`, as `info,node_proxy::cluster=debug`. The API server's client
/// (`kube_client`) says nothing unless it is named.
///
/// # Errors
/// If it is not one.
pub fn parse_filter(text: &str) -> Result<EnvFilter, TelemetryError> {
    gammarus_ca::log::parse_filter(text)
        .map_err(|source| TelemetryError::LogFilter { text: text.to_owned(), source })
}

/// Tells what is judged otherwise of routes now, a line each, in the target `status`.
pub fn tell_status(lines: &[String]) {
    for line in lines {
        tracing::info!(target: "status", "{line}");
    }
}

/// Sets up the log of this process on standard error.
///
/// # Errors
/// If the filter is not one, or a log is set up already.
pub fn start(format: LogFormat, filter: &str) -> Result<LogControl, TelemetryError> {
    let (subscriber, control) = build(format, filter, io::stderr)?;
    subscriber.try_init().map_err(TelemetryError::LogAlreadySet)?;
    Ok(control)
}

/// A log over any writer, not installed: for tests and for tools that have their own.
///
/// # Errors
/// If the filter is not one.
pub fn build<W>(
    format: LogFormat,
    filter: &str,
    writer: W,
) -> Result<(impl Subscriber + Send + Sync + 'static, LogControl), TelemetryError>
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let (layer, handle) = reload::Layer::new(parse_filter(filter)?);
    let lines = fmt::layer().with_writer(writer).with_ansi(false);
    let lines = match format {
        LogFormat::Json => lines.json().flatten_event(true).boxed(),
        LogFormat::Text => lines.boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer).with(lines);
    Ok((subscriber, LogControl { filter: handle }))
}
