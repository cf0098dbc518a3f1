//! The port of a Gateway that a client has come in by: its requests are planned by the routes of that port's listeners, and
//! not by those of the Services behind them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use http::Version;

use super::Session;
use super::plan::{Action, RequestPlan, plan, plan_for_gateway};
use crate::attach::gateway::ListenerId;
use crate::balance;
use crate::error::FailureReason;
use crate::route::{FieldEdit, Filters, RequestHead, RouteKind, Rule};
use crate::snapshot::service::{PortProtocol, ServicePort};
use crate::telemetry::RequestRecord;

/// A port of a Gateway, and what of it is of this connection alone.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    /// The listener that has ended TLS.
    through: Option<Arc<ListenerId>>,
    /// What backends are told of the client. What the client says itself of that is not passed on: it could be anything.
    forwarded: Arc<Filters>,
}

impl Gate {
    /// A client at `client` that has come in by `port`, `through` the listener that has ended its TLS, if there is TLS.
    #[must_use]
    pub fn new(port: u16, through: Option<Arc<ListenerId>>, client: IpAddr) -> Self {
        let scheme = if through.is_some() { "https" } else { "http" };
        let fields = [("x-forwarded-for", &*client.to_string()), ("x-forwarded-proto", scheme)];
        let request = FieldEdit::new(&fields, &[], &["forwarded"]);
        Self { port, through, forwarded: Arc::new(Filters { request, ..Filters::default() }) }
    }
}

impl Session {
    /// Plans a request by what there is now, and notes in its record whom it is for.
    pub(super) fn plan(&self, head: &impl RequestHead, record: &mut RequestRecord) -> RequestPlan {
        let snapshot = self.worker.mesh.snapshot.load();
        let chance = (balance::random(), SystemTime::now);
        let planned = match &self.gate {
            Some(gate) => {
                let mut planned =
                    plan_for_gateway(&snapshot, (gate.port, gate.through.as_deref()), head, chance);
                if let Action::Forward(forwarding) = &mut planned.action {
                    forwarding.filters = Some(match forwarding.filters.take() {
                        Some(filters) => Arc::new(gate.forwarded.then(&filters)),
                        None => Arc::clone(&gate.forwarded),
                    });
                }
                planned
            }
            None => match snapshot.find_frontend(self.destination) {
                Some(frontend) => {
                    record.journey.service = Some(frontend.port.key.clone());
                    plan(&snapshot, frontend, self.namespace(), head, chance)
                }
                None => {
                    record.journey.fail(FailureReason::NoEndpoint, "the service is gone");
                    let action = Action::Fail(FailureReason::NoEndpoint);
                    RequestPlan { kind: None, rule: None, action }
                }
            },
        };
        if let Action::Fail(reason) = planned.action {
            record.journey.fail(reason, self.name_place());
        }
        planned
    }

    /// The version of HTTP that endpoints of a port are spoken to with, where it is not the client's own: behind a Gateway it
    /// is what the port is declared to speak, or what all of gRPC is.
    pub(super) fn version_towards(&self, port: &ServicePort, rule: Option<&Rule>) -> Option<Version> {
        self.gate.as_ref()?;
        let is_grpc = rule.is_some_and(|rule| rule.route.kind == RouteKind::Grpc);
        let is_http2 = is_grpc || port.protocol == PortProtocol::Http2;
        Some(if is_http2 { Version::HTTP_2 } else { Version::HTTP_11 })
    }

    /// What the client has asked something of, for the log.
    pub(super) fn name_place(&self) -> String {
        match (&self.gate, self.find_frontend()) {
            (Some(gate), _) => format!("for port {} of the Gateway", gate.port),
            (None, Some(frontend)) => format!("for {}", frontend.port.key.service),
            (None, None) => format!("for {}", self.destination),
        }
    }
}
