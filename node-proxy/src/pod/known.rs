//! What enrolment knows of pods: a watched view of the cluster, and, where there is one, an API server that can be asked.
//! And marks that are files beside the objects.

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use gammarus_ca::TrustDomain;
use gammarus_cni::PodName;
use gammarus_cni::state::NamespaceStates;

use super::api_server::ApiServer;
use super::facts::{Asked, AwaitedPod, GatewayPod, MarkWriter, PodFact, PodFacts};
use super::registry::key_of;
use crate::cluster::directory::{remove_mark, write_mark};
use crate::cluster::objects::{Mark, ObjectKey, Objects};
use crate::cluster::trimmed::{EndpointSlice, MIRROR_ANNOTATION, Pod, PodTarget};
use crate::cluster::writer::ClusterView;
use crate::compile::workload::{GATEWAY_LABEL, Membership, find_membership, owns_addresses};
use crate::snapshot::Snapshot;
use crate::snapshot::service::Endpoint;

/// Pods as the cluster's view has them.
#[derive(Clone, Debug)]
pub struct KnownPods {
    view: ClusterView,
    trust_domain: TrustDomain,
    node: String,
    server: Option<ApiServer>,
}

impl KnownPods {
    /// Looks pods up in `view`; their identities are of `trust_domain`, and those of `node` are awaited here.
    #[must_use]
    pub const fn new(view: ClusterView, trust_domain: TrustDomain, node: String) -> Self {
        Self { view, trust_domain, node, server: None }
    }

    /// Asks this server for pods that the view has not seen, or not as it should be.
    #[must_use]
    pub fn asking(self, server: ApiServer) -> Self {
        Self { server: Some(server), ..self }
    }

    /// What `objects` say of a pod.
    fn find_in(&self, objects: &Objects, name: &PodName) -> Option<PodFact> {
        let key = key_of(name);
        let uid = find_pod(objects, &key, name)?.uid.as_deref()?.into();
        let Membership { identity, is_enrolled, .. } = find_membership(objects, &key, &self.trust_domain)?;
        Some(PodFact { uid, identity, is_enrolled })
    }

    /// The pods of this node that have not finished.
    fn local<'a>(&self, objects: &'a Objects) -> impl Iterator<Item = (&'a ObjectKey, &'a Arc<Pod>)> {
        let is_local = |pod: &Pod| pod.node.as_deref() == Some(&*self.node) && !pod.is_finished;
        objects.pods.iter().filter(move |(_, pod)| is_local(pod))
    }
}

/// The Pod of a name, if it is the one that the runtime means.
fn find_pod<'a>(objects: &'a Objects, key: &ObjectKey, name: &PodName) -> Option<&'a Arc<Pod>> {
    let pod = objects.pods.get(key)?;
    let mirrored = pod.annotations.find(MIRROR_ANNOTATION);
    let is_meant = |asked: &str| pod.uid.as_deref() == Some(asked) || mirrored == Some(asked);
    // Runtimes before CNI 1.0's arguments pass no uid: then the name has to do.
    name.uid().is_none_or(is_meant).then_some(pod)
}

/// The mark of a pod, if it is of this one and of no other of its name.
fn find_mark<'a>(objects: &'a Objects, key: &ObjectKey, uid: &str) -> Option<&'a Mark> {
    objects.marks.get(key).filter(|mark| mark.uid == uid)
}

/// The ports of a pod that Services of its namespace lead to: those of slices, which hints keep from nobody here, and those of
/// Services that have none.
fn find_ports(objects: &Objects, snapshot: &Snapshot, (key, uid): (&ObjectKey, &str)) -> BTreeSet<u16> {
    let slices = objects.endpoint_slices.range(ObjectKey::new(&key.namespace, "")..);
    let slices = slices.take_while(|(slice, _)| slice.namespace == key.namespace).map(|(_, slice)| slice);
    let is_own =
        |target: &PodTarget| target.key == *key && target.uid.as_deref().is_none_or(|own| own == uid);
    let leads_there = |slice: &&Arc<EndpointSlice>| {
        slice.endpoints.iter().any(|endpoint| endpoint.is_ready && endpoint.pod.as_ref().is_some_and(is_own))
    };
    let sliced = slices.filter(leads_there).flat_map(|slice| slice.ports.iter().map(|(_, port)| *port));
    let services = snapshot.service_ports.values().filter(|port| port.key.service.namespace == key.namespace);
    let endpoints = services.flat_map(|port| &port.endpoints.endpoints);
    let is_his = |endpoint: &&Arc<Endpoint>| endpoint.workload.as_ref().is_some_and(|own| *own.uid == *uid);
    sliced.chain(endpoints.filter(is_his).map(|endpoint| endpoint.address.port())).collect()
}

impl PodFacts for KnownPods {
    fn find(&self, name: &PodName) -> Option<PodFact> {
        self.find_in(&self.view.objects(), name)
    }

    fn ask(&self, name: &PodName) -> Asked {
        let Some(server) = &self.server else { return Asked::Nobody };
        let key = key_of(name);
        let known = find_pod(&self.view.objects(), &key, name).cloned();
        match server.look_up(&key, known) {
            Ok(objects) => self.find_in(&objects, name).map_or(Asked::NoSuchPod, Asked::Fact),
            Err(error) => Asked::Silence(error),
        }
    }

    fn left_alone(&self) -> BTreeSet<ObjectKey> {
        let objects = self.view.objects();
        let is_left_alone = |key: &ObjectKey| {
            find_membership(&objects, key, &self.trust_domain)
                .is_some_and(|membership| membership.is_left_alone)
        };
        let shares = self.local(&objects).filter(|(_, pod)| pod.is_on_host_network);
        shares.map(|(key, _)| key).filter(|key| is_left_alone(key)).cloned().collect()
    }

    fn gateways(&self) -> Vec<GatewayPod> {
        let (objects, snapshot) = (self.view.objects(), self.view.snapshot().load());
        let serves = |pod: &Pod| pod.labels.find(GATEWAY_LABEL).is_some() && owns_addresses(pod);
        let gateways = self.local(&objects).filter(|(_, pod)| serves(pod));
        let gateways = gateways.filter_map(|(key, pod)| {
            let membership = find_membership(&objects, key, &self.trust_domain)?;
            let uid = pod.uid.clone()?;
            let ports = find_ports(&objects, &snapshot, (key, &uid));
            let addresses = pod.addresses.to_vec();
            let mark = find_mark(&objects, key, &uid).cloned();
            let (key, identity, is_leaving) = (key.clone(), membership.identity, pod.is_leaving);
            let own = GatewayPod { key, uid, identity, addresses, ports, mark, is_leaving };
            (!membership.is_enrolled).then_some(own)
        });
        gateways.collect()
    }

    fn marked(&self) -> Vec<(ObjectKey, Arc<str>)> {
        let objects = self.view.objects();
        let marked = self.local(&objects).filter_map(|(key, pod)| {
            let uid = pod.uid.clone()?;
            find_mark(&objects, key, &uid).map(|_| (key.clone(), uid))
        });
        marked.collect()
    }

    fn lacks_mark(&self, key: &ObjectKey, mark: &Mark) -> bool {
        let objects = self.view.objects();
        let is_of = |pod: &Arc<Pod>| pod.uid.as_deref() == Some(&*mark.uid);
        objects.pods.get(key).is_some_and(is_of) && objects.marks.get(key) != Some(mark)
    }

    fn awaited(&self) -> Vec<AwaitedPod> {
        let objects = self.view.objects();
        // The address of a pod that has finished, or is about to, may be another one's by now.
        let runs = |pod: &Pod| !pod.is_on_host_network && !pod.is_leaving;
        let local: Vec<_> = self.local(&objects).filter(|(_, pod)| runs(pod)).collect();
        let mut owners: HashMap<IpAddr, Vec<&ObjectKey>> = HashMap::new();
        for (key, pod) in &local {
            pod.addresses.iter().for_each(|address| owners.entry(*address).or_default().push(key));
        }
        let awaited = local.iter().filter_map(|(key, pod)| {
            let uid = pod.uid.as_deref().filter(|_| !pod.addresses.is_empty())?;
            find_membership(&objects, key, &self.trust_domain).filter(|membership| membership.is_enrolled)?;
            let name =
                PodName::new(key.namespace.to_string(), key.name.to_string(), Some(uid.to_owned())).ok()?;
            let mut others = pod.addresses.iter().flat_map(|address| &owners[address]);
            let rival = others.find(|other| **other != *key).map(|other| (*other).clone());
            Some(AwaitedPod { name, addresses: pod.addresses.to_vec(), rival })
        });
        awaited.collect()
    }

    fn service_addresses(&self) -> Vec<SocketAddr> {
        let snapshot = self.view.snapshot().load();
        snapshot.frontends.keys().map(|(address, port)| SocketAddr::new(*address, *port)).collect()
    }

    fn namespaces(&self) -> NamespaceStates {
        let snapshot = self.view.snapshot().load();
        let mut states = NamespaceStates::default();
        for (name, policy) in snapshot.namespaces.iter() {
            let list = if policy.enrolled { &mut states.enrolled } else { &mut states.not_enrolled };
            list.insert(name.to_string());
        }
        states
    }
}

/// Marks as files under the directory of objects.
#[derive(Clone, Debug)]
pub struct DirectoryMarks {
    root: PathBuf,
}

impl DirectoryMarks {
    /// `root` is the directory of objects.
    #[must_use]
    pub const fn new(root: PathBuf) -> Self {
        Self { root }
    }
}

impl MarkWriter for DirectoryMarks {
    fn write(&self, pod: &ObjectKey, mark: &Mark) -> io::Result<()> {
        write_mark(&self.root, pod, mark).map_err(io::Error::other)
    }

    fn remove(&self, pod: &ObjectKey, uid: &str) -> io::Result<()> {
        remove_mark(&self.root, pod, uid).map_err(io::Error::other)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Namespace;

    use super::*;
    use crate::cluster::objects::{Change, Object};
    use crate::cluster::source::{ClusterError, ObjectSource, Update};
    use crate::cluster::trimmed::Texts;
    use crate::cluster::writer::Writer;
    use crate::snapshot::Snapshot;

    struct Once(Option<Vec<Change>>);

    impl ObjectSource for Once {
        async fn next(&mut self) -> Result<Update, ClusterError> {
            match self.0.take() {
                Some(changes) => Ok(Update { changes, reports: Vec::new() }),
                None => std::future::pending().await,
            }
        }
    }

    fn namespace(name: &str, mesh: &str) -> Change {
        let mut namespace = Namespace::default();
        namespace.metadata.name = Some(name.to_owned());
        let label = ("gammarus.io/mesh".to_owned(), mesh.to_owned());
        namespace.metadata.labels.get_or_insert_default().extend([label]);
        Change::Applied(ObjectKey::new("", name), Object::Namespace(Arc::new(namespace)))
    }

    /// A pod of the namespace `shop` on the node `here`, with its own name as uid.
    fn pod(name: &str) -> Pod {
        Pod { uid: Some(name.into()), node: Some("here".into()), ..Pod::default() }
    }

    fn applied(namespace: &str, name: &str, object: Object) -> Change {
        Change::Applied(ObjectKey::new(namespace, name), object)
    }

    /// What is known on the node `here` once this has been said.
    async fn known(changes: Vec<Change>) -> KnownPods {
        let (writer, view) = Writer::new(Once(Some(changes)), |_: &_, _: &_| Snapshot::default());
        tokio::spawn(writer.run());
        view.ready().await.unwrap();
        KnownPods::new(view, TrustDomain::new("cluster.local").unwrap(), "here".to_owned())
    }

    #[tokio::test]
    async fn of_enrolled_namespaces_those_of_this_nodes_network_are_left_alone() {
        let on_host = |pod: Pod| Pod { is_on_host_network: true, ..pod };
        let label = [("gammarus.io/mesh".to_owned(), "disabled".to_owned())];
        let disabled: Texts = label.iter().map(|(name, text)| (name, text)).collect();
        let is = |namespace, name, pod| applied(namespace, name, Object::Pod(Arc::new(pod)));
        let known = known(vec![
            namespace("shop", "enabled"),
            namespace("outside", "off"),
            is("shop", "own", pod("own")),
            is("shop", "host", on_host(pod("host"))),
            is("shop", "finished", Pod { is_finished: true, ..on_host(pod("finished")) }),
            is("shop", "elsewhere", Pod { node: Some("there".into()), ..on_host(pod("elsewhere")) }),
            is("shop", "unwilling", Pod { labels: disabled, ..on_host(pod("unwilling")) }),
            is("outside", "host", on_host(pod("host"))),
        ])
        .await;
        assert_eq!(known.left_alone(), BTreeSet::from([ObjectKey::new("shop", "host")]));
    }

    #[tokio::test]
    async fn a_mark_is_of_the_pod_whose_uid_it_names() {
        let mut changes = vec![namespace("shop", "enabled")];
        for (name, pod, uid) in [
            ("own", pod("own"), "own"),
            ("replaced", pod("replaced"), "another"),
            ("finished", Pod { is_finished: true, ..pod("finished") }, "finished"),
            ("elsewhere", Pod { node: None, ..pod("elsewhere") }, "elsewhere"),
        ] {
            let mark = Mark::of_captured(uid, Vec::new());
            changes.push(applied("shop", name, Object::Pod(Arc::new(pod))));
            changes.push(applied("shop", name, Object::Mark(Box::new(mark))));
        }
        let marked = known(changes).await.marked();
        assert_eq!(marked, [(ObjectKey::new("shop", "own"), Arc::from("own"))]);
    }
}
