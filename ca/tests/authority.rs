//! The CA over real TLS on the loopback: who gets a leaf, what the leaf says, and who is refused and why.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::answer::CertificateAuthority;
use gammarus_ca::authorize::TokenFile;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::limit::{Rate, RateLimit};
use gammarus_ca::metrics::Metrics;
use gammarus_ca::rotation::Terms;
use gammarus_ca::server::serve;
use gammarus_ca::state::CA_CERT_FILE;
use gammarus_ca::{CaClient, ClientError, SignedIdentity, SpiffeId, TrustDomain, WorkloadKey};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::prelude::{FromDer as _, X509Certificate};

const TOKEN: &str = "token-of-node-a-0123456789";
const PODS: &str = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n\
    spec: {nodeName: node-a, serviceAccountName: web}\n---\n\
    apiVersion: v1\nkind: Pod\nmetadata: {name: db, namespace: shop}\n\
    spec: {nodeName: node-b, serviceAccountName: db}\n";

struct Rig {
    dir: tempfile::TempDir,
    address: SocketAddr,
}

impl Rig {
    async fn start() -> Self {
        Self::with_rate(Rate { burst: 1000.0, per_second: 1000.0 }).await
    }

    async fn with_rate(rate: Rate) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for sub in ["tokens", "objects"] {
            fs::create_dir(dir.path().join(sub)).unwrap();
        }
        fs::write(dir.path().join("tokens/node-a"), format!("{TOKEN}\n")).unwrap();
        fs::write(dir.path().join("objects/pods.yaml"), PODS).unwrap();
        let ca = CertificateAuthority {
            keeper: Arc::new(keeper(&dir.path().join("state"))),
            authorizer: Box::new(TokenFile::new(dir.path().join("tokens"), dir.path().join("objects"))),
            limit: RateLimit::new(rate),
            metrics: Arc::new(Metrics::new().unwrap()),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = vec!["gammarus-ca".to_owned(), "127.0.0.1".to_owned()];
        tokio::spawn(
            async move { serve(listener, Arc::new(ca), names, std::future::pending()).await.unwrap() },
        );
        Self { dir, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn client(&self, server_name: &str) -> CaClient {
        let bundle = self.path("state").join(CA_CERT_FILE);
        CaClient::new(self.address.to_string(), server_name, bundle, self.path("tokens/node-a")).unwrap()
    }

    async fn sign(&self, identity: &str, csr: &str) -> Result<SignedIdentity, ClientError> {
        self.client("gammarus-ca").sign(&id(identity), csr.to_owned()).await
    }

    /// Sends raw bytes over TLS and returns the status and the body.
    async fn raw(&self, request: &[u8]) -> (u16, String) {
        let mut roots = rustls::RootCertStore::empty();
        let pem = fs::read(self.path("state").join(CA_CERT_FILE)).unwrap();
        roots.add(CertificateDer::from_pem_slice(&pem).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let tcp = TcpStream::connect(self.address).await.unwrap();
        let name = ServerName::try_from("gammarus-ca").unwrap();
        let mut tls = tokio_rustls::TlsConnector::from(Arc::new(config)).connect(name, tcp).await.unwrap();
        tls.write_all(request).await.unwrap();
        let mut answer = Vec::new();
        let _ = tls.read_to_end(&mut answer).await;
        let answer = String::from_utf8_lossy(&answer).into_owned();
        let status =
            answer.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{answer:?}"));
        let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        (status, body.to_owned())
    }

    async fn post(&self, token: &str, body: &str) -> (u16, String) {
        let request = format!(
            "POST /v1/certificates HTTP/1.1\r\nhost: ca\r\nauthorization: Bearer {token}\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.raw(request.as_bytes()).await
    }
}

fn keeper(dir: &Path) -> Keeper {
    let terms = Terms::usual(LeafLifetime::new(Duration::from_secs(3600)).unwrap());
    Keeper::open(dir, &TrustDomain::new("cluster.local").unwrap(), terms, None).unwrap()
}

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn csr(identity: &str) -> String {
    WorkloadKey::generate().unwrap().csr(&id(identity)).unwrap()
}

fn csr_with(change: impl FnOnce(&mut CertificateParams)) -> String {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = vec![uri(WEB)];
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn uri(text: &str) -> SanType {
    SanType::URI(Ia5String::try_from(text).unwrap())
}

#[track_caller]
fn refused(result: Result<SignedIdentity, ClientError>, expected: u16, part: &str) {
    match result {
        Err(ClientError::Refused { status, message }) => {
            assert_eq!(status.as_u16(), expected, "{message}");
            assert!(message.contains(part), "{message:?} does not say {part:?}");
        }
        other => panic!("expected a refusal with {expected}, got {other:?}"),
    }
}

#[tokio::test]
async fn a_leaf_says_its_identity_and_nothing_else() {
    let rig = Rig::start().await;
    let signed = rig.sign(WEB, &csr(WEB)).await.unwrap();
    assert_eq!((signed.chain.len(), signed.trust_bundle.len()), (2, 1), "the leaf and its issuer; the root");
    let (_, leaf) = X509Certificate::from_der(&signed.chain[0]).unwrap();
    let (_, root) = X509Certificate::from_der(&signed.trust_bundle[0]).unwrap();
    let (_, issuer) = X509Certificate::from_der(&signed.chain[1]).unwrap();
    issuer.verify_signature(Some(root.public_key())).unwrap();
    leaf.verify_signature(Some(issuer.public_key())).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0, "no subject, so no CN");
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert!(san.critical, "RFC 5280 4.2.1.6: critical, as the subject is empty");
    assert_eq!(san.value.general_names, vec![GeneralName::URI(WEB)]);
    assert!(!leaf.is_ca() && leaf.basic_constraints().unwrap().is_some());
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.flags == 1, "digitalSignature alone");
    let extended = leaf.extended_key_usage().unwrap().unwrap().value;
    assert!(extended.server_auth && extended.client_auth && !extended.any && extended.other.is_empty());
    let validity = leaf.validity();
    let now = time::OffsetDateTime::now_utc();
    let backdated = now - validity.not_before.to_datetime();
    assert!((590..=630).contains(&backdated.whole_seconds()), "{backdated}");
    let left = validity.not_after.to_datetime() - now;
    assert!((3570..=3600).contains(&left.whole_seconds()), "{left}");
    assert!(!leaf.raw_serial().is_empty() && leaf.raw_serial().len() <= 20 && leaf.raw_serial()[0] < 0x80);
    let again = rig.sign(WEB, &csr(WEB)).await.unwrap();
    let (_, again) = X509Certificate::from_der(&again.chain[0]).unwrap();
    assert_ne!(leaf.raw_serial(), again.raw_serial());
    for (ca, below) in [(&root, 1), (&issuer, 0)] {
        let constraints = ca.basic_constraints().unwrap().unwrap().value;
        assert!(ca.is_ca() && constraints.path_len_constraint == Some(below), "{:?}", ca.subject());
        let named = |extension: &X509Extension<'_>| {
            matches!(extension.parsed_extension(), ParsedExtension::NameConstraints(_))
        };
        assert!(!ca.extensions().iter().any(named));
    }
}

#[tokio::test]
async fn openssl_reads_and_verifies_a_leaf() {
    let rig = Rig::start().await;
    let signed = rig.sign(WEB, &csr(WEB)).await.unwrap();
    let leaf = rig.path("leaf.der");
    fs::write(&leaf, &signed.chain[0]).unwrap();
    let text = openssl(&["x509", "-noout", "-text", "-inform", "DER", "-in", leaf.to_str().unwrap()]);
    for part in [
        "X509v3 Subject Alternative Name: critical",
        &format!("URI:{WEB}"),
        "TLS Web Server Authentication, TLS Web Client Authentication",
        "CA:FALSE",
        "id-ecPublicKey",
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }
    let pem = rig.path("leaf.pem");
    openssl(&["x509", "-inform", "DER", "-in", leaf.to_str().unwrap(), "-out", pem.to_str().unwrap()]);
    let bundle = rig.path("state").join(CA_CERT_FILE);
    let (issuer, above) = (rig.path("issuer.der"), rig.path("issuer.pem"));
    fs::write(&issuer, &signed.chain[1]).unwrap();
    let (issuer, above) = (issuer.to_str().unwrap(), above.to_str().unwrap());
    openssl(&["x509", "-inform", "DER", "-in", issuer, "-out", above]);
    for purpose in ["sslserver", "sslclient"] {
        let args = ["verify", "-x509_strict", "-untrusted", above, "-purpose", purpose, "-CAfile"];
        let verdict = openssl(&[&args[..], &[bundle.to_str().unwrap(), pem.to_str().unwrap()]].concat());
        assert!(verdict.contains("OK"), "{verdict}");
    }
}

#[track_caller]
fn openssl(args: &[&str]) -> String {
    let output = Command::new("openssl").args(args).output().expect("the program openssl is needed");
    assert!(output.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn an_openssl_csr_without_names_gets_the_identity_that_was_asked_for() {
    let rig = Rig::start().await;
    let key = rig.path("key.pem");
    openssl(&["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", key.to_str().unwrap()]);
    let csr = openssl(&["req", "-new", "-key", key.to_str().unwrap(), "-subj", "/CN=ignored"]);
    let signed = rig.sign(WEB, &csr).await.unwrap();
    let (_, leaf) = X509Certificate::from_der(&signed.chain[0]).unwrap();
    assert_eq!(leaf.subject().iter().count(), 0);
}

#[tokio::test]
async fn a_caller_gets_identities_of_its_own_nodes_pods_only() {
    let rig = Rig::start().await;
    for (identity, part) in [
        ("spiffe://cluster.local/ns/shop/sa/db", "node `node-a` has no running pod"),
        ("spiffe://cluster.local/ns/shop/sa/default", "service account `default`"),
        ("spiffe://cluster.local/ns/other/sa/web", "namespace `other`"),
        ("spiffe://elsewhere.test/ns/shop/sa/web", "trust domain `elsewhere.test`"),
    ] {
        refused(rig.sign(identity, &csr(identity)).await, 403, part);
    }
    fs::write(rig.path("objects/pods.yaml"), PODS.replace("node-b", "node-a")).unwrap();
    let db = "spiffe://cluster.local/ns/shop/sa/db";
    rig.sign(db, &csr(db)).await.expect("the pod has moved to this node");
}

#[tokio::test]
async fn a_token_that_is_nobodys_is_refused_before_the_body_is_read() {
    let rig = Rig::start().await;
    for token in ["", "x", "token-of-node-a-0123456780", &"y".repeat(4000)] {
        let (status, body) = rig.post(token, "garbage").await;
        assert_eq!(status, 401, "{token}: {body}");
    }
    fs::write(rig.path("tokens/node-a"), "the-token-was-rotated-just-now").unwrap();
    rig.sign(WEB, &csr(WEB)).await.expect("the client reads its token at each call");
}

#[tokio::test]
async fn a_csr_that_asks_for_more_than_the_identity_is_refused() {
    let rig = Rig::start().await;
    let dns = SanType::DnsName(Ia5String::try_from("kubernetes.default").unwrap());
    let cases = [
        (csr_with(|p| p.subject_alt_names.push(dns.clone())), "kubernetes.default"),
        (csr_with(|p| p.subject_alt_names = vec![dns.clone()]), "kubernetes.default"),
        (csr_with(|p| p.subject_alt_names.push(uri("spiffe://cluster.local/ns/shop/sa/db"))), "sa/db"),
        (csr_with(|p| p.subject_alt_names.push(uri(WEB))), "more than once"),
        (csr_with(|p| p.subject_alt_names = vec![SanType::IpAddress([10, 0, 0, 1].into())]), "name"),
        (csr_with(|p| p.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained)), "extension"),
        (csr_with(|p| p.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]), "extension"),
        (
            csr_with(|p| p.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning]),
            "extension",
        ),
    ];
    for (csr, part) in cases {
        refused(rig.sign(WEB, &csr).await, 400, part);
    }
}

#[tokio::test]
async fn a_csr_without_proof_of_its_key_is_refused() {
    let rig = Rig::start().await;
    let good = csr(WEB);
    let mut der =
        rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(good.as_bytes()).unwrap().to_vec();
    let last = der.len() - 1;
    der[last] ^= 1;
    let pem = |der: &[u8]| {
        let path = rig.path("bad.der");
        fs::write(&path, der).unwrap();
        let text = Command::new("base64").arg(&path).output().unwrap().stdout;
        format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}-----END CERTIFICATE REQUEST-----\n",
            String::from_utf8(text).unwrap()
        )
    };
    refused(rig.sign(WEB, &pem(&der)).await, 400, "not signed with the key");
    der[last] ^= 1;
    rig.sign(WEB, &pem(&der)).await.expect("the same bytes unspoilt are fine");
    der.extend_from_slice(b"more");
    refused(rig.sign(WEB, &pem(&der)).await, 400, "PKCS#10");
    let foreign = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let foreign = CertificateParams::default().serialize_request(&foreign).unwrap().pem().unwrap();
    refused(rig.sign(WEB, &foreign).await, 400, "P-256");
}

#[test]
fn mutated_csrs_never_break_the_ca() {
    let identity = id(WEB);
    let good = csr(WEB);
    let key_of = |pem: &[u8]| {
        let der = rustls::pki_types::CertificateSigningRequestDer::from_pem_slice(pem).unwrap();
        let (_, csr) = x509_parser::certification_request::X509CertificationRequest::from_der(&der).unwrap();
        csr.certification_request_info.subject_pki.raw.to_vec()
    };
    let key = key_of(good.as_bytes());
    for at in 0..good.len() {
        for replacement in [b'A', b'/', b'\n', 0x7f] {
            let mut bytes = good.clone().into_bytes();
            bytes[at] = replacement;
            if bytes == good.as_bytes() {
                continue;
            }
            // Either refused, or the change was outside of what is signed and the key is the same.
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if gammarus_ca::issue::prove_key(&text, &identity).is_ok() {
                assert_eq!(key_of(&bytes), key, "byte {at} set to {replacement}");
            }
        }
    }
}

#[tokio::test]
async fn garbage_is_answered_with_a_reason() {
    let rig = Rig::start().await;
    let long = format!(r#"{{"csr":"{}","identity":"{WEB}"}}"#, "A".repeat(10_000));
    let huge = "x".repeat(40_000);
    for (body, expected, part) in [
        ("", 400, "not a request to sign"),
        ("{}", 400, "csr"),
        (r#"{"csr":"","identity":"x","more":1}"#, 400, "more"),
        (r#"{"csr":"x","identity":"x"}"#, 400, "spiffe://"),
        (&format!(r#"{{"csr":"x","identity":"{WEB}"}}"#), 400, "PKCS#10"),
        (&long, 400, "at most 8192 bytes"),
        (&huge, 413, "at most 32768 bytes"),
    ] {
        let (status, answer) = rig.post(TOKEN, body).await;
        assert_eq!(status, expected, "{answer}");
        let error: gammarus_ca::api::ErrorBody = serde_json::from_str(&answer).unwrap();
        assert!(error.error.contains(part), "{answer} does not say {part}");
    }
    let declared = format!(
        "POST /v1/certificates HTTP/1.1\r\nhost: ca\r\nauthorization: Bearer {TOKEN}\r\ncontent-length: 99999999999\r\n\r\n"
    );
    assert_eq!(rig.raw(declared.as_bytes()).await.0, 413, "a declared length is enough");
    assert_eq!(rig.raw(b"GET /livez HTTP/1.1\r\nhost: ca\r\n\r\n").await, (200, "ok\n".to_owned()));
    assert_eq!(rig.raw(b"GET /v1/certificates HTTP/1.1\r\nhost: ca\r\n\r\n").await.0, 405);
    assert_eq!(rig.raw(b"GET /other HTTP/1.1\r\nhost: ca\r\n\r\n").await.0, 404);
    let mut plain = TcpStream::connect(rig.address).await.unwrap();
    plain.write_all(b"GET /livez HTTP/1.1\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = plain.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP"), "no plain text");
    rig.sign(WEB, &csr(WEB)).await.expect("none of it took the CA down");
}

#[tokio::test]
async fn the_client_takes_only_the_ca_of_its_bundle_under_its_name() {
    let rig = Rig::start().await;
    rig.client("127.0.0.1").sign(&id(WEB), csr(WEB)).await.unwrap();
    let wrong_name = rig.client("other-ca").sign(&id(WEB), csr(WEB)).await;
    assert!(matches!(wrong_name, Err(ClientError::Connect { .. })), "{wrong_name:?}");
    let other = tempfile::tempdir().unwrap();
    drop(keeper(other.path()));
    fs::copy(other.path().join(CA_CERT_FILE), rig.path("state").join(CA_CERT_FILE)).unwrap();
    let wrong_root = rig.sign(WEB, &csr(WEB)).await;
    assert!(matches!(wrong_root, Err(ClientError::Connect { .. })), "{wrong_root:?}");
    fs::write(rig.path("state").join(CA_CERT_FILE), "").unwrap();
    assert!(matches!(rig.sign(WEB, &csr(WEB)).await, Err(ClientError::Bundle(_))));
}

#[test]
fn a_lifetime_beyond_a_day_is_refused() {
    for (seconds, accepted) in [(0, false), (10, true), (24 * 3600, true), (24 * 3600 + 1, false)] {
        assert_eq!(LeafLifetime::new(Duration::from_secs(seconds)).is_ok(), accepted, "{seconds}");
    }
}

#[test]
fn no_leaf_outlives_what_signs_it() {
    use gammarus_ca::issue::{IssueError, Validity};
    let now = time::OffsetDateTime::now_utc();
    let lifetime = |seconds| LeafLifetime::new(Duration::from_secs(seconds)).unwrap();
    let hour = lifetime(3600);
    let end = now + Duration::from_secs(600);
    assert_eq!(Validity::within(end, now, hour).unwrap().not_after, end);
    let nearly_over = Validity::within(now + Duration::from_secs(59), now, hour);
    assert!(matches!(nearly_over, Err(IssueError::SignerExpires(_))));
    assert!(Validity::within(now + Duration::from_secs(6), now, lifetime(10)).is_ok(), "more than half");
}

#[tokio::test]
async fn the_bundle_comes_with_its_tag_and_is_not_sent_to_those_who_have_it() {
    let rig = Rig::start().await;
    let client = rig.client("gammarus-ca");
    let answer = client.trust_bundle(None).await.unwrap();
    let bundle = answer.bundle.unwrap();
    assert_eq!(bundle.to_pem(), fs::read_to_string(rig.path("state").join(CA_CERT_FILE)).unwrap());
    assert_eq!(answer.ask_again, Some(Duration::from_secs(180)), "a twentieth of a leaf's life");
    assert!(client.trust_bundle(Some(bundle.tag())).await.unwrap().bundle.is_none());
    assert_eq!(client.trust_bundle(Some("another")).await.unwrap().bundle, Some(bundle));
    let stranger = "GET /v1/trust-bundle HTTP/1.1\r\nhost: ca\r\n\r\n";
    assert_eq!(rig.raw(stranger.as_bytes()).await.0, 401);
    // The file of roots is lost, and this client knows by what name the CA goes on.
    let other = tempfile::tempdir().unwrap();
    drop(keeper(other.path()));
    fs::copy(other.path().join(CA_CERT_FILE), rig.path("state").join(CA_CERT_FILE)).unwrap();
    client.sign(&id(WEB), csr(WEB)).await.expect("its own knowledge is newer than the file");
}

#[tokio::test]
async fn who_asks_too_often_is_told_when_to_come_again_and_others_are_not_kept_waiting() {
    let rig = Rig::with_rate(Rate { burst: 3.0, per_second: 0.2 }).await;
    for _ in 0..3 {
        rig.sign(WEB, &csr(WEB)).await.unwrap();
    }
    let error = rig.sign(WEB, &csr(WEB)).await.unwrap_err();
    let wait = error.retry_after().expect("it says when to come again");
    assert!((1..=5).contains(&wait.as_secs()), "{error}");
    assert!(rig.client("gammarus-ca").trust_bundle(None).await.is_err(), "whatever it asks for");
    // A stranger from the same address has a measure of its own, and so has another node.
    for status in [401, 401, 401, 429] {
        assert_eq!(rig.post("token-of-nobody-0123456789", "{}").await.0, status);
    }
    fs::write(rig.path("tokens/node-b"), "token-of-node-b-0123456789").unwrap();
    assert_eq!(rig.post("token-of-node-b-0123456789", "{}").await.0, 400);
}
