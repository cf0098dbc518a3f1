//! What a mesh and its Gateways would say of objects, without any traffic: for whoever wants to know before they are
//! applied.
//!
//! The judgement is [`attach`](crate::attach)'s, the same that traffic and status follow. Everything that objects name has to
//! be among them: what is not there does not exist.

use std::fmt;

use crate::attach::gateway::Gateways;
use crate::attach::{Attachments, Condition, ConditionReason, ConditionStatus, ConditionType};
use crate::cluster::objects::{ObjectKey, Objects};
use crate::cluster::report::{Report, Severity};
use crate::route::{RouteKind, RouteRef};

/// What was found, a line each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// What does not hold, or was not taken.
    pub errors: Vec<String>,
    /// What holds, and perhaps otherwise than was meant.
    pub remarks: Vec<String>,
}

impl fmt::Display for Findings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.errors.iter().try_for_each(|line| writeln!(f, "error: {line}"))?;
        self.remarks.iter().try_for_each(|line| writeln!(f, "remark: {line}"))
    }
}

/// Judges all of these objects. `reports` is what their source has said of them.
#[must_use]
pub fn check(objects: &Objects, reports: &[Report]) -> Findings {
    let mut findings = Findings::default();
    for report in reports {
        match report.severity {
            Severity::Error => findings.errors.push(report.to_string()),
            Severity::Warning => findings.remarks.push(report.to_string()),
        }
    }
    let (mesh, gateways) = (Attachments::new(objects), Gateways::new(objects));
    for notice in mesh.notices() {
        let line = format!("{} {}: {}: {}", notice.kind, notice.object, notice.field, notice.message);
        findings.remarks.push(line);
    }
    for route in mesh.routes() {
        for parent in &route.parents {
            let about = format!("{} on Service {}", route.route, parent.service);
            findings.add(&about, &parent.conditions);
        }
    }
    findings.add_gateways(&gateways);
    for route in all_routes(objects) {
        if mesh.find_route(route.kind, &route.key).is_none() && !gateways.routes.contains_key(&route) {
            findings.errors.push(format!("{route}: none of its parents is among these objects"));
        }
    }
    findings
}

impl Findings {
    fn add_gateways(&mut self, gateways: &Gateways) {
        for class in gateways.classes.values() {
            self.add(&format!("GatewayClass {}", class.name), &[class.accepted()]);
        }
        for gateway in gateways.gateways.values() {
            let own = gateway.conditions().into_iter();
            // What is wrong with its listeners is told of each below.
            let own: Vec<_> = own.filter(|own| own.reason != ConditionReason::ListenersNotValid).collect();
            self.add(&format!("Gateway {}", gateway.key), &own);
            for set in gateway.listener_sets.iter().filter(|set| set.listeners.is_empty()) {
                self.add(&format!("ListenerSet {}", set.key), &[set.accepted()]);
            }
            for (id, listener) in gateway.all_listeners() {
                self.add(&id.to_string(), &listener.conditions(None));
            }
        }
        for (route, judged) in &gateways.routes {
            for parent in &judged.parents {
                self.add(&format!("{route} on Gateway {}", parent.gateway), &parent.conditions);
            }
        }
    }

    fn add(&mut self, about: &str, conditions: &[Condition]) {
        for condition in conditions {
            let should_be = match condition.kind {
                ConditionType::Accepted
                | ConditionType::InsecureFrontendValidationMode
                | ConditionType::OverlappingTLSConfig
                | ConditionType::Programmed
                | ConditionType::ResolvedRefs
                | ConditionType::SupportedVersion => ConditionStatus::True,
                ConditionType::Conflicted | ConditionType::PartiallyInvalid => ConditionStatus::False,
            };
            if condition.status != should_be {
                self.errors.push(format!("{about}: {condition}"));
            } else if !condition.message.is_empty() {
                self.remarks.push(format!("{about}: {}", condition.message));
            }
        }
    }
}

fn all_routes(objects: &Objects) -> impl Iterator<Item = RouteRef> {
    let of = |kind, key: &ObjectKey| RouteRef { kind, key: key.clone() };
    let grpc = objects.grpc_routes.keys().map(move |key| of(RouteKind::Grpc, key));
    let http = objects.http_routes.keys().map(move |key| of(RouteKind::Http, key));
    let tls = objects.tls_routes.keys().map(move |key| of(RouteKind::Tls, key));
    let tcp = objects.tcp_routes.keys().map(move |key| of(RouteKind::Tcp, key));
    let udp = objects.udp_routes.keys().map(move |key| of(RouteKind::Udp, key));
    grpc.chain(http).chain(tls).chain(tcp).chain(udp)
}
