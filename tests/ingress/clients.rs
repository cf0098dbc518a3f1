//! What a Gateway asks of its clients: certificates of given authorities, by port, and the fallback that lets others in.

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair};
use serde_json::json;

use crate::rig::{ALL, gateway, make_certificate, route, secret, stage};

/// Makes an authority at `DIR/NAME.ca.pem`, and a client's certificate of it at `DIR/NAME.pem` and `DIR/NAME.key`.
#[track_caller]
fn make_client(dir: &Path, name: &str) {
    let authority = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(dir.join(format!("{name}.ca.pem")), params.self_signed(&authority).unwrap().pem()).unwrap();
    let issuer = Issuer::new(params, authority);
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(vec![format!("{name}.example.com")]).unwrap();
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    fs::write(dir.join(format!("{name}.pem")), params.signed_by(&key, &issuer).unwrap().pem()).unwrap();
    fs::write(dir.join(format!("{name}.key")), key.serialize_pem()).unwrap();
}

#[test]
fn clients_show_a_certificate_where_the_gateway_asks_for_one() {
    let stage = stage();
    let dir = stage.world().dir().to_owned();
    make_client(&dir, "known");
    make_client(&dir, "stranger");
    make_certificate(&dir, "guarded", &["guarded.example.com"]);
    let listener = |name: &str, port: u16| {
        format!(
            "{{name: {name}, port: {port}, protocol: HTTPS, tls: {{certificateRefs: [{{name: guarded}}]}}, {ALL}}}"
        )
    };
    let listeners = [listener("strict", 8445), listener("lenient", 8446)].join(", ");
    let authorities = "caCertificateRefs: [{group: \"\", kind: ConfigMap, name: clients}]";
    let frontend = format!(
        "tls: {{frontend: {{default: {{validation: {{{authorities}}}}}, perPort: [{{port: 8446, \
         tls: {{validation: {{{authorities}, mode: AllowInsecureFallback}}}}}}]}}}}, listeners:"
    );
    let guarded = gateway("guarded", &listeners).replace("listeners:", &frontend);
    let known = fs::read_to_string(dir.join("known.ca.pem")).unwrap();
    let clients = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "clients", "namespace": "edge"},
        "data": {"ca.crt": known},
    });
    {
        let mut world = stage.world();
        let objects = [
            guarded,
            route("guarded", "guarded"),
            secret(&dir, "guarded", ("edge", "guarded")),
            clients.to_string(),
        ];
        world.apply_in("edge", "a guarded Gateway", &objects.join("\n---\n")).unwrap();
        world.gateway_pod("guarded", ("edge", "guarded"), "node-b").unwrap();
    }
    let host = stage.world().running_pod("guarded").unwrap().addresses[0].to_string();
    let ask = |port: u16, client: Option<&str>| {
        let url = format!("https://guarded.example.com:{port}/");
        let (to, trusted) = (format!("::{host}:"), stage.file("guarded.pem"));
        let mut command =
            vec!["curl", "-s", "-S", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "5"];
        let files =
            client.map(|name| [stage.file(&format!("{name}.pem")), stage.file(&format!("{name}.key"))]);
        if let Some([certificate, key]) = &files {
            command.extend(["--cert", certificate, "--key", key]);
        }
        command.extend(["--connect-to", &to, "--cacert", &trusted, &url]);
        stage.world().exec("client", &command).unwrap().stdout
    };
    for (port, client, status) in [
        (8445, Some("known"), "200"),
        (8445, Some("stranger"), "000"),
        (8445, None, "000"),
        (8446, Some("known"), "200"),
        (8446, Some("stranger"), "200"),
        (8446, None, "200"),
    ] {
        assert_eq!(ask(port, client), status, "port {port}, client {client:?}");
    }
    stage.world().remove_pod("guarded").unwrap();
}
