//! Why a pod is not in the mesh that should be.

use std::io;
use std::time::Duration;

use gammarus_cni::Outcome;
use gammarus_cni::protocol::code;

use super::proof::ProofError;
use super::redirect::RedirectError;
use super::search::SearchError;
use crate::cluster::objects::ObjectKey;
use crate::error::with_causes;

/// Why a pod did not join.
#[derive(Debug, thiserror::Error)]
pub enum EnrolError {
    /// The data path has ended.
    #[error("the node's proxy is shutting down")]
    DataPathGone,
    /// The pod's listeners could not be opened.
    #[error("cannot open the listeners of pod {pod}")]
    Listeners {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// The mark could not be written.
    #[error("cannot write the mark of pod {pod}")]
    Mark {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// What was passed is no network namespace, or cannot be entered.
    #[error("cannot enter the network namespace of pod {pod}")]
    Namespace {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: io::Error,
    },
    /// The capture could not be proven.
    #[error("the connections of pod {pod} are not captured")]
    Proof {
        /// The pod.
        pod: ObjectKey,
        /// What did not arrive.
        source: ProofError,
    },
    /// Something takes the rules or sockets away as often as they are put back.
    #[error("the rules or sockets of pod {pod} do not stay: {found}")]
    Unsteady {
        /// The pod.
        pod: ObjectKey,
        /// What was missing or changed last.
        found: String,
    },
    /// The rules could not be installed.
    #[error("cannot install the rules of pod {pod}")]
    Redirect {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: RedirectError,
    },
    /// No ADD has told of it, and its namespace is not found.
    #[error("the network namespace of pod {pod} is not known")]
    Search {
        /// The pod.
        pod: ObjectKey,
        /// Why not.
        source: SearchError,
    },
    /// The Pod or its Namespace was not seen in time.
    #[error("pod {pod} or its namespace has not been seen within {} ms", waited.as_millis())]
    Unseen {
        /// The pod, as the runtime names it.
        pod: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Its DEL came before its ADD was done.
    #[error("pod {pod} was released while it was being enrolled")]
    Withdrawn {
        /// The pod.
        pod: ObjectKey,
    },
}

impl EnrolError {
    /// The label of `gammarus_pods_unenrolled`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::DataPathGone => "proxy_ending",
            Self::Listeners { .. } => "listeners",
            Self::Mark { .. } => "mark",
            Self::Namespace { .. } => "namespace",
            Self::Proof { source, .. } => source.reason(),
            Self::Redirect { .. } => "rules",
            Self::Search { source, .. } => source.reason(),
            Self::Unseen { .. } => "unseen",
            Self::Unsteady { .. } => "rules_do_not_stay",
            Self::Withdrawn { .. } => "withdrawn",
        }
    }

    /// The answer to the plugin.
    pub(super) fn outcome(&self) -> Outcome {
        let code = match self {
            Self::Unseen { .. } | Self::DataPathGone => code::TRY_AGAIN_LATER,
            Self::Listeners { .. }
            | Self::Mark { .. }
            | Self::Namespace { .. }
            | Self::Proof { .. }
            | Self::Redirect { .. }
            | Self::Search { .. }
            | Self::Unsteady { .. }
            | Self::Withdrawn { .. } => code::ENROLMENT_FAILED,
        };
        let details = std::error::Error::source(self).map(with_causes).unwrap_or_default();
        Outcome::Failed { code, msg: self.to_string(), details }
    }
}
