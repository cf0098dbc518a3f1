//! The real installer on a node's folders, beside primary CNIs that write as they like, and the CNI project's own
//! caller of what it has installed.

#![expect(clippy::panic, clippy::unwrap_used, reason = "in a test they are how it fails")]

mod host;
#[expect(dead_code, reason = "the plugin's own tests need more of it")]
mod rig;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use gammarus_cni::state::{NamespaceStates, is_uninstalled, request_uninstall};
use gammarus_cni::{Command, Outcome, read_request, write_reply};
use host::{Host, LIST, PATIENCE, PROMPT, until};

/// The node's proxy, which takes every pod; tells which.
fn proxy(host: &Host) -> Receiver<Command> {
    let listener = UnixListener::bind(host.socket()).unwrap();
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            let (request, _) = read_request(&stream, PATIENCE).unwrap();
            write_reply(&stream, &request.reply(Outcome::Enrolled), PATIENCE).unwrap();
            if sender.send(request.command).is_err() {
                return;
            }
        }
    });
    receiver
}

/// The proxy has been here: `shop` is enrolled. Nobody answers for it now.
fn dead_proxy(host: &Host) {
    let mut states = NamespaceStates::default();
    states.enrolled.insert("shop".to_owned());
    states.write(&host.state_dir()).unwrap();
}

/// [`LIST`] with our entry.
fn chained(host: &Host) -> String {
    LIST.replace("1e0 }", &format!("1e0 }},\n    {}", host.entry()))
}

#[test]
fn it_waits_for_a_network_and_then_every_pod_comes_to_the_plugin() {
    let host = Host::make();
    let asked = proxy(&host);
    let installer = host.install(&[]);
    installer.assert_ready(false, "waiting for a network configuration");
    installer.assert_says("waiting for a network configuration in ");
    assert!(host.files().is_empty(), "it never makes a network: {:?}", host.files());
    host.write("10-podnet.conflist", LIST);
    assert!(until(PROMPT, || host.text("10-podnet.conflist") == chained(&host)), "{}", installer.log());
    installer.assert_ready(true, "10-podnet.conflist has the entry");
    installer.assert_says("the entry was put into ");
    assert_eq!(fs::read(host.plugin()).unwrap(), fs::read(env!("CARGO_BIN_EXE_gammarus-cni")).unwrap());
    host.add("shop", &host.conf_dir()).result();
    let Command::Enrol(attachment) = asked.recv().unwrap() else { panic!("not an enrolment") };
    assert_eq!((attachment.network.as_str(), attachment.pod.to_string().as_str()), ("podnet", "shop/web-0"));
    assert_eq!((installer.repairs("entry"), installer.repairs("plugin")), (0, 0));
    assert_eq!(installer.ask("/livez").0, 200);
    assert_eq!(installer.ask("/").0, 404);
}

#[test]
fn the_folders_are_those_of_the_runtimes_configuration() {
    let host = Host::make();
    let config = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = '/own/net.d'\n\
                  bin_dirs = ['/own/bin']\n";
    fs::create_dir_all(host.root().join("etc/containerd")).unwrap();
    fs::write(host.root().join("etc/containerd/config.toml"), config).unwrap();
    let installer = host.install(&[]);
    installer.assert_ready(false, "own/bin here, which is the node's by");
    host.fill_bin_dir("own/bin");
    installer.assert_ready(false, "own/net.d here, which is the node's by");
    fs::create_dir_all(host.root().join("own/net.d")).unwrap();
    fs::write(host.root().join("own/net.d/podnet.conflist"), LIST).unwrap();
    installer.assert_ready(true, "own/net.d/podnet.conflist");
    assert!(host.root().join("own/bin/gammarus-cni").is_file() && !host.plugin().exists());
    assert!(host.files().is_empty());
}

#[test]
fn a_folder_that_is_not_the_runtimes_gets_no_entry() {
    let host = Host::make();
    let list = LIST.replace("loopback", "elsewhere");
    host.write("10-podnet.conflist", &list);
    let installer = host.install(&[]);
    installer.assert_ready(false, "calls the plugin elsewhere, which is not in ");
    installer.assert_says("--bin-dir");
    assert_eq!(host.text("10-podnet.conflist"), list);
    fs::write(host.plugin().with_file_name("elsewhere"), "").unwrap();
    assert!(until(PROMPT, || host.has_entry("10-podnet.conflist")), "{}", installer.log());
}

#[test]
fn what_a_primary_cni_rewrites_gets_the_entry_back_at_once() {
    let host = Host::make();
    host.write("10-podnet.conflist", LIST);
    let installer = host.installed("10-podnet.conflist");
    let path = host.conf("10-podnet.conflist");
    let other = LIST.replace("1e0", "2.50");
    // The file, replaced, written into, and taken away and made anew.
    host.write("10-podnet.conflist", &other);
    assert!(until(PROMPT, || host.text("10-podnet.conflist") == chained(&host).replace("1e0", "2.50")));
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    fs::write(&path, LIST).unwrap();
    assert!(until(PROMPT, || host.text("10-podnet.conflist") == chained(&host)), "{}", installer.log());
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    fs::remove_file(&path).unwrap();
    installer.assert_ready(false, "waiting for a network configuration");
    fs::write(&path, LIST).unwrap();
    assert!(until(PROMPT, || host.text("10-podnet.conflist") == chained(&host)), "{}", installer.log());
    assert!(until(PATIENCE, || installer.repairs("entry") == 3), "{}", installer.log());
    installer.assert_says("the entry was put back into ");
    assert_eq!(host.files(), ["10-podnet.conflist"]);
}

#[test]
fn a_file_that_comes_first_later_gets_the_entry() {
    let host = Host::make();
    host.write("10-podnet.conflist", LIST);
    let installer = host.installed("10-podnet.conflist");
    host.write("05-podnet.conflist", LIST);
    assert!(until(PROMPT, || host.has_entry("05-podnet.conflist")), "{}", installer.log());
    installer.assert_ready(true, "05-podnet.conflist");
    // When it goes again, the other one is as it should be.
    fs::remove_file(host.conf("05-podnet.conflist")).unwrap();
    installer.assert_ready(true, "10-podnet.conflist");
    assert_eq!(host.text("10-podnet.conflist"), chained(&host));
}

#[test]
fn a_plugin_that_is_taken_away_or_changed_is_put_back_at_once() {
    let host = Host::make();
    host.write("10-podnet.conflist", LIST);
    let installer = host.installed("10-podnet.conflist");
    let whole = fs::read(host.plugin()).unwrap();
    let is_whole = || {
        let mode = fs::metadata(host.plugin()).map(|metadata| metadata.permissions().mode() & 0o777);
        mode.is_ok_and(|mode| mode == 0o755) && fs::read(host.plugin()).is_ok_and(|bytes| bytes == whole)
    };
    fs::remove_file(host.plugin()).unwrap();
    assert!(until(PROMPT, is_whole), "removed: {}", installer.log());
    fs::write(host.plugin(), "#!/bin/false\n").unwrap();
    assert!(until(PROMPT, is_whole), "overwritten: {}", installer.log());
    fs::set_permissions(host.plugin(), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(until(PROMPT, is_whole), "not executable: {}", installer.log());
    assert!(until(PATIENCE, || installer.repairs("plugin") == 3), "{}", installer.log());
    installer.assert_says("gammarus-cni was put back");
}

#[test]
fn a_single_plugins_file_stays_and_a_list_made_of_it_comes_before_it() {
    let host = Host::make();
    let asked = proxy(&host);
    let single = "{ \"type\": \"loopback\", \"name\": \"podnet\", \"cniVersion\": \"0.4.0\", \"own\": 1e0 }";
    host.write("10-podnet.conf", single);
    let installer = host.install(&[]);
    installer.assert_ready(true, "10-podnet-gammarus.conflist");
    assert_eq!(
        (host.text("10-podnet.conf").as_str(), host.files()[0].as_str()),
        (single, "10-podnet-gammarus.conflist")
    );
    host.add("shop", &host.conf_dir()).result();
    assert!(matches!(asked.recv().unwrap(), Command::Enrol(_)));
    host.write("10-podnet.conf", &single.replace("1e0", "2e0"));
    assert!(
        until(PROMPT, || host.text("10-podnet-gammarus.conflist").contains("2e0")),
        "{}",
        installer.log()
    );
    // Its CNI goes over to a list: what was made of the old file would come before it.
    host.write("10-podnet.conflist", LIST);
    fs::remove_file(host.conf("10-podnet.conf")).unwrap();
    assert!(until(PROMPT, || host.files() == ["10-podnet.conflist"]), "{:?}", host.files());
    installer.assert_ready(true, "10-podnet.conflist");
    assert!(host.has_entry("10-podnet.conflist"));
}

#[test]
fn a_broken_file_of_somebody_else_is_named_and_left_alone() {
    let host = Host::make();
    host.write("00-broken.conflist", "{\"name\": \"x\", ");
    host.write("01-nameless.conf", "{\"type\": \"loopback\"}");
    fs::create_dir(host.conf("02-folder.conflist")).unwrap();
    host.write("03-notes.txt", "none of ours");
    host.write("10-podnet.conflist", LIST);
    let installer = host.installed("10-podnet.conflist");
    installer.assert_says("00-broken.conflist is not the JSON of a network: ");
    installer.assert_says("01-nameless.conf has \"\" for the name of a network: it is left alone");
    assert_eq!(host.text("00-broken.conflist"), "{\"name\": \"x\", ");
    assert_eq!(host.text("01-nameless.conf"), "{\"type\": \"loopback\"}");
    assert_eq!(installer.log().matches("00-broken").count(), 1, "said once: {}", installer.log());
    host.write("00-broken.conflist", &LIST.replace("1.0.0", "0.2.0"));
    installer.assert_ready(false, "00-broken.conflist has cniVersion \"0.2.0\"");
    assert!(!host.has_entry("00-broken.conflist"));
}

#[test]
fn a_restart_leaves_everything_in_its_place() {
    let host = Host::make();
    dead_proxy(&host);
    host.write("10-podnet.conflist", LIST);
    let mut installer = host.installed("10-podnet.conflist");
    // A request of long ago was not for this installer.
    request_uninstall(&host.state_dir()).unwrap();
    let request = fs::File::options().write(true).open(host.state_dir().join("uninstalling")).unwrap();
    request.set_modified(SystemTime::now() - Duration::from_secs(90)).unwrap();
    installer.tell_to_end();
    assert!(installer.ended().success(), "{}", installer.log());
    installer.assert_says("the plugin stays installed");
    assert_eq!(host.text("10-podnet.conflist"), chained(&host));
    assert!(!is_uninstalled(&host.state_dir()));
    let refused = host.add("shop", &host.conf_dir()).refusal();
    assert!(refused.contains("does not answer"), "{refused}");
    let again = host.installed("10-podnet.conflist");
    assert_eq!(again.repairs("entry"), 0);
    assert!(!again.log().contains("was put"), "{}", again.log());
}

#[test]
fn an_uninstall_gives_the_file_back_as_it_was_and_lets_every_pod_pass() {
    let host = Host::make();
    dead_proxy(&host);
    host.write("10-podnet.conflist", LIST);
    host.write("20-other.conf", &LIST.replace("\"plugins\"", "\"type\": \"loopback\", \"p\""));
    let mut installer = host.installed("10-podnet.conflist");
    // What a runtime has in memory for as long as it likes.
    let cached = host.root().join("cached.d");
    fs::create_dir(&cached).unwrap();
    fs::copy(host.conf("10-podnet.conflist"), cached.join("10-podnet.conflist")).unwrap();
    host.add("shop", &cached).refusal();
    installer.tell_to_end();
    installer.assert_says("told to end");
    request_uninstall(&host.state_dir()).unwrap();
    assert!(until(PROMPT, || is_uninstalled(&host.state_dir())), "{}", installer.log());
    assert_eq!(host.text("10-podnet.conflist"), LIST);
    assert!(installer.ended().success());
    assert_eq!(host.files(), ["10-podnet.conflist", "20-other.conf"]);
    for net_d in [&cached, &host.conf_dir()] {
        host.add("shop", net_d).result();
    }
    // It comes back: then nothing passes that should wait.
    let again = host.installed("10-podnet.conflist");
    assert!(!is_uninstalled(&host.state_dir()));
    host.add("shop", &host.conf_dir()).refusal();
    again.kill();
}

#[test]
fn a_person_uninstalls_once_no_installer_is_there_to_undo_it() {
    let host = Host::make();
    let single = "{\"type\":\"loopback\",\"name\":\"podnet\",\"cniVersion\":\"1.0.0\"}";
    host.write("05-podnet.conf", single);
    let installer = host.install(&[]);
    installer.assert_ready(true, "05-podnet-gammarus.conflist");
    let held = host.uninstall();
    let said = String::from_utf8(held.stderr).unwrap();
    assert!(!held.status.success() && said.contains("an installer looks after "), "{said}");
    assert!(host.conf("05-podnet-gammarus.conflist").exists() && !is_uninstalled(&host.state_dir()));
    installer.kill();
    for _ in 0..2 {
        let done = host.uninstall();
        assert!(done.status.success(), "{done:?}");
        assert_eq!(
            (host.files(), host.text("05-podnet.conf").as_str()),
            (vec!["05-podnet.conf".to_owned()], single)
        );
        assert!(is_uninstalled(&host.state_dir()) && host.plugin().exists());
    }
}

#[test]
fn in_an_update_one_installer_writes_and_the_next_takes_over_when_it_ends() {
    let host = Host::make();
    host.write("10-podnet.conflist", LIST);
    let mut old = host.installed("10-podnet.conflist");
    let next = host.root().join("next-release");
    let mut program = fs::read(env!("CARGO_BIN_EXE_gammarus-cni")).unwrap();
    program.extend(b"the next release");
    fs::write(&next, &program).unwrap();
    let flags = ["--plugin", next.to_str().unwrap(), "--socket=/run/next.sock"];
    let new = host.install(&flags);
    new.assert_ready(true, "another installer looks after this node");
    host.write("10-podnet.conflist", LIST);
    assert!(until(PROMPT, || host.has_entry("10-podnet.conflist")), "the old one still does its work");
    assert_ne!(fs::read(host.plugin()).unwrap(), program);
    old.tell_to_end();
    assert!(old.ended().success());
    let is_next = |socket: &str| {
        fs::read(host.plugin()).unwrap() == program && host.text("10-podnet.conflist").contains(socket)
    };
    assert!(until(PATIENCE, || is_next("/run/next.sock")), "{}", new.log());
    // Back to the release before, while the later one is killed.
    let back = host.install(&["--plugin", next.to_str().unwrap(), "--socket=/run/back.sock"]);
    back.assert_ready(true, "another installer");
    new.kill();
    assert!(until(PATIENCE, || is_next("/run/back.sock")), "{}", back.log());
    assert_eq!(host.text("10-podnet.conflist").matches("gammarus-cni").count(), 1);
}

#[test]
fn an_installer_that_is_killed_at_any_moment_leaves_the_old_file_or_the_new() {
    let host = Host::make();
    let (bare, whole) = (LIST.to_owned(), chained(&host));
    let plugin = fs::read(env!("CARGO_BIN_EXE_gammarus-cni")).unwrap();
    for round in 0..40_u64 {
        host.write("10-podnet.conflist", LIST);
        // Nothing to see of it, on the odd rounds.
        if round % 2 == 1 {
            fs::remove_file(host.plugin()).unwrap_or_default();
        }
        let installer = host.install(&[]);
        // From before it has begun to after it has ended its work, which takes some milliseconds.
        thread::sleep(Duration::from_micros(round * 700));
        installer.kill();
        let text = host.text("10-podnet.conflist");
        assert!(text == bare || text == whole, "round {round}: {text}");
        match fs::read(host.plugin()) {
            Ok(bytes) => assert!(bytes == plugin, "round {round}: half a plugin"),
            Err(_) => assert_eq!(text, bare, "round {round}: an entry without its plugin"),
        }
    }
    let installer = host.installed("10-podnet.conflist");
    assert_eq!(host.files(), ["10-podnet.conflist"], "{}", installer.log());
    let bin = fs::read_dir(host.plugin().parent().unwrap()).unwrap().count();
    assert_eq!(bin, 2, "the network's plugin and ours, and nothing half written");
}

#[test]
fn a_folder_that_cannot_be_written_is_named() {
    for folder in ["etc/cni/net.d", "opt/cni/bin"] {
        let host = Host::make();
        host.write("10-podnet.conflist", LIST);
        let installer = host.install_read_only(&host.root().join(folder));
        let place = format!("cannot write {}/", host.root().join(folder).display());
        installer.assert_ready(false, &place);
        installer.assert_says("Read-only file system");
        assert_eq!(host.text("10-podnet.conflist"), LIST);
    }
}

#[test]
fn somebody_who_keeps_undoing_it_is_answered_more_and_more_seldom() {
    let host = Host::make();
    host.write("10-podnet.conflist", LIST);
    let installer = host.installed("10-podnet.conflist");
    let start = Instant::now();
    let mut undone = 0;
    while start.elapsed() < Duration::from_secs(8) {
        if host.has_entry("10-podnet.conflist") {
            host.write("10-podnet.conflist", LIST);
            undone += 1;
        }
        thread::sleep(Duration::from_millis(2));
    }
    // 0, 0.1, 0.2, 0.4, 0.8, 1.6 and 3.2 s apart.
    assert!((4..=8).contains(&undone), "{undone} times: {}", installer.log());
    installer.assert_ready(false, "somebody keeps undoing what is written to ");
    assert!(until(PATIENCE, || host.has_entry("10-podnet.conflist")), "{}", installer.log());
    installer.assert_ready(true, "has the entry");
}

#[test]
fn the_network_that_a_runtime_goes_by_gets_the_entry_wherever_it_stands() {
    let host = Host::make();
    fs::create_dir_all(host.root().join("etc/crio")).unwrap();
    fs::write(host.root().join("etc/crio/crio.conf"), "[crio.network]\ncni_default_network = 'podnet'\n")
        .unwrap();
    let other = LIST.replace("podnet", "storage");
    host.write("00-storage.conflist", &other);
    let installer = host.install(&[]);
    installer.assert_ready(false, "waiting for a network configuration of podnet");
    host.write("10-podnet.conflist", LIST);
    assert!(until(PROMPT, || host.has_entry("10-podnet.conflist")), "{}", installer.log());
    assert_eq!(host.text("00-storage.conflist"), other);
}

#[test]
fn a_list_that_cannot_follow_its_single_plugin_any_more_goes() {
    let host = Host::make();
    let single = "{\"type\":\"loopback\",\"name\":\"podnet\",\"cniVersion\":\"1.0.0\"}";
    host.write("05-podnet.conf", single);
    let installer = host.install(&[]);
    installer.assert_ready(true, "05-podnet-gammarus.conflist");
    host.write("05-podnet.conf", &single.replace("1.0.0", "0.2.0"));
    installer.assert_ready(false, "05-podnet.conf has cniVersion \"0.2.0\"");
    assert_eq!(host.files(), ["05-podnet.conf"], "the runtime has what its network wants");
}

#[test]
fn a_folder_that_is_removed_below_its_mount_ends_the_installer() {
    let host = Host::make();
    let real = host.root().join("real-net.d");
    fs::create_dir(&real).unwrap();
    fs::write(real.join("10-podnet.conflist"), LIST).unwrap();
    let mut installer = host.install_mounted(&real, &host.conf_dir());
    installer.assert_ready(true, "10-podnet.conflist has the entry");
    fs::remove_dir_all(&real).unwrap();
    assert!(
        !installer.ended().success(),
        "a container that is started again has the folder that is there then"
    );
    installer.assert_says("net.d has been removed from the node");
}

#[test]
fn callers_that_say_nothing_do_not_keep_the_kubelet_waiting() {
    let host = Host::make();
    let installer = host.install(&[]);
    let silent: Vec<_> = (0..8).map(|_| installer.connect()).collect();
    let start = Instant::now();
    installer.assert_ready(false, "waiting");
    assert!(start.elapsed() < PROMPT, "{:?}", start.elapsed());
    drop(silent);
}
