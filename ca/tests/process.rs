//! The CA as a process: its clock, its end, and what it says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use gammarus_ca::{CaClient, ClientError, SignedIdentity, SpiffeId, WorkloadKey};
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, UnixTime};

const TOKEN: &str = "token-of-node-a-0123456789";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn csr(identity: &str) -> String {
    WorkloadKey::generate().unwrap().csr(&id(identity)).unwrap()
}

/// Starts the CA as a process in `dir`, with `environment`, and waits until it serves: the process and its address.
fn serving(dir: &Path, environment: &[(&str, &str)], flags: &[&str]) -> (std::process::Child, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    for part in ["tokens", "objects"] {
        fs::create_dir_all(path(part)).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_gammarus-ca"))
        .args(["--listen", "127.0.0.1:0", "--state-dir", &path("state"), "--tokens", &path("tokens")])
        .args(["--objects", &path("objects")])
        .args(flags)
        .envs(environment.iter().copied())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = std::io::BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("serving") {
        line.clear();
        assert!(std::io::BufRead::read_line(&mut log, &mut line).unwrap() > 0, "it ended before it served");
    }
    // What it says later is nobody's to read.
    std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
    let address = line.split("address=").nth(1).and_then(|rest| rest.split_whitespace().next()).unwrap();
    (child, address.to_owned())
}

#[tokio::test]
async fn a_ca_whose_clock_is_far_off_is_told_with_both_clocks() {
    let library = fs::read_dir("/usr/lib").unwrap().flatten();
    let mut library = library.map(|folder| folder.path().join("faketime/libfaketime.so.1"));
    let library = library.find(|path| path.is_file()).expect("the Debian package faketime is needed");
    for (shift, problem) in [("+7200", "holds from"), ("-172800", "expired at")] {
        let dir = tempfile::tempdir().unwrap();
        let fake = [
            ("LD_PRELOAD", library.to_str().unwrap()),
            ("FAKETIME", shift),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ];
        let (mut child, address) = serving(dir.path(), &fake, &[]);
        fs::write(dir.path().join("tokens/node-a"), TOKEN).unwrap();
        let (bundle, token) = (dir.path().join("state/ca.crt"), dir.path().join("tokens/node-a"));
        let client = CaClient::new(address, "gammarus-ca", bundle, token).unwrap();
        let error = client.sign(&id(WEB), csr(WEB)).await.unwrap_err();
        child.kill().unwrap();
        child.wait().unwrap();
        let text = error.to_string();
        assert!(matches!(error, ClientError::Clock { .. }), "{shift}: {text}");
        assert!(text.contains(problem) && text.contains("this node's clock says 2"), "{shift}: {text}");
    }
}

#[test]
fn the_process_serves_and_ends_cleanly_at_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let (mut child, _) = serving(dir.path(), &[], &[]);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}

/// A CA whose API server is nowhere, and the file that its log goes into.
fn without_a_server(dir: &Path, level: &str) -> (std::process::Child, PathBuf) {
    let (kubeconfig, log) = (dir.join("kubeconfig"), dir.join(level));
    let nobody = "{apiVersion: v1, kind: Config, current-context: a, users: [{name: a, user: {token: a}}],
        clusters: [{name: a, cluster: {server: 'https://127.0.0.1:1'}}],
        contexts: [{name: a, context: {cluster: a, user: a}}]}";
    fs::write(&kubeconfig, nobody).unwrap();
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_gammarus-ca"), "--listen", "127.0.0.1:0"]);
    command.args(["--namespace", "mesh", "--log-level", level, "--kubeconfig"]).arg(kubeconfig);
    (command.stderr(fs::File::create(&log).unwrap()).spawn().unwrap(), log)
}

#[test]
fn that_the_api_server_is_away_is_told_once_and_by_the_ca_alone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut plain, log) = without_a_server(dir.path(), "info");
    let (mut chatty, with_client) = without_a_server(dir.path(), "info,kube_client=error");
    let read = |log: &Path| fs::read_to_string(log).unwrap();
    let count = |log: &Path, part: &str| read(log).lines().filter(|line| line.contains(part)).count();
    let (ours, begun) = ("the state cannot be read yet", Instant::now());
    // Both have tried again by then.
    while count(&with_client, "kube_client") < 3 || count(&log, ours) == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} {}", read(&log), read(&with_client));
        std::thread::sleep(Duration::from_millis(100));
    }
    for child in [&mut plain, &mut chatty] {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert_eq!((count(&log, ours), count(&with_client, ours)), (1, 1));
    let said = read(&log);
    assert!(!said.contains("kube_client") && said.contains("the API server does not answer"), "{said}");
    assert!(!said.contains('\u{1b}'), "in colours: {said:?}");
}

/// The certificates of a PEM file.
fn certificates(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).unwrap().collect::<Result<_, _>>().unwrap()
}

/// Whether a leaf with what it came with leads to one of `roots`.
fn is_under(signed: &SignedIdentity, roots: &[CertificateDer<'static>]) -> bool {
    let anchors: Vec<_> = roots.iter().map(|root| webpki::anchor_from_trusted_cert(root).unwrap()).collect();
    let leaf = webpki::EndEntityCert::try_from(&signed.chain[0]).unwrap();
    let algorithms = rustls::crypto::aws_lc_rs::default_provider().signature_verification_algorithms.all;
    let (now, usage) = (UnixTime::now(), webpki::KeyUsage::client_auth());
    leaf.verify_for_usage(algorithms, &anchors, &signed.chain[1..], now, usage, None, None).is_ok()
}

#[tokio::test]
async fn a_ca_that_is_killed_again_and_again_while_it_rotates_loses_no_root_and_no_leaf() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("objects")).unwrap();
    fs::create_dir_all(dir.path().join("tokens")).unwrap();
    fs::write(dir.path().join("tokens/node-a"), TOKEN).unwrap();
    let pod = "apiVersion: v1\nkind: Pod\nmetadata: {name: web, namespace: shop}\n\
        spec: {nodeName: node-a, serviceAccountName: web}\n";
    fs::write(dir.path().join("objects/web.yaml"), pod).unwrap();
    let bundle = dir.path().join("state/ca.crt");
    let lives = ["--leaf-lifetime-seconds=10", "--issuer-lifetime-seconds=30", "--root-lifetime-seconds=60"];
    let (begun, mut kills, mut leaves, mut seen) = (Instant::now(), 0_u32, Vec::new(), Vec::new());
    while begun.elapsed() < Duration::from_secs(56) {
        let (mut child, address) = serving(dir.path(), &[], &lives);
        let token = dir.path().join("tokens/node-a");
        let client = CaClient::new(address, "gammarus-ca", &bundle, token).unwrap();
        // Steps are taken every half second: the kills come at any moment in between.
        let until = Instant::now() + Duration::from_millis(u64::from(150 + kills * 137 % 1400));
        while Instant::now() < until {
            let asked = Instant::now();
            let signed = client.sign(&id(WEB), csr(WEB)).await.unwrap();
            let held = client.trust_bundle(None).await.unwrap().bundle.unwrap();
            assert!(is_under(&signed, &signed.trust_bundle), "a leaf without its root");
            // As a node that has taken the bundle does.
            client.trust_bundle(Some(held.tag())).await.unwrap();
            leaves.push((asked, signed));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        kills += 1;
        let given_out = certificates(&bundle);
        // Times in certificates are whole seconds, and this machine may be busy: these hold for certain.
        leaves.retain(|(asked, _)| asked.elapsed() < Duration::from_secs(8));
        let lost = leaves.iter().filter(|(_, signed)| !is_under(signed, &given_out)).count();
        assert_eq!(lost, 0, "after kill {kills}: leaves that hold are no longer trusted");
        for root in given_out {
            if !seen.contains(&root) {
                seen.push(root);
            }
        }
    }
    assert!(seen.len() >= 2, "no root was replaced within {kills} kills");
    println!("{kills} kills, {} roots", seen.len());
}
