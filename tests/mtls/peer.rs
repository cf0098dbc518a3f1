//! A peer of the test's own making: any certificate, any protocol, and ends as a test wants them.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::DerefMut;
use std::sync::Arc;
use std::time::Duration;

use gammarus_ca::TrustDomain;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::rotation::Terms;
use gammarus_ca::signer::Signer;
use gammarus_ca::state::read_signer;
use node_proxy::demo::world::World;
use node_proxy::hop::Proof;
use node_proxy::hop::frame::{FrameHead, HEAD_LENGTH, Kind, MAX_PAYLOAD};
use node_proxy::hop::proof::LABEL;
use rcgen::string::Ia5String;
use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
    PublicKeyData, SanType,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, DigitallySignedStruct, Error, ServerConfig,
    ServerConnection, SideData, SignatureScheme, Stream,
};
use time::OffsetDateTime;

use super::rig::{End, connect, read_to_end};

/// The mesh's protocol.
pub(crate) const HOP: &str = "gammarus/1";

/// A certificate with a key, which need not be its own.
#[derive(Clone)]
pub(crate) struct Leaf {
    pub(crate) certificate: CertificateDer<'static>,
    /// What it is under, without the root.
    pub(crate) issuers: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<KeyPair>,
}

/// What goes into a certificate.
pub(crate) struct Request<'a> {
    pub(crate) uris: &'a [&'a str],
    pub(crate) from: Duration,
    pub(crate) until: OffsetDateTime,
}

impl<'a> Request<'a> {
    /// Valid now, with these URIs.
    pub(crate) fn of(uris: &'a [&'a str]) -> Self {
        let until = OffsetDateTime::now_utc() + Duration::from_secs(3600);
        Self { uris, from: Duration::from_secs(7200), until }
    }

    /// Its time was over a minute ago.
    pub(crate) fn expired(self) -> Self {
        Self { until: OffsetDateTime::now_utc() - Duration::from_secs(60), ..self }
    }

    /// Signed by `signer`.
    pub(crate) fn sign(&self, signer: &Signer) -> Leaf {
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let uri = |uri: &&str| SanType::URI(Ia5String::try_from(*uri).unwrap());
        params.subject_alt_names = self.uris.iter().map(uri).collect();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.not_before = OffsetDateTime::now_utc() - self.from;
        params.not_after = self.until;
        let certificate = params.signed_by(&key, signer.issuer()).unwrap().der().clone();
        assert!(!key.der_bytes().is_empty());
        Leaf { certificate, issuers: signer.intermediates().to_vec(), key: Arc::new(key) }
    }
}

fn trust_domain() -> TrustDomain {
    TrustDomain::new("cluster.local").unwrap()
}

/// What the world's own CA signs with, key and all.
#[track_caller]
pub(crate) fn signer(world: &World) -> Signer {
    read_signer(&world.dir().join("ca"), &trust_domain()).unwrap()
}

/// Another CA's signer for the same trust domain.
#[track_caller]
pub(crate) fn foreign_signer() -> Signer {
    let dir = tempfile::tempdir().unwrap();
    let terms = Terms::usual(LeafLifetime::new(Duration::from_secs(3600)).unwrap());
    drop(Keeper::open(dir.path(), &trust_domain(), terms, None).unwrap());
    read_signer(dir.path(), &trust_domain()).unwrap()
}

/// A good leaf for a service account, as the CA would sign it.
#[track_caller]
pub(crate) fn good_leaf(world: &World, uri: &str) -> Leaf {
    Request::of(&[uri]).sign(&signer(world))
}

impl Leaf {
    /// This certificate with another's key.
    pub(crate) fn with_key_of(&self, other: &Self) -> Self {
        Self { key: Arc::clone(&other.key), ..self.clone() }
    }

    /// With what it is under.
    pub(crate) fn chain(&self) -> Vec<CertificateDer<'static>> {
        std::iter::once(&self.certificate).chain(&self.issuers).cloned().collect()
    }

    fn resolver(&self) -> Arc<SingleCertAndKey> {
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()));
        let key = aws_lc_rs::sign::any_supported_type(&key).unwrap();
        // No check that they fit: that they do not may be the point.
        Arc::new(SingleCertAndKey::from(CertifiedKey::new(self.chain(), key)))
    }
}

/// Takes any server: what is tested is the server's judgement of its client.
#[derive(Debug)]
struct AnyServer;

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.2".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// One end of a hop, with one stream on it.
pub(crate) struct Peer<C> {
    pub(crate) conn: C,
    pub(crate) sock: TcpStream,
    /// The stream's number, once it is open.
    stream: Option<u32>,
    unread: VecDeque<u8>,
    has_ended: bool,
}

/// A client's end of a hop.
pub(crate) type Client = Peer<ClientConnection>;
/// A server's end of a hop.
pub(crate) type Server = Peer<ServerConnection>;

impl<C, S> Peer<C>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    const fn new(conn: C, sock: TcpStream) -> Self {
        Self { conn, sock, stream: None, unread: VecDeque::new(), has_ended: false }
    }

    fn send(&mut self, head: FrameHead, bytes: &[u8]) -> std::io::Result<()> {
        let mut tls = Stream::new(&mut self.conn, &mut self.sock);
        tls.write_all(&[&head.encode(), bytes].concat())?;
        tls.flush()
    }

    /// The stream's number. The client's side opens it with its first word.
    fn stream(&mut self) -> std::io::Result<u32> {
        if let Some(stream) = self.stream {
            return Ok(stream);
        }
        self.stream = Some(1);
        self.send(FrameHead::new(1, Kind::Open), b"").map(|()| 1)
    }

    /// Says that nothing more comes on the stream.
    #[track_caller]
    pub(crate) fn end(&mut self) {
        let stream = self.stream().unwrap();
        self.send(FrameHead::new(stream, Kind::End), b"").unwrap();
    }

    /// What proves to hold this very hop.
    #[track_caller]
    pub(crate) fn proof(&self) -> [u8; Proof::LENGTH] {
        self.conn.export_keying_material([0; Proof::LENGTH], LABEL, None).unwrap()
    }

    /// Asks the other side, as the first thing that is said here, to let another hop live for as long as this one may; says
    /// whether it does.
    #[track_caller]
    pub(crate) fn continue_older(&mut self, proof: [u8; Proof::LENGTH]) -> bool {
        self.send(FrameHead::new(1, Kind::Continue), b"").unwrap();
        self.send(FrameHead::data(1, u32::try_from(proof.len()).unwrap()), &proof).unwrap();
        let mut head = [0; HEAD_LENGTH];
        Stream::new(&mut self.conn, &mut self.sock).read_exact(&mut head).unwrap();
        let head = FrameHead::decode(head).unwrap();
        assert!(head.stream == 1 && matches!(head.kind, Kind::Accept | Kind::Refuse), "{head:?}");
        head.kind == Kind::Accept
    }

    /// Waits until the other side asks for that, with this proof, and says whether it is done.
    #[track_caller]
    pub(crate) fn answer_continue(&mut self, proof: [u8; Proof::LENGTH], answer: Kind) {
        let mut frame = [0; 2 * HEAD_LENGTH + Proof::LENGTH];
        Stream::new(&mut self.conn, &mut self.sock).read_exact(&mut frame).unwrap();
        let (head, rest) = frame.split_first_chunk().unwrap();
        let (data, shown) = rest.split_first_chunk().unwrap();
        let (head, data) = (FrameHead::decode(*head).unwrap(), FrameHead::decode(*data).unwrap());
        assert_eq!(head.kind, Kind::Continue);
        assert_eq!((data, shown), (FrameHead::data(head.stream, 32), &proof[..]));
        self.send(FrameHead::new(head.stream, answer), b"").unwrap();
    }

    fn read_frame(&mut self) -> std::io::Result<()> {
        let mut head = [0; HEAD_LENGTH];
        Stream::new(&mut self.conn, &mut self.sock).read_exact(&mut head)?;
        let head = FrameHead::decode(head).unwrap();
        match head.kind {
            Kind::Open => {
                self.stream = Some(head.stream);
                self.send(FrameHead::new(head.stream, Kind::Accept), b"")?;
            }
            Kind::Data => {
                let mut bytes = vec![0; usize::try_from(head.length).unwrap()];
                Stream::new(&mut self.conn, &mut self.sock).read_exact(&mut bytes)?;
                self.unread.extend(bytes);
            }
            Kind::End => self.has_ended = true,
            Kind::Refuse => return Err(ErrorKind::ConnectionRefused.into()),
            Kind::Reset => return Err(ErrorKind::ConnectionReset.into()),
            Kind::Accept | Kind::GoAway | Kind::Window | Kind::Starved | Kind::Continue => {}
        }
        Ok(())
    }
}

impl<C, S> Read for Peer<C>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn read(&mut self, space: &mut [u8]) -> std::io::Result<usize> {
        while self.unread.is_empty() && !self.has_ended {
            self.read_frame()?;
        }
        self.unread.read(space)
    }
}

impl<C, S> Write for Peer<C>
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let stream = self.stream()?;
        let count = bytes.len().min(MAX_PAYLOAD);
        let head = FrameHead::data(stream, u32::try_from(count).unwrap());
        self.send(head, &bytes[..count]).map(|()| count)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A TLS client in the namespace `place`, with `leaf` or without a certificate. The handshake begins with the
/// first byte that is written or read.
#[track_caller]
pub(crate) fn dial(
    world: &World,
    place: &str,
    destination: SocketAddr,
    (leaf, alpn): (Option<&Leaf>, &str),
) -> Client {
    let builder = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyServer));
    let mut config = match leaf {
        Some(leaf) => builder.with_client_cert_resolver(leaf.resolver()),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    let name = ServerName::IpAddress(destination.ip().into());
    let connection = ClientConnection::new(Arc::new(config), name).unwrap();
    Peer::new(connection, connect(world, place, destination).unwrap())
}

/// One HTTP request on a hop of the test's own.
pub(crate) fn ask(client: &mut Client, path: &str) -> (String, End) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    match client.write_all(request.as_bytes()).and_then(|()| client.flush()) {
        Ok(()) => read_to_end(client),
        Err(_) => (String::new(), End::Broken),
    }
}

/// The server's end of a hop on an accepted connection, after its handshake. Takes any client.
#[track_caller]
pub(crate) fn serve(stream: TcpStream, leaf: &Leaf) -> std::io::Result<Server> {
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_cert_resolver(leaf.resolver());
    config.alpn_protocols = vec![HOP.as_bytes().to_vec()];
    let mut server = Peer::new(ServerConnection::new(Arc::new(config)).unwrap(), stream);
    while server.conn.is_handshaking() {
        server.conn.complete_io(&mut server.sock)?;
    }
    Ok(server)
}

/// Ends the hop in order, whatever became of its stream.
pub(crate) fn close_notify<C, S>(peer: &mut Peer<C>)
where
    C: DerefMut<Target = ConnectionCommon<S>>,
    S: SideData,
{
    peer.conn.send_close_notify();
    peer.conn.write_tls(&mut peer.sock).unwrap();
    // The other side may have answered with a reset already.
    let _ = peer.sock.shutdown(std::net::Shutdown::Write);
}

/// Reads a request head to its empty line.
#[track_caller]
pub(crate) fn read_head(stream: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte).unwrap();
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}
