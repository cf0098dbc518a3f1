//! A pod joins the mesh: its namespace gets rules and listening sockets, and what it proves, its mark.
//!
//! The plugin's request comes in [`enroll`]; [`registry`] decides by [`facts`], and `joining` goes step by step: rules
//! and routes ([`redirect`]), listeners ([`sockets`]), [`PodEvent::Joined`] to the data path, the [`proof`], the mark.
//! From then on the data path dials through [`EnrolledPod`], and the pod is looked after ([`tending`], `repair`) until
//! it goes or is released. A proxy that starts finds the pods again by `records`, and those that no plugin has told of by
//! a [`search`]. The pods of Gateways, where nothing is captured, are asked for the hop and marked by `gateways`. Nothing
//! here reads what connections carry, and no thread stays in a pod's namespace ([`netns`]).

pub mod api_server;
pub mod backing;
mod bare_proc;
pub mod enroll;
pub mod error;
pub mod facts;
mod gateways;
pub mod host;
mod joining;
pub mod known;
mod learning;
mod marking;
mod netlink;
pub mod netns;
pub mod news;
mod nft;
pub mod node_socket;
mod older;
pub mod own;
pub mod proof;
mod records;
pub mod redirect;
pub mod registry;
mod repair;
mod routing;
pub mod search;
pub mod sockets;
pub mod standing;
mod sysctl;
pub mod tending;
pub mod troubles;
mod uninstall;

use std::io;
use std::net::{IpAddr, TcpListener};
use std::sync::Arc;

use gammarus_ca::SpiffeId;
use gammarus_cni::state::Record;
use serde::{Deserialize, Serialize};

use crate::cluster::objects::ObjectKey;
use host::Host;
use netns::NetnsFd;
use proof::ProofBoard;
use standing::Standing;

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Direction {
    /// Towards the pod.
    Inbound,
    /// From the pod.
    Outbound,
    /// To a Gateway, whose pod it is: nothing is captured there.
    Ingress,
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
    /// What is known of it on the disk; nothing of a pod that is this process.
    pub record: Option<Record>,
    /// Its network namespace.
    pub netns: NetnsFd,
    /// Its node.
    pub host: Arc<Host>,
    /// What the accept loop asks about each connection: one that it claims is closed at once.
    pub proofs: ProofBoard,
    /// How it stands to the mesh.
    pub standing: Standing,
}

/// One listening socket in a pod's namespace.
#[derive(Debug)]
pub struct PodListener {
    /// What arrives there.
    pub direction: Direction,
    /// The socket, listening and non-blocking.
    pub socket: TcpListener,
}

impl PodListener {
    /// Another descriptor of the same socket.
    ///
    /// # Errors
    /// When the process is out of descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { direction: self.direction, socket: self.socket.try_clone()? })
    }
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
    /// Listeners of a pod were closed by somebody else, and are open again: accept on these, too.
    Listening {
        /// The pod's uid.
        uid: Arc<str>,
        /// The listeners that are new.
        listeners: Vec<PodListener>,
    },
    /// All of a pod's joining is done, its mark written, or it had been in the mesh before.
    Settled {
        /// The pod's uid.
        uid: Arc<str>,
    },
    /// A pod has left: close everything of it, and let go of the [`EnrolledPod`], which holds its namespace.
    Left {
        /// The pod's uid.
        uid: Arc<str>,
    },
}
