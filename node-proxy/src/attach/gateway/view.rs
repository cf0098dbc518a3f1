//! One shape for the listeners of Gateways and of ListenerSets, whose generated types differ in nothing but their names.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::grant::Reference;
use crate::attach::view::wire_name;
use crate::cluster::api::gateway::GatewayTlsFrontend;
use crate::cluster::api::{Gateway, ListenerSet};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::cluster::selector::Selector;
use crate::route::HostnameMatch;

/// A listener as it is written.
#[derive(Clone, Debug)]
pub(super) struct ListenerView {
    pub(super) name: Arc<str>,
    pub(super) hostname: Option<HostnameMatch>,
    pub(super) port: u16,
    /// In the API's words: any text is allowed.
    pub(super) protocol: String,
    pub(super) tls: TlsView,
    /// Group and kind of the routes that are asked for; none for all that the protocol has.
    pub(super) kinds: Vec<(String, String)>,
    pub(super) namespaces: NamespacesView,
}

/// What a listener does about TLS.
#[derive(Clone, Debug)]
pub(super) enum TlsView {
    /// Nothing is said.
    Absent,
    /// The connection is passed on as it is.
    Passthrough,
    /// It ends here, with these certificates.
    Terminate(Vec<Reference>),
}

/// From which namespaces something may be attached.
#[derive(Clone, Debug)]
pub(super) enum NamespacesView {
    All,
    None,
    Same,
    /// Those with such labels; or what is wrong with the selector, which then selects nothing.
    Selector(Result<Selector, String>),
}

impl NamespacesView {
    /// Whether an object of namespace `from` may be attached to one of `own`.
    pub(super) fn allows(&self, objects: &Objects, own: &str, from: &str) -> bool {
        match self {
            Self::All => true,
            Self::None => false,
            Self::Same => own == from,
            Self::Selector(Err(_)) => false,
            // Of a namespace that is not known nothing is known to match.
            Self::Selector(Ok(selector)) => {
                let namespace = objects.namespaces.get(&ObjectKey::new("", from));
                let none = BTreeMap::new();
                let matches = |labels: Option<&_>| selector.matches(labels.unwrap_or(&none));
                namespace.is_some_and(|namespace| matches(namespace.metadata.labels.as_ref()))
            }
        }
    }
}

/// Reads `namespaces` of any of the generated types: `from` and `selector`.
macro_rules! view_namespaces {
    ($namespaces:expr, $default:literal) => {{
        let namespaces = $namespaces;
        let from = namespaces.and_then(|namespaces| namespaces.from.as_ref()).map(wire_name);
        match from.as_deref().unwrap_or($default) {
            "All" => NamespacesView::All,
            "Same" => NamespacesView::Same,
            "Selector" => {
                let selector = namespaces.and_then(|namespaces| namespaces.selector.as_ref());
                // "Selector must be specified when From is set to "Selector"".
                let read =
                    selector.ok_or_else(|| "the selector is missing".to_owned()).and_then(|selector| {
                        let expressions = selector.match_expressions.iter().flatten().map(|expression| {
                            let values = expression.values.iter().flatten().cloned().collect();
                            (expression.key.clone(), expression.operator.clone(), values)
                        });
                        Selector::new(selector.match_labels.clone().unwrap_or_default(), expressions)
                    });
                NamespacesView::Selector(read)
            }
            _ => NamespacesView::None,
        }
    }};
}

/// Reads the listeners of either of the generated types.
macro_rules! view_listeners {
    ($listeners:expr) => {
        $listeners
            .iter()
            .filter_map(|listener| {
                let allowed = listener.allowed_routes.as_ref();
                let kinds = allowed.and_then(|allowed| allowed.kinds.as_deref()).unwrap_or_default();
                let tls = match &listener.tls {
                    None => TlsView::Absent,
                    Some(tls) if tls.mode.as_ref().map(wire_name).as_deref() == Some("Passthrough") => {
                        TlsView::Passthrough
                    }
                    Some(tls) => TlsView::Terminate(
                        tls.certificate_refs
                            .iter()
                            .flatten()
                            .map(|reference| Reference {
                                group: reference.group.clone().unwrap_or_default(),
                                kind: reference.kind.clone().unwrap_or_else(|| "Secret".to_owned()),
                                namespace: reference.namespace.clone(),
                                name: reference.name.clone(),
                            })
                            .collect(),
                    ),
                };
                let hostname = listener.hostname.as_deref().filter(|hostname| !hostname.is_empty());
                Some(ListenerView {
                    name: listener.name.as_str().into(),
                    hostname: hostname.map(HostnameMatch::new),
                    // The schema allows no other.
                    port: u16::try_from(listener.port).ok()?,
                    protocol: listener.protocol.clone(),
                    tls,
                    kinds: kinds
                        .iter()
                        .map(|kind| {
                            let group = kind.group.clone().unwrap_or_else(|| super::GROUP.to_owned());
                            (group, kind.kind.clone())
                        })
                        .collect(),
                    namespaces: view_namespaces!(
                        allowed.and_then(|allowed| allowed.namespaces.as_ref()),
                        "Same"
                    ),
                })
            })
            .collect()
    };
}

pub(super) fn view_gateway(gateway: &Gateway) -> Vec<ListenerView> {
    view_listeners!(gateway.spec.listeners)
}

pub(super) fn view_listener_set(set: &ListenerSet) -> Vec<ListenerView> {
    view_listeners!(set.spec.listeners)
}

/// From which namespaces a Gateway takes ListenerSets.
pub(super) fn view_allowed_listeners(gateway: &Gateway) -> NamespacesView {
    let allowed = gateway.spec.allowed_listeners.as_ref();
    view_namespaces!(allowed.and_then(|allowed| allowed.namespaces.as_ref()), "None")
}

/// How clients' certificates are judged on a port.
#[derive(Clone, Debug)]
pub(super) struct ValidationView {
    /// The path of it, below `spec.tls.frontend`.
    pub(super) path: String,
    pub(super) authorities: Vec<Reference>,
    /// Whether one that fails, or none at all, is let in.
    pub(super) is_fallback: bool,
}

/// Reads `validation` of either of the generated types.
macro_rules! view_validation {
    ($validation:expr, $path:expr) => {
        $validation.as_ref().map(|validation| ValidationView {
            path: $path,
            authorities: validation
                .ca_certificate_refs
                .iter()
                .map(|reference| Reference {
                    group: reference.group.clone(),
                    kind: reference.kind.clone(),
                    namespace: reference.namespace.clone(),
                    name: reference.name.clone(),
                })
                .collect(),
            is_fallback: validation.mode.as_ref().map(wire_name).as_deref() == Some("AllowInsecureFallback"),
        })
    };
}

/// What a Gateway asks of the clients of a port.
pub(super) fn view_frontend(frontend: Option<&GatewayTlsFrontend>, port: u16) -> Option<ValidationView> {
    let frontend = frontend?;
    let mut of_port = frontend.per_port.iter().flatten().enumerate();
    match of_port.find(|(_, own)| own.port == i32::from(port)) {
        Some((index, own)) => {
            view_validation!(own.tls.validation, format!("perPort[{index}].tls.validation"))
        }
        None => view_validation!(frontend.default.validation, "default.validation".to_owned()),
    }
}

/// Where a Gateway lets clients in that have no valid certificate, below its `spec`.
pub(super) fn find_insecure(frontend: Option<&GatewayTlsFrontend>) -> Option<String> {
    let frontend = frontend?;
    let default = view_validation!(frontend.default.validation, "default.validation".to_owned());
    let of_port = frontend.per_port.iter().flatten().enumerate().filter_map(|(index, own)| {
        view_validation!(own.tls.validation, format!("perPort[{index}].tls.validation"))
    });
    let insecure = default.into_iter().chain(of_port).find(|validation| validation.is_fallback);
    insecure.map(|validation| format!("spec.tls.frontend.{}", validation.path))
}
