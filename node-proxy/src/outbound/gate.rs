//! The port of a Gateway that a client has come in by: its requests are planned by the routes of that port's listeners, and
//! not by those of the Services behind them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use super::Session;
use super::forwarded::{AsTold, Forwarded, Told};
use super::plan::{Action, RequestPlan, plan, plan_for_gateway};
use crate::attach::gateway::ListenerId;
use crate::balance;
use crate::connect::{Content, Origination};
use crate::error::FailureReason;
use crate::route::{RequestHead, RouteKind, Rule};
use crate::snapshot::service::{PortProtocol, ServicePort};
use crate::telemetry::{ClientAddress, Peer, RequestRecord};

/// A port of a Gateway, and what of it is of this connection alone.
#[derive(Debug)]
pub struct Gate {
    port: u16,
    /// The listener that has ended TLS.
    through: Option<Arc<ListenerId>>,
    /// Who has opened the connection.
    pub(super) opener: Peer,
    /// Whom it is from: whoever has opened it, or for whom that was.
    client: SocketAddr,
    /// What is told of its requests.
    forwarded: Forwarded,
    /// Whether the client's own TLS goes on to the backend.
    passes_tls: bool,
}

impl Gate {
    /// A client at `client` that has come in by `port`, `through` the listener that has ended its TLS, if there is TLS, on a
    /// connection that `opener` has opened. As many proxies in front of it are believed as `trusted_hops` says.
    #[must_use]
    pub fn new(
        (port, through): (u16, Option<Arc<ListenerId>>),
        (opener, client): (Peer, SocketAddr),
        trusted_hops: usize,
    ) -> Self {
        let scheme = if through.is_some() { "https" } else { "http" };
        let forwarded = Forwarded::new(client.ip(), scheme, trusted_hops);
        Self { port, through, opener, client, forwarded, passes_tls: false }
    }

    /// Whom the connection is from, where that is not whoever has opened it.
    pub(super) fn client_behind(&self, opener: SocketAddr) -> Option<ClientAddress> {
        (self.client != opener).then(|| self.client.into())
    }

    /// Whether its client speaks TLS to this proxy.
    pub(super) const fn ends_tls(&self) -> bool {
        self.through.is_some()
    }

    /// The same for a client whose TLS goes on to the backend.
    #[must_use]
    pub fn passing_tls(mut self) -> Self {
        self.passes_tls = true;
        self
    }
}

impl Session {
    /// Plans a request by what there is now, and notes in its record whom it is for.
    pub(super) fn plan(&self, head: &impl RequestHead, record: &mut RequestRecord) -> RequestPlan {
        let snapshot = self.worker.mesh.snapshot.load();
        let chance = (balance::random(), SystemTime::now);
        let planned = match &self.gate {
            Some(gate) => {
                let Told { client, filters: told } = gate.forwarded.tell(head);
                record.journey.client = client.or(record.journey.client);
                // What nobody is told does not decide either.
                let head = AsTold(head, &told.request);
                let place = (gate.port, gate.through.as_deref());
                let mut planned = plan_for_gateway(&snapshot, place, &head, chance);
                if let Action::Forward(forwarding) = &mut planned.action {
                    forwarding.filters = Some(match forwarding.filters.take() {
                        Some(filters) => Arc::new(told.then(&filters)),
                        None => told,
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

    /// The address from which endpoints are dialled: the pod's that has opened the connection, so that they see it; at a
    /// Gateway, whose clients are elsewhere, whichever address leads there.
    pub(super) const fn source(&self) -> IpAddr {
        match (&self.gate, self.destination) {
            (None, _) => self.client.ip(),
            (Some(_), SocketAddr::V4(_)) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            (Some(_), SocketAddr::V6(_)) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// What endpoints of a port are spoken to with for a client of HTTP/2: behind a Gateway it is what the port is declared to
    /// speak, or what all of gRPC is; in the mesh, what the client speaks.
    pub(super) fn content_towards(&self, port: &ServicePort, rule: Option<&Rule>) -> Content {
        if self.gate.is_none() || self.speaks_http2(port, rule) {
            Content::Version2
        } else {
            Content::Version1
        }
    }

    /// Whether endpoints of a port behind a Gateway are spoken to with HTTP/2, whatever the client speaks.
    pub(super) fn speaks_http2(&self, port: &ServicePort, rule: Option<&Rule>) -> bool {
        let is_grpc = rule.is_some_and(|rule| rule.route.kind == RouteKind::Grpc);
        self.gate.is_some() && (is_grpc || port.protocol == PortProtocol::Http2)
    }

    /// The TLS that is begun with endpoints of a port: behind a Gateway, where a policy says so, unless what is passed on is
    /// the client's own.
    pub(super) fn originate_tls(&self, port: &ServicePort, content: Content) -> Option<Origination> {
        let gate = self.gate.as_ref()?;
        let snapshot = self.worker.mesh.snapshot.load();
        let tls = snapshot.backend_tls.get(&port.key).filter(|_| !gate.passes_tls)?;
        Some(Origination::new(Arc::clone(tls), content))
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
