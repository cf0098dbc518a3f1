//! What was judged, by the same step as on every node (`attach`), and of which version of each route.

use std::collections::HashMap;

use crate::attach::Attachments;
use crate::cluster::objects::{Changed, Objects};
use crate::route::{RouteKind, RouteRef};
use crate::telemetry::log;

use super::gateways::GatewayStatuses;
use super::plan::{JudgedParent, Judgement, Role};
use super::subject::Subject;

/// The judgement of everything that there is.
#[derive(Debug, Default)]
pub struct Judged {
    attachments: Attachments,
    /// Of every route, also those that ask nothing of the mesh: `metadata.generation` of what was judged.
    generations: HashMap<RouteRef, Option<i64>>,
    gateways: GatewayStatuses,
}

impl Judged {
    /// Judges again what has changed. Gives what was, and logs what is said otherwise now.
    pub fn update(&mut self, objects: &Objects, changed: &Changed) -> Vec<Subject> {
        let rejudged = self.attachments.update(objects, changed);
        log::tell_status(&rejudged.lines);
        for route in &rejudged.routes {
            match find_generation(objects, route) {
                Some(generation) => self.generations.insert(route.clone(), generation),
                None => self.generations.remove(route),
            };
        }
        let (subjects, lines) = self.gateways.update(objects, changed);
        log::tell_status(&lines);
        rejudged.routes.into_iter().map(Subject::Route).chain(subjects).collect()
    }

    /// What was judged of a route, if it is there: on its Services, and on its Gateways and ListenerSets.
    #[must_use]
    pub fn find(&self, route: &RouteRef) -> Option<Judgement> {
        let generation = *self.generations.get(route)?;
        let attachment = self.attachments.find_route(route.kind, &route.key);
        let services = attachment.iter().flat_map(|attachment| &attachment.parents);
        let services = services.map(|parent| JudgedParent {
            role: Role::Mesh,
            parent_ref: parent.parent_ref.clone(),
            conditions: parent.conditions.clone(),
        });
        let parents = services.chain(self.gateways.find_route(route).iter().cloned()).collect();
        Some(Judgement { generation, parents })
    }

    /// What was judged of GatewayClasses, Gateways, ListenerSets and BackendTLSPolicies.
    #[must_use]
    pub const fn gateways(&self) -> &GatewayStatuses {
        &self.gateways
    }

    /// All judgements, for people.
    #[must_use]
    pub const fn attachments(&self) -> &Attachments {
        &self.attachments
    }
}

/// `metadata.generation` of a route, if it is there.
fn find_generation(objects: &Objects, RouteRef { kind, key }: &RouteRef) -> Option<Option<i64>> {
    let metadata = match kind {
        RouteKind::Grpc => &objects.grpc_routes.get(key)?.metadata,
        RouteKind::Http => &objects.http_routes.get(key)?.metadata,
        RouteKind::Tcp => &objects.tcp_routes.get(key)?.metadata,
        RouteKind::Tls => &objects.tls_routes.get(key)?.metadata,
        RouteKind::Udp => &objects.udp_routes.get(key)?.metadata,
    };
    Some(metadata.generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::fixture;
    use crate::cluster::objects::ObjectKey;

    #[test]
    fn each_judgement_names_the_version_that_was_judged() {
        let yaml = |generation: u32, parent: &str, with_service: bool| {
            let service = "---\nkind: Service\nmetadata: {name: web}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 80}]}\n";
            let route = format!(
                "---\nkind: HTTPRoute\nmetadata: {{name: web, generation: {generation}}}\n\
                 spec: {{parentRefs: [{{{parent}, name: web}}], rules: [{{backendRefs: [{{name: web, port: 80}}]}}]}}\n"
            );
            fixture::objects(&format!("{}{route}", if with_service { service } else { "" }))
        };
        let ours = "group: \"\", kind: Service";
        let route = RouteRef { kind: RouteKind::Http, key: ObjectKey::new("shop", "web") };
        let mut objects = Objects::default();
        let mut judged = Judged::default();
        let mut become_ = |others: Objects| {
            let changed = fixture::replace(&mut objects, others);
            let rejudged = judged.update(&objects, &changed);
            let found = judged.find(&route);
            (rejudged.len(), found.map(|found| (found.generation, found.parents.len())))
        };
        assert_eq!(become_(yaml(1, ours, true)), (1, Some((Some(1), 1))));
        assert_eq!(become_(yaml(2, ours, true)), (1, Some((Some(2), 1))), "although nothing else is said");
        assert_eq!(become_(yaml(2, ours, false)), (1, Some((Some(2), 1))), "its Service has gone");
        assert_eq!(become_(yaml(3, "kind: Gateway", false)), (1, Some((Some(3), 0))), "not ours any more");
        assert_eq!(become_(Objects::default()), (1, None));
    }
}
