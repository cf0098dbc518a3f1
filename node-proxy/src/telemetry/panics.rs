//! Panics: told in the log, with their place, and counted.
//!
//! A task of the data path that panics ends alone ([`crate::turns`]), so nothing else may tell of it.

use std::panic;
use std::sync::Arc;

use super::Metrics;

/// From now on, tells and counts every panic of this process. What told them before still does.
pub fn count(metrics: &Arc<Metrics>) {
    let metrics = Arc::clone(metrics);
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |panic| {
        metrics.panicked();
        let place = panic.location().map(ToString::to_string);
        let text = panic.payload_as_str();
        tracing::error!(place, text, "a task has panicked: it has ended, and nothing else");
        before(panic);
    }));
}
