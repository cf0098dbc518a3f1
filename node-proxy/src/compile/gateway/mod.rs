//! A judged Gateway → its ports as the data path reads them.

mod origination;
mod termination;

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock};

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::{RootCertStore, ServerConfig};

use super::route::compile_table;
use crate::attach::AttachedRoute;
use crate::attach::gateway::{Gateways, JudgedGateway, Listener, ListenerId, ListenerProtocol, ListenerTls};
use crate::route::hostname::Hostnames;
use crate::route::{HostTable, HostnameMatch, RouteKind, RouteTable};
use crate::snapshot::gateway::{
    BackendTlsPorts, ConnectionListener, GatewayPort, GatewayPorts, RequestListener, TlsListener,
};
use crate::snapshot::transport::Port;
use origination::compile_backends;
pub use origination::well_known_authorities;
use termination::{Content, Termination};

/// What every TLS library that is in use takes: TLS 1.2 is the floor (RFC 9325 section 3.1.1).
static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));

/// How ports of Services are spoken to behind a Gateway. `system` are the authorities that policies mean by `System`.
#[must_use]
pub fn compile_backend_tls(
    gateways: &Gateways,
    gateway: &JudgedGateway,
    system: &Arc<RootCertStore>,
) -> BackendTlsPorts {
    let client = gateway.client_certificate.as_ref().map(|(_, certificate)| certificate);
    compile_backends(gateways.policies.ports_at(&gateway.key), client, system)
}

/// Makes the ports of a Gateway, time after time: what ends TLS stays the same object as long as it says the same, and with
/// it the sessions that clients may resume.
#[derive(Debug, Default)]
pub struct GatewayCompiler {
    terminations: HashMap<Arc<ListenerId>, (Termination, Arc<ServerConfig>)>,
}

/// A listener that is served, with the routes that hold on it and the names for which they do.
struct Served<'g> {
    id: Arc<ListenerId>,
    listener: &'g Listener,
    routes: Vec<Held<'g>>,
}

/// A route with the names for which it holds.
type Held<'g> = (&'g Arc<AttachedRoute>, &'g [Option<HostnameMatch>]);

impl GatewayCompiler {
    /// The ports of a Gateway as it is judged now. Listeners that are not served have none.
    pub fn update(&mut self, gateways: &Gateways, gateway: &JudgedGateway) -> GatewayPorts {
        let before = std::mem::take(&mut self.terminations);
        let mut routes = find_routes(gateways);
        let mut by_port: BTreeMap<Port, Vec<Served<'_>>> = BTreeMap::new();
        for (id, listener) in gateway.all_listeners().filter(|(_, listener)| listener.is_served()) {
            let routes = routes.remove(&id).unwrap_or_default();
            let Some(port) = listener.open_port() else { continue };
            by_port.entry(port).or_default().push(Served { id: Arc::new(id), listener, routes });
        }
        let compile = |(port, served)| Some((port, Arc::new(self.compile_port(served, &before)?)));
        by_port.into_iter().filter_map(compile).collect()
    }

    /// All listeners of a port can share it: `attach` has seen to that.
    fn compile_port(
        &mut self,
        served: Vec<Served<'_>>,
        before: &HashMap<Arc<ListenerId>, (Termination, Arc<ServerConfig>)>,
    ) -> Option<GatewayPort> {
        Some(match served.first()?.listener.protocol? {
            ListenerProtocol::Tcp => GatewayPort::Tcp(Arc::new(served.into_iter().next()?.of_connections())),
            ListenerProtocol::Udp => GatewayPort::Udp(Arc::new(served.into_iter().next()?.of_connections())),
            ListenerProtocol::Http => GatewayPort::Http(Hostnames::new(
                served.into_iter().map(|one| (one.listener.hostname.clone(), Arc::new(one.of_requests()))),
            )),
            ListenerProtocol::Https | ListenerProtocol::Tls => {
                let compile =
                    |one: Served<'_>| Some((one.listener.hostname.clone(), self.compile_tls(one, before)?));
                GatewayPort::Tls(Hostnames::new(served.into_iter().filter_map(compile)))
            }
        })
    }

    fn compile_tls(
        &mut self,
        served: Served<'_>,
        before: &HashMap<Arc<ListenerId>, (Termination, Arc<ServerConfig>)>,
    ) -> Option<TlsListener> {
        let ListenerTls::Terminate { certificates, validation } = &served.listener.tls else {
            return Some(TlsListener::Passthrough(Arc::new(served.of_connections())));
        };
        let content = match served.listener.protocol {
            Some(ListenerProtocol::Https) => Content::Http,
            _ => Content::Anything,
        };
        let termination = Termination {
            certificates: certificates.iter().map(|(_, certificate)| Arc::clone(certificate)).collect(),
            validation: validation.clone(),
            content,
        };
        let config = match before.get(&served.id) {
            Some((old, config)) if old.is_same(&termination) => Arc::clone(config),
            // `attach` takes no certificate and no authority that TLS would refuse.
            _ => termination.build().ok()?,
        };
        self.terminations.insert(Arc::clone(&served.id), (termination, Arc::clone(&config)));
        Some(match content {
            Content::Http => TlsListener::Requests(config, Arc::new(served.of_requests())),
            Content::Anything => TlsListener::Connections(config, Arc::new(served.of_connections())),
        })
    }
}

/// The routes of all listeners, each in the order of the routes.
fn find_routes(gateways: &Gateways) -> BTreeMap<&ListenerId, Vec<Held<'_>>> {
    let mut routes = BTreeMap::<_, Vec<Held<'_>>>::new();
    for route in gateways.routes.values() {
        for (listener, names) in route.parents.iter().flat_map(|parent| &parent.listeners) {
            routes.entry(listener).or_default().push((&route.attached, names.as_slice()));
        }
    }
    routes
}

impl Served<'_> {
    fn of_requests(self) -> RequestListener {
        let mut by_name: BTreeMap<Option<&HostnameMatch>, Vec<&Arc<AttachedRoute>>> = BTreeMap::new();
        for (route, names) in &self.routes {
            for name in *names {
                by_name.entry(name.as_ref()).or_default().push(route);
            }
        }
        let tables = by_name.into_iter().filter_map(|(name, mut routes)| {
            // One that names this listener by two parentRefs holds on it once.
            routes.dedup_by_key(|route| Arc::as_ptr(route));
            Some((name.cloned(), compile_table(routes.into_iter(), None)?))
        });
        RequestListener { hosts: HostTable::new(tables), id: self.id }
    }

    fn of_connections(self) -> ConnectionListener {
        let of_kind = |kind: RouteKind| -> Option<Arc<RouteTable>> {
            let routes = self.routes.iter().map(|(route, _)| *route);
            compile_table(routes.filter(|route| route.route.kind == kind), None)
        };
        let tables =
            [RouteKind::Tls, RouteKind::Tcp, RouteKind::Udp].into_iter().filter_map(of_kind).collect();
        ConnectionListener { tables, id: self.id }
    }
}
