//! Handshakes over a duplex pipe: which peers are taken, and the reason on the side that refuses.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::SpiffeId;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, NamedGroup, ServerConfig};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{DB, Pki, Presented, WEB, id, uri};
use crate::error::FailureReason;
use crate::tls::verify::{ExpectedServer, MeshClients, Trust};
use crate::tls::{CertError, HOP_ALPN, PeerError, explain, peer_identity};

/// What one side ends with: the other's identity.
pub(super) type Outcome = io::Result<SpiffeId>;

pub(super) async fn handshake(client: Arc<ClientConfig>, server: Arc<ServerConfig>) -> (Outcome, Outcome) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let name = ServerName::from(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let connect = async move {
        let mut stream = TlsConnector::from(client).connect(name, near).await?;
        // TLS 1.3: the client learns only by reading whether it was taken.
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        let connection = stream.get_ref().1;
        assert_eq!(connection.alpn_protocol(), Some(HOP_ALPN));
        assert_eq!(connection.handshake_kind(), Some(HandshakeKind::Full), "never resumed");
        assert_eq!(connection.negotiated_key_exchange_group().unwrap().name(), NamedGroup::X25519MLKEM768);
        let suite = connection.negotiated_cipher_suite().unwrap().suite();
        assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
        Ok(peer_identity(connection.peer_certificates().unwrap()).unwrap())
    };
    let accept = async move {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.write_all(b"x").await?;
        stream.read_u8().await?;
        assert_eq!(stream.get_ref().1.server_name(), None, "no name travels in the clear");
        Ok(peer_identity(stream.get_ref().1.peer_certificates().unwrap()).unwrap())
    };
    tokio::join!(connect, accept)
}

fn resolver(presented: Presented) -> Arc<SingleCertAndKey> {
    let key = aws_lc_rs::sign::any_supported_type(&presented.key).unwrap();
    Arc::new(SingleCertAndKey::from(CertifiedKey::new(presented.chain, key)))
}

fn trust(pki: &Pki) -> Trust {
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms;
    Trust::new(std::slice::from_ref(&pki.root), algorithms).unwrap()
}

/// A client that presents whatever it is given.
fn bad_client(pki: &Pki, presented: Option<Presented>) -> Arc<ClientConfig> {
    let verifier = Arc::new(ExpectedServer { trust: trust(pki), expected: id(WEB) });
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match presented {
        Some(presented) => builder.with_client_cert_resolver(resolver(presented)),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![HOP_ALPN.to_vec()];
    Arc::new(config)
}

/// A server that presents whatever it is given.
fn bad_server(pki: &Pki, presented: Presented) -> Arc<ServerConfig> {
    let clients = MeshClients { trust: trust(pki), trust_domain: id(WEB).trust_domain().clone() };
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(Arc::new(clients))
        .with_cert_resolver(resolver(presented));
    config.alpn_protocols = vec![HOP_ALPN.to_vec()];
    Arc::new(config)
}

type Change = fn(&mut CertificateParams);

/// Leaves that neither side takes, and what the error says.
const BAD_LEAVES: [(Change, &str); 9] = [
    (
        |p| {
            p.not_before = OffsetDateTime::now_utc() - Duration::from_secs(7200);
            p.not_after = OffsetDateTime::now_utc() - Duration::from_secs(60);
        },
        "this node's clock says",
    ),
    (|p| p.not_before = OffsetDateTime::now_utc() + Duration::from_secs(60), "this node's clock says"),
    (
        |p| p.subject_alt_names = vec![uri("spiffe://elsewhere.test/ns/shop/sa/web")],
        "is not of the trust domain cluster.local",
    ),
    (|p| p.subject_alt_names.push(uri(DB)), "2 URI names"),
    (|p| p.subject_alt_names = vec![rcgen::SanType::IpAddress([127, 0, 0, 1].into())], "0 URI names"),
    (|p| p.subject_alt_names = vec![uri("spiffe://cluster.local/ns/shop/sa/w%65b")], "no SPIFFE ID"),
    (|p| p.subject_alt_names = vec![uri("https://cluster.local/")], "no SPIFFE ID"),
    (
        |p| p.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign],
        "usages of a CA",
    ),
    (|p| p.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained), "not trusted"),
];

#[track_caller]
fn refused(outcome: &Outcome, reason: FailureReason, part: &str) {
    let error = outcome.as_ref().expect_err(part);
    let (actual, text) = explain(error);
    assert_eq!(actual, reason, "{text}");
    assert!(text.contains(part), "{text:?} does not say {part:?}");
}

#[tokio::test]
async fn two_workloads_of_one_mesh_take_each_other_and_never_resume() {
    let pki = Pki::new();
    let (client, server) = (pki.workload(DB), pki.workload(WEB));
    for _ in 0..2 {
        let config = client.client_config(&id(WEB)).unwrap();
        assert!(Arc::ptr_eq(&config, &client.client_config(&id(WEB)).unwrap()), "made once per peer");
        let (server_id, client_id) = handshake(config, server.server_config()).await;
        assert_eq!((server_id.unwrap(), client_id.unwrap()), (id(WEB), id(DB)));
    }
}

#[tokio::test]
async fn a_server_refuses_clients_that_it_cannot_trust() {
    let pki = Pki::new();
    let server = pki.workload(WEB).server_config();
    let refuse = FailureReason::PeerIdentityRefused;
    for (change, part) in BAD_LEAVES {
        let client = bad_client(&pki, Some(pki.present(DB, change)));
        let (seen, outcome) = handshake(client, Arc::clone(&server)).await;
        refused(&outcome, refuse, part);
        refused(&seen, FailureReason::HandshakeFailed, "alert");
    }
    let server_only = pki.present(DB, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]);
    let (_, outcome) = handshake(bad_client(&pki, Some(server_only)), Arc::clone(&server)).await;
    refused(&outcome, refuse, "not trusted");
    let stranger = Pki::new().present(DB, |_| {});
    let (_, outcome) = handshake(bad_client(&pki, Some(stranger)), Arc::clone(&server)).await;
    refused(&outcome, refuse, "not trusted");
    let stolen = Presented { chain: pki.present(DB, |_| {}).chain, key: pki.present(DB, |_| {}).key };
    let (_, outcome) = handshake(bad_client(&pki, Some(stolen)), Arc::clone(&server)).await;
    refused(&outcome, refuse, "did not prove");
    let (_, outcome) = handshake(bad_client(&pki, None), server).await;
    refused(&outcome, FailureReason::HandshakeFailed, "no certificates");
}

#[tokio::test]
async fn a_client_refuses_servers_that_it_did_not_dial() {
    let pki = Pki::new();
    let client = pki.workload(DB).client_config(&id(WEB)).unwrap();
    let refuse = FailureReason::PeerIdentityRefused;
    for (change, part) in BAD_LEAVES {
        let (outcome, _) = handshake(Arc::clone(&client), bad_server(&pki, pki.present(WEB, change))).await;
        refused(&outcome, refuse, part);
    }
    let others = [
        (pki.present(DB, |_| {}), "and not spiffe://cluster.local/ns/shop/sa/web"),
        (pki.present("spiffe://cluster.local/ns/other/sa/web", |_| {}), "and not"),
        (
            pki.present(WEB, |p| p.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth]),
            "not trusted",
        ),
        (Pki::new().present(WEB, |_| {}), "not trusted"),
        (
            Presented { chain: pki.present(WEB, |_| {}).chain, key: pki.present(WEB, |_| {}).key },
            "did not prove",
        ),
    ];
    for (presented, part) in others {
        let (outcome, seen) = handshake(Arc::clone(&client), bad_server(&pki, presented)).await;
        refused(&outcome, refuse, part);
        refused(&seen, FailureReason::HandshakeFailed, "alert");
    }
}

#[tokio::test]
async fn a_client_of_another_protocol_is_refused() {
    let pki = Pki::new();
    let mut client = ClientConfig::clone(&pki.workload(DB).client_config(&id(WEB)).unwrap());
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (_, outcome) = handshake(Arc::new(client), pki.workload(WEB).server_config()).await;
    refused(&outcome, FailureReason::HandshakeFailed, "known protocol");
}

#[test]
fn a_leaf_that_peers_would_refuse_is_not_taken_from_the_ca() {
    let pki = Pki::new();
    for (change, _) in BAD_LEAVES {
        let taken = pki.accept(WEB, pki.present(WEB, change));
        assert!(taken.is_err(), "{taken:?}");
    }
    let other = pki.accept(WEB, pki.present(DB, |_| {}));
    assert!(matches!(other, Err(CertError::OtherIdentity { .. })), "{other:?}");
    let key_of_another =
        Presented { chain: pki.present(WEB, |_| {}).chain, key: pki.present(WEB, |_| {}).key };
    let taken = pki.accept(WEB, key_of_another);
    assert!(matches!(taken, Err(CertError::Tls(_))), "{taken:?}");
    let expired = pki.accept(WEB, pki.present(WEB, BAD_LEAVES[0].0));
    let Err(CertError::Leaf { source, .. }) = expired else { panic!("{expired:?}") };
    assert!(matches!(*source, PeerError::Expired { .. }), "{source}");
}

#[tokio::test]
async fn an_openssl_client_that_has_a_certificate_and_the_alpn_completes_a_hop() {
    let (pki, dir) = (Pki::new(), tempfile::tempdir().unwrap());
    let path = |name: &str| dir.path().join(name).display().to_string();
    let client = pki.present(DB, |_| {});
    std::fs::write(path("leaf.der"), &client.chain[0]).unwrap();
    std::fs::write(path("key.der"), client.key.secret_der()).unwrap();
    std::fs::write(path("root.der"), &pki.root).unwrap();
    let convert = ["x509", "-inform", "DER", "-in", &path("root.der"), "-out", &path("root.pem")];
    let converted = tokio::process::Command::new("openssl").args(convert).status().await;
    assert!(converted.expect("the program openssl is needed").success());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let openssl = tokio::process::Command::new("openssl")
        .args(["s_client", "-quiet", "-tls1_3", "-verify_return_error", "-alpn", "gammarus/1"])
        .args(["-connect", &listener.local_addr().unwrap().to_string(), "-CAfile", &path("root.pem")])
        .args(["-cert", &path("leaf.der"), "-certform", "DER", "-key", &path("key.der"), "-keyform", "DER"])
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let (tcp, _) = listener.accept().await.unwrap();
    let mut stream = TlsAcceptor::from(pki.workload(WEB).server_config()).accept(tcp).await.unwrap();
    assert_eq!(peer_identity(stream.get_ref().1.peer_certificates().unwrap()).unwrap(), id(DB));
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(HOP_ALPN));
    stream.write_all(b"through the hop\n").await.unwrap();
    stream.shutdown().await.unwrap();
    drop(stream);
    let output = openssl.wait_with_output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(String::from_utf8_lossy(&output.stdout), "through the hop\n", "{errors}");
}
