//! What the people who own a pod are told of it: as Events on the pod, where there is an API server.

use std::collections::BTreeSet;
use std::fmt::Debug;

use super::error::EnrolError;
use super::repair::Difference;
use crate::cluster::objects::ObjectKey;
use crate::error::with_causes;

/// What has happened to a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// It is in the mesh, and has its mark.
    Enrolled,
    /// It should be in the mesh and is not.
    EnrolmentFailed {
        /// As in `gammarus_pods_unenrolled`.
        reason: &'static str,
        /// As in `/status`.
        message: String,
    },
    /// It is of an enrolled namespace and shares its node's network.
    HostNetworkIgnored,
    /// It has left the mesh and runs on.
    Released,
    /// Something was put back that somebody had taken away.
    Repaired {
        /// As in `gammarus_repairs_total`, several with commas.
        what: String,
        /// In words.
        found: String,
    },
}

impl News {
    pub(super) fn of_failure(error: &EnrolError) -> Self {
        Self::EnrolmentFailed { reason: error.reason(), message: with_causes(error) }
    }

    pub(super) fn of_repair(found: &[Difference]) -> Self {
        let kinds: BTreeSet<&str> = found.iter().map(Difference::what).collect();
        let words: Vec<String> = found.iter().map(ToString::to_string).collect();
        Self::Repaired { what: kinds.into_iter().collect::<Vec<_>>().join(", "), found: words.join("; ") }
    }

    /// The reason of its Event.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Enrolled => "Enrolled",
            Self::EnrolmentFailed { .. } => "EnrolmentFailed",
            Self::HostNetworkIgnored => "HostNetworkIgnored",
            Self::Released => "Released",
            Self::Repaired { .. } => "Repaired",
        }
    }

    /// Whether somebody should look at it.
    #[must_use]
    pub const fn is_warning(&self) -> bool {
        matches!(self, Self::EnrolmentFailed { .. } | Self::Repaired { .. })
    }

    /// Why, in one word: news of one reason that differ in this are told apart.
    #[must_use]
    pub fn cause(&self) -> &str {
        match self {
            Self::EnrolmentFailed { reason, .. } => reason,
            Self::Repaired { what, .. } => what,
            Self::Enrolled | Self::HostNetworkIgnored | Self::Released => "",
        }
    }

    /// In words.
    #[must_use]
    pub fn message(&self) -> String {
        match self {
            Self::Enrolled => "In the mesh: its connections are captured, and other pods of the mesh speak mTLS to it.".to_owned(),
            Self::EnrolmentFailed { message, .. } => message.clone(),
            Self::HostNetworkIgnored => {
                "Left alone: it shares the network of its node, and the mesh has only pods with a network of their own.".to_owned()
            }
            Self::Released => "Out of the mesh: its new connections are not captured any more.".to_owned(),
            Self::Repaired { found, .. } => format!("Put back what somebody had taken away: {found}"),
        }
    }
}

/// Who tells news. Never keeps the teller waiting.
pub trait Herald: Debug + Send + Sync {
    /// Tells of a pod.
    fn tell(&self, pod: &ObjectKey, news: News);
}

/// Tells nobody: where objects are files there is nobody to tell, and the log and `/status` say all of it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Quiet;

impl Herald for Quiet {
    fn tell(&self, _pod: &ObjectKey, _news: News) {}
}
