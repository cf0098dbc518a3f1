//! The real plugin, called as a container runtime calls it, against agents that work, are dead, hang or babble.

#![expect(clippy::panic, clippy::unwrap_used, reason = "in a test they are how it fails")]

mod rig;

use std::fs;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::Duration;

use gammarus_cni::state::{list_unseen, mark_installed, mark_uninstalled, write_unseen};
use gammarus_cni::{Attachment, Command, Outcome};
use rig::{ADDRESSES, Node, PREV_RESULT, identity, listen, refuse_version};

fn failed(code: u32) -> Outcome {
    Outcome::Failed { code, msg: "pod shop/web-0 has no rules".to_owned(), details: "nft said no".to_owned() }
}

fn unseen(node: &Node) -> Vec<Attachment> {
    list_unseen(&node.state_dir()).unwrap().into_iter().map(Result::unwrap).collect()
}

#[test]
fn add_enrols_the_pod_and_hands_the_result_on_byte_for_byte() {
    for outcome in [Outcome::Enrolled, Outcome::NotEnrolled] {
        let node = Node::make();
        let asked = node.agent(outcome);
        node.call("ADD", &node.chained(), "shop").assert_success(PREV_RESULT);
        let asked = asked.recv().unwrap();
        assert_eq!(identity(&asked.netns.unwrap()), node.netns.identity());
        let Command::Enrol(attachment) = asked.command else { panic!("{:?}", asked.command) };
        assert_eq!(attachment.id.to_string(), "c1/eth0");
        assert_eq!((attachment.network.as_str(), attachment.netns), ("podnet", node.netns.path()));
        assert_eq!((attachment.pod.to_string().as_str(), attachment.pod.uid()), ("shop/web-0", Some("u-1")));
        assert_eq!(attachment.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ADDRESSES);
        assert!(unseen(&node).is_empty());
    }
}

#[test]
fn add_returns_only_after_the_agents_answer() {
    let node = Node::make();
    let listener = listen(&node.socket());
    let agent = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let (request, _) = gammarus_cni::read_request(&stream, Duration::from_secs(1)).unwrap();
        thread::sleep(Duration::from_millis(500));
        gammarus_cni::write_reply(&stream, &request.reply(Outcome::Enrolled), Duration::from_secs(1))
            .unwrap();
    });
    let ended = node.call("ADD", &node.chained(), "shop");
    ended.assert_success(PREV_RESULT);
    assert!(ended.took >= Duration::from_millis(500), "{ended:?}");
    agent.join().unwrap();
}

#[test]
fn an_agent_that_cannot_enrol_fails_add_in_its_own_words() {
    for code in [11, 102] {
        let node = Node::make();
        node.agent(failed(code));
        let (got, message) = node.call("ADD", &node.chained(), "shop").error();
        assert_eq!(
            (got, message.as_str()),
            (u64::from(code), r#"pod shop/web-0 has no rules: "nft said no""#)
        );
        assert!(unseen(&node).is_empty());
    }
}

#[test]
fn every_older_version_of_the_specification_that_has_chains_gets_its_result_back() {
    for version in ["0.3.0", "0.3.1", "0.4.0", "1.0.0"] {
        let node = Node::make();
        let asked = node.agent(Outcome::Enrolled);
        let result =
            format!(r#"{{"cniVersion":"{version}", "ips":[{{"version":"4","address":"10.9.0.2/24"}}]}}"#);
        let conf = node.conf(&format!(r#","prevResult":{result}"#)).replace("1.1.0", version);
        node.call("ADD", &conf, "shop").assert_success(&result);
        assert!(matches!(asked.recv().unwrap().command, Command::Enrol(a) if a.addresses.len() == 1));
    }
}

#[test]
fn a_sandbox_that_is_no_pod_passes_untouched_without_a_word_to_the_agent() {
    let node = Node::make();
    let asked = node.agent(failed(102));
    for args in ["", "IgnoreUnknown=1"] {
        node.call_with("ADD", &node.chained(), &[("CNI_ARGS", args)]).assert_success(PREV_RESULT);
        node.call_with("CHECK", &node.chained(), &[("CNI_ARGS", args)]).assert_success("");
    }
    assert!(asked.try_recv().is_err());
}

#[test]
fn what_the_runtime_got_wrong_is_named() {
    let node = Node::make();
    let asked = node.agent(Outcome::Enrolled);
    let file = node.dir.path().join("file");
    fs::write(&file, "").unwrap();
    for (variable, value, code, named) in [
        ("CNI_CONTAINERID", "", 4, "CNI_CONTAINERID: not set"),
        ("CNI_CONTAINERID", "../../x", 4, "CNI_CONTAINERID: \"../../x\" is not"),
        ("CNI_IFNAME", "", 4, "CNI_IFNAME: not set"),
        ("CNI_IFNAME", "a/b", 4, "CNI_IFNAME: \"a/b\" is not"),
        ("CNI_NETNS", "", 4, "CNI_NETNS: not set"),
        ("CNI_NETNS", "/nowhere/ns", 5, "/nowhere/ns"),
        ("CNI_NETNS", file.to_str().unwrap(), 5, "no namespace"),
        ("CNI_ARGS", "K8S_POD_NAME=web-0", 4, "CNI_ARGS: K8S_POD_NAMESPACE is missing"),
        ("CNI_COMMAND", "", 4, "CNI_COMMAND: not set"),
        ("CNI_COMMAND", "RESTART", 4, "\"RESTART\" is not a command"),
    ] {
        let args = ("CNI_ARGS", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0");
        let (got, message) = node.call_with("ADD", &node.chained(), &[args, (variable, value)]).error();
        assert!(got == code && message.contains(named), "{variable}={value}: {got} {message}");
    }
    assert!(asked.try_recv().is_err());
}

#[test]
fn a_configuration_that_cannot_be_used_is_named() {
    let node = Node::make();
    node.agent(Outcome::Enrolled);
    let prev = format!(r#","prevResult":{PREV_RESULT}"#);
    for (conf, code, named) in [
        (String::new(), 6, "network configuration"),
        ("{".to_owned(), 6, "network configuration"),
        (node.conf(""), 7, "prevResult: missing"),
        (node.conf(r#","prevResult":null"#), 7, "prevResult: missing"),
        (node.conf(r#","prevResult":[]"#), 7, "prevResult: not an object"),
        (node.conf(r#","prevResult":{"ips":[{"address":"ten"}]}"#), 7, "prevResult.ips[0].address"),
        (node.conf(&format!(r#","timeoutSeconds":0{prev}"#)), 7, "timeoutSeconds"),
        (node.conf(&format!(r#","timeoutSeconds":"1"{prev}"#)), 6, "network configuration"),
        (node.conf(&prev).replace("podnet", "../x"), 7, "name: \"../x\""),
        (node.conf(&prev).replacen("1.1.0", "0.2.0", 1), 1, "0.2.0"),
        (node.conf(&prev).replacen("1.1.0", "2.0.0", 1), 1, "2.0.0"),
    ] {
        let (got, message) = node.call("ADD", &conf, "shop").error();
        assert!(got == code && message.contains(named), "{conf}: {got} {message}");
    }
}

#[test]
fn check_asks_about_the_pod_and_reports_what_is_wrong() {
    for (outcome, code) in [
        (Outcome::Enrolled, None),
        (Outcome::NotEnrolled, None),
        (failed(103), Some(103)),
        (Outcome::Done, Some(100)),
    ] {
        let node = Node::make();
        let asked = node.agent(outcome);
        let ended = node.call("CHECK", &node.chained(), "shop");
        match code {
            None => ended.assert_success(""),
            Some(code) => assert_eq!(ended.error().0, code),
        }
        let asked = asked.recv().unwrap();
        assert_eq!(identity(&asked.netns.unwrap()), node.netns.identity());
        assert!(matches!(asked.command, Command::Check(_)));
    }
}

#[test]
fn del_withdraws_and_succeeds_whatever_is_wrong() {
    let node = Node::make();
    let asked = node.agent(Outcome::Done);
    let gone = [("CNI_NETNS", "/nowhere/ns")];
    for conf in [node.chained(), node.conf("")] {
        for _ in 0..2 {
            node.call_with("DEL", &conf, &gone).assert_success("");
            let Command::Withdraw(id) = asked.recv().unwrap().command else { panic!("not a withdrawal") };
            assert_eq!(id.to_string(), "c1/eth0");
        }
    }
    let dead = Node::make();
    for conf in [dead.chained(), dead.conf(r#","timeoutSeconds":0"#), "{".to_owned(), String::new()] {
        dead.call_with("DEL", &conf, &[("CNI_NETNS", ""), ("CNI_ARGS", "?")]).assert_success("");
    }
    dead.call_with("DEL", &dead.conf(""), &[("CNI_CONTAINERID", "../x")]).assert_success("");
    let refusing = Node::make();
    refusing.agent(failed(102));
    let ended = refusing.call("DEL", &refusing.conf(""), "shop");
    ended.assert_success("");
    assert!(ended.stderr.contains("has no rules"), "{ended:?}");
}

#[test]
fn gc_passes_what_the_runtime_still_has_and_nothing_if_it_does_not_say() {
    let node = Node::make();
    let asked = node.agent(Outcome::Done);
    node.call("GC", &node.conf(""), "shop").assert_success("");
    assert!(asked.try_recv().is_err());
    let list = r#"[{"containerID":"c1","ifname":"eth0"},{"containerID":"c2","ifname":"net1"}]"#;
    for (list, expected) in [(list, vec!["c1/eth0", "c2/net1"]), ("[]", vec![]), ("null", vec![])] {
        let conf = node.conf(&format!(r#","cni.dev/valid-attachments":{list}"#));
        let none = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")];
        node.call_with("GC", &conf, &none).assert_success("");
        let Command::Gc { network, valid } = asked.recv().unwrap().command else {
            panic!("not a collection")
        };
        assert_eq!(network, "podnet");
        assert_eq!(valid.iter().map(ToString::to_string).collect::<Vec<_>>(), expected);
    }
    let dead = Node::make();
    let conf = dead.conf(r#","cni.dev/valid-attachments":[]"#);
    assert_eq!(dead.call("GC", &conf, "shop").error().0, 11);
}

/// STATUS succeeds, and says `expected` where the runtime's log takes it.
#[track_caller]
fn check_status_warns(node: &Node, conf: &str, expected: &str) {
    let ended = node.call("STATUS", conf, "shop");
    ended.assert_success("");
    assert!(ended.stderr.contains(expected), "{expected:?} is not in {ended:?}");
    assert!(ended.took < Duration::from_millis(1900), "{ended:?}");
}

#[test]
fn status_never_makes_a_node_unready_because_of_the_agent_and_says_so_in_the_log() {
    let node = Node::make();
    let asked = node.agent(Outcome::Done);
    let ended = node.call_with("STATUS", &node.conf(""), &[("CNI_CONTAINERID", "")]);
    ended.assert_success("");
    assert_eq!(ended.stderr, "");
    assert_eq!(asked.recv().unwrap().command, Command::Status);
    let unable = Node::make();
    unable.agent(failed(102));
    check_status_warns(&unable, &unable.conf(""), "cannot be enrolled now");
    let dead = Node::make();
    check_status_warns(&dead, &dead.conf(""), "enrol.sock");
    let hung = Node::make();
    hung.hung_agent();
    check_status_warns(&hung, &hung.conf(""), "enrol.sock");
    let blocked = Node::make();
    fs::create_dir(blocked.state_dir()).unwrap();
    fs::write(blocked.state_dir().join("namespaces.json"), "{\"version\":7}").unwrap();
    check_status_warns(&blocked, &blocked.conf(""), "namespaces.json has version 7");
}

#[test]
fn status_fails_for_a_configuration_with_which_no_pod_could_be_added() {
    let node = Node::make();
    node.agent(Outcome::Done);
    let nameless = node.conf("").replace("podnet", "../x");
    for conf in [node.conf(r#","timeoutSeconds":0"#), nameless] {
        assert_eq!(node.call("STATUS", &conf, "shop").error().0, 7, "{conf}");
    }
    assert_eq!(node.call("STATUS", "{", "shop").error().0, 6);
}

#[test]
fn version_needs_nothing_and_lists_what_is_supported() {
    let node = Node::make();
    let supported = r#""supportedVersions":["0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]"#;
    for (stdin, version) in [(r#"{"cniVersion":"1.0.0"}"#, "1.0.0"), ("", "1.1.0")] {
        let none = [("CNI_CONTAINERID", ""), ("CNI_IFNAME", ""), ("CNI_NETNS", "")];
        let expected = format!(r#"{{"cniVersion":"{version}",{supported}}}"#);
        node.call_with("VERSION", stdin, &none).assert_success(&expected);
    }
}

#[test]
fn commands_that_a_version_does_not_have_are_refused_in_it() {
    let node = Node::make();
    node.agent(Outcome::Done);
    for (command, version) in [("CHECK", "0.3.1"), ("STATUS", "1.0.0"), ("GC", "1.0.0"), ("GC", "0.4.0")] {
        let conf = node.chained().replace("1.1.0", version);
        assert_eq!(node.call(command, &conf, "shop").error().0, 1, "{command} {version}");
    }
}

/// ADD and CHECK of pods of the three kinds of namespaces, while the agent is as the node's is.
#[track_caller]
fn check_without_agent(node: &Node, what: &str) {
    node.know("shop", "kube-system");
    node.call("ADD", &node.chained(), "kube-system").assert_success(PREV_RESULT);
    // Its namespace may get the label later: then the proxy has to find it.
    assert_eq!(unseen(node).len(), 1, "{what}: not written down");
    node.call("DEL", &node.conf(r#","timeoutSeconds":1"#), "kube-system").assert_success("");
    assert!(unseen(node).is_empty(), "{what}: the record outlived its pod");
    let (code, message) = node.call("ADD", &node.chained(), "shop").error();
    assert!(
        code == 11 && message.contains("enrol.sock") && message.contains("shop/web-0"),
        "{what}: {message}"
    );
    assert!(unseen(node).is_empty(), "{what}");
    let ended = node.call("ADD", &node.chained(), "new");
    ended.assert_success(PREV_RESULT);
    assert!(ended.stderr.contains("new/web-0"), "{what}: {ended:?}");
    let [attachment] = &unseen(node)[..] else { panic!("{what}: not written down") };
    assert_eq!((attachment.pod.namespace(), attachment.addresses.len()), ("new", 2), "{what}");
    node.call("CHECK", &node.chained(), "kube-system").assert_success("");
    node.call("CHECK", &node.chained(), "new").assert_success("");
    assert_eq!(node.call("CHECK", &node.chained(), "shop").error().0, 11, "{what}");
    node.call("DEL", &node.conf(r#","timeoutSeconds":1"#), "new").assert_success("");
    assert!(unseen(node).is_empty(), "{what}: the record outlived its pod");
}

#[test]
fn without_an_agent_only_pods_of_enrolled_namespaces_wait() {
    check_without_agent(&Node::make(), "no socket");
    let killed = Node::make();
    drop(UnixListener::bind(killed.socket()).unwrap());
    check_without_agent(&killed, "a socket that nobody listens on");
}

#[test]
fn an_agent_that_comes_back_while_a_pod_is_written_down_is_asked_again() {
    for (outcome, code) in [(Outcome::Enrolled, None), (Outcome::NotEnrolled, None), (failed(102), Some(102))]
    {
        let node = Node::make();
        let listener = listen(&node.socket());
        let record = node.state_dir().join("unseen/c1.json");
        let agent = thread::spawn(move || {
            drop(listener.accept().unwrap());
            let (stream, _) = listener.accept().unwrap();
            let written_before = record.exists();
            let (request, netns) = gammarus_cni::read_request(&stream, Duration::from_secs(1)).unwrap();
            gammarus_cni::write_reply(&stream, &request.reply(outcome), Duration::from_secs(1)).unwrap();
            written_before && netns.is_some()
        });
        let ended = node.call("ADD", &node.chained(), "new");
        match code {
            None => ended.assert_success(PREV_RESULT),
            Some(code) => assert_eq!(ended.error().0, code),
        }
        assert!(agent.join().unwrap(), "the record comes before the second question");
        assert!(unseen(&node).is_empty(), "the answer settles what was written down");
    }
}

#[test]
fn an_agent_that_hangs_is_as_good_as_none_once_the_deadline_has_passed() {
    let node = Node::make();
    node.hung_agent();
    node.know("shop", "kube-system");
    let conf = node.chained().replace(r#""timeoutSeconds":2"#, r#""timeoutSeconds":1"#);
    for (namespace, code) in [("shop", Some(11)), ("kube-system", None), ("new", None)] {
        let ended = node.call("ADD", &conf, namespace);
        match code {
            None => ended.assert_success(PREV_RESULT),
            Some(code) => assert_eq!(ended.error().0, code),
        }
        let (least, most) = (Duration::from_millis(900), Duration::from_millis(1900));
        assert!(ended.took >= least && ended.took < most, "{namespace}: {ended:?}");
    }
    assert_eq!(unseen(&node).len(), 1);
    let ended = node.call("DEL", &conf, "new");
    ended.assert_success("");
    assert!(ended.took < Duration::from_millis(1900), "{ended:?}");
}

#[test]
fn an_agent_of_a_version_too_far_away_is_as_good_as_none() {
    let node = Node::make();
    let listener = listen(&node.socket());
    thread::spawn(move || listener.incoming().for_each(|stream| refuse_version(&stream.unwrap())));
    check_without_agent(&node, "refusing our version");
    let later = Node::make();
    let text = r#"{"version":9,"outcome":{"perhaps":[]}}"#;
    let mut answer = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    answer.extend(text.as_bytes());
    later.strange_agent(answer);
    check_without_agent(&later, "answering in another version");
    check_status_warns(&later, &later.conf(""), "version 9");
}

#[test]
fn an_agent_that_babbles_is_as_good_as_none() {
    let long = [255; 64].to_vec();
    let text = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    for answer in [vec![], vec![0], vec![0, 0, 0, 0], vec![0, 0, 0, 2, b'{', b'}'], long, text] {
        let node = Node::make();
        let what = format!("{answer:?}");
        node.strange_agent(answer);
        check_without_agent(&node, &what);
    }
}

#[test]
fn an_answer_to_another_question_is_no_enrolment() {
    let node = Node::make();
    node.agent(Outcome::Done);
    let (code, message) = node.call("ADD", &node.chained(), "shop").error();
    assert!(code == 100 && message.contains("\"done\" to ADD"), "{message}");
}

#[test]
fn state_that_cannot_be_used_stands_in_nobodys_way() {
    let node = Node::make();
    fs::create_dir(node.state_dir()).unwrap();
    fs::write(node.state_dir().join("namespaces.json"), "{\"version\":7}").unwrap();
    let ended = node.call("ADD", &node.chained(), "shop");
    ended.assert_success(PREV_RESULT);
    assert!(ended.stderr.contains("namespaces.json has version 7"), "{ended:?}");
    assert_eq!(unseen(&node).len(), 1);
    let blocked = Node::make();
    fs::write(blocked.state_dir(), "a file where the directory should be").unwrap();
    let ended = blocked.call("ADD", &blocked.chained(), "shop");
    ended.assert_success(PREV_RESULT);
    assert!(ended.stderr.contains("could not be written down"), "{ended:?}");
    blocked.call("DEL", &blocked.chained(), "shop").assert_success("");
}

#[test]
fn the_record_of_one_pod_stays_when_another_goes() {
    let node = Node::make();
    node.call("ADD", &node.chained(), "new").assert_success(PREV_RESULT);
    let mut other = unseen(&node).remove(0);
    other.id.container_id = "c2".to_owned().try_into().unwrap();
    write_unseen(&node.state_dir(), &other).unwrap();
    node.call("DEL", &node.chained(), "new").assert_success("");
    assert_eq!(unseen(&node), [other]);
}

#[test]
fn on_a_node_without_a_mesh_every_pod_passes_and_nobody_is_asked() {
    let node = Node::make();
    let asked = node.agent(failed(102));
    node.know("shop", "kube-system");
    mark_uninstalled(&node.state_dir()).unwrap();
    node.call("ADD", &node.chained(), "shop").assert_success(PREV_RESULT);
    node.call("CHECK", &node.chained(), "shop").assert_success("");
    node.call("DEL", &node.chained(), "shop").assert_success("");
    node.call("GC", &node.conf(r#","cni.dev/valid-attachments":[]"#), "shop").assert_success("");
    node.call("STATUS", &node.conf(""), "shop").assert_success("");
    assert_eq!(node.call("ADD", &node.conf(""), "shop").error().0, 7, "no result to hand on");
    assert!(asked.try_recv().is_err() && unseen(&node).is_empty());
    mark_installed(&node.state_dir()).unwrap();
    assert_eq!(node.call("ADD", &node.chained(), "shop").error().0, 102);
}
