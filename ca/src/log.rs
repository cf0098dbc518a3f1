//! The logs of the mesh's processes, as far as they are one: how lines look, and what passes. Text or JSON on standard error,
//! never in colours.

use clap::ValueEnum;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::{EnvFilter, fmt};

/// Left out unless it is asked for: a line of the API server's client for every try that fails. Whoever asks the server
/// says once what is wrong.
pub const QUIET: &str = "kube_client=off";

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// One JSON object a line.
    Json,
    /// `key=value` pairs for people.
    Text,
}

/// A filter as it is typed: a list of `[target=]level`, and not an empty one.
///
/// # Errors
/// If it is not one.
pub fn check_filter(text: &str) -> Result<String, &'static str> {
    match parse_filter(text) {
        Ok(_) if !text.is_empty() => Ok(text.to_owned()),
        _ => Err("is not a list of [target=]level"),
    }
}

/// Reads a filter, before which stands what is [left out](QUIET).
///
/// # Errors
/// If it is not a list of `[target=]level`.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(format!("{QUIET},{text}"))
}

/// Sets up the log of the CA's process. The filter has been checked; one that is none lets nothing but errors pass.
pub fn start(format: LogFormat, filter: &str) {
    let log = fmt().with_env_filter(parse_filter(filter).unwrap_or_default());
    let log = log.with_ansi(false).with_writer(std::io::stderr);
    match format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.init(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_lists_of_levels_by_target() {
        for good in ["info", "warn,gammarus_ca::keeper=debug", "info,kube_client=debug"] {
            assert_eq!(check_filter(good).as_deref(), Ok(good));
        }
        for bad in ["", "loud=louder"] {
            assert!(check_filter(bad).is_err(), "{bad}");
        }
        let filter = |text| parse_filter(text).unwrap().to_string();
        assert_eq!(filter("info"), "kube_client=off,info");
        assert_eq!(filter("info,kube_client=debug"), "kube_client=debug,info");
    }
}
