//! How endpoints fare: what requests and connections tell of them, for those that come after.
//!
//! A failure is a dial that was in vain, a connection that broke before its answer was whole, a rule's timeout for one
//! try, or an answer that says that nobody was there to answer (502, 503, 504). Anything else is an answer.

use http::StatusCode;

use super::Session;
use crate::balance::InFlight;
use crate::snapshot::service::ServicePort;
use crate::telemetry::Metrics;

/// Whether an answer of this status is none of the application's own.
const fn is_failure(status: StatusCode) -> bool {
    matches!(status, StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT)
}

impl Session {
    /// Notes the head of an answer of one of the port's endpoints. Unless it is the whole, its end is to be noted, too.
    pub(super) fn note_head(
        &self,
        port: &ServicePort,
        at: &InFlight,
        (status, is_whole): (StatusCode, bool),
    ) {
        // One that is tried again is let in by a head: the end of a stream may be days away.
        if is_failure(status) || is_whole || at.is_trial() {
            self.note_status(port, at, status);
        }
    }

    /// Notes the end of an answer whose head was no failure.
    pub(super) fn note_end(&self, port: &ServicePort, at: &InFlight, status: Option<StatusCode>) {
        if !status.is_some_and(is_failure) {
            self.note_answer(port, at);
        }
    }

    /// Notes a whole answer of one of the port's endpoints.
    pub(super) fn note_status(&self, port: &ServicePort, at: &InFlight, status: StatusCode) {
        if is_failure(status) {
            self.note_failure(port, at);
        } else {
            self.note_answer(port, at);
        }
    }

    /// Notes that one of the port's endpoints does what it is there for.
    pub(super) fn note_answer(&self, port: &ServicePort, at: &InFlight) {
        note_answer(port, at);
    }

    /// Notes that one of the port's endpoints has failed.
    pub(super) fn note_failure(&self, port: &ServicePort, at: &InFlight) {
        note_failure(self.worker.mesh.telemetry.metrics(), port, at);
    }
}

/// Notes that one of a port's endpoints does what it is there for.
pub(crate) fn note_answer(port: &ServicePort, at: &InFlight) {
    if at.note_answer() {
        tracing::info!(service = %port.key.service, "an endpoint that was ejected has answered: it is back");
    }
}

/// Notes that one of a port's endpoints has failed.
pub(crate) fn note_failure(metrics: &Metrics, port: &ServicePort, at: &InFlight) {
    let Some(ejection) = at.note_failure(&port.endpoints) else { return };
    metrics.endpoint_ejected(&port.key);
    let pod = ejection.endpoint.workload.as_ref().map(|workload| workload.pod.to_string());
    tracing::warn!(
        service = %port.key.service,
        port = port.key.port,
        address = %ejection.endpoint.address,
        pod,
        seconds = ejection.penalty.as_secs(),
        "an endpoint keeps failing: it is ejected for a while"
    );
}
