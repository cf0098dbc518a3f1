//! Roots and issuers that follow each other, by a clock that the test moves: what is given out, what signs, and what
//! a crash between any two steps leaves.
#![allow(clippy::unwrap_used, reason = "a test that fails says so by panicking")]

use std::fs;
use std::path::Path;
use std::time::Duration;

use gammarus_ca::TrustDomain;
use gammarus_ca::bundle::TrustBundle;
use gammarus_ca::issue::LeafLifetime;
use gammarus_ca::keeper::Keeper;
use gammarus_ca::rotation::{Step, Terms, TermsError};
use gammarus_ca::state::STATE_FILE;
use time::OffsetDateTime;

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Leaves of one minute, issuers of three, roots of six.
fn terms() -> Terms {
    Terms::new(LeafLifetime::new(seconds(60)).unwrap(), seconds(180), seconds(360)).unwrap()
}

/// A CA, and a clock that begins when it was made.
struct Rig {
    dir: tempfile::TempDir,
    keeper: Option<Keeper>,
    begin: OffsetDateTime,
}

fn open(dir: &Path, now: OffsetDateTime) -> Keeper {
    Keeper::open_at(now, dir, (&TrustDomain::new("cluster.local").unwrap(), terms()), None).unwrap()
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let begin = OffsetDateTime::now_utc();
        let keeper = Some(open(dir.path(), begin));
        Self { dir, keeper, begin }
    }

    fn keeper(&self) -> &Keeper {
        self.keeper.as_ref().unwrap()
    }

    fn step(&self, at: u64, distributed: bool) -> Option<Step> {
        self.keeper().step(self.begin + seconds(at), distributed).unwrap()
    }

    fn bundle(&self) -> TrustBundle {
        self.keeper().live().bundle.clone()
    }

    /// The roots that what signs now is under, as what is given out must have them.
    #[track_caller]
    fn check(&self) {
        let live = self.keeper().live();
        for root in live.signer.roots() {
            assert!(live.bundle.roots().contains(root), "it signs under a root that is not given out");
        }
        let given_out = fs::read_to_string(self.dir.path().join("ca.crt")).unwrap();
        assert_eq!(given_out, live.bundle_pem);
    }
}

#[test]
fn an_issuer_is_replaced_in_its_last_third_under_the_same_root() {
    let rig = Rig::new();
    let (bundle, issuer) = (rig.bundle(), rig.keeper().live().intermediates.clone());
    assert_eq!(rig.step(119, true), None);
    assert_eq!(rig.step(122, false), Some(Step::RenewIssuer));
    assert_eq!(rig.bundle(), bundle, "peers need nothing new");
    assert_ne!(rig.keeper().live().intermediates, issuer);
    assert_eq!(rig.step(123, false), None);
    rig.check();
}

#[test]
fn a_root_is_given_out_then_signs_and_the_old_one_goes_after_its_last_leaf() {
    let rig = Rig::new();
    let old = rig.bundle();
    assert_eq!(rig.step(122, true), Some(Step::RenewIssuer));
    assert_eq!(rig.step(239, true), None);
    assert_eq!(rig.step(242, false), Some(Step::Announce));
    let both = rig.bundle();
    assert_eq!((both.roots().len(), &both.roots()[0]), (2, &old.roots()[0]), "the old one first");
    assert_eq!(rig.keeper().live().signer.roots(), old.roots(), "the old one signs");
    rig.check();
    // Nobody has reported: a leaf life later all leaves have come with the new bundle.
    assert_eq!(rig.step(301, false), None);
    assert_eq!(rig.step(302, false), Some(Step::Promote));
    assert_eq!(rig.keeper().live().signer.roots(), &both.roots()[1..], "the new one signs");
    assert_eq!(rig.bundle(), both, "and both are trusted");
    rig.check();
    let text = fs::read_to_string(rig.dir.path().join(STATE_FILE)).unwrap();
    assert_eq!(text.matches("BEGIN PRIVATE KEY").count(), 2, "the old keys are gone");
    assert_eq!(rig.step(302 + 55, true), None, "a leaf of it may still hold");
    assert_eq!(rig.step(302 + 75, true), Some(Step::Forget));
    assert_eq!(rig.bundle().roots(), &both.roots()[1..]);
    rig.check();
}

#[test]
fn a_root_that_every_node_has_signs_at_once() {
    let rig = Rig::new();
    assert_eq!(rig.step(122, true), Some(Step::RenewIssuer));
    assert_eq!(rig.step(242, true), Some(Step::Announce));
    assert_eq!(rig.step(243, true), Some(Step::Promote));
    rig.check();
}

#[test]
fn a_crash_after_any_step_changes_nothing() {
    let mut rig = Rig::new();
    let plan = [
        (122, Step::RenewIssuer),
        (242, Step::Announce),
        (303, Step::Promote),
        (365, Step::RenewIssuer),
        (380, Step::Forget),
    ];
    let mut now = rig.begin;
    for (at, step) in plan {
        let before = (rig.bundle(), rig.keeper().live().intermediates.clone());
        // The state file is whole at every moment; a draft beside it that was cut short counts for nothing.
        rig.keeper = None;
        fs::write(rig.dir.path().join("authorities.json.new"), "{\"version\": 1, \"trust").unwrap();
        fs::write(rig.dir.path().join("ca.crt"), "cut sho").unwrap();
        rig.keeper = Some(open(rig.dir.path(), now));
        assert_eq!((rig.bundle(), rig.keeper().live().intermediates.clone()), before, "before {step:?}");
        assert_eq!(rig.step(at, false), Some(step));
        rig.check();
        now = rig.begin + seconds(at);
    }
}

#[test]
fn a_ca_that_was_off_beyond_the_end_of_its_root_begins_anew_in_order() {
    let mut rig = Rig::new();
    let old = rig.bundle();
    // Nothing that this root has signed holds any more: there is nobody to wait for.
    assert_eq!(rig.step(400, false), Some(Step::Promote));
    assert_ne!(rig.keeper().live().signer.roots(), old.roots());
    rig.check();
    let second = rig.bundle();
    rig.keeper = None;
    let end = rig.begin + seconds(400 + 1000);
    rig.keeper = Some(open(rig.dir.path(), end));
    assert!(rig.keeper().live().signer.not_after() > end, "a start after the end is no other case");
    assert_ne!(rig.bundle(), second);
    rig.check();
}

#[test]
fn lifetimes_leave_time_for_each_rotation() {
    let leaf = LeafLifetime::new(seconds(60)).unwrap();
    let of = |issuer, root| Terms::new(leaf, seconds(issuer), seconds(root));
    assert!(matches!(of(179, 3600), Err(TermsError::Issuer { .. })));
    assert!(matches!(of(180, 359), Err(TermsError::Root { .. })));
    assert!(of(180, 360).is_ok());
}
