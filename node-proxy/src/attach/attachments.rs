//! All judgements that stand, and what has to be judged anew when objects change.
//!
//! A route is judged again when it changed itself, when a Service that it names did, or when a port that it asks for
//! began or ceased to be another kind's, or another TCPRoute's. Judging everything is the same step with everything changed.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use serde::ser::{Serialize, SerializeStruct, Serializer};

use super::judge::{Lead, Pending, judge_alone};
use super::notice::collect_notices;
use super::{AttachedRoute, Clients, Notice, ParentAttachment, PortGroup, RouteAttachment};
use crate::cluster::objects::{Changed, Kind, ObjectKey, Objects};
use crate::cluster::relation::Relation;
use crate::route::{Age, RouteKind, RouteRef};
use crate::snapshot::service::ServicePortKey;

/// The judgement of everything that asks the mesh for something. Serialises for the admin's `/status`.
#[derive(Clone, Debug, Default)]
pub struct Attachments {
    routes: HashMap<RouteRef, Judged>,
    asked: HashMap<RouteRef, Asked>,
    notices: BTreeMap<(Kind, ObjectKey), Vec<Notice>>,
    /// Where routes would hold if there were none of other kinds.
    claims: Relation<PortGroup, RouteRef>,
    /// Service → the routes that name it, as parent or backend.
    named: Relation<ObjectKey, RouteRef>,
}

/// What became of judging what an update changed.
#[derive(Debug, Default)]
pub struct Rejudged {
    /// Where other routes may hold now, or the same otherwise.
    pub groups: BTreeSet<PortGroup>,
    /// The routes that were judged again, those that are gone included.
    pub routes: BTreeSet<RouteRef>,
    /// New or changed conditions and notices, and what is gone, for the caller to log.
    pub lines: Vec<String>,
}

#[derive(Clone, Debug)]
struct Judged {
    attachment: RouteAttachment,
    attached: Arc<AttachedRoute>,
}

/// What an update did to the ports that routes ask for.
#[derive(Default)]
struct Touched {
    /// Where routes have to be looked at again.
    groups: BTreeSet<PortGroup>,
    /// Where routes came or went, with who had led there.
    led_before: BTreeMap<PortGroup, Option<Lead>>,
}

/// Where a route is entered in the indexes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Asked {
    /// `metadata.creationTimestamp` in Unix seconds.
    created: Option<i64>,
    claims: Box<[PortGroup]>,
    named: Box<[ObjectKey]>,
}

/// Conditions and notices by what they are about.
type Lines = BTreeMap<String, String>;

impl Attachments {
    /// The judgement of these objects.
    #[must_use]
    pub fn new(objects: &Objects) -> Self {
        let mut attachments = Self::default();
        attachments.update(objects, &Changed::everything(objects));
        attachments
    }

    /// Judges again whatever `changed` concerns, of which `objects` holds what it is now.
    pub fn update(&mut self, objects: &Objects, changed: &Changed) -> Rejudged {
        let mut lines = (Lines::new(), Lines::new());
        self.update_notices(objects, changed, &mut lines);
        let (groups, routes) = self.update_routes(objects, &self.find_dirty(objects, changed), &mut lines);
        self.claims.settle();
        self.named.settle();
        Rejudged { groups, routes, lines: tell_changes(&lines.0, &lines.1) }
    }

    /// Every route that names a Service as parent, in the order of kind, namespace and name.
    pub fn routes(&self) -> impl Iterator<Item = &RouteAttachment> {
        let mut routes: Vec<_> = self.routes.iter().collect();
        routes.sort_by_key(|(route, _)| *route);
        routes.into_iter().map(|(_, judged)| &judged.attachment)
    }

    /// What objects other than routes ask for and is not done, by kind and name.
    pub fn notices(&self) -> impl Iterator<Item = &Notice> {
        self.notices.values().flatten()
    }

    /// The judgement of one route, if it names a Service as parent.
    #[must_use]
    pub fn find_route(&self, kind: RouteKind, key: &ObjectKey) -> Option<&RouteAttachment> {
        let judged = self.routes.get(&RouteRef { kind, key: key.clone() });
        judged.map(|judged| &judged.attachment)
    }

    /// The routes that hold on a port for a group of clients, each once and all of one kind.
    pub fn routes_of<'a>(&'a self, group: &'a PortGroup) -> impl Iterator<Item = &'a Arc<AttachedRoute>> {
        let kind = self.leading_kind(group);
        let holding = self.claims.of(group).filter(move |route| Some(route.kind) == kind);
        holding.filter_map(|route| self.routes.get(route)).map(|judged| &judged.attached)
    }

    /// The groups of clients for which routes hold on a port.
    pub fn groups_of(&self, port: &ServicePortKey) -> BTreeSet<PortGroup> {
        let first = PortGroup { port: port.clone(), clients: Clients::All };
        let of_port = self.claims.from(&first).take_while(|(group, _)| group.port == *port);
        of_port.map(|(group, _)| group.clone()).collect()
    }

    /// Who has a port: the strongest kind, and of TCPRoutes the first by age, as in `route::precedence`.
    fn find_lead(&self, group: &PortGroup) -> Option<Lead> {
        let kind = self.leading_kind(group)?;
        let age =
            |route: &&RouteRef| Age::of(self.asked.get(*route).and_then(|asked| asked.created), &route.key);
        let first = || self.claims.of(group).filter(|route| route.kind == kind).min_by_key(age);
        let only = (kind == RouteKind::Tcp).then(first).flatten().map(|route| route.key.clone());
        Some(Lead { kind, only })
    }

    /// The kind of route that holds: the first in order of those that are there (GEP-1294, route types).
    fn leading_kind(&self, group: &PortGroup) -> Option<RouteKind> {
        self.claims.of(group).next().map(|route| route.kind)
    }

    /// Every route that its own objects ask to be judged again.
    fn find_dirty(&self, objects: &Objects, changed: &Changed) -> BTreeSet<RouteRef> {
        let grpc = changed.grpc_routes.keys().map(|key| (RouteKind::Grpc, key));
        let http = changed.http_routes.keys().map(|key| (RouteKind::Http, key));
        let tcp = changed.tcp_routes.keys().map(|key| (RouteKind::Tcp, key));
        let tls = changed.tls_routes.keys().map(|key| (RouteKind::Tls, key));
        let udp = changed.udp_routes.keys().map(|key| (RouteKind::Udp, key));
        let all = grpc.chain(http).chain(tcp).chain(tls).chain(udp);
        let themselves = all.map(|(kind, key)| RouteRef { kind, key: key.clone() });
        let mut dirty: BTreeSet<RouteRef> = themselves.collect();
        for (key, before) in &changed.services {
            let now = objects.services.get(key);
            // Judging reads nothing of a Service but its spec.
            let is_same = match (before, now) {
                (Some(before), Some(now)) => before.spec == now.spec,
                (before, now) => before.is_none() && now.is_none(),
            };
            if !is_same {
                dirty.extend(self.named.of(key).cloned());
            }
        }
        dirty
    }

    /// Judges these routes, and those that they let in or drive out.
    fn update_routes(
        &mut self,
        objects: &Objects,
        dirty: &BTreeSet<RouteRef>,
        lines: &mut (Lines, Lines),
    ) -> (BTreeSet<PortGroup>, BTreeSet<RouteRef>) {
        let mut pending: BTreeMap<RouteRef, Option<Pending>> = BTreeMap::new();
        let mut touched = Touched::default();
        for route in dirty {
            let judged = judge_alone(objects, route);
            let now = judged.as_ref().map_or_else(Asked::default, |pending| Asked {
                created: pending.created(),
                claims: pending.claims().into_iter().collect(),
                named: pending.named_services().into_iter().collect(),
            });
            self.enter(route, now, &mut touched);
            pending.insert(route.clone(), judged);
        }
        for (group, before) in &touched.led_before {
            if self.find_lead(group) != *before {
                // Nothing drives out a GRPCRoute.
                for route in self.claims.of(group).filter(|route| route.kind != RouteKind::Grpc) {
                    if !pending.contains_key(route) {
                        pending.insert(route.clone(), judge_alone(objects, route));
                    }
                }
            }
        }
        let routes = pending.keys().cloned().collect();
        for (route, judged) in pending {
            self.conclude(route, judged, lines);
        }
        (touched.groups, routes)
    }

    /// Enters what a route asks for now in place of what it asked for before.
    fn enter(&mut self, route: &RouteRef, now: Asked, touched: &mut Touched) {
        touched.groups.extend(now.claims.iter().cloned());
        let before = self.asked.get(route).cloned().unwrap_or_default();
        if before == now {
            return;
        }
        touched.groups.extend(before.claims.iter().cloned());
        for group in before.claims.iter().chain(&now.claims) {
            if !touched.led_before.contains_key(group) {
                touched.led_before.insert(group.clone(), self.find_lead(group));
            }
        }
        for group in before.claims {
            self.claims.remove(group, route.clone());
        }
        for service in before.named {
            self.named.remove(service, route.clone());
        }
        for group in &now.claims {
            self.claims.insert(group.clone(), route.clone());
        }
        for service in &now.named {
            self.named.insert(service.clone(), route.clone());
        }
        // Whoever names no Service asks for nothing.
        if now.named.is_empty() {
            self.asked.remove(route);
        } else {
            self.asked.insert(route.clone(), now);
        }
    }

    fn conclude(&mut self, route: RouteRef, pending: Option<Pending>, lines: &mut (Lines, Lines)) {
        let judged = pending.map(|pending| {
            let (attachment, attached) = pending.conclude(|group| self.find_lead(group));
            Judged { attachment, attached }
        });
        if let Some(judged) = &judged {
            write_conditions(&judged.attachment, &mut lines.1);
        }
        let before = match judged {
            Some(judged) => self.routes.insert(route, judged),
            None => self.routes.remove(&route),
        };
        if let Some(before) = before {
            write_conditions(&before.attachment, &mut lines.0);
        }
    }

    fn update_notices(&mut self, objects: &Objects, changed: &Changed, lines: &mut (Lines, Lines)) {
        let namespaces = changed.namespaces.keys().map(|key| (Kind::Namespace, key));
        let pods = changed.pods.keys().map(|key| (Kind::Pod, key));
        let services = changed.services.keys().map(|key| (Kind::Service, key));
        for (kind, key) in namespaces.chain(pods).chain(services) {
            let notices = collect_notices(objects, kind, key);
            write_notices(&notices, &mut lines.1);
            let id = (kind, key.clone());
            let before = match notices.is_empty() {
                false => self.notices.insert(id, notices),
                true => self.notices.remove(&id),
            };
            write_notices(&before.unwrap_or_default(), &mut lines.0);
        }
    }
}

/// What changed between two states of the same subjects.
fn tell_changes(old: &Lines, new: &Lines) -> Vec<String> {
    let changed = new.iter().filter(|(subject, line)| old.get(*subject) != Some(line));
    let mut lines: Vec<String> = changed.map(|(subject, line)| format!("{subject}: {line}")).collect();
    let gone = old.keys().filter(|subject| !new.contains_key(*subject));
    lines.extend(gone.map(|subject| format!("{subject}: no longer said")));
    lines
}

/// A generation alone is no change, and is not in the lines.
fn write_conditions(route: &RouteAttachment, lines: &mut Lines) {
    for ParentAttachment { index, service, conditions, .. } in &route.parents {
        for condition in conditions {
            let subject =
                format!("{} parentRefs[{index}] Service {service}: {}", route.route, condition.kind);
            lines.insert(subject, condition.to_string());
        }
    }
}

fn write_notices(notices: &[Notice], lines: &mut Lines) {
    for notice in notices {
        lines.insert(format!("{} {}: {}", notice.kind, notice.object, notice.field), notice.message.clone());
    }
}

impl Serialize for Attachments {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut whole = serializer.serialize_struct("Attachments", 2)?;
        whole.serialize_field("routes", &self.routes().collect::<Vec<_>>())?;
        whole.serialize_field("notices", &self.notices().collect::<Vec<_>>())?;
        whole.end()
    }
}
