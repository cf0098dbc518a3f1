//! One listener, judged by itself: what it speaks, which routes it takes and what it ends TLS with.

use std::sync::Arc;

use rustls::sign::CertifiedKey;

use super::GROUP;
use super::authority::{Validation, judge_validation};
use super::grant::{Reference, Referrer, is_permitted};
use super::view::{ListenerView, NamespacesView, TlsView, ValidationView};
use crate::attach::condition::{Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::cluster::certificate::read_pair;
use crate::cluster::objects::{ObjectKey, Objects};
use crate::route::{HostnameMatch, RouteKind};
use crate::snapshot::transport::{Port, Transport};

/// What a listener speaks (ProtocolType). What is not here is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListenerProtocol {
    /// HTTP in plain text: HTTP/1.1, and HTTP/2 by prior knowledge.
    Http,
    /// HTTP in TLS that ends here.
    Https,
    /// Bytes.
    Tcp,
    /// TLS, whatever it carries.
    Tls,
    /// Datagrams.
    Udp,
}

impl ListenerProtocol {
    fn new(text: &str) -> Option<Self> {
        match text {
            "HTTP" => Some(Self::Http),
            "HTTPS" => Some(Self::Https),
            "TCP" => Some(Self::Tcp),
            "TLS" => Some(Self::Tls),
            "UDP" => Some(Self::Udp),
            _ => None,
        }
    }

    /// What carries it.
    #[must_use]
    pub const fn transport(self) -> Transport {
        match self {
            Self::Http | Self::Https | Self::Tcp | Self::Tls => Transport::Tcp,
            Self::Udp => Transport::Udp,
        }
    }

    /// Whether it begins with a ClientHello.
    pub(super) const fn is_secure(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether listeners of it are told apart by hostname; of others there is one on a port.
    pub(super) const fn has_hostnames(self) -> bool {
        !matches!(self, Self::Tcp | Self::Udp)
    }

    /// Whether listeners of both, of one transport, may share a port: a ClientHello tells which of them is meant.
    pub(super) const fn shares_port_with(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Http, Self::Http)
                | (Self::Tcp, Self::Tcp)
                | (Self::Udp, Self::Udp)
                | (Self::Https | Self::Tls, Self::Https | Self::Tls)
        )
    }
}

/// A certificate with its key, by the Secret that they are in.
pub type NamedCertificate = (ObjectKey, Arc<CertifiedKey>);

/// What a listener does about TLS.
#[derive(Clone, Debug)]
pub enum ListenerTls {
    /// There is none.
    None,
    /// It goes on to the backend as it is.
    Passthrough,
    /// It ends here.
    Terminate {
        /// With one of these, which are all that can be used.
        certificates: Vec<NamedCertificate>,
        /// What clients have to show.
        validation: Option<Validation>,
    },
}

/// A listener of a Gateway or a ListenerSet, judged.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name, which others in other objects may have, too.
    pub name: Arc<str>,
    /// Where it listens.
    pub port: u16,
    /// What it speaks; absent when that is not supported.
    pub protocol: Option<ListenerProtocol>,
    /// The names that it is for; absent for all.
    pub hostname: Option<HostnameMatch>,
    /// What it does about TLS.
    pub tls: ListenerTls,
    /// The kinds of route that it takes.
    pub kinds: Vec<RouteKind>,
    /// From where.
    pub(super) namespaces: NamespacesView,
    pub(super) findings: Findings,
}

/// What is wrong with a listener.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Why it is not accepted.
    pub(super) refusal: Option<(ConditionReason, String)>,
    /// Which references lead nowhere.
    pub(super) unresolved: Vec<(ConditionReason, String)>,
    /// With whom it is at odds.
    pub(super) conflict: Option<(ConditionReason, String)>,
    /// With whom it shares names, which clients may mix up.
    pub(super) overlap: Option<String>,
    /// What it is written in, or its Gateway, is not accepted.
    pub(super) is_withheld: bool,
}

/// Where a listener is written.
#[derive(Clone, Copy, Debug)]
pub(super) struct Home<'a> {
    pub(super) objects: &'a Objects,
    /// Who refers to the certificates.
    pub(super) referrer: Referrer<'a>,
    /// The namespace of the Gateway, whose `tls.frontend` holds for its ListenerSets, too.
    pub(super) gateway_namespace: &'a str,
}

impl Listener {
    /// Looks at one listener alone. `validation` is what the Gateway asks of clients on its port.
    pub(super) fn judge(home: Home<'_>, view: ListenerView, validation: Option<ValidationView>) -> Self {
        let mut findings = Findings::default();
        let protocol = ListenerProtocol::new(&view.protocol);
        if protocol.is_none() {
            let message = format!("protocol {} is not supported", view.protocol);
            findings.refusal = Some((ConditionReason::UnsupportedProtocol, message));
        }
        if let NamespacesView::Selector(Err(error)) = &view.namespaces {
            let message = format!("allowedRoutes.namespaces.selector: {error}");
            findings.refusal.get_or_insert((ConditionReason::UnsupportedValue, message));
        }
        let kinds = judge_kinds(protocol, &view, &mut findings);
        let tls = match protocol {
            Some(ListenerProtocol::Https | ListenerProtocol::Tls) => {
                let validation = validation.filter(|_| protocol == Some(ListenerProtocol::Https));
                judge_tls(home, &view.tls, validation, &mut findings)
            }
            Some(ListenerProtocol::Http | ListenerProtocol::Tcp | ListenerProtocol::Udp) | None => {
                ListenerTls::None
            }
        };
        let ListenerView { name, hostname, port, namespaces, .. } = view;
        let hostname = hostname.filter(|_| protocol.is_some_and(ListenerProtocol::has_hostnames));
        Self { name, port, protocol, hostname, tls, kinds, namespaces, findings }
    }

    /// Whether it is accepted, without anything of it that could not be served.
    #[must_use]
    pub fn is_accepted(&self) -> bool {
        self.findings.refusal.is_none() && self.findings.conflict.is_none()
    }

    /// The certificates that it shows, by their Secrets.
    #[must_use]
    pub fn certificates(&self) -> &[NamedCertificate] {
        match &self.tls {
            ListenerTls::Terminate { certificates, .. } => certificates,
            _ => &[],
        }
    }

    /// Whether anything listens for it: one that ends TLS needs a certificate, and what it is written in has to be
    /// accepted, too.
    #[must_use]
    pub fn is_served(&self) -> bool {
        self.could_be_served() && !self.findings.is_withheld
    }

    /// The port that it listens on; none when its protocol is not supported.
    #[must_use]
    pub fn open_port(&self) -> Option<Port> {
        Some(Port { number: self.port, transport: self.protocol?.transport() })
    }

    /// Whether anything would listen for it in an object that is accepted.
    pub(super) fn could_be_served(&self) -> bool {
        let has_certificate = match &self.tls {
            ListenerTls::Terminate { certificates, .. } => !certificates.is_empty(),
            ListenerTls::None | ListenerTls::Passthrough => true,
        };
        self.is_accepted() && has_certificate
    }

    /// `Accepted`, `Conflicted`, `ResolvedRefs` and, when it is true, `OverlappingTLSConfig`, of an object of this
    /// generation.
    #[must_use]
    pub fn conditions(&self, generation: Option<i64>) -> Vec<Condition> {
        let build = |kind, status, (reason, message): (ConditionReason, String)| Condition {
            kind,
            status,
            reason,
            message,
            observed_generation: generation,
        };
        let Findings { refusal, unresolved, conflict, overlap, .. } = &self.findings;
        let accepted = match conflict.as_ref().or(refusal.as_ref()) {
            Some(why) => build(ConditionType::Accepted, ConditionStatus::False, why.clone()),
            None => {
                let fine = (ConditionReason::Accepted, String::new());
                build(ConditionType::Accepted, ConditionStatus::True, fine)
            }
        };
        let conflicted = match conflict {
            Some(why) => build(ConditionType::Conflicted, ConditionStatus::True, why.clone()),
            None => {
                let fine = (ConditionReason::NoConflicts, String::new());
                build(ConditionType::Conflicted, ConditionStatus::False, fine)
            }
        };
        let resolved = match unresolved.first() {
            Some((reason, _)) => {
                let messages: Vec<&str> = unresolved.iter().map(|(_, message)| message.as_str()).collect();
                build(ConditionType::ResolvedRefs, ConditionStatus::False, (*reason, messages.join("; ")))
            }
            None => {
                let fine = (ConditionReason::ResolvedRefs, String::new());
                build(ConditionType::ResolvedRefs, ConditionStatus::True, fine)
            }
        };
        let overlap = overlap.iter().map(|message| {
            let why = (ConditionReason::OverlappingHostnames, message.clone());
            build(ConditionType::OverlappingTLSConfig, ConditionStatus::True, why)
        });
        [accepted, conflicted, resolved].into_iter().chain(overlap).collect()
    }
}

/// The kinds of route that a listener takes: those that are asked for, of those that its protocol has.
fn judge_kinds(
    protocol: Option<ListenerProtocol>,
    view: &ListenerView,
    findings: &mut Findings,
) -> Vec<RouteKind> {
    let possible: &[RouteKind] = match (protocol, &view.tls) {
        (Some(ListenerProtocol::Http | ListenerProtocol::Https), _) => &[RouteKind::Http, RouteKind::Grpc],
        (Some(ListenerProtocol::Tcp), _) => &[RouteKind::Tcp],
        (Some(ListenerProtocol::Udp), _) => &[RouteKind::Udp],
        (Some(ListenerProtocol::Tls), TlsView::Terminate(_)) => &[RouteKind::Tls, RouteKind::Tcp],
        (Some(ListenerProtocol::Tls), TlsView::Absent | TlsView::Passthrough) => &[RouteKind::Tls],
        (None, _) => &[],
    };
    if view.kinds.is_empty() {
        return possible.to_vec();
    }
    let mut kinds = Vec::new();
    for (index, (group, kind)) in view.kinds.iter().enumerate() {
        match possible.iter().find(|known| group == GROUP && known.as_label() == kind) {
            Some(known) if kinds.contains(known) => {}
            Some(known) => kinds.push(*known),
            None => {
                let message = format!(
                    "allowedRoutes.kinds[{index}]: a listener of {} takes no {kind} of group {group:?}",
                    view.protocol
                );
                findings.unresolved.push((ConditionReason::InvalidRouteKinds, message));
            }
        }
    }
    kinds
}

fn judge_tls(
    home: Home<'_>,
    tls: &TlsView,
    validation: Option<ValidationView>,
    findings: &mut Findings,
) -> ListenerTls {
    let references = match tls {
        TlsView::Passthrough => return ListenerTls::Passthrough,
        TlsView::Absent => &[][..],
        TlsView::Terminate(references) => references,
    };
    if references.is_empty() {
        let message = "tls.certificateRefs: there is none".to_owned();
        findings.unresolved.push((ConditionReason::InvalidCertificateRef, message));
    }
    let mut certificates = Vec::new();
    for (index, reference) in references.iter().enumerate() {
        match find_certificate(home, reference) {
            Ok(certificate) => certificates.push(certificate),
            Err((reason, message)) => {
                findings.unresolved.push((reason, format!("tls.certificateRefs[{index}]: {message}")));
            }
        }
    }
    let validation = validation.map(|validation| {
        let judged = judge_validation(home, &validation);
        findings.unresolved.extend(judged.unresolved);
        if judged.validation.has_no_authority() {
            let message = format!("spec.tls.frontend.{}: no CA certificate can be used", validation.path);
            findings.refusal.get_or_insert((ConditionReason::NoValidCACertificate, message));
        }
        judged.validation
    });
    ListenerTls::Terminate { certificates, validation }
}

/// The certificate in a Secret, with its key.
pub(super) fn find_certificate(
    home: Home<'_>,
    reference: &Reference,
) -> Result<NamedCertificate, (ConditionReason, String)> {
    let invalid = |message| (ConditionReason::InvalidCertificateRef, message);
    let Reference { group, kind, .. } = reference;
    if kind != "Secret" || !group.is_empty() {
        return Err(invalid(format!("{kind} of group {group:?} is no Secret")));
    }
    let key = reference.target(home.referrer.namespace);
    if !is_permitted(home.objects, home.referrer, ("", "Secret", &key)) {
        let message = format!("no ReferenceGrant of namespace {} allows Secret {key}", key.namespace);
        return Err((ConditionReason::RefNotPermitted, message));
    }
    let Some(secret) = home.objects.secrets.get(&key) else {
        return Err(invalid(format!("Secret {key} does not exist")));
    };
    match read_pair(secret) {
        Ok(certificate) => Ok((key, certificate)),
        Err(error) => Err(invalid(format!("Secret {key}: {error}"))),
    }
}
