//! Copies of requests to other backends (HTTPRequestMirrorFilter), whose answers nobody hears.
//!
//! "Responses from this backend MUST be ignored by the Gateway." A copy has a connection, a line of the access log and a
//! count of its own, and its failure changes nothing for the request that it is a copy of.

use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;

use super::Session;
use super::dial::{self, Chosen, Reuse, Wish};
use super::plan::Forwarding;
use crate::connect::Content;
use crate::connect::idle::Repeatable;
use crate::error::{FailureReason, with_causes};
use crate::forward::Reset as _;
use crate::http1::head::Persistence;
use crate::http1::tap::{self, Listener, Tap};
use crate::http1::{Exchange, ReadBuffer, RequestHead1, ResponseHead1, message};
use crate::route::Filters;
use crate::snapshot::service::ServicePort;
use crate::telemetry::{Course, Recording, RequestRecord};
use crate::turns;

/// How long a copy may take.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);

/// Starts the copies of a request; its body goes into their taps.
pub(super) fn start(
    session: &Session,
    request: &RequestHead1,
    forwarding: &Forwarding,
    record: &RequestRecord,
) -> Vec<Tap> {
    // What follows an upgrade is a conversation, of which there is no copy.
    let mirrors = if request.offers_upgrade() { &[][..] } else { &forwarding.mirrors };
    let copies = mirrors.iter().map(|port| {
        let (tap, listener) = tap::open();
        let copy = Copy {
            session: session.clone(),
            request: request.clone(),
            filters: forwarding.filters.clone(),
            record: self::record(session, record, port),
        };
        turns::spawn(Box::pin(copy.send(Arc::clone(port), listener)));
        tap
    });
    copies.collect()
}

/// The record of a copy that goes to `port`.
pub(super) fn record(
    session: &Session,
    request: &RequestRecord,
    port: &ServicePort,
) -> Recording<RequestRecord> {
    let mut record = request.clone();
    record.journey.direction = Course::Mirror;
    record.backend = Some(port.key.clone());
    session.worker.mesh.telemetry.request(record)
}

/// A copy on its way.
struct Copy {
    session: Session,
    request: RequestHead1,
    filters: Option<Arc<Filters>>,
    record: Recording<RequestRecord>,
}

impl Copy {
    async fn send(mut self, port: Arc<ServicePort>, listener: Listener) {
        // A copy is never sent a second time.
        let reuse = Reuse::Pooled(Repeatable::No);
        let at = (&self.session, &*port);
        let mut wish = Wish { content: Content::Version1, ..Wish::default() };
        let chosen = dial::choose(at, (reuse, &mut wish), &mut self.record.journey).await;
        if let Ok(chosen) = chosen {
            self.exchange(&port, chosen, listener).await;
        }
        self.record.finish();
    }

    async fn exchange(&mut self, port: &ServicePort, mut chosen: Chosen, mut listener: Listener) {
        let (mut answer, mut buffer) = (ResponseHead1::default(), ReadBuffer::default());
        let filters = self.filters.as_deref();
        let mut message = message(&mut self.request, filters);
        let mut exchange = Exchange::new((&self.request, &mut message), &mut answer, filters);
        let running =
            exchange.run((&mut listener, &mut buffer), (&mut chosen.dialled.transport, &mut chosen.buffer));
        let outcome = tokio::time::timeout(PATIENCE, running).await;
        self.record.journey.bytes_sent = exchange.bytes_sent();
        self.record.journey.bytes_received = exchange.bytes_received();
        match outcome {
            Ok(Ok(outcome)) => {
                self.record.status = StatusCode::from_u16(outcome.status).ok();
                if let (Some(load), Some(status)) = (&chosen.load, self.record.status) {
                    self.session.note_status(port, load, status);
                }
                if outcome.upstream == Persistence::KeepAlive && !outcome.binds_connection {
                    let Chosen { dialled, buffer, key, .. } = chosen;
                    let mut idle = self.session.worker.idle.borrow_mut();
                    idle.put(key, dialled, buffer, outcome.keep_alive_seconds);
                } else {
                    chosen.dialled.transport.close();
                }
            }
            Ok(Err(error)) => {
                self.record.journey.fail(error.reason(), with_causes(&error));
                chosen.dialled.transport.reset();
            }
            Err(_) => {
                self.record.journey.fail(FailureReason::UpstreamReset, "the copy has taken too long");
                chosen.dialled.transport.reset();
            }
        }
    }
}
