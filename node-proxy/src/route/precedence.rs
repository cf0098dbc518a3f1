//! The Gateway API's precedence, as one order.

use std::sync::Arc;

use super::{RequestHead, Rule};

/// The rules that hold on one Service port for one group of clients, best match first.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    rules: Vec<Arc<Rule>>,
}

impl RouteTable {
    /// The rule that takes a request, if one does.
    pub fn find(&self, _head: &impl RequestHead) -> Option<&Arc<Rule>> {
        self.rules.first()
    }
}
