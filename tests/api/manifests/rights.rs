//! Who may do what: service accounts what they must and no more, and people what their role says.

use super::{SYSTEM, installed};
use crate::api_server::ApiServer;

const ROUTES: &str = "grpcroutes, httproutes, tcproutes, tlsroutes, udproutes";
/// The mesh leaves UDP alone.
const ROUTES_OF_THE_MESH: &str = "grpcroutes, httproutes, tcproutes, tlsroutes";

/// Somebody, and what is asked about them.
struct Asked<'a> {
    server: &'a ApiServer,
    who: String,
    namespace: &'a str,
}

impl Asked<'_> {
    /// `kubectl auth can-i`. A resource is written as in a role, with its subresource or a name: `pods/status`,
    /// `secrets name`.
    #[track_caller]
    fn can(&self, verb: &str, resource: &str) -> bool {
        let (resource, name) = resource.split_once(' ').unwrap_or((resource, ""));
        let (resource, subresource) = resource.split_once('/').unwrap_or((resource, ""));
        let resource = if name.is_empty() { resource.to_owned() } else { format!("{resource}/{name}") };
        let (who, sub) = (format!("--as={}", self.who), format!("--subresource={subresource}"));
        let ended = self.server.kubectl(&[
            "auth",
            "can-i",
            verb,
            &resource,
            &sub,
            &who,
            "--namespace",
            self.namespace,
        ]);
        // A misspelt resource is nobody's right, and would pass as a refusal.
        assert!(!ended.stderr.contains("doesn't have a resource type"), "{ended:?}");
        match ended.stdout.trim() {
            "yes" => true,
            "no" => false,
            _ => panic!("{ended:?}"),
        }
    }

    #[track_caller]
    fn check(&self, expected: bool, table: &[(&str, &str)]) {
        for (verbs, resources) in table {
            for verb in verbs.split(' ') {
                for resource in resources.split(", ") {
                    assert_eq!(
                        self.can(verb, resource),
                        expected,
                        "{} {verb} {resource} in {}",
                        self.who,
                        self.namespace
                    );
                }
            }
        }
    }
}

fn account<'a>(server: &'a ApiServer, name: &str, namespace: &'a str) -> Asked<'a> {
    Asked { server, who: format!("system:serviceaccount:{SYSTEM}:{name}"), namespace }
}

/// What nobody of the mesh may do anywhere.
const NEVER: [(&str, &str); 7] = [
    ("update deletecollection", CHOSEN),
    ("create update patch delete", "pods, daemonsets.apps"),
    ("update delete deletecollection", PROVIDED),
    ("create", "pods/exec, pods/attach, pods/portforward, serviceaccounts/token, pods/binding"),
    ("delete", "namespaces, nodes, httproutes, configmaps, validatingadmissionpolicies"),
    ("update patch", "namespaces, httproutes, clusterroles, rolebindings, customresourcedefinitions"),
    ("create", "clusterrolebindings, customresourcedefinitions, validatingwebhookconfigurations"),
];
/// What the controller alone makes, for Gateways, in whichever namespace they are.
const PROVIDED: &str = "configmaps, deployments.apps, serviceaccounts, services";
/// What it makes where somebody asks for it, and deletes where nobody does any more.
const CHOSEN: &str = "horizontalpodautoscalers.autoscaling, poddisruptionbudgets.policy";
/// What the controller may where somebody has chosen so, for the certificates that Gateways name.
const CERTIFICATES: [(&str, &str); 1] = [("list watch", "secrets")];
/// What the controller writes the status of, beside the mesh.
const JUDGED: &str = "backendtlspolicies, gatewayclasses, gateways, listenersets";

#[test]
fn the_node_reads_what_it_routes_by_and_writes_marks_and_events() {
    let server = installed();
    let node = account(&server, "gammarus-node", "default");
    node.check(
        true,
        &[
            ("get list watch", "namespaces, pods"),
            ("list watch", "nodes, services, endpointslices, referencegrants"),
            ("list watch", ROUTES_OF_THE_MESH),
            ("watch", "customresourcedefinitions httproutes.gateway.networking.k8s.io"),
            ("patch", "pods/status"),
            ("create patch", "events.events.k8s.io"),
        ],
    );
    node.check(false, &NEVER);
    node.check(false, &CERTIFICATES);
    node.check(false, &[("create patch", PROVIDED), ("create patch delete", CHOSEN)]);
    node.check(false, &[("list watch", JUDGED)]);
    node.check(
        false,
        &[
            ("get", "secrets, configmaps, daemonsets.apps"),
            ("get", "nodes, services, endpointslices, referencegrants"),
            (
                "watch",
                "customresourcedefinitions, customresourcedefinitions xmeshes.gateway.networking.x-k8s.io",
            ),
            ("get", ROUTES),
            ("list watch", "udproutes"),
            ("update", "pods/status, nodes/status"),
            ("patch", "nodes, nodes/status, services/status, httproutes/status, leases"),
            ("create", "tokenreviews, subjectaccessreviews, leases"),
        ],
    );
    let at_home = account(&server, "gammarus-node", SYSTEM);
    at_home.check(true, &[("get watch", "daemonsets.apps gammarus-node")]);
    at_home.check(
        false,
        &[
            ("get", "secrets gammarus-ca, secrets gammarus-ca-signer, daemonsets.apps other"),
            ("patch delete", "daemonsets.apps gammarus-node, configmaps gammarus-trust-bundle"),
        ],
    );
}

#[test]
fn the_ca_reviews_tokens_looks_for_pods_and_keeps_its_own_secret() {
    let server = installed();
    let ca = account(&server, "gammarus-ca", "default");
    ca.check(true, &[("create", "tokenreviews"), ("get", "pods"), ("list", "nodes")]);
    ca.check(false, &NEVER);
    ca.check(false, &CERTIFICATES);
    ca.check(false, &[("create patch", PROVIDED), ("create patch delete", CHOSEN)]);
    ca.check(
        false,
        &[
            ("get", "secrets, secrets gammarus-ca, configmaps, httproutes, services"),
            ("create update patch", "secrets, configmaps gammarus-trust-bundle"),
            ("patch", "pods/status, nodes"),
            ("create", "subjectaccessreviews, leases"),
        ],
    );
    let at_home = account(&server, "gammarus-ca", SYSTEM);
    at_home.check(
        true,
        &[
            ("get create update patch", "secrets gammarus-ca"),
            ("get create patch", "configmaps gammarus-trust-bundle"),
            ("get", "secrets gammarus-ca-signer"),
        ],
    );
    at_home.check(
        false,
        &[
            ("create update patch delete", "secrets gammarus-ca-signer"),
            ("create", "secrets, configmaps"),
            ("delete", "secrets gammarus-ca"),
            ("get", "secrets other, configmaps other"),
        ],
    );
}

#[test]
fn the_controller_writes_status_and_its_lease() {
    let server = installed();
    let controller = account(&server, "gammarus-controller", "default");
    controller.check(
        true,
        &[
            ("list watch", "namespaces, services, referencegrants, xmeshes"),
            ("list watch", "nodes, pods, endpointslices"),
            ("get list watch", ROUTES),
            ("get list watch", JUDGED),
            ("get", "xmeshes"),
            (
                "patch",
                "backendtlspolicies/status, gatewayclasses/status, gateways/status, listenersets/status",
            ),
            (
                "patch",
                "grpcroutes/status, httproutes/status, tcproutes/status, tlsroutes/status, udproutes/status, xmeshes/status",
            ),
            ("list watch", "customresourcedefinitions"),
            // What Gateways need: made, applied and looked at, and deleted by whoever owns it.
            ("create get list patch watch", PROVIDED),
            // And what they may need no more, too.
            ("create delete get list patch watch", CHOSEN),
            ("update", "gateways/finalizers"),
        ],
    );
    controller.check(false, &NEVER);
    controller.check(false, &CERTIFICATES);
    controller.check(
        false,
        &[
            ("get list", "leases"),
            ("get", "nodes, pods, endpointslices"),
            ("get create update patch delete", "secrets"),
            ("get patch update", "deployments.apps/scale, deployments.apps/status"),
            ("create", "serviceaccounts/token, pods, daemonsets.apps"),
            ("create update patch delete", JUDGED),
            ("get", "namespaces, referencegrants, customresourcedefinitions"),
            ("patch", "pods/status, nodes, nodes/status, services/status, xmeshes"),
            ("create", "tokenreviews, leases"),
        ],
    );
    let at_home = account(&server, "gammarus-controller", SYSTEM);
    at_home.check(true, &[("create", "leases"), ("get update", "leases gammarus-controller")]);
    at_home.check(false, &[("update delete", "leases other"), ("get", "secrets gammarus-ca")]);
}

/// Binds a user to a role: everywhere, or in a namespace.
#[track_caller]
fn bind<'a>(
    server: &'a ApiServer,
    who: &str,
    role: &str,
    namespace: Option<&str>,
    asked: &'a str,
) -> Asked<'a> {
    let (kind, place) = match namespace {
        Some(namespace) => ("RoleBinding", format!(", namespace: {namespace}")),
        None => ("ClusterRoleBinding", String::new()),
    };
    server.apply(&format!(
        "{{apiVersion: rbac.authorization.k8s.io/v1, kind: {kind}, metadata: {{name: {who}{place}}},
           roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {role}}},
           subjects: [{{apiGroup: rbac.authorization.k8s.io, kind: User, name: {who}}}]}}"
    ));
    Asked { server, who: who.to_owned(), namespace: asked }
}

#[test]
fn an_application_developer_has_the_routes_of_a_namespace() {
    let server = installed();
    server.namespace("ana-writes", &[]);
    let role = "ClusterRole, name: gammarus-application-developer";
    let ana = bind(&server, "ana", role, Some("ana-writes"), "ana-writes");
    let all = "get list watch create update patch delete";
    ana.check(true, &[(all, ROUTES), (all, "referencegrants")]);
    ana.check(
        false,
        &[
            ("patch", "httproutes/status, namespaces, pods, services, xmeshes"),
            ("get", "secrets, pods"),
            ("delete deletecollection", "namespaces, gateways"),
        ],
    );
    let elsewhere = Asked { server: &server, who: "ana".to_owned(), namespace: "default" };
    elsewhere.check(false, &[(all, "httproutes, referencegrants")]);
}

#[test]
fn a_viewer_looks() {
    let server = installed();
    server.namespace("vera-looks", &[]);
    let vera = bind(&server, "vera", "ClusterRole, name: gammarus-viewer", Some("vera-looks"), "vera-looks");
    vera.check(true, &[("get list watch", ROUTES), ("get", "referencegrants")]);
    vera.check(false, &[("create update patch delete", "httproutes, referencegrants"), ("get", "secrets")]);
}

#[test]
fn a_cluster_operator_says_which_namespaces_are_in_the_mesh() {
    let server = installed();
    let chihiro = bind(&server, "chihiro", "ClusterRole, name: gammarus-cluster-operator", None, "default");
    chihiro.check(
        true,
        &[
            ("get list patch update", "namespaces"),
            (
                "create patch delete",
                "httproutes, grpcroutes, tcproutes, tlsroutes, udproutes, referencegrants",
            ),
            ("get list watch", "xmeshes, pods, services, events.events.k8s.io, endpointslices"),
        ],
    );
    chihiro.check(
        false,
        &[
            ("create delete", "namespaces, pods, xmeshes"),
            ("patch", "pods, pods/status, services, xmeshes, httproutes/status"),
            ("get list", "secrets, configmaps"),
            ("create", "pods/exec, clusterrolebindings"),
        ],
    );
    let system = Asked { server: &server, who: "chihiro".to_owned(), namespace: SYSTEM };
    system.check(false, &[("patch", "daemonsets.apps, deployments.apps"), ("get", "secrets gammarus-ca")]);
}

#[test]
fn an_infrastructure_provider_has_the_mesh_and_not_its_keys() {
    let server = installed();
    let ian = bind(&server, "ian", "ClusterRole, name: gammarus-infrastructure-provider", None, "default");
    ian.check(
        true,
        &[
            ("create update patch delete", "xmeshes"),
            ("list", "nodes, namespaces, customresourcedefinitions, validatingadmissionpolicies"),
        ],
    );
    ian.check(
        false,
        &[
            ("get patch", "httproutes, deployments.apps, secrets"),
            (
                "patch",
                "namespaces, nodes, validatingadmissionpolicies, customresourcedefinitions, pods/status",
            ),
        ],
    );
    let role = "Role, name: gammarus-infrastructure-provider";
    let at_home = bind(&server, "ian", role, Some(SYSTEM), SYSTEM);
    at_home.check(
        true,
        &[
            ("get patch update", "daemonsets.apps, deployments.apps"),
            ("get", "pods/log, configmaps, leases, poddisruptionbudgets, events.events.k8s.io"),
            ("create", "pods/portforward, secrets gammarus-ca-signer"),
            ("update patch delete", "secrets gammarus-ca-signer"),
        ],
    );
    at_home.check(
        false,
        &[
            ("get list", "secrets, secrets gammarus-ca, secrets gammarus-ca-signer"),
            ("create", "pods/exec, serviceaccounts/token, secrets"),
            ("delete", "daemonsets.apps, secrets gammarus-ca, pods"),
        ],
    );
}
