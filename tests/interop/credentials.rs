//! The cases in which calls have the credentials of a service account. Client and TLS are as in a cloud; who gives the
//! tokens, as the account's own endpoint or as the metadata server, is the server of `tests/grpc`, which also judges them.
//!
//! gRPC's own server in Go looks at no credentials, so that its client would be content without them.

use std::fs;
use std::process::Command;

use node_proxy::demo::command::{Finished, Process};
use node_proxy::demo::world::World;
use serde_json::json;

use crate::certificate_folder::certificate_folder;
use crate::gateway;
use crate::grpc::{Way, cases, check_content};
use crate::rig::{Stage, program, stage};

/// The server's ports: calls in TLS, and who gives tokens.
pub(crate) const CALLS: u16 = 50052;
pub(crate) const ACCOUNTS: u16 = 8080;
/// The pods of the server, in the mesh and outside of it.
pub(crate) const POD: &str = "trusting";
pub(crate) const BARE: &str = "bare-trusting";
/// By what the servers' names end in the mesh.
pub(crate) const DOMAIN: &str = "shop.svc.cluster.local";

const EMAIL: &str = "caller@calls.example.com";
const TLS: &[&str] = &["-use_tls"];
const DEFAULT: &[&str] = &["-custom_credentials_type", "google_default_credentials"];
const ENGINE: &[&str] = &["-custom_credentials_type", "compute_engine_channel_creds"];

cases! {
    &[&str],
    [without_a_route: Service, under_a_route: Routed, without_the_mesh: Bare, through_a_gateway: Gateway],
    {
        compute_engine_channel_credentials: ENGINE;
        compute_engine_creds: TLS;
        google_default_credentials: DEFAULT;
        jwt_token_creds: TLS;
        oauth2_auth_token: TLS;
        per_rpc_creds: TLS;
        service_account_creds: TLS;
    }
}

/// What routes and Services of all cases there are. In the mesh the TLS is the client's and the server's; a Gateway ends the
/// client's, and begins its own inside of the hop.
pub(crate) fn objects(trusted: &str) -> String {
    let mut objects = vec![include_str!("credentials.yaml").to_owned()];
    let authorities = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": POD}, "data": {"ca.crt": trusted},
    });
    objects.push(authorities.to_string());
    for (name, _) in CASES {
        for way in [Way::Service, Way::Routed] {
            objects.push(format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: {}}}, spec: {{selector: {{app: {POD}}}, \
                 ports: [{{name: tls, port: 443, targetPort: {CALLS}}}]}}}}",
                way.service(name)
            ));
        }
        let (routed, gated) = (Way::Routed.service(name), Way::Gateway.service(name));
        objects.push(format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: TLSRoute, metadata: {{name: {routed}}}, spec: {{\
             parentRefs: [{{group: '', kind: Service, name: {routed}}}], hostnames: [{routed}.{DOMAIN}], \
             rules: [{{backendRefs: [{{name: {routed}, port: 443}}]}}]}}}}"
        ));
        objects.push(format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GRPCRoute, metadata: {{name: {gated}}}, spec: {{\
             parentRefs: [{{name: gate, namespace: edge, sectionName: unnamed}}], \
             rules: [{{matches: [{{headers: [{{name: x-case, value: {name}}}]}}], \
             backendRefs: [{{name: {POD}, port: 443}}]}}]}}}}"
        ));
    }
    objects.join("\n---\n")
}

/// Makes the account, and starts the servers: the certificate is there by now.
pub(crate) fn start(world: &World) -> [Process; 2] {
    let dir = world.dir();
    let generate = ["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    let made = Command::new("openssl").args(generate).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let key = String::from_utf8(made.stdout).unwrap();
    for way in [Way::Service, Way::Bare, Way::Gateway] {
        let account = json!({
            "type": "service_account", "client_email": EMAIL, "private_key_id": "first", "private_key": key,
            "token_uri": format!("http://{}/token", accounts(world, way)),
        });
        fs::write(account_file(world, way), account.to_string()).unwrap();
    }
    let (calls, account) = (CALLS.to_string(), account_file(world, Way::Service));
    let certificate = certificate_folder(dir, "calls");
    let server = crate::grpc_programs::grpc_tool("grpc-server");
    [POD, BARE].map(|pod| {
        let shown = ["-tls", "-certificate", &certificate, "-account", &account];
        let argv = [&[&*server, "-name", pod, "-grpc", &calls], &shown[..]].concat();
        world.spawn(pod, &format!("{pod}-calls"), &argv).unwrap()
    })
}

/// Where tokens are given to who comes this way.
fn accounts(world: &World, way: Way) -> String {
    let address = |pod| world.running_pod(pod).unwrap().addresses[0];
    match way {
        Way::Bare => format!("{}:{ACCOUNTS}", address(BARE)),
        Way::Gateway | Way::PlainGateway => format!("{}:{}", address(gateway::POD), gateway::PLAIN),
        Way::Service | Way::Routed => format!("accounts.{DOMAIN}"),
    }
}

fn account_file(world: &World, way: Way) -> String {
    let way = if matches!(way, Way::Routed) { Way::Service } else { way };
    world.dir().join(format!("account-{way:?}.json")).display().to_string()
}

/// What the client says of a case by its name; `said` is what its metadata say the case was.
#[track_caller]
fn run(stage: &Stage, (name, said): (&str, &str), way: Way) -> Finished {
    let (_, transport) = CASES.iter().find(|(known, _)| *known == name).unwrap();
    let address = |pod| stage.world.running_pod(pod).unwrap().addresses[0];
    // Its name is that of the certificate, and what is asked of TLS.
    let (pod, server) = match way {
        Way::Service | Way::Routed => ("client", format!("{}.{DOMAIN}:443", way.service(name))),
        Way::Bare => ("stranger", format!("{}:{CALLS}", address(BARE))),
        Way::Gateway | Way::PlainGateway => {
            ("stranger", format!("{}:{}", address(gateway::POD), gateway::UNNAMED))
        }
    };
    let account = account_file(&stage.world, way);
    let environment = [
        "GRPC_GO_LOG_SEVERITY_LEVEL=info".to_owned(),
        format!("SSL_CERT_FILE={}", gateway::trusted(stage)),
        format!("GCE_METADATA_HOST={}", accounts(&stage.world, way)),
        format!("GOOGLE_APPLICATION_CREDENTIALS={account}"),
    ];
    let (server, metadata) = (format!("-server_host=passthrough:///{server}"), format!("x-case:{said}"));
    let client = program("GRPC_INTEROP", Some("client"));
    let mut argv = vec!["env"];
    argv.extend(environment.iter().map(String::as_str));
    argv.extend([&*client, &server, "-server_port=0", "-test_case", name, "-additional_metadata", &metadata]);
    argv.extend(["-service_account_key_file", &account, "-oauth_scope=calls", "-default_service_account"]);
    argv.push(EMAIL);
    argv.extend(*transport);
    stage.world.exec(pod, &argv).unwrap()
}

/// The client is content, and what it has sent went the way that it was to go.
#[track_caller]
fn check(name: &str, way: Way) {
    let (stage, service) = (stage(), way.service(name));
    check_content(&run(&stage, (name, name), way));
    let workload = format!("dst.workload={POD} ");
    let common = ["mtls=yes ", &workload];
    match way {
        Way::Bare => {}
        Way::Service => stage.check_travelled(&service, 1, &[&common[..], &["protocol=opaque "]].concat()),
        Way::Routed => {
            let route = format!("route=TLSRoute/shop/{service}/0 ");
            stage.check_travelled(&service, 1, &[&common[..], &["protocol=tls ", &route]].concat());
        }
        Way::Gateway | Way::PlainGateway => {
            let route = format!("route=GRPCRoute/shop/{service}/0 ");
            let texts = ["protocol=grpc ", "status=200 ", &route];
            gateway::check_answered(&stage, 1, &[&common[..], &texts].concat());
        }
    }
}

#[test]
fn a_call_whose_credentials_were_taken_away_is_refused() {
    let done = run(&stage(), ("jwt_token_creds", "stripped"), Way::Gateway);
    assert!(!done.success() && done.stderr.contains("Unauthenticated"), "{}{}", done.stdout, done.stderr);
}
