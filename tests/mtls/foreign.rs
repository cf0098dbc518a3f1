//! Clients that know TLS and SPIFFE and nothing of this mesh complete a hop: openssl and go-spiffe.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use node_proxy::demo::world::World;

use super::peer::{HOP, good_leaf};
use super::rig::{APP, address, curl, ip, logged, stage};

const CLIENT: &str = "spiffe://cluster.local/ns/shop/sa/client";
const GUARDED: &str = "spiffe://cluster.local/ns/vault/sa/guarded";

/// A folder with a certificate of our CA, its key and the trust bundle, in PEM.
struct Credentials(tempfile::TempDir);

impl Credentials {
    #[track_caller]
    fn of(world: &World) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let leaf = good_leaf(world, CLIENT);
        std::fs::write(dir.path().join("key.pem"), leaf.key.serialize_pem()).unwrap();
        let all: String = leaf.chain().iter().map(|der| pem(der)).collect();
        std::fs::write(dir.path().join("cert.pem"), all).unwrap();
        std::fs::copy(world.dir().join("ca/ca.crt"), dir.path().join("bundle.pem")).unwrap();
        Self(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

fn pem(der: &[u8]) -> String {
    let mut openssl = Command::new("openssl")
        .args(["x509", "-inform", "der"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("openssl is needed: install the Debian package openssl");
    openssl.stdin.take().unwrap().write_all(der).unwrap();
    String::from_utf8(openssl.wait_with_output().unwrap().stdout).unwrap()
}

#[test]
fn an_openssl_client_completes_a_hop_and_sees_a_valid_spiffe_identity() {
    let world = stage();
    let own = Credentials::of(&world);
    let peer = own.path("peer.pem");
    let server = address(&world, "guarded", APP);
    let request = "GET /from-openssl HTTP/1.1\\r\\nhost: guarded\\r\\nconnection: close\\r\\n\\r\\n";
    // Frames by hand: stream 1 is opened, and so many bytes are said on it.
    let (open, data) = (r"\0\0\0\1\1\0\0\0", format!(r"\0\0\0\1\0\0\0\{:o}", printed_length(request)));
    let script = format!(
        "(printf '{open}{data}{request}'; sleep 2) | \
         openssl s_client -connect {server} -alpn {HOP} -cert {} -cert_chain {} -key {} -CAfile {} \
         -verify_return_error -showcerts",
        own.path("cert.pem"),
        own.path("cert.pem"),
        own.path("key.pem"),
        own.path("bundle.pem"),
    );
    let said = world.exec("outsider", &["sh", "-c", &script]).unwrap();
    let expected = format!("guarded: GET /from-openssl from {}", ip(&world, "outsider"));
    assert!(said.stdout.contains(&expected), "{said:?}");
    assert!(said.stdout.contains(&format!("ALPN protocol: {HOP}")), "{said:?}");
    assert!(said.stdout.contains("Verify return code: 0 (ok)"), "{said:?}");

    let begin = said.stdout.find("-----BEGIN CERTIFICATE-----").unwrap();
    let end = said.stdout.rfind("-----END CERTIFICATE-----").unwrap();
    std::fs::write(&peer, format!("{}-----END CERTIFICATE-----\n", &said.stdout[begin..end])).unwrap();
    for purpose in ["sslserver", "sslclient"] {
        let bundle = own.path("bundle.pem");
        let verify = [
            "openssl",
            "verify",
            "-x509_strict",
            "-purpose",
            purpose,
            "-CAfile",
            &bundle,
            "-untrusted",
            &peer,
            &peer,
        ];
        let verified = world.exec("outsider", &verify).unwrap();
        assert!(verified.stdout.ends_with(": OK\n"), "{verified:?}");
    }
    let names = ["openssl", "x509", "-noout", "-ext", "subjectAltName", "-in", &peer];
    let names = world.exec("outsider", &names).unwrap().checked().unwrap().stdout;
    assert_eq!(names.matches("URI:").count(), 1, "{names}");
    assert!(names.contains(&format!("URI:{GUARDED}")) && !names.contains("DNS:"), "{names}");
    let line = logged(&world, "node-b", &["direction=inbound", "mtls=yes", "src.workload=outsider"]);
    assert!(line.contains(&format!("src.identity={CLIENT}")), "{line}");
}

/// How many bytes printf makes of a text: each backslash makes one of two.
fn printed_length(text: &str) -> usize {
    text.len() - text.matches('\\').count()
}

/// The client of tests/spiffe, built by tests/run.
fn spiffe_client() -> PathBuf {
    let path = std::env::var_os("SPIFFE_CLIENT").expect(
        "SPIFFE_CLIENT is not set: `tests/run mtls` builds the go-spiffe client and says where it is",
    );
    let path = Path::new(&path).to_owned();
    assert!(path.is_file(), "SPIFFE_CLIENT names no file: {}", path.display());
    path
}

#[test]
fn a_go_spiffe_client_completes_a_hop_with_the_identity_that_it_expects_and_no_other() {
    let program = spiffe_client();
    let world = stage();
    let own = Credentials::of(&world);
    let ask = |expected: &str| {
        let [program, server] = [program.display().to_string(), address(&world, "guarded", APP).to_string()];
        let (cert, key, bundle) = (own.path("cert.pem"), own.path("key.pem"), own.path("bundle.pem"));
        let flags = ["-cert", &cert, "-key", &key, "-bundle", &bundle, "-alpn", HOP, "-path", "/from-go"];
        let who = [&program, "-address", &server, "-expect", expected];
        world.exec("outsider", &[&who[..], &flags[..]].concat()).unwrap()
    };
    let answer = ask(GUARDED);
    let expected = format!(
        "peer {GUARDED}\nalpn {HOP}\nstatus 200\nguarded: GET /from-go from {}\n",
        ip(&world, "outsider")
    );
    assert_eq!(answer.stdout, expected, "{answer:?}");
    let refused = ask("spiffe://cluster.local/ns/vault/sa/somebody-else");
    assert!(!refused.success() && !refused.stdout.contains("status"), "{refused:?}");
}

#[test]
fn without_a_certificate_openssl_gets_nowhere() {
    let world = stage();
    let server = address(&world, "guarded", APP);
    let script = format!(
        "printf 'GET /nowhere HTTP/1.0\\r\\n\\r\\n' | openssl s_client -connect {server} -alpn {HOP} -ign_eof"
    );
    let said = world.exec("outsider", &["sh", "-c", &script]).unwrap();
    assert!(!said.stdout.contains("guarded:"), "{said:?}");
    assert!(curl(&world, "client", &["http://guarded.vault/after"]).success(), "the control");
}
