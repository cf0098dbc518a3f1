//! Certificates of Gateways' listeners, made for a test.

use std::fs;
use std::path::Path;

use k8s_openapi::ByteString;
use serde_json::json;

/// Makes a certificate for these names with a key of its own, at `DIR/NAME.pem` and `DIR/NAME.key`.
#[track_caller]
pub(crate) fn make_certificate(dir: &Path, name: &str, hosts: &[&str]) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let made = rcgen::generate_simple_self_signed(hosts).unwrap();
    fs::write(dir.join(format!("{name}.key")), made.signing_key.serialize_pem()).unwrap();
    fs::write(dir.join(format!("{name}.pem")), made.cert.pem()).unwrap();
}

/// The Secret of such a certificate, by its namespace and name.
#[track_caller]
pub(crate) fn secret(dir: &Path, file: &str, (namespace, name): (&str, &str)) -> String {
    let read = |end| ByteString(fs::read(dir.join(format!("{file}.{end}"))).unwrap());
    let data = json!({"tls.crt": read("pem"), "tls.key": read("key")});
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": name, "namespace": namespace}, "data": data,
    })
    .to_string()
}
