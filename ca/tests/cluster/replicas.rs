//! Several replicas with one Secret: one root, one rotation, and nobody who signs what another does not trust.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use base64::Engine as _;
use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::{CaClient, ClientError, SignedIdentity};
use rustls::pki_types::CertificateDer;

use crate::api_server::ApiServer;
use crate::rig::{Replica, SHORT_LEAVES, SHORT_LIVES, World, bundle, eventually, is_under, roots, sign};

/// Between two requests of one caller.
const PAUSE: Duration = Duration::from_millis(50);

/// A caller that follows the bundle as node proxies do, each time with a replica that chance gives it.
struct Follower<'a> {
    world: &'a World,
    token: String,
    held: TrustBundle,
    asked: u32,
}

impl<'a> Follower<'a> {
    /// The proxy of a node.
    async fn new(world: &'a World, pod: &str, replica: &Replica) -> Self {
        Self::with(world, world.token(pod), replica).await
    }

    /// Whoever has this token.
    async fn with(world: &'a World, token: String, replica: &Replica) -> Self {
        let held = bundle(&world.client(replica, &token, &world.given_out())).await;
        Self { world, token, held, asked: 0 }
    }

    fn client(&mut self, replicas: &[Replica]) -> CaClient {
        self.asked += 1;
        // A sequence without a rhythm that the replicas could share.
        let which = (self.asked * self.asked / 3) as usize % replicas.len();
        self.world.client(&replicas[which], &self.token, &self.held.to_pem())
    }

    async fn follow(&mut self, replicas: &[Replica]) {
        let client = self.client(replicas);
        if let Ok(answer) = client.trust_bundle(Some(self.held.tag())).await
            && let Some(bundle) = answer.bundle
        {
            self.held = bundle;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn replicas_that_start_at_once_make_one_root() {
    let world = World::new(ApiServer::shared(), "begin");
    let starting: Vec<_> = (0..3).map(|_| world.spawn(&[])).collect();
    let replicas: Vec<_> = starting.into_iter().map(|replica| replica.serving()).collect();
    let given_out = world.given_out();
    assert_eq!(roots(&given_out).len(), 1);
    let token = world.token("agent-a");
    for replica in &replicas {
        let client = world.client(replica, &token, &given_out);
        assert_eq!(bundle(&client).await.to_pem(), given_out);
        assert!(is_under(&sign(&client, &world.identity("web")).await.unwrap(), &roots(&given_out)));
    }
    let stored = world.stored();
    drop(replicas);
    let again = world.start(&[]);
    assert_eq!(bundle(&world.client(&again, &token, &given_out)).await.to_pem(), given_out);
    assert_eq!(world.stored(), stored, "a start writes nothing new");
    let allowed = |args: &[&str]| {
        let who = format!("--as=system:serviceaccount:{0}:gammarus-ca", world.namespace);
        let namespace = ["--namespace", &world.namespace, &who];
        world.server.kubectl(&[&["auth", "can-i"], args, &namespace].concat()).success
    };
    assert!(allowed(&["get", "secret/gammarus-ca"]), "control");
    for more in [
        &["get", "secret/other"][..],
        &["create", "secrets"],
        &["list", "secrets"],
        &["get", "configmap/other"],
    ] {
        assert!(!allowed(more), "{more:?}");
    }
}

/// What was signed and given out while roots were replaced.
#[derive(Default)]
struct History {
    leaves: Vec<(Instant, SignedIdentity)>,
    /// Every root that was the newest one.
    roots: Vec<CertificateDer<'static>>,
    /// By which of them leaves were signed, one after the other.
    signed_under: Vec<usize>,
}

impl History {
    fn note(&mut self, asked: Instant, leaf: SignedIdentity) {
        self.leaves.push((asked, leaf));
    }

    /// Every leaf that holds is trusted by whoever has one of these bundles, of which the last is given out now.
    #[track_caller]
    fn check(&mut self, bundles: &[&[CertificateDer<'static>]]) {
        // Times in certificates are whole seconds, and this machine may be busy: these hold for certain. To ask for the
        // bundles took its time, too.
        self.leaves.retain(|(asked, _)| asked.elapsed() < Duration::from_secs(8));
        for trusted in bundles {
            let is_trusted = |(_, leaf): &(Instant, SignedIdentity)| is_under(leaf, trusted);
            assert!(self.leaves.iter().all(is_trusted), "a leaf that holds is not trusted");
        }
        let newest = bundles.last().unwrap().last().unwrap().clone();
        if !self.roots.contains(&newest) {
            self.roots.push(newest);
        }
        let Some((_, leaf)) = self.leaves.last() else { return };
        let root = self.roots.iter().position(|root| is_under(leaf, std::slice::from_ref(root))).unwrap();
        if self.signed_under.last() != Some(&root) {
            self.signed_under.push(root);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_switches_all_replicas_and_kills_lose_nothing() {
    let world = World::new(ApiServer::shared(), "rotation");
    world.agent("agent-b", "node-b");
    let mut replicas: Vec<_> = (0..3).map(|_| world.start(&SHORT_LIVES)).collect();
    let mut client_node = Follower::new(&world, "agent-a", &replicas[0]).await;
    let mut server_node = Follower::new(&world, "agent-b", &replicas[1]).await;
    let (web, begun, mut kills, mut asked) = (world.identity("web"), Instant::now(), 0, Instant::now());
    let mut history = History::default();
    while begun.elapsed() < Duration::from_secs(100) {
        // Often enough to ask in every state of a rotation, and not as fast as two processors can.
        tokio::time::sleep(PAUSE).await;
        let at = Instant::now();
        let signed = match sign(&client_node.client(&replicas), &web).await {
            Ok(signed) => signed,
            // Replicas are far behind their Secret only where the machine is.
            Err(ClientError::Refused { status, message }) if status == 503 => {
                assert!(message.contains("cannot be read") || message.contains("not answer"), "{message}");
                continue;
            }
            Err(error) => {
                let said = replicas.iter().map(|replica| replica.said.lock().unwrap().clone());
                panic!("{:?}: {error:?}\n{}", begun.elapsed(), said.collect::<Vec<_>>().join("\n---\n"));
            }
        };
        assert!(is_under(&signed, &signed.trust_bundle), "a leaf without its root");
        assert!(is_under(&signed, server_node.held.roots()), "a leaf that the other node does not trust yet");
        history.note(at, signed);
        if asked.elapsed() > Duration::from_secs(1) {
            asked = Instant::now();
            client_node.follow(&replicas).await;
            server_node.follow(&replicas).await;
            let given_out = roots(&world.given_out());
            history.check(&[server_node.held.roots(), client_node.held.roots(), &given_out]);
        }
        if begun.elapsed() > Duration::from_secs(4 * (kills + 1)) {
            // Killed as it is dropped, at any moment of what it does.
            let which = usize::try_from(kills).unwrap() % replicas.len();
            replicas.remove(which);
            replicas.insert(which, world.start(&SHORT_LIVES));
            kills += 1;
        }
    }
    let History { roots, signed_under, .. } = history;
    assert!(roots.len() >= 2, "no root was replaced within {kills} kills");
    assert!(signed_under.len() >= 2 && signed_under.is_sorted(), "once and for all: {signed_under:?}");
    println!("{kills} kills, {} roots, signed under {signed_under:?}", roots.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_all_nodes_have_reported_signs_before_a_leaf_life_has_passed() {
    let world = World::new(ApiServer::shared(), "reports");
    // Two thirds of a root's life are 80 s at least: leaves of 20 s, issuers of 60 s, roots of 120 s.
    let lives = ["--leaf-lifetime-seconds=20", "--issuer-lifetime-seconds=60", "--root-lifetime-seconds=120"];
    let replicas = [world.start(&lives), world.start(&lives)];
    let mut node = Follower::new(&world, "agent-a", &replicas[0]).await;
    // Nobody waits for a node that is not ready, nor for one without a node proxy.
    world.server.node(&world.node("broken"));
    world.server.pod(&world.namespace, "agent-broken", "gammarus-node", &world.node("broken"));
    world.agent("agent-left", "node-left");
    world.remove(&world.namespace, "agent-left");
    // Nor for a pod that asks for itself: this one never has what comes.
    world.gateway("behind", "node-a");
    let mut behind = Follower::with(&world, world.token_in_shop("behind"), &replicas[0]).await;
    for _ in 0..replicas.len() * 2 {
        behind.follow(&replicas).await;
    }
    world.gateway("ahead", "node-a");
    let mut others = [world.token_in_shop("ahead"), world.controller("node-a")].into_iter();
    let mut ahead = Follower::with(&world, others.next().unwrap(), &replicas[0]).await;
    let mut controller = Follower::with(&world, others.next().unwrap(), &replicas[0]).await;
    // A root of one's own that comes is announced at once: nobody need wait for ours to end.
    let own = roots(&world.given_out());
    supply(&world, &signer("mine"), false);
    eventually("the new root is given out", || (roots(&world.given_out()).len() == 2).then_some(()));
    let announced = Instant::now();
    let web = world.identity("web");
    // What pods on the node say that ask for themselves does not say that the node's proxy has it. Reports count after 5 s.
    while announced.elapsed() < Duration::from_secs(9) {
        ahead.follow(&replicas).await;
        controller.follow(&replicas).await;
        let signed = sign(&node.client(&replicas), &web).await.unwrap();
        assert!(
            is_under(&signed, &own),
            "the node has not reported, and a root that it has not is signed with"
        );
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    assert_eq!([ahead.held.roots().len(), controller.held.roots().len(), node.held.roots().len()], [2, 2, 1]);
    loop {
        node.follow(&replicas).await;
        let signed = sign(&node.client(&replicas), &web).await.unwrap();
        if !is_under(&signed, &own) {
            break;
        }
        assert!(announced.elapsed() < Duration::from_secs(19), "reports made no difference");
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
    println!("after {:?}", announced.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_edited_or_deleted_is_put_back_and_what_is_spoilt_is_left_alone() {
    let world = World::new(ApiServer::shared(), "edits");
    let replica = world.start(&SHORT_LEAVES);
    let (token, given_out) = (world.token("agent-a"), world.given_out());
    let client = world.client(&replica, &token, &given_out);
    let web = world.identity("web");
    let is_back = || (roots(&world.given_out()).first() == roots(&given_out).first()).then_some(());
    world.kubectl(&["patch", "configmap", "gammarus-trust-bundle", "--patch", r#"{"data":{"ca.crt":"x"}}"#]);
    eventually("the bundle is put back", is_back);
    world.kubectl(&["delete", "configmap", "gammarus-trust-bundle"]);
    eventually("the bundle is there again", is_back);
    world.kubectl(&["delete", "secret", "gammarus-ca"]);
    eventually("the state is there again", || (!world.stored().is_empty()).then_some(()));
    replica.says("what was kept is gone: it is stored again");
    sign(&client, &web).await.unwrap();
    // What is no state is nobody's to write over.
    let good = world.stored();
    let put = |text: &str| {
        let text = base64::engine::general_purpose::STANDARD.encode(text);
        let patch = format!(r#"{{"data":{{"authorities.json":"{text}"}}}}"#);
        world.kubectl(&["patch", "secret", "gammarus-ca", "--patch", &patch]);
    };
    put("{\"version\": 1, \"trust");
    replica.says("Secret edits/gammarus-ca cannot be understood: restore it from a backup");
    let spoilt = world.stored();
    let said = world.spawn(&SHORT_LEAVES).ended();
    assert!(said.contains("Secret edits/gammarus-ca cannot be understood"), "{said}");
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        sign(&client, &web).await.unwrap();
        assert_eq!(world.stored(), spoilt, "it stays as it is");
    }
    let text = base64::engine::general_purpose::STANDARD.decode(&good).unwrap();
    put(std::str::from_utf8(&text).unwrap());
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        sign(&client, &web).await.unwrap();
    }
    // Without any replica nobody has the keys any more, and nodes still trust their root.
    drop(replica);
    world.kubectl(&["delete", "secret", "gammarus-ca"]);
    let said = world.spawn(&SHORT_LEAVES).ended();
    let expected = "ConfigMap edits/gammarus-trust-bundle is there but Secret edits/gammarus-ca is missing";
    assert!(said.contains(expected), "{said}");
    assert!(world.stored().is_empty(), "no new root behind anybody's back");
    world.kubectl(&["delete", "configmap", "gammarus-trust-bundle"]);
    world.start(&SHORT_LEAVES);
    assert_ne!(roots(&world.given_out()).first(), roots(&given_out).first(), "a new root was asked for");
}

/// A CA that signs itself, made by openssl, with the files of a Secret.
fn signer(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let openssl = |args: String| {
        let output = Command::new("openssl").args(args.split_whitespace()).current_dir(dir.path()).output();
        let output = output.expect("openssl is needed: install the Debian package openssl");
        assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    openssl("ecparam -name prime256v1 -genkey -noout -out tls.key".to_owned());
    let extensions = "-addext keyUsage=critical,keyCertSign,cRLSign";
    openssl(format!("req -x509 -new -key tls.key -subj /CN={name} -days 3650 -out tls.crt {extensions}"));
    fs::copy(dir.path().join("tls.crt"), dir.path().join("ca.crt")).unwrap();
    dir
}

/// Puts a signer into the Secret, with or without its key.
fn supply(world: &World, signer: &tempfile::TempDir, is_spoilt: bool) {
    let part = |name: &str| fs::read_to_string(signer.path().join(name)).unwrap();
    let key = if is_spoilt { String::new() } else { part("tls.key") };
    let secret = serde_json::json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {"name": "gammarus-ca-signer", "namespace": world.namespace},
        "stringData": {"tls.key": key, "tls.crt": part("tls.crt"), "ca.crt": part("ca.crt")},
    });
    world.server.apply(&secret.to_string());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supplied_signer_takes_its_place_and_goes_as_it_came() {
    let world = World::new(ApiServer::shared(), "supplied");
    let replicas = [world.start(&SHORT_LEAVES), world.start(&SHORT_LEAVES)];
    let (token, web) = (world.token("agent-a"), world.identity("web"));
    let all_sign_under = async |root: &[CertificateDer<'static>], expected: bool| {
        let begun = Instant::now();
        let mut switched = [false; 2];
        while switched != [true; 2] {
            assert!(begun.elapsed() < crate::rig::PATIENCE, "{switched:?}");
            tokio::time::sleep(PAUSE).await;
            for (replica, switched) in replicas.iter().zip(&mut switched) {
                let client = world.client(replica, &token, &world.given_out());
                let signed = sign(&client, &web).await.unwrap();
                assert!(is_under(&signed, &signed.trust_bundle));
                *switched = is_under(&signed, root) == expected;
            }
        }
    };
    let (first, second) = (signer("first"), signer("second"));
    let root = |signer: &tempfile::TempDir| roots(&fs::read_to_string(signer.path().join("ca.crt")).unwrap());
    supply(&world, &first, false);
    all_sign_under(&root(&first), true).await;
    // Key and root at once, as cert-manager does it.
    supply(&world, &second, false);
    all_sign_under(&root(&second), true).await;
    supply(&world, &first, true);
    for replica in &replicas {
        replica.says("Secret supplied/gammarus-ca-signer tls.key has no private key in PEM");
    }
    all_sign_under(&root(&second), true).await;
    supply(&world, &second, false);
    // Deleted and made again within the time that it is waited for.
    world.kubectl(&["delete", "secret", "gammarus-ca-signer"]);
    replicas[0].says("the supplied signer is gone");
    supply(&world, &second, false);
    all_sign_under(&root(&second), true).await;
    world.kubectl(&["delete", "secret", "gammarus-ca-signer"]);
    all_sign_under(&root(&second), false).await;
    eventually("its root has left", || {
        (!roots(&world.given_out()).contains(&root(&second)[0])).then_some(())
    });
}
