//! What a rule does to a request and its answer besides choosing a backend (HTTPRouteFilter, GRPCRouteFilter).
//! Pure.
//!
//! Filters of a backend come after those of its rule; both are joined when a route is compiled, so that the
//! data path finds one [`Filters`] per backend and asks no further.

pub mod cors;
pub mod fields;
pub mod location;

use std::sync::{Arc, LazyLock};

pub use cors::{Cors, Preflight};
pub use fields::FieldEdit;
pub use location::{PathEdit, Redirect, Rewrite};

use super::{Backend, RequestHead};

/// Everything that is done to the requests of one rule, or of one of its backends.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Filters {
    /// `RequestHeaderModifier`.
    pub request: FieldEdit,
    /// `ResponseHeaderModifier`.
    pub response: FieldEdit,
    /// `RequestRedirect`: the request is answered and goes nowhere.
    pub redirect: Option<Redirect>,
    /// `URLRewrite`.
    pub rewrite: Option<Rewrite>,
    /// `RequestMirror`, each for itself.
    pub mirrors: Vec<Mirror>,
    /// `CORS`.
    pub cors: Option<Arc<Cors>>,
}

/// What most rules have.
static NOTHING: LazyLock<Arc<Filters>> = LazyLock::new(Arc::default);

impl Filters {
    /// The filters for many to hold. Those that do nothing are there once.
    #[must_use]
    pub fn shared(self) -> Arc<Self> {
        if self.is_empty() { Arc::clone(&NOTHING) } else { Arc::new(self) }
    }

    /// Whether nothing is done.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.request.is_empty()
            && self.response.is_empty()
            && self.redirect.is_none()
            && self.rewrite.is_none()
            && self.mirrors.is_empty()
            && self.cors.is_none()
    }

    /// The path and query that a request goes on with, when they are not its own.
    #[must_use]
    pub fn target(&self, head: &impl RequestHead) -> Option<String> {
        let edit = self.rewrite.as_ref()?.path.as_ref()?;
        let mut target = edit.apply(head.path());
        if let Some(query) = head.query() {
            target.push('?');
            target.push_str(query);
        }
        Some(target)
    }

    /// The host that a request goes on with, when it is not its own.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        self.rewrite.as_ref()?.hostname.as_deref()
    }

    /// What becomes of the fields of the answer to a request: what the backend says of other origins gives way to
    /// what the route says.
    #[must_use]
    pub fn answer_edit(&self, head: &impl RequestHead) -> FieldEdit {
        let Some(cors) = &self.cors else { return self.response.clone() };
        let origin = head.header("origin");
        let lines =
            origin.map(|origin| cors.answer_lines(&String::from_utf8_lossy(&origin))).unwrap_or_default();
        let lines: Vec<(&str, &str)> = lines.iter().map(|(name, value)| (*name, &**value)).collect();
        FieldEdit::new(&[], &lines, &[]).removing(&cors::OWN_FIELDS).then(&self.response)
    }

    /// These, and after them those of a backend. Where both say what only one can, the backend's holds.
    #[must_use]
    pub fn then(&self, backend: &Self) -> Self {
        Self {
            request: self.request.then(&backend.request),
            response: self.response.then(&backend.response),
            redirect: backend.redirect.clone().or_else(|| self.redirect.clone()),
            rewrite: match (&self.rewrite, &backend.rewrite) {
                (Some(rule), Some(backend)) => Some(rule.then(backend)),
                (rule, backend) => backend.clone().or_else(|| rule.clone()),
            },
            mirrors: [&self.mirrors[..], &backend.mirrors].concat(),
            cors: backend.cors.clone().or_else(|| self.cors.clone()),
        }
    }
}

/// A copy of a share of the requests to another backend, whose answers nobody hears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Where to.
    pub backend: Backend,
    /// Of `denominator` requests this many, by chance (`percent` is of 100, nothing said is all).
    pub numerator: u32,
    /// Never zero.
    pub denominator: u32,
}

impl Mirror {
    /// Whether a request is copied, for a uniformly random number.
    #[must_use]
    pub fn takes(&self, random: u64) -> bool {
        random % u64::from(self.denominator.max(1)) < u64::from(self.numerator)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::FailureReason;

    fn mirror(numerator: u32, denominator: u32) -> Mirror {
        Mirror { backend: Backend::Failing(FailureReason::InvalidBackend), numerator, denominator }
    }

    //= gateway-api HTTPRequestMirrorFilter.percent
    //# Its minimum value is 0 (indicating 0% of requests) and its maximum value is 100 (indicating 100% of requests).
    #[test]
    fn a_mirror_takes_exactly_its_share() {
        for (numerator, denominator) in [(0, 100), (1, 100), (50, 100), (100, 100), (1, 3), (2, 1000), (7, 7)]
        {
            let taken =
                (0..u64::from(denominator)).filter(|n| mirror(numerator, denominator).takes(*n)).count();
            assert_eq!(taken, usize::try_from(numerator).expect("small"), "{numerator} of {denominator}");
        }
    }

    #[test]
    fn a_backends_filters_come_after_its_rules() {
        let rule = Filters {
            request: FieldEdit::new(&[("x-rule", "1"), ("x-both", "rule")], &[], &[]),
            mirrors: vec![mirror(1, 1)],
            ..Filters::default()
        };
        let backend = Filters {
            request: FieldEdit::new(&[("X-Both", "backend")], &[], &[]),
            mirrors: vec![mirror(1, 2)],
            ..Filters::default()
        };
        let joined = rule.then(&backend);
        let added: Vec<_> = joined.request.added().collect();
        assert_eq!(added, [("x-rule", "1"), ("X-Both", "backend")]);
        assert_eq!(joined.mirrors, [mirror(1, 1), mirror(1, 2)]);
    }
}
