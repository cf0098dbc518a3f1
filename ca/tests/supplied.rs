//! A signer of one's own, in the files that cert-manager writes: taken, replaced, and refused with the reason.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use gammarus_ca::TrustDomain;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::rotation::{Step, Terms};
use gammarus_ca::supplied::{SignerDir, Supplied};
use time::OffsetDateTime;

/// Runs openssl in a folder.
#[track_caller]
fn openssl(dir: &Path, args: &str) {
    let output = Command::new("openssl").args(args.split_whitespace()).current_dir(dir).output();
    let output = output.expect("openssl is needed: install the Debian package openssl");
    assert!(output.status.success(), "openssl {args}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A folder with a CA that signs itself, made by openssl, as a Secret has it.
fn self_signed(name: &str) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    // The form that cert-manager gives an ECDSA key unless it is told otherwise.
    openssl(dir.path(), "ecparam -name prime256v1 -genkey -noout -out tls.key");
    root_of_key(dir.path(), name);
    dir
}

/// Makes tls.crt and ca.crt: a root with the key that is there.
fn root_of_key(dir: &Path, name: &str) {
    let extensions = "-addext keyUsage=critical,keyCertSign,cRLSign";
    openssl(
        dir,
        &format!("req -x509 -new -key tls.key -subj /CN={name} -days 3650 -out tls.crt {extensions}"),
    );
    fs::copy(dir.join("tls.crt"), dir.join("ca.crt")).unwrap();
}

/// A folder with a CA under a root that is not there, and the root.
fn under_a_root(name: &str) -> tempfile::TempDir {
    let (root, dir) = (self_signed("a-root"), tempfile::tempdir().unwrap());
    openssl(dir.path(), "genrsa -traditional -out tls.key 2048");
    openssl(dir.path(), &format!("req -new -key tls.key -subj /CN={name} -out request.pem"));
    fs::write(
        dir.path().join("extensions"),
        "basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign\n",
    )
    .unwrap();
    let (cert, key) = (root.path().join("tls.crt"), root.path().join("tls.key"));
    openssl(
        dir.path(),
        &format!(
            "x509 -req -in request.pem -CA {} -CAkey {} -CAcreateserial -days 365 -extfile extensions -out tls.crt",
            cert.display(),
            key.display()
        ),
    );
    fs::copy(cert, dir.path().join("ca.crt")).unwrap();
    dir
}

/// Puts the files of one folder in the place of another's.
fn replace(dir: &Path, with: &Path) {
    for name in ["tls.key", "tls.crt", "ca.crt"] {
        fs::copy(with.join(name), dir.join(name)).unwrap();
    }
}

struct Rig {
    state: tempfile::TempDir,
    begin: OffsetDateTime,
}

impl Rig {
    fn new() -> Self {
        Self { state: tempfile::tempdir().unwrap(), begin: OffsetDateTime::now_utc() }
    }

    fn open(&self, supplied: Option<&Path>) -> Keeper {
        let leaf = LeafLifetime::new(Duration::from_secs(60)).unwrap();
        Keeper::open(
            self.state.path(),
            &TrustDomain::new("cluster.local").unwrap(),
            Terms::usual(leaf),
            supplied,
        )
        .unwrap()
    }

    /// The first step that is taken within two looks: what is new counts at the second.
    fn step(&self, keeper: &Keeper, at: u64, distributed: bool) -> Option<Step> {
        let now = self.begin + Duration::from_secs(at);
        (0..2).find_map(|_| keeper.step(now, distributed).unwrap())
    }
}

fn root_in(dir: &Path) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject as _;
    rustls::pki_types::CertificateDer::from_pem_file(dir.join("ca.crt")).unwrap().to_vec()
}

#[track_caller]
fn signs_with(keeper: &Keeper, dir: &Path) {
    assert_eq!(keeper.live().signer.roots()[0].to_vec(), root_in(dir));
}

#[test]
fn what_cert_manager_writes_is_taken_whatever_its_kind() {
    for (dir, above) in [(self_signed("one"), 0), (under_a_root("two"), 1)] {
        let rig = Rig::new();
        let keeper = rig.open(Some(dir.path()));
        signs_with(&keeper, dir.path());
        assert_eq!(keeper.live().signer.intermediates().len(), above, "a root need not be shown");
        assert_eq!(keeper.live().bundle.roots().len(), 1);
        assert_eq!(rig.step(&keeper, 100, true), None);
    }
    // Without ca.crt, a certificate that signs itself is its own root.
    let dir = self_signed("three");
    let root = root_in(dir.path());
    fs::remove_file(dir.path().join("ca.crt")).unwrap();
    assert_eq!(Rig::new().open(Some(dir.path())).live().signer.roots()[0].to_vec(), root);
}

#[test]
fn key_and_root_swapped_at_once_go_by_way_of_the_bundle() {
    let (rig, dir, new) = (Rig::new(), self_signed("old"), self_signed("new"));
    let keeper = rig.open(Some(dir.path()));
    let old = keeper.live().bundle.clone();
    replace(dir.path(), new.path());
    assert_eq!(rig.step(&keeper, 1, false), Some(Step::Announce));
    assert_eq!(keeper.live().signer.roots(), old.roots(), "the old key is kept, and signs");
    assert_eq!(keeper.live().bundle.roots().len(), 2);
    // A restart in between does not need the old files, which are gone.
    drop(keeper);
    let keeper = rig.open(Some(dir.path()));
    assert_eq!((keeper.live().signer.roots(), keeper.live().bundle.roots().len()), (old.roots(), 2));
    assert_eq!(rig.step(&keeper, 30, false), None);
    assert_eq!(rig.step(&keeper, 31, true), Some(Step::Promote));
    signs_with(&keeper, new.path());
    assert_eq!(rig.step(&keeper, 31 + 76, true), Some(Step::Forget));
    assert_eq!(keeper.live().bundle.roots().len(), 1);
}

#[test]
fn a_change_of_mind_takes_the_announced_root_back() {
    let (rig, dir, old, new) = (Rig::new(), self_signed("x"), self_signed("old"), self_signed("new"));
    replace(dir.path(), old.path());
    let keeper = rig.open(Some(dir.path()));
    replace(dir.path(), new.path());
    assert_eq!(rig.step(&keeper, 1, false), Some(Step::Announce));
    replace(dir.path(), old.path());
    assert_eq!(rig.step(&keeper, 2, false), Some(Step::Withdraw));
    signs_with(&keeper, old.path());
    assert_eq!(keeper.live().bundle.roots().len(), 1);
}

#[test]
fn another_key_under_the_same_root_signs_at_once() {
    let (rig, dir) = (Rig::new(), self_signed("root"));
    let keeper = rig.open(Some(dir.path()));
    let bundle = keeper.live().bundle.clone();
    // An issuer under the root that is trusted already.
    openssl(dir.path(), "ecparam -name secp384r1 -genkey -noout -out issuer.key");
    openssl(dir.path(), "req -new -key issuer.key -subj /CN=issuer -out request.pem");
    fs::write(dir.path().join("extensions"), "basicConstraints=critical,CA:TRUE\n").unwrap();
    openssl(
        dir.path(),
        "x509 -req -in request.pem -CA tls.crt -CAkey tls.key -CAcreateserial -days 9 -extfile extensions -out issuer.crt",
    );
    fs::copy(dir.path().join("issuer.crt"), dir.path().join("tls.crt")).unwrap();
    fs::copy(dir.path().join("issuer.key"), dir.path().join("tls.key")).unwrap();
    assert_eq!(rig.step(&keeper, 1, false), Some(Step::Replace));
    assert_eq!(keeper.live().signer.intermediates().len(), 1);
    assert_eq!(keeper.live().bundle, bundle);
}

#[test]
fn from_our_own_to_a_supplied_one_and_back() {
    let (rig, dir) = (Rig::new(), self_signed("mine"));
    let own = rig.open(None).live().bundle.clone();
    let keeper = rig.open(Some(dir.path()));
    assert_eq!(keeper.live().signer.roots(), own.roots());
    assert_eq!(keeper.live().bundle.roots().len(), 2, "it was announced at the start");
    assert_eq!(rig.step(&keeper, 1, true), Some(Step::Promote));
    signs_with(&keeper, dir.path());
    drop(keeper);
    let keeper = rig.open(None);
    signs_with(&keeper, dir.path());
    assert_eq!(rig.step(&keeper, 2, true), Some(Step::Promote));
    assert_ne!(keeper.live().signer.roots()[0].to_vec(), root_in(dir.path()));
}

/// Spoils a good folder; what is said must name the file and what is wrong, and what was good stays.
#[track_caller]
fn refused(change: impl FnOnce(&Path), file: &str, problem: &str) {
    let (rig, dir) = (Rig::new(), self_signed("good"));
    let keeper = rig.open(Some(dir.path()));
    let before = keeper.live().bundle.clone();
    change(dir.path());
    assert_eq!(rig.step(&keeper, 1, true), None);
    assert_eq!(keeper.live().bundle, before, "{problem}");
    drop(keeper);
    let source = Box::new(SignerDir::new(dir.path()));
    let error = Supplied::new(source, Duration::from_secs(60)).read(OffsetDateTime::now_utc()).unwrap_err();
    let text = error.to_string();
    let path: PathBuf = dir.path().join(file);
    assert!(text.starts_with(&path.display().to_string()) && text.contains(problem), "{text}");
    // What was taken before is kept through a start as well; without it there is nothing to begin with.
    let keeper = rig.open(Some(dir.path()));
    assert_eq!(keeper.live().bundle, before);
    let (fresh, leaf) = (Rig::new(), LeafLifetime::new(Duration::from_secs(60)).unwrap());
    let domain = TrustDomain::new("cluster.local").unwrap();
    let error = Keeper::open(fresh.state.path(), &domain, Terms::usual(leaf), Some(dir.path())).unwrap_err();
    assert!(error.to_string().starts_with(&path.display().to_string()), "{error}");
}

#[test]
fn a_complaint_ends_when_the_files_are_as_they_were() {
    let (rig, dir, good) = (Rig::new(), self_signed("good"), tempfile::tempdir().unwrap());
    replace(good.path(), dir.path());
    let keeper = rig.open(Some(dir.path()));
    for name in ["tls.key", "tls.crt", "ca.crt"] {
        fs::write(dir.path().join(name), "-----BEGIN CERTIFICATE-----\n!").unwrap();
        assert_eq!(rig.step(&keeper, 1, false), None);
        assert!(keeper.refuses_supplied(), "{name}");
        replace(dir.path(), good.path());
        assert_eq!(rig.step(&keeper, 2, false), None);
        assert!(!keeper.refuses_supplied(), "{name}");
    }
}

#[test]
fn what_is_wrong_with_a_file_is_said_with_its_name() {
    refused(|dir| fs::remove_file(dir.join("tls.key")).unwrap(), "tls.key", "");
    refused(|dir| fs::write(dir.join("tls.key"), "").unwrap(), "tls.key", "no private key");
    refused(|dir| fs::write(dir.join("tls.crt"), "").unwrap(), "tls.crt", "no certificate");
    let torn = "-----BEGIN CERTIFICATE-----\n!\n-----END CERTIFICATE-----\n";
    refused(|dir| fs::write(dir.join("tls.crt"), torn).unwrap(), "tls.crt", "cannot be read");
    refused(|dir| fs::write(dir.join("ca.crt"), torn).unwrap(), "ca.crt", "cannot be read");
    let other_key = |dir: &Path| openssl(dir, "ecparam -name prime256v1 -genkey -noout -out tls.key");
    refused(other_key, "tls.key", "does not fit the first certificate of");
    let expired = |dir: &Path| {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2025, 1, 1);
        fs::write(dir.join("tls.key"), key.serialize_pem()).unwrap();
        fs::write(dir.join("tls.crt"), params.self_signed(&key).unwrap().pem()).unwrap();
    };
    refused(expired, "tls.crt", "to 2025-01-01");
    let leaf = |dir: &Path| {
        openssl(
            dir,
            "req -x509 -new -key tls.key -subj /CN=leaf -days 9 -out tls.crt -addext basicConstraints=critical,CA:FALSE",
        );
    };
    refused(leaf, "tls.crt", "which is not a CA's");
    let other_root = |dir: &Path| {
        fs::copy(self_signed("good").path().join("ca.crt"), dir.join("ca.crt")).unwrap();
    };
    refused(other_root, "tls.crt", "signs leaves that no peer would take");
    let no_root = |dir: &Path| {
        replace(dir, under_a_root("issuer").path());
        fs::write(dir.join("ca.crt"), "").unwrap();
    };
    refused(no_root, "ca.crt", "does not end in one");
    let constrained = |dir: &Path| {
        let name = "-addext nameConstraints=critical,permitted;DNS:example.org,excluded;URI:.local";
        openssl(dir, &format!("req -x509 -new -key tls.key -subj /CN=narrow -days 9 -out tls.crt {name}"));
        fs::copy(dir.join("tls.crt"), dir.join("ca.crt")).unwrap();
    };
    refused(constrained, "tls.crt", "signs leaves that no peer would take");
}
