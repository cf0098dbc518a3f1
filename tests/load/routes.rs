//! Routes that are edited under load.

use std::time::Duration;

use crate::edits::edit;
use crate::load::Load;
use crate::stage::{Mesh, Stage};

const EDITS: u32 = 20;

/// The routes of `web` after so many edits: weights, filters, and rules that come and go.
fn routes_after(edits: u32) -> String {
    let (split, filter) = edit(edits);
    let (own, odd) = match edits % 4 {
        0 => ("", ""),
        1 => ("{matches: [{method: POST}], backendRefs: [{name: v2, port: 80}]},", ""),
        2 => (
            "{matches: [{path: {type: RegularExpression, value: '/load/[0-9]*[05]'}}], backendRefs: [{name: v1, port: 80}]},",
            "{matches: [{method: {method: FullDuplexCall}}], backendRefs: [{name: v2, port: 50051}]},",
        ),
        _ => ("", "{matches: [{method: {method: UnaryCall}}], backendRefs: [{name: v1, port: 50051}]},"),
    };
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules: [{own} {{filters: [{filter}], {}}}]\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: GRPCRoute\nmetadata: {{name: web}}\nspec:\n  \
         parentRefs: [{{group: '', kind: Service, name: web, port: 50051}}]\n  rules: [{odd} {{{}}}]\n",
        split(80),
        split(50051)
    )
}

#[test]
fn edits_of_routes_fail_nothing() {
    let mut stage = Stage::set(Mesh::On);
    let load = Load::start(&stage);
    for edit in 0..EDITS {
        load.note(&format!("edit {edit}"));
        stage.apply(&routes_after(edit));
        stage.taken_in();
        stage.check_accepted("HTTPRoute shop/web");
        stage.check_accepted("GRPCRoute shop/web");
        load.pass(Duration::from_millis(200));
    }
    let counts = load.finish("20 edits of two routes");
    counts.check();
    assert_eq!(counts.grpc_connections, 1, "connections of the gRPC client");
}
