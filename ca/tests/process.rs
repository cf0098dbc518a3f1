//! The CA as a process: its clock, its end, and what it says.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::Path;
use std::process::Command;

use gammarus_ca::{CaClient, ClientError, SpiffeId, WorkloadKey};

const TOKEN: &str = "token-of-node-a-0123456789";
const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn id(text: &str) -> SpiffeId {
    text.parse().unwrap()
}

fn csr(identity: &str) -> String {
    WorkloadKey::generate().unwrap().csr(&id(identity)).unwrap()
}

/// Starts the CA as a process in `dir`, with `environment`, and waits until it serves: the process and its address.
fn serving(dir: &Path, environment: &[(&str, &str)]) -> (std::process::Child, String) {
    let path = |name: &str| dir.join(name).display().to_string();
    for part in ["tokens", "objects"] {
        fs::create_dir_all(path(part)).unwrap();
    }
    let mut child = Command::new(env!("CARGO_BIN_EXE_gammarus-ca"))
        .args(["--listen", "127.0.0.1:0", "--state-dir", &path("state"), "--tokens", &path("tokens")])
        .args(["--objects", &path("objects")])
        .envs(environment.iter().copied())
        .env("NO_COLOR", "1")
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
        let (mut child, address) = serving(dir.path(), &fake);
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
    let (mut child, _) = serving(dir.path(), &[]);
    assert!(Command::new("kill").arg(child.id().to_string()).status().unwrap().success());
    assert!(child.wait().unwrap().success());
}
