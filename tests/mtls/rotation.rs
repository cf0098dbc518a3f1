//! New issuers and new roots under traffic: no request may notice.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use node_proxy::demo::command::until;
use node_proxy::demo::world::World;

use super::continuation::talk;
use super::expiry::held;
use super::load::Load;
use super::rig::{PATIENCE, metric, staged};

/// How many roots the CA gives out.
fn roots(world: &World) -> usize {
    fs::read_to_string(world.dir().join("ca/ca.crt")).unwrap().matches("BEGIN CERTIFICATE").count()
}

/// What the CA has told so far.
fn told(world: &World) -> String {
    fs::read_to_string(world.dir().join("ca.log")).unwrap()
}

/// The fingerprints of the roots that a node trusts.
fn trusted(world: &World, node: &str) -> Vec<String> {
    let metrics = world.admin(node, "/metrics").unwrap();
    let mut found: Vec<_> = metrics
        .lines()
        .filter_map(|line| {
            line.strip_prefix("gammarus_root_expiry_seconds{fingerprint=\"")?.split('"').next()
        })
        .map(str::to_owned)
        .collect();
    found.sort();
    found
}

#[test]
fn a_rotation_of_root_and_issuer_squeezed_into_a_minute_fails_no_request() {
    let world = staged(World::builder().ca_arguments(&[
        "--leaf-lifetime-seconds=12",
        "--issuer-lifetime-seconds=36",
        "--root-lifetime-seconds=75",
    ]));
    let first = trusted(&world, "node-a");
    assert_eq!((first.len(), roots(&world)), (1, 1));
    let load = Load::start(&world, "client", "server.shop");
    let begun = Instant::now();
    let rotated = |step: &str| told(&world).contains(step);
    assert!(until(PATIENCE * 4, || rotated("a new issuer signs under the same root")), "{}", told(&world));
    assert!(until(PATIENCE * 6, || roots(&world) == 2), "no root is given out: {}", told(&world));
    assert!(until(PATIENCE, || rotated("the new root signs")), "it does not sign: {}", told(&world));
    for node in ["node-a", "node-b"] {
        assert_eq!(trusted(&world, node).len(), 2, "{node} has to know it before it signs");
    }
    assert!(until(PATIENCE * 4, || roots(&world) == 1), "the old root stays: {}", told(&world));
    for node in ["node-a", "node-b"] {
        let alone = || trusted(&world, node).len() == 1 && trusted(&world, node) != first;
        assert!(until(PATIENCE, alone), "{node} trusts {:?}, and it was {first:?}", trusted(&world, node));
    }
    // And some leaves later.
    std::thread::sleep(Duration::from_secs(8));
    let answered = load.finish(&format!("a rotation within {} s", begun.elapsed().as_secs()));
    assert!(answered > 1000, "only {answered}");
    for name in ["gammarus_issuer_expiry_seconds", "gammarus_root_expiry_seconds"] {
        let left = metric(&world, "node-a", name, &[]);
        assert!(left > 0.0 && left <= 150.0, "{name}: {left}");
    }
}

/// Makes a CA in the files of a Secret, in place of what is there.
#[track_caller]
fn supply(dir: &Path, name: &str) {
    let draft = tempfile::tempdir().unwrap();
    for args in [
        "ecparam -name prime256v1 -genkey -noout -out tls.key".to_owned(),
        format!("req -x509 -new -key tls.key -subj /CN={name} -days 99 -out tls.crt"),
    ] {
        let made = Command::new("openssl").args(args.split_whitespace()).current_dir(draft.path()).output();
        let made = made.expect("openssl is needed: install the Debian package openssl");
        assert!(made.status.success(), "{args}: {}", String::from_utf8_lossy(&made.stderr));
    }
    for (from, to) in [("tls.key", "tls.key"), ("tls.crt", "tls.crt"), ("tls.crt", "ca.crt")] {
        fs::copy(draft.path().join(from), dir.join(to)).unwrap();
    }
}

#[test]
fn a_users_own_ca_is_swapped_key_and_root_at_once_and_a_bad_one_is_not_taken() {
    let supplied = tempfile::tempdir().unwrap();
    supply(supplied.path(), "first");
    let flag = format!("--signer-dir={}", supplied.path().display());
    let world = staged(World::builder().ca_arguments(&[
        &flag,
        "--leaf-lifetime-seconds=20",
        "--metrics-listen=127.0.0.1:15022",
    ]));
    let first = trusted(&world, "node-a");
    let load = Load::start(&world, "client", "server.shop");
    let (mut client, mut server, _application) = held(&world);
    supply(supplied.path(), "second");
    assert!(until(PATIENCE, || told(&world).contains("the new root signs")), "{}", told(&world));
    assert_eq!((roots(&world), trusted(&world, "node-b").len()), (2, 2));
    fs::write(supplied.path().join("tls.key"), "not a key").unwrap();
    let complaint = format!("{} has no private key", supplied.path().join("tls.key").display());
    assert!(until(PATIENCE, || told(&world).contains(&complaint)), "{}", told(&world));
    let fabric = format!("{}fabric", world.prefix());
    let scrape = ["netns", "exec", &fabric, "curl", "-sS", "http://127.0.0.1:15022/metrics"];
    let scrape = || String::from_utf8(Command::new("ip").args(scrape).output().unwrap().stdout).unwrap();
    let metrics = scrape();
    assert!(metrics.contains("gammarus_ca_supplied_signer_refused 1"), "{metrics}");
    for phase in ["signing", "leaving"] {
        let labels = format!("phase=\"{phase}\"");
        let line =
            metrics.lines().find(|line| line.contains("certificate=\"root\"") && line.contains(&labels));
        assert!(
            line.is_some_and(|line| line.contains("gammarus_ca_certificate_expiry_seconds")),
            "{metrics}"
        );
    }
    assert!(metrics.contains("path=\"/v1/certificates\",status=\"200\""), "{metrics}");
    assert!(until(PATIENCE * 4, || roots(&world) == 1), "the first root stays: {}", told(&world));
    assert!(until(PATIENCE, || trusted(&world, "node-a").len() == 1), "{:?}", trusted(&world, "node-a"));
    assert_ne!(trusted(&world, "node-a"), first);
    // It has begun under a root that nobody trusts any more, and was continued under the next.
    talk(&mut client, &mut server);
    supply(supplied.path(), "third");
    assert!(until(PATIENCE, || roots(&world) == 2), "what is good again is taken: {}", told(&world));
    assert!(scrape().contains("gammarus_ca_supplied_signer_refused 0"));
    let answered = load.finish("while a user's own CA was swapped");
    assert!(answered > 300, "only {answered}");
}
