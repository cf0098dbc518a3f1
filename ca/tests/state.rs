//! What the CA keeps on its disk: kept over restarts, never half written, never replaced when it is spoilt.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use gammarus_ca::TrustDomain;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::{Keeper, KeeperError};
use gammarus_ca::rotation::Terms;
use gammarus_ca::signer::SignerProblem;
use gammarus_ca::state::{CA_CERT_FILE, FORMER_ROOT_FILE, STATE_FILE, StateError};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, KeyPair, SanType};

fn terms() -> Terms {
    Terms::usual(LeafLifetime::new(Duration::from_secs(3600)).unwrap())
}

fn open_for(dir: &Path, trust_domain: &TrustDomain) -> Result<Keeper, KeeperError> {
    Keeper::open(dir, trust_domain, terms(), None)
}

fn domain(name: &str) -> TrustDomain {
    TrustDomain::new(name).unwrap()
}

fn open(dir: &Path) -> Result<Keeper, KeeperError> {
    open_for(dir, &domain("cluster.local"))
}

#[test]
fn a_restart_keeps_everything_and_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap().live().bundle_pem.clone();
    let bytes = fs::read(dir.path().join(STATE_FILE)).unwrap();
    let second = open(dir.path()).unwrap().live().bundle_pem.clone();
    assert_eq!(first, second);
    assert_eq!(fs::read_to_string(dir.path().join(CA_CERT_FILE)).unwrap(), first);
    assert_eq!(fs::read(dir.path().join(STATE_FILE)).unwrap(), bytes);
    let mode = fs::metadata(dir.path().join(STATE_FILE)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let mut names: Vec<_> =
        fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [STATE_FILE, CA_CERT_FILE, "lock"]);
}

#[test]
fn a_directory_has_one_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, KeeperError::State(StateError::Locked(_))), "{error}");
    drop(first);
    open(dir.path()).unwrap();
}

#[track_caller]
fn spoilt(change: impl FnOnce(&Path), expected: impl FnOnce(&StateError) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    drop(open(dir.path()).unwrap());
    change(dir.path());
    let before = fs::read(dir.path().join(STATE_FILE)).ok();
    let Err(KeeperError::State(error)) = open(dir.path()) else { panic!("it was taken") };
    assert!(expected(&error), "{error}");
    assert_eq!(fs::read(dir.path().join(STATE_FILE)).ok(), before, "what was there is left as it was");
}

#[test]
fn a_spoilt_state_is_an_error_and_never_a_new_root() {
    let change = |from: &'static str, to: &'static str| {
        move |dir: &Path| {
            let text = fs::read_to_string(dir.join(STATE_FILE)).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(dir.join(STATE_FILE), text.replace(from, to)).unwrap();
        }
    };
    let corrupt = |e: &StateError| matches!(e, StateError::Corrupt { .. });
    spoilt(|dir| fs::write(dir.join(STATE_FILE), "").unwrap(), corrupt);
    spoilt(|dir| fs::write(dir.join(STATE_FILE), "not json").unwrap(), corrupt);
    let cut = |dir: &Path| {
        let text = fs::read_to_string(dir.join(STATE_FILE)).unwrap();
        fs::write(dir.join(STATE_FILE), &text[..text.len() / 2]).unwrap();
    };
    spoilt(cut, corrupt);
    spoilt(change("\"version\": 1", "\"version\": 2"), |e| {
        matches!(e, StateError::Version { version: 2, .. })
    });
    spoilt(change("\"signing\"", "\"unknown\""), corrupt);
    spoilt(change("BEGIN PRIVATE KEY", "BEGIN PUBLIC KEY"), |e| matches!(e, StateError::Signer(_)));
    spoilt(change("BEGIN CERTIFICATE", "BEGIN CERTIFICATF"), |e| matches!(e, StateError::Signer(_)));
    let missing = |e: &StateError| matches!(e, StateError::KeyMissing { .. });
    spoilt(|dir| fs::remove_file(dir.join(STATE_FILE)).unwrap(), missing);
    let foreign_key = |dir: &Path| {
        let text = fs::read_to_string(dir.join(STATE_FILE)).unwrap();
        let mut state: serde_json::Value = serde_json::from_str(&text).unwrap();
        state["authorities"][0]["signer"]["key"] = KeyPair::generate().unwrap().serialize_pem().into();
        fs::write(dir.join(STATE_FILE), state.to_string()).unwrap();
    };
    spoilt(
        foreign_key,
        |e| matches!(e, StateError::Signer(error) if matches!(error.problem, SignerProblem::KeyMismatch(_))),
    );
}

#[test]
fn a_state_of_another_trust_domain_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    drop(open_for(dir.path(), &domain("one.test")).unwrap());
    let error = open_for(dir.path(), &domain("two.test")).unwrap_err();
    assert!(matches!(error, KeeperError::State(StateError::TrustDomain { .. })), "{error}");
}

/// The one file of earlier releases: the key of a root that signs leaves itself, and its certificate.
fn former(trust_domain: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
    let uri = Ia5String::try_from(format!("spiffe://{trust_domain}")).unwrap();
    params.subject_alt_names = vec![SanType::URI(uri)];
    change(&mut params);
    let cert = params.self_signed(&key).unwrap().pem();
    (key.serialize_pem(), cert)
}

#[test]
fn the_root_of_an_earlier_release_is_taken_over_and_goes_on_signing() {
    let dir = tempfile::tempdir().unwrap();
    let (key, cert) = former("cluster.local", |_| {});
    fs::write(dir.path().join(FORMER_ROOT_FILE), format!("{key}{cert}")).unwrap();
    fs::write(dir.path().join(CA_CERT_FILE), &cert).unwrap();
    let live = open(dir.path()).unwrap().live();
    assert_eq!(live.bundle_pem.replace("\r\n", "\n"), cert.replace("\r\n", "\n"));
    assert!(live.signer.intermediates().is_empty(), "no issuer may be under such a root");
    assert!(!dir.path().join(FORMER_ROOT_FILE).exists(), "its key is kept once");
    assert_eq!(open(dir.path()).unwrap().live().bundle, live.bundle);
}

#[track_caller]
fn not_taken_over(content: &str, expected: impl FnOnce(&SignerProblem) -> bool) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join(FORMER_ROOT_FILE), content).unwrap();
    let Err(KeeperError::State(StateError::Signer(error))) = open(dir.path()) else { panic!("{content}") };
    assert!(expected(&error.problem) && error.file.ends_with(FORMER_ROOT_FILE), "{error}");
    assert_eq!(fs::read_to_string(dir.path().join(FORMER_ROOT_FILE)).unwrap(), content);
    assert!(!dir.path().join(STATE_FILE).exists() && !dir.path().join(CA_CERT_FILE).exists());
}

#[test]
fn a_spoilt_root_of_an_earlier_release_is_not_taken_over() {
    let (key, cert) = former("cluster.local", |_| {});
    not_taken_over("", |problem| matches!(problem, SignerProblem::NoCertificate));
    not_taken_over(&key, |problem| matches!(problem, SignerProblem::NoCertificate));
    not_taken_over(&cert, |problem| matches!(problem, SignerProblem::NoKey));
    let other = KeyPair::generate().unwrap().serialize_pem();
    not_taken_over(&format!("{other}{cert}"), |problem| matches!(problem, SignerProblem::KeyMismatch(_)));
    let (key, cert) = former("cluster.local", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    not_taken_over(&format!("{key}{cert}"), |problem| matches!(problem, SignerProblem::NotValidNow { .. }));
    let (key, cert) = former("other.test", |_| {});
    not_taken_over(&format!("{key}{cert}"), |problem| matches!(problem, SignerProblem::TrustDomain(_)));
}
