//! What enrolment knows of pods when the cluster is a watched view, and marks that are files beside the objects.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use gammarus_ca::TrustDomain;
use gammarus_cni::PodName;
use gammarus_cni::state::NamespaceStates;

use super::facts::{AwaitedPod, MarkWriter, PodFact, PodFacts};
use super::registry::key_of;
use crate::cluster::directory::{remove_mark, write_mark};
use crate::cluster::objects::{Mark, ObjectKey};
use crate::cluster::trimmed::{MIRROR_ANNOTATION, Pod};
use crate::cluster::writer::ClusterView;
use crate::compile::workload::find_membership;

/// Pods as the cluster's view has them.
#[derive(Clone, Debug)]
pub struct KnownPods {
    view: ClusterView,
    trust_domain: TrustDomain,
    node: String,
}

impl KnownPods {
    /// Looks pods up in `view`; their identities are of `trust_domain`, and those of `node` are awaited here.
    #[must_use]
    pub const fn new(view: ClusterView, trust_domain: TrustDomain, node: String) -> Self {
        Self { view, trust_domain, node }
    }
}

impl PodFacts for KnownPods {
    fn find(&self, name: &PodName) -> Option<PodFact> {
        let objects = self.view.objects();
        let key = key_of(name);
        let pod = objects.pods.get(&key)?;
        let uid = pod.uid.as_ref()?;
        let mirrored = pod.annotations.find(MIRROR_ANNOTATION);
        // Runtimes before CNI 1.0's arguments pass no uid: then the name has to do.
        if let Some(asked) = name.uid()
            && **uid != *asked
            && mirrored.is_none_or(|uid| uid != asked)
        {
            return None;
        }
        let membership = find_membership(&objects, &key, &self.trust_domain)?;
        let uid = uid.as_ref().into();
        Some(PodFact { uid, identity: membership.identity, is_enrolled: membership.is_enrolled })
    }

    fn awaited(&self) -> Vec<AwaitedPod> {
        let objects = self.view.objects();
        // The address of a pod that has finished, or is about to, may be another one's by now.
        let runs = |pod: &Pod| !pod.is_on_host_network && !pod.is_finished && !pod.is_leaving;
        let local =
            objects.pods.iter().filter(|(_, pod)| pod.node.as_deref() == Some(&*self.node) && runs(pod));
        let mut owners: HashMap<IpAddr, Vec<&ObjectKey>> = HashMap::new();
        let local: Vec<_> = local.collect();
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
