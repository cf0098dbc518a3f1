//! What enrolment asks of the rest of the proxy: what the cluster says of a pod, and where marks are written.

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use gammarus_ca::SpiffeId;
use gammarus_cni::PodName;
use gammarus_cni::state::NamespaceStates;

use crate::cluster::objects::{Mark, ObjectKey};

/// What the cluster says of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodFact {
    /// Its Pod's `metadata.uid`, which goes into the mark.
    pub uid: Arc<str>,
    /// The identity of its service account.
    pub identity: SpiffeId,
    /// Whether its namespace and labels put it into the mesh.
    pub is_enrolled: bool,
}

/// A pod of this node that runs, in a network of its own, and is to be in the mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AwaitedPod {
    /// Its names, with its uid.
    pub name: PodName,
    /// `status.podIPs`, at least one.
    pub addresses: Vec<IpAddr>,
    /// Another such pod, in the mesh or not, that has one of these addresses.
    pub rival: Option<ObjectKey>,
}

/// A pod of this node that serves a Gateway of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayPod {
    /// Its namespace and name.
    pub key: ObjectKey,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The identity of its service account.
    pub identity: SpiffeId,
    /// `status.podIPs`.
    pub addresses: Vec<IpAddr>,
    /// Its ports of TCP that Services lead to.
    pub ports: BTreeSet<u16>,
    /// The mark that it has.
    pub mark: Option<Mark>,
    /// Whether it is being deleted: its mark goes with it.
    pub is_leaving: bool,
}

/// What came of asking for a pod directly.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// This is what the cluster says at this moment.
    Fact(PodFact),
    /// There is no such pod.
    NoSuchPod,
    /// What is watched is all there is: there is nobody to ask.
    Nobody,
    /// No answer came, or none that helps; in words.
    Silence(String),
}

/// What the cluster says, as of now. Asked again after each generation.
pub trait PodFacts: Send + Sync {
    /// What is known of a pod: `None` until its Pod, with the uid that the runtime names, and its Namespace have
    /// been seen. A static pod is known by the uid that its mirror carries in `kubernetes.io/config.mirror`.
    fn find(&self, pod: &PodName) -> Option<PodFact>;

    /// What is known of a pod by asking, once, who keeps the cluster's objects. Called on a thread that may block.
    fn ask(&self, _pod: &PodName) -> Asked {
        Asked::Nobody
    }

    /// The pods of this node that are to be in the mesh and have their addresses.
    fn awaited(&self) -> Vec<AwaitedPod>;

    /// The pods of this node that share its network, and would be in the mesh if they did not.
    fn left_alone(&self) -> BTreeSet<ObjectKey> {
        BTreeSet::new()
    }

    /// The pods of this node that serve Gateways of ours.
    fn gateways(&self) -> Vec<GatewayPod> {
        Vec::new()
    }

    /// The pods of this node that have a mark of theirs and have not finished, each with its uid.
    fn marked(&self) -> Vec<(ObjectKey, Arc<str>)> {
        Vec::new()
    }

    /// Whether the cluster has the pod that this mark is of, and not the mark.
    fn lacks_mark(&self, _pod: &ObjectKey, _mark: &Mark) -> bool {
        false
    }

    /// Addresses of Services, for the proof of capture; the first of each family is used.
    fn service_addresses(&self) -> Vec<SocketAddr>;

    /// Every namespace that was seen, with its state.
    fn namespaces(&self) -> NamespaceStates;
}

/// Where marks are written: files beside the objects, or the API server. Called on a thread that may block.
pub trait MarkWriter: Send + Sync {
    /// Marks a pod as enrolled.
    ///
    /// # Errors
    /// When the mark is not written, or it is not known whether it is; `NotFound` when there is no such pod.
    fn write(&self, pod: &ObjectKey, mark: &Mark) -> io::Result<()>;

    /// Takes the mark of a pod away, if there is one and it is of the pod with this uid: another of the same name may
    /// have come, on another node.
    ///
    /// # Errors
    /// When its mark may still be there.
    fn remove(&self, pod: &ObjectKey, uid: &str) -> io::Result<()>;
}
