//! The words between the plugin and the node's proxy: one request and one reply per connection.
//!
//! A frame is four bytes of length, big-endian, and as many bytes of JSON, [`MAX_FRAME`] at most. The pod's
//! network namespace comes as a descriptor beside a request's first byte. Each message names its version:
//! a release speaks [`VERSION`] and understands everything from [`OLDEST_VERSION`]; a message of any other version is
//! answered with a refusal that says so. Fields may be added within a version, and are ignored by who does not
//! know them. Neither side ever waits longer than it was told, whatever the other does.

mod client;
mod frame;
mod server;
#[cfg(test)]
mod tests;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::attachment::{Attachment, AttachmentId};

pub use client::call;
pub use frame::MAX_FRAME;
pub use server::{read_request, write_reply};

/// The version that this release speaks.
pub const VERSION: u32 = 1;

/// The oldest version that this release understands: that of the release before it, once there is one.
pub const OLDEST_VERSION: u32 = if VERSION > 1 { VERSION - 1 } else { 1 };

/// The codes of [`Outcome::Failed`]; those under 100 are the CNI specification's own.
pub mod code {
    /// The node's proxy cannot do it now, and may be able to later (CNI 1.1, "try again later").
    pub const TRY_AGAIN_LATER: u32 = 11;
    /// The message was not understood.
    pub const MALFORMED: u32 = 100;
    /// The message's version is not understood.
    pub const UNSUPPORTED_VERSION: u32 = 101;
    /// The pod could not be enrolled.
    pub const ENROLMENT_FAILED: u32 = 102;
    /// The pod is not enrolled as it should be.
    pub const NOT_AS_EXPECTED: u32 = 103;
}

/// What the plugin asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// The version this request is written in.
    pub version: u32,
    /// What is to be done.
    pub command: Command,
}

impl Request {
    /// A request in the version of this release.
    #[must_use]
    pub const fn new(command: Command) -> Self {
        Self { version: VERSION, command }
    }

    /// The answer to this request, in the version it was asked in.
    #[must_use]
    pub const fn reply(&self, outcome: Outcome) -> Reply {
        Reply { version: self.version, outcome }
    }
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Command {
    /// Is this pod enrolled as it should be? Answered by `Enrolled`, `NotEnrolled` (and is not to be) or `Failed`.
    Check(Attachment),
    /// Enrol this pod if its namespace and labels ask for it, and answer when its listeners accept: `Enrolled`,
    /// `NotEnrolled` or `Failed`. The namespace is always passed along. Asking again is not an error.
    Enrol(Attachment),
    /// Release every attachment of this network that is not in the list. Answered by `Done`.
    Gc {
        /// The `name` of the network configuration.
        network: String,
        /// What the runtime still has.
        valid: Vec<AttachmentId>,
    },
    /// Could a pod be enrolled now? Answered by `Done` or `Failed`.
    Status,
    /// Release this pod. Answered by `Done`, also when nothing is known of it.
    Withdraw(AttachmentId),
}

/// What the node's proxy answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// The version this reply is written in.
    pub version: u32,
    /// What came of it.
    pub outcome: Outcome,
}

impl Reply {
    /// The answer to a request that could not be read.
    #[must_use]
    pub fn refusing(error: &ProtocolError) -> Self {
        let code = match error {
            ProtocolError::UnsupportedVersion { .. } => code::UNSUPPORTED_VERSION,
            _ => code::MALFORMED,
        };
        let outcome = Outcome::Failed { code, msg: error.to_string(), details: String::new() };
        Self { version: VERSION, outcome }
    }
}

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// It is done, or there was nothing to do.
    Done,
    /// The pod is in the mesh: its rules are in force and its listeners accept.
    Enrolled,
    /// It was not done.
    Failed {
        /// One of [`code`], or another code of the CNI specification.
        code: u32,
        /// What failed, naming the object, in one line.
        msg: String,
        /// What else helps; may be empty.
        details: String,
    },
    /// The pod is not to be in the mesh.
    NotEnrolled,
}

impl Outcome {
    /// Its name, for messages.
    #[must_use]
    pub const fn as_label(&self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Enrolled => "enrolled",
            Self::Failed { .. } => "failed",
            Self::NotEnrolled => "not_enrolled",
        }
    }
}

/// Why a message could not be exchanged.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Nobody listens on the socket, or it cannot be reached.
    #[error("cannot connect to {}", socket.display())]
    Connect {
        /// The socket's path.
        socket: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The peer closed the connection inside a frame, or before one.
    #[error("the connection was closed after {received} of {expected} bytes of a message")]
    Closed {
        /// Bytes that had come.
        received: usize,
        /// Bytes that should have come.
        expected: usize,
    },
    /// A frame is longer than [`MAX_FRAME`].
    #[error("a message of {length} bytes is longer than {MAX_FRAME}")]
    FrameTooLong {
        /// Its length.
        length: usize,
    },
    /// The socket failed.
    #[error("the connection failed")]
    Io(#[from] io::Error),
    /// The text of a frame is not a message of its version.
    #[error("a message could not be understood: {0}")]
    Malformed(serde_json::Error),
    /// A request to enrol came without the pod's network namespace.
    #[error("a request to enrol came without a network namespace")]
    MissingNamespace,
    /// The time was up.
    #[error("no complete message within {} ms", .0.as_millis())]
    Timeout(Duration),
    /// More than one descriptor came with a frame.
    #[error("{count} descriptors came with a message, one is expected")]
    TooManyDescriptors {
        /// How many.
        count: usize,
    },
    /// The message is of a version that this release does not understand.
    #[error(
        "version {version} of the enrolment protocol is not understood, only {OLDEST_VERSION} to {VERSION}"
    )]
    UnsupportedVersion {
        /// The message's version.
        version: u32,
    },
}
