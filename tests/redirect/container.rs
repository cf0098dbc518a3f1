//! A proxy in a container: its network is not the node's, its `/proc/sys` is read-only, and the node's root is mounted
//! below a folder.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::thread;

use gammarus_cni::state::Record;
use gammarus_cni::{Attachment, Outcome};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use node_proxy::pod::host::{Host, HostError};
use node_proxy::pod::node_socket::is_socket_of_this_node;
use node_proxy::pod::redirect;

use crate::mesh::Node;
use crate::rig::{Namespace, Pair, V4, V6, at};

/// A root below which this namespace is that of the first process.
fn root_of(node: &Namespace) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("proc/1/ns");
    fs::create_dir_all(&folder).unwrap();
    symlink(node.path(), folder.join("net")).unwrap();
    root
}

#[test]
fn what_a_process_of_the_node_has_opened_is_found_from_another_network() {
    let node = Namespace::new("node");
    let root = root_of(&node);
    let host = Host::open(root.path()).expect("the node");
    let (listener, stream) = node
        .fd()
        .run(|| {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            let stream = TcpStream::connect(listener.local_addr()?)?;
            Ok((listener, stream))
        })
        .unwrap();
    let (client, destination) = (stream.local_addr().unwrap(), listener.local_addr().unwrap());
    assert!(host.has_opened(client, destination).unwrap());
    assert!(!is_socket_of_this_node(client, destination).unwrap(), "the control: it is none of this network");

    let here = TcpListener::bind("127.0.0.1:0").unwrap();
    let own = TcpStream::connect(here.local_addr().unwrap()).unwrap();
    let (client, destination) = (own.local_addr().unwrap(), here.local_addr().unwrap());
    assert!(
        !host.has_opened(client, destination).unwrap(),
        "a process of the proxy's pod is none of the node"
    );
    let outside = Host::open(Path::new("/")).expect("the node that this process is on");
    assert!(outside.has_opened(client, destination).unwrap());
}

#[test]
fn a_root_with_processes_whose_network_is_of_no_use_is_refused_and_one_without_is_this_machine() {
    let root = tempfile::tempdir().unwrap();
    Host::open(root.path()).expect("no processes: the own network is the node's");
    let folder = root.path().join("proc/1/ns");
    fs::create_dir_all(&folder).unwrap();
    let error = Host::open(root.path()).expect_err("no network");
    assert!(
        matches!(error, HostError::Open { .. }) && error.to_string().contains("CAP_SYS_PTRACE"),
        "{error}"
    );
    fs::write(folder.join("net"), "").unwrap();
    let error = Host::open(root.path()).expect_err("no network either");
    assert!(matches!(error, HostError::Enter { .. }), "{error}");
}

/// The pod of a pair, as the plugin tells of it.
fn attachment(pair: &Pair, netns: &Path) -> Attachment {
    serde_json::from_value(serde_json::json!({
        "id": { "containerId": pair.pod.name, "ifname": "eth0" },
        "network": "podnet",
        "netns": netns,
        "pod": { "namespace": "shop", "name": "web", "uid": "uid-web" },
        "addresses": [V4[1], V6[1]],
    }))
    .unwrap()
}

#[tokio::test]
async fn a_pod_that_only_the_nodes_network_reaches_is_proven_from_there() {
    for is_told in [true, false] {
        let pair = Pair::new();
        // The first packet of a new IPv6 link may be lost, and comes again after a second.
        for address in [V4[1], V6[1]] {
            let listener = pair.pod.listen(at(address, 0));
            pair.client.connect(listener.local_addr().unwrap()).expect("the link");
        }
        let root = root_of(&pair.client);
        let root = if is_told { root.path() } else { Path::new("/") };
        let node = Node::on(Host::open(root).unwrap(), (None, true));
        node.say_enrolled("web");
        let netns = pair.pod.fd().try_clone().unwrap();
        let outcome = node.registry.enrol(attachment(&pair, &pair.pod.path()), netns).await;
        assert_eq!(outcome == Outcome::Enrolled, is_told, "{outcome:?}");
    }
}

#[test]
fn a_recorded_namespace_is_found_by_both_names_of_run_and_below_the_nodes_root() {
    let pair = Pair::new();
    let cookie = pair.pod.fd().id().unwrap().0;
    let record = |path: &Path, cookie| Record::new(attachment(&pair, path), cookie, "uid-web".to_owned());
    let root = tempfile::tempdir().unwrap();
    let host = Host::open(root.path()).unwrap();
    let is_there = |record: &Record| host.open_recorded(record).unwrap().is_some();
    let by_other_name = Path::new("/var").join(pair.pod.path().strip_prefix("/").unwrap());
    assert!(is_there(&record(&by_other_name, cookie)));
    assert!(!is_there(&record(&by_other_name, cookie + 1)), "another pod's namespace is in its place");
    // A path that is there on the node alone.
    let elsewhere = Path::new("/run/of-the-node-alone/web");
    assert!(!is_there(&record(elsewhere, cookie)));
    let below = root.path().join("run/of-the-node-alone");
    fs::create_dir_all(&below).unwrap();
    symlink(pair.pod.path(), below.join("web")).unwrap();
    assert!(is_there(&record(elsewhere, cookie)));
}

#[test]
fn rules_and_settings_are_made_where_proc_sys_is_read_only() {
    const SETTING: &str = "/proc/sys/net/ipv4/tcp_fwmark_accept";
    let pod = Namespace::new("settings");
    let before = fs::read_to_string(SETTING).unwrap();
    let netns = pod.fd().try_clone().unwrap();
    // A mount namespace is a thread's own, and ends with it.
    let contained = thread::spawn(move || {
        unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS).expect("root is needed");
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        mount(Some("/proc/sys"), "/proc/sys", none, MsFlags::MS_BIND, none).unwrap();
        let read_only = MsFlags::MS_BIND | MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
        mount(none, "/proc/sys", none, read_only, none).unwrap();
        let refused = netns.run(|| fs::write(SETTING, "1")).expect_err("the control: it cannot be written");
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        redirect::install(&netns).expect("rules and settings");
        assert_eq!(redirect::inspect(&netns).expect("an inspection"), []);
        assert_eq!(netns.run(|| fs::read_to_string(SETTING)).unwrap().trim(), "1");
    });
    contained.join().unwrap();
    assert_eq!(pod.fd().run(|| fs::read_to_string(SETTING)).unwrap().trim(), "1");
    assert_eq!(fs::read_to_string(SETTING).unwrap(), before, "the machine's own setting is another one");
}
