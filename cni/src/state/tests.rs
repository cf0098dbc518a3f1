//! What is written is read again, and what is broken is named.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::{
    NamespaceState, NamespaceStates, Record, StateError, forget_record, forget_unseen, is_uninstalled,
    list_records, list_unseen, list_withdrawn, mark_installed, mark_uninstalled, note_withdrawal,
    request_uninstall, uninstall_requested, write_record, write_unseen,
};
use crate::attachment::Attachment;

fn attachment(container: &str, ifname: &str) -> Attachment {
    serde_json::from_value(serde_json::json!({
        "id": {"containerId": container, "ifname": ifname}, "network": "podnet",
        "netns": "/run/netns/x", "pod": {"namespace": "shop", "name": "web-0", "uid": "u-1"},
        "addresses": ["10.0.0.2", "fd00::2"],
    }))
    .unwrap()
}

fn listed(dir: &Path) -> Vec<Attachment> {
    list_unseen(dir).unwrap().into_iter().map(Result::unwrap).collect()
}

#[track_caller]
fn check(text: &str, namespace: &str, expected: NamespaceState) {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("namespaces.json"), text).unwrap();
    assert_eq!(NamespaceStates::read(dir.path()).unwrap().find(namespace), expected, "{text}");
}

#[test]
fn a_namespace_is_what_the_file_says_of_it() {
    let text = r#"{"version":1,"enrolled":["shop","both"],"notEnrolled":["kube-system","both"],"later":1}"#;
    check(text, "shop", NamespaceState::Enrolled);
    check(text, "kube-system", NamespaceState::NotEnrolled);
    check(text, "other", NamespaceState::Unknown);
    check(text, "both", NamespaceState::Enrolled);
}

#[test]
fn a_file_that_was_never_written_knows_no_namespace() {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(NamespaceStates::read(dir.path()).unwrap(), NamespaceStates::default());
    assert_eq!(NamespaceStates::read(&dir.path().join("none")).unwrap(), NamespaceStates::default());
}

#[test]
fn what_was_written_is_read_and_leaves_nothing_beside_it() {
    let dir = tempfile::tempdir().unwrap();
    let mut states = NamespaceStates::default();
    states.enrolled.insert("shop".to_owned());
    states.not_enrolled.insert("kube-system".to_owned());
    states.write(dir.path()).unwrap();
    states.write(dir.path()).unwrap();
    assert_eq!(NamespaceStates::read(dir.path()).unwrap(), states);
    let text = fs::read_to_string(dir.path().join("namespaces.json")).unwrap();
    assert_eq!(text, r#"{"version":1,"enrolled":["shop"],"notEnrolled":["kube-system"]}"#);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_file_of_another_version_or_without_sense_is_an_error_that_names_it() {
    for (text, later) in [("", false), ("{}", false), ("[1]", false), (r#"{"version":2,"x":1}"#, true)] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("namespaces.json"), text).unwrap();
        let error = NamespaceStates::read(dir.path()).unwrap_err();
        assert_eq!(matches!(error, StateError::UnsupportedVersion { .. }), later, "{text}: {error}");
        assert!(error.to_string().contains("namespaces.json"), "{error}");
    }
}

#[test]
fn a_pod_written_down_is_listed_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    assert!(listed(dir.path()).is_empty());
    let (first, second) = (attachment("c1", "eth0"), attachment("c2", "eth0"));
    for pod in [&first, &second, &first] {
        write_unseen(dir.path(), pod).unwrap();
    }
    assert!(dir.path().join("unseen/c1.json").exists());
    assert_eq!(listed(dir.path()), [first.clone(), second.clone()]);
    forget_unseen(dir.path(), &first.id).unwrap();
    forget_unseen(dir.path(), &first.id).unwrap();
    assert_eq!(listed(dir.path()), [second]);
}

#[test]
fn another_interface_of_the_same_sandbox_does_not_take_its_record_away() {
    let dir = tempfile::tempdir().unwrap();
    write_unseen(dir.path(), &attachment("c1", "eth0")).unwrap();
    forget_unseen(dir.path(), &attachment("c1", "net1").id).unwrap();
    assert_eq!(listed(dir.path()).len(), 1);
}

#[test]
fn a_broken_record_hides_no_other_and_goes_with_its_container() {
    let dir = tempfile::tempdir().unwrap();
    write_unseen(dir.path(), &attachment("c2", "eth0")).unwrap();
    fs::write(dir.path().join("unseen/c1.json"), "{").unwrap();
    fs::write(dir.path().join("unseen/c3.json.77.new"), "{").unwrap();
    let records = list_unseen(dir.path()).unwrap();
    assert_eq!(records.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true]);
    forget_unseen(dir.path(), &attachment("c1", "eth0").id).unwrap();
    assert_eq!(list_unseen(dir.path()).unwrap().len(), 1);
}

fn recorded(dir: &Path) -> Vec<Record> {
    list_records(dir).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn each_attachment_has_a_record_of_its_own_until_it_is_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let record =
        |container, ifname, cookie| Record::new(attachment(container, ifname), cookie, "u-1".to_owned());
    let (first, other, second) = (record("c1", "eth0", 7), record("c1", "net1", 7), record("c2", "eth0", 8));
    for record in [&record("c1", "eth0", 6), &other, &second, &first] {
        write_record(dir.path(), record).unwrap();
    }
    assert_eq!(recorded(dir.path()), [first.clone(), other.clone(), second.clone()]);
    let text = fs::read_to_string(dir.path().join("attachments/c1@eth0.json")).unwrap();
    assert!(text.starts_with(r#"{"version":1,"#), "{text}");
    for _ in 0..2 {
        forget_record(dir.path(), &first.attachment.id).unwrap();
    }
    assert_eq!(recorded(dir.path()), [other, second]);
}

#[test]
fn a_record_whose_del_nobody_heard_is_found_apart_from_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let record = Record::new(attachment("c1", "eth0"), 7, "u-1".to_owned());
    note_withdrawal(dir.path(), &record.attachment.id).unwrap();
    assert!(list_withdrawn(dir.path()).unwrap().is_empty());
    write_record(dir.path(), &record).unwrap();
    for _ in 0..2 {
        note_withdrawal(dir.path(), &record.attachment.id).unwrap();
    }
    assert!(recorded(dir.path()).is_empty());
    let withdrawn: Vec<_> = list_withdrawn(dir.path()).unwrap().into_iter().map(Result::unwrap).collect();
    assert_eq!(withdrawn, std::slice::from_ref(&record));
    forget_record(dir.path(), &record.attachment.id).unwrap();
    assert!(list_withdrawn(dir.path()).unwrap().is_empty());
}

#[test]
fn an_uninstall_is_asked_for_and_answered() {
    let dir = tempfile::tempdir().unwrap();
    assert!(!uninstall_requested(dir.path()).unwrap() && !is_uninstalled(dir.path()));
    request_uninstall(dir.path()).unwrap();
    assert!(uninstall_requested(dir.path()).unwrap() && !is_uninstalled(dir.path()));
    mark_uninstalled(dir.path()).unwrap();
    assert!(!uninstall_requested(dir.path()).unwrap() && is_uninstalled(dir.path()));
    for _ in 0..2 {
        mark_installed(dir.path()).unwrap();
        assert!(!is_uninstalled(dir.path()));
    }
}

#[test]
fn a_request_that_nobody_answered_holds_for_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let written_ago = |seconds| {
        request_uninstall(dir.path()).unwrap();
        let file = fs::File::options().write(true).open(dir.path().join("uninstalling")).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(seconds)).unwrap();
        uninstall_requested(dir.path()).unwrap()
    };
    assert!(written_ago(50));
    assert!(!written_ago(70));
    assert!(!dir.path().join("uninstalling").exists());
}
