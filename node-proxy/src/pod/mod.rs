//! A pod joins the mesh: its namespace gets rules and listening sockets, and what it proves, its mark.
//!
//! The plugin's request comes in [`enroll`]; [`registry`] decides by [`facts`] and goes step by step: rules and
//! routes ([`redirect`]), listeners ([`sockets`]), [`PodEvent::Joined`] to the data path, the [`proof`], the mark.
//! From then on the data path dials through [`EnrolledPod`]. Nothing here reads what connections carry, and no
//! thread stays in a pod's namespace ([`netns`]).

pub mod enroll;
pub mod facts;
pub mod known;
mod netlink;
pub mod netns;
mod nft;
pub mod node_socket;
pub mod proof;
pub mod redirect;
pub mod registry;
mod routing;
pub mod sockets;
mod sysctl;

use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use gammarus_ca::SpiffeId;

use crate::cluster::objects::ObjectKey;
use netns::NetnsFd;
use proof::ProofBoard;

/// Which way a captured connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Towards the pod.
    Inbound,
    /// From the pod.
    Outbound,
}

/// A pod of this node that is in the mesh.
#[derive(Debug)]
pub struct EnrolledPod {
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// The Pod's namespace and name.
    pub pod: ObjectKey,
    /// Its identity.
    pub identity: SpiffeId,
    /// Its addresses, as its CNI result gave them.
    pub addresses: Vec<IpAddr>,
    /// Its network namespace.
    pub netns: NetnsFd,
    /// What the accept loop asks about each connection: one that it claims is closed at once.
    pub proofs: ProofBoard,
}

/// One listening socket in a pod's namespace.
#[derive(Debug)]
pub struct PodListener {
    /// What arrives there.
    pub direction: Direction,
    /// The socket, listening and non-blocking.
    pub socket: TcpListener,
}

/// What the data path is told about pods.
#[derive(Debug)]
pub enum PodEvent {
    /// A pod has joined: accept on its listeners.
    Joined {
        /// The pod.
        pod: Arc<EnrolledPod>,
        /// Its listeners, one per direction and address family.
        listeners: Vec<PodListener>,
    },
    /// A pod has left: close everything of it, and let go of the [`EnrolledPod`], which holds its namespace.
    Left {
        /// The pod's uid.
        uid: Arc<str>,
    },
}
