//! The configuration files of each runtime, as distributions write them.

use std::fs;
use std::path::Path;

use super::{Directories, find, is_match};
use crate::install::flags::Flags;

/// A node with these files.
fn node(files: &[(&str, &str)]) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    root
}

fn found(root: &Path, flags: Flags) -> Result<Directories, String> {
    find(&Flags { host_root: root.to_owned(), ..flags }).map_err(|error| super::super::with_causes(&error))
}

/// The folders that are found, without the node's root.
#[track_caller]
fn check(files: &[(&str, &str)], conf_dir: &str, bin_dirs: &[&str]) -> Directories {
    let root = node(files);
    let found = found(root.path(), Flags::default()).unwrap();
    let below = |path: &Path| format!("/{}", path.strip_prefix(root.path()).unwrap().display());
    assert_eq!(below(&found.conf_dir), conf_dir, "{files:?}");
    assert_eq!(found.bin_dirs.iter().map(|dir| below(dir)).collect::<Vec<_>>(), bin_dirs, "{files:?}");
    found
}

const DEFAULTS: (&str, &[&str]) = ("/etc/cni/net.d", &["/opt/cni/bin"]);

#[test]
fn without_a_word_of_a_runtime_the_defaults_hold() {
    let silent = [
        &[][..],
        &[("etc/containerd/config.toml", "version = 2\n")],
        &[("etc/crio/crio.conf", "[crio.runtime]\nlog_level = 'info'\n")],
        // As a package of Docker has it: that containerd runs no pods.
        &[("etc/containerd/config.toml", "disabled_plugins = ['cri']\n[plugins.cri.cni]\nconf_dir = '/x'\n")],
    ];
    for files in silent {
        check(files, DEFAULTS.0, DEFAULTS.1);
    }
}

#[test]
fn containerd_is_read_in_each_version() {
    let file = "etc/containerd/config.toml";
    let tables = [
        ("version = 3", "plugins.'io.containerd.cri.v1.runtime'.cni", "bin_dirs = ['/a', '/b']"),
        ("version = 2", "plugins.\"io.containerd.grpc.v1.cri\".cni", "bin_dir = '/a'"),
        ("version = 2", "plugins.\"io.containerd.grpc.v1.cri\".cni", "bin_dir = ''\nbin_dirs = ['/a']"),
        ("", "plugins.cri.cni", "bin_dir = '/a'"),
    ];
    for (version, table, dirs) in tables {
        let text = format!("{version}\n[{table}]\nconf_dir = '/net.d'\n{dirs}\nmax_conf_num = 1\n");
        let expected: &[&str] = if version == "version = 3" { &["/a", "/b"] } else { &["/a"] };
        let found = check(&[(file, &text)], "/net.d", expected);
        assert!(found.said_by.ends_with(file), "{found:?}");
    }
}

#[test]
fn what_containerd_imports_comes_after_and_wins() {
    let table = "[plugins.'io.containerd.cri.v1.runtime'.cni]\n";
    let main = format!(
        "version = 3\nimports = ['conf.d/*.toml', '/run/own/cri.toml', '/none/*.toml']\n{table}\
         conf_dir = '/main'\nbin_dirs = ['/main-bin']\n"
    );
    let files = [
        ("etc/containerd/config.toml", main.as_str()),
        ("etc/containerd/conf.d/10-a.toml", &format!("{table}conf_dir = '/a'\n")),
        // It imports the main file again, which must not be a circle.
        (
            "etc/containerd/conf.d/20-b.toml",
            &format!("imports = ['../config.toml', '/etc/containerd/*']\n{table}conf_dir = '/b'\n"),
        ),
        ("etc/containerd/conf.d/30-c.toml.off", &format!("{table}conf_dir = '/c'\n")),
        ("run/own/cri.toml", &format!("{table}bin_dirs = ['/own-bin']\n")),
    ];
    check(&files, "/b", &["/own-bin"]);
}

#[test]
fn cri_o_is_read_with_its_drop_ins_and_names_its_network() {
    let main = "[crio.network]\nnetwork_dir = '/etc/cni/net.d/'\nplugin_dirs = ['/usr/libexec/cni', '/opt/cni/bin/']\n";
    let drop_in = "[crio.network]\ncni_default_network = 'podnet'\n";
    let files = [("etc/crio/crio.conf", main), ("etc/crio/crio.conf.d/10-net.conf", drop_in)];
    let found = check(&files, "/etc/cni/net.d", &["/usr/libexec/cni", "/opt/cni/bin"]);
    assert_eq!(found.default_network.as_deref(), Some("podnet"));
    let old = [("etc/crio/crio.conf.d/01-old.conf", "[crio.network]\nplugin_dir = '/old'\n")];
    check(&old, "/etc/cni/net.d", &["/old"]);
}

#[test]
fn a_distributions_own_runtime_comes_before_a_plain_containerd() {
    let plain = ("etc/containerd/config.toml", "[plugins.cri.cni]\nconf_dir = '/plain'\n");
    let text = "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.cni]\nconf_dir = '/own'\nbin_dirs = ['/own-bin']\n";
    for file in [
        "var/lib/rancher/k3s/agent/etc/containerd/config.toml",
        "var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        "var/snap/microk8s/current/args/containerd.toml",
        "etc/k0s/containerd.toml",
    ] {
        check(&[plain, (file, text)], "/own", &["/own-bin"]);
    }
    let crio = ("etc/crio/crio.conf", "[crio.network]\nnetwork_dir = '/crio'\n");
    check(&[plain, crio], "/crio", &["/opt/cni/bin"]);
}

#[test]
fn a_flag_beats_the_runtime_and_a_broken_file_is_named() {
    let root = node(&[("etc/containerd/config.toml", "version = [\n")]);
    let message = found(root.path(), Flags::default()).unwrap_err();
    assert!(message.contains("etc/containerd/config.toml") && message.contains("line 1"), "{message}");
    let one = Flags { conf_dir: Some("/net.d".into()), ..Flags::default() };
    assert!(found(root.path(), one.clone()).is_err(), "the other one is the runtime's to say");
    let both = found(root.path(), Flags { bin_dirs: vec!["/bin".into()], ..one }).unwrap();
    assert_eq!((both.conf_dir, both.bin_dirs), (root.path().join("net.d"), vec![root.path().join("bin")]));
}

#[test]
fn wildcards_are_a_shells() {
    for (pattern, name, fits) in [
        ("*.toml", "a.toml", true),
        ("*.toml", ".a.toml", false),
        ("*", "x", true),
        ("*", "", true),
        ("a?c*", "abcd", true),
        ("a?c", "ac", false),
        ("*a*b", "xaxxb", true),
        ("*a*b", "xaxxbx", false),
    ] {
        assert_eq!(is_match(pattern.as_bytes(), name.as_bytes()), fits, "{pattern} {name}");
    }
}
