//! The routes that hold on a port → one table in the Gateway API's order.

use std::sync::Arc;

use crate::attach::AttachedRoute;
use crate::route::split::Split;
use crate::route::{RouteInput, RouteTable, Rule};

/// The table of these routes, of which there may be none; the old one where it says the same.
pub(super) fn compile_table<'a>(
    routes: impl Iterator<Item = &'a Arc<AttachedRoute>>,
    old: Option<&Arc<RouteTable>>,
) -> Option<Arc<RouteTable>> {
    let inputs: Vec<RouteInput> = routes.map(|route| build_input(route)).collect();
    if inputs.is_empty() {
        return None;
    }
    let table = RouteTable::new(inputs);
    Some(match old.filter(|old| is_same(old, &table)) {
        Some(old) => Arc::clone(old),
        None => Arc::new(table),
    })
}

fn build_input(route: &AttachedRoute) -> RouteInput {
    let rules = route.rules.iter().map(|attached| {
        let rule = Rule {
            route: Arc::clone(&route.route),
            index: attached.index,
            name: attached.name.clone(),
            terms: attached.terms.clone(),
            filters: Arc::clone(&attached.filters),
            backends: Split::new(attached.backends.clone()),
        };
        (attached.matches.clone(), rule)
    });
    RouteInput { route: Arc::clone(&route.route), created: route.created, rules: rules.collect() }
}

/// Whether both tables give every request to the same rule of the same route with the same backends.
fn is_same(one: &RouteTable, other: &RouteTable) -> bool {
    one.entries().count() == other.entries().count()
        && one.entries().zip(other.entries()).all(|((match_a, a), (match_b, b))| {
            match_a == match_b
                && a.route == b.route
                && a.index == b.index
                && a.name == b.name
                && a.terms == b.terms
                && a.filters == b.filters
                && a.backends.backends() == b.backends.backends()
        })
}
