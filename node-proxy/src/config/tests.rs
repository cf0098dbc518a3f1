//! What is accepted, what it means, and that nothing wrong hides behind something else that is wrong.

use std::path::Path;
use std::time::Duration;

use super::values::host_port;
use super::*;
use crate::accept::PodLimits;
use crate::ingress::intermediaries::{Intermediaries, ProxyProtocol};
use crate::telemetry::AccessOutput;

const NEEDED: [&str; 10] = [
    "--node",
    "worker-1",
    "--objects",
    "/",
    "--ca-address",
    "ca.gammarus-system.svc:15012",
    "--ca-bundle",
    "/etc/ca.pem",
    "--token-file",
    "/var/token",
];

/// clap takes any text for a flag, so that every mistake is found by us.
fn typed<'a>(arguments: impl Iterator<Item = &'a &'a str>) -> RawConfig {
    RawConfig::try_parse_from(arguments).unwrap()
}

fn parse(arguments: &[&str]) -> Result<Config, ConfigErrors> {
    let arguments = ["node-proxy"].iter().chain(arguments);
    Config::try_from(typed(arguments))
}

fn mesh(more: &[&str]) -> Result<MeshConfig, ConfigErrors> {
    let arguments: Vec<_> = ["mesh"].iter().chain(&NEEDED).chain(more).copied().collect();
    match parse(&arguments)? {
        Config::Mesh(config) => Ok(*config),
        other => panic!("not the mesh: {other:?}"),
    }
}

#[test]
fn what_is_not_given_has_its_default() {
    let config = mesh(&[]).unwrap();
    assert_eq!(config.serving.node, "worker-1");
    assert_eq!(config.socket, Path::new("/run/gammarus/enrol.sock"));
    assert_eq!(config.state_dir, Path::new("/var/lib/gammarus"));
    assert_eq!(config.host_root, Path::new("/"));
    assert_eq!(config.hand_over, HandOverConfig { holder: None, drain: Duration::from_secs(3600) });
    assert_eq!(config.serving.trust_domain, "cluster.local");
    assert_eq!(config.serving.ca.address.to_string(), "ca.gammarus-system.svc:15012");
    assert_eq!(config.serving.ca.server_name, "ca.gammarus-system.svc");
    assert_eq!(config.serving.admin_listen, "127.0.0.1:15000".parse().unwrap());
    assert_eq!(config.serving.health_listen, "[::]:15021".parse().unwrap());
    assert!(config.serving.data_path.workers >= 1);
    let limits =
        PodLimits { connections: 20_000, handshakes_per_second: 1_000, buffered_bytes: 64 * 1024 * 1024 };
    assert_eq!(config.serving.data_path.limits, limits);
    let EnrolmentConfig { inspection, lag, release } = config.enrolment;
    assert_eq!([inspection, lag, release].map(|time| time.as_secs()), [15, 10, 30]);
    let telemetry =
        TelemetryConfig { access: AccessOutput::Stdout, format: LogFormat::Text, filter: "info".to_owned() };
    assert_eq!(config.serving.telemetry, telemetry);
}

#[test]
fn what_is_given_counts() {
    let config = mesh(&[
        "--ca-server-name=ca",
        "--admin-listen=[::1]:1",
        "--workers=3",
        "--access-log=/var/log/a",
        "--log-format=json",
        "--log-level=warn,h2=debug",
        "--max-connections-per-pod=7",
        "--max-handshakes-per-second-per-pod=8",
        "--max-buffered-bytes-per-pod=9",
        "--holder=/run/holder.sock",
        "--drain-seconds=60",
    ])
    .unwrap();
    assert_eq!(config.serving.ca.server_name, "ca");
    let holder = Some("/run/holder.sock".into());
    assert_eq!(config.hand_over, HandOverConfig { holder, drain: Duration::from_secs(60) });
    assert_eq!(config.serving.admin_listen, "[::1]:1".parse().unwrap());
    let limits = PodLimits { connections: 7, handshakes_per_second: 8, buffered_bytes: 9 };
    assert_eq!(config.serving.data_path, DataPathConfig { workers: 3, limits });
    assert_eq!(config.serving.telemetry.access, AccessOutput::File("/var/log/a".into()));
    assert_eq!(config.serving.telemetry.format, LogFormat::Json);
    assert_eq!(config.serving.telemetry.filter, "warn,h2=debug");
}

#[test]
fn an_address_of_ipv6_keeps_its_brackets_only_in_text() {
    let address = host_port("[fd00::1]:443").unwrap();
    assert_eq!((address.host.as_str(), address.port), ("fd00::1", 443));
    assert_eq!(address.to_string(), "[fd00::1]:443");
}

#[track_caller]
fn check_wrong(flag: &str, value: &str, problem: &str) {
    let with = format!("{flag}={value}");
    let needed: Vec<_> = NEEDED.chunks(2).filter(|pair| pair[0] != flag).flat_map(<[_]>::to_vec).collect();
    let arguments: Vec<_> = ["mesh"].into_iter().chain(needed).chain([with.as_str()]).collect();
    let errors = parse(&arguments).unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!(errors.0[0].to_string(), format!("{flag} {value:?}: {problem}"));
}

#[test]
fn a_wrong_value_is_named_with_its_flag() {
    let node = "is not the name of a node: lower case letters, digits, '-' and '.'";
    let domain = "is not a trust domain: lower case letters, digits, '.', '-' and '_'";
    let loopback =
        "is not a loopback address: whoever reaches it may change the log and read the configuration";
    check_wrong("--node", "Worker", node);
    check_wrong("--node", "a..b", node);
    check_wrong("--node", "-a", node);
    check_wrong("--node", "", "is empty");
    check_wrong("--objects", "/nowhere/at/all", "is not a directory");
    check_wrong("--trust-domain", "Cluster.local", domain);
    check_wrong("--trust-domain", "a/b", domain);
    check_wrong("--ca-address", "ca", "is not HOST:PORT");
    check_wrong("--ca-address", "ca:0", "is not HOST:PORT");
    check_wrong("--ca-address", "ca:65536", "is not HOST:PORT");
    check_wrong("--ca-address", ":443", "is not HOST:PORT");
    check_wrong("--ca-address", "[ca]:443", "is not HOST:PORT");
    check_wrong("--ca-address", "fd00::1:443", "is an IPv6 address without brackets");
    check_wrong("--ca-address", "c a:443", "is not a host name or address");
    check_wrong("--ca-server-name", "a/b", "is not a host name or address");
    check_wrong("--ca-bundle", "", "is empty");
    check_wrong("--admin-listen", "0.0.0.0:15000", loopback);
    check_wrong("--admin-listen", "[::]:15000", loopback);
    check_wrong("--admin-listen", "localhost", "is not IP:PORT");
    check_wrong("--health-listen", ":15021", "is not IP:PORT");
    check_wrong("--workers", "0", "is not a number in range");
    check_wrong("--workers", "1025", "is not a number in range");
    check_wrong("--workers", "-1", "is not a number in range");
    check_wrong("--log-format", "xml", "is neither text nor json");
    check_wrong("--log-level", "loud=louder", "is not a list of [target=]level");
    check_wrong("--max-connections-per-pod", "many", "is not a number in range");
}

#[test]
fn all_mistakes_are_reported_at_once() {
    let errors = parse(&[
        "mesh",
        "--objects=/nowhere",
        "--ca-address=x",
        "--ca-server-name=/",
        "--admin-listen=1",
        "--health-listen=2",
        "--workers=none",
        "--log-format=xml",
    ])
    .unwrap_err();
    let text = errors.to_string();
    let wanted = "the configuration cannot be used:
  --node is required (or GAMMARUS_NODE in the environment)
  --ca-address \"x\": is not HOST:PORT
  --ca-server-name \"/\": is not a host name or address
  --ca-bundle is required (or GAMMARUS_CA_BUNDLE in the environment)
  --token-file is required (or GAMMARUS_TOKEN_FILE in the environment)
  --admin-listen \"1\": is not IP:PORT
  --health-listen \"2\": is not IP:PORT
  --workers \"none\": is not a number in range
  --log-format \"xml\": is neither text nor json
  --objects \"/nowhere\": is not a directory";
    assert_eq!(text, wanted);
}

#[test]
fn objects_come_from_the_api_server_unless_a_directory_is_given() {
    let needed = ["mesh", "--node=a", "--ca-address=a:1", "--ca-bundle=b", "--token-file=c"];
    let objects = |more: &[&str]| -> Result<ObjectsConfig, ConfigErrors> {
        match parse(&[&needed, more].concat())? {
            Config::Mesh(config) => Ok(config.objects),
            other => panic!("not the mesh: {other:?}"),
        }
    };
    assert_eq!(objects(&[]), Ok(ObjectsConfig::ApiServer { kubeconfig: None }));
    let given = ObjectsConfig::ApiServer { kubeconfig: Some("/proc/version".into()) };
    assert_eq!(objects(&["--kubeconfig=/proc/version"]), Ok(given));
    assert_eq!(objects(&["--objects=/"]), Ok(ObjectsConfig::Directory("/".into())));
    let wrong = |more: &[&str]| objects(more).unwrap_err().0[0].to_string();
    assert_eq!(wrong(&["--kubeconfig=/nowhere"]), "--kubeconfig \"/nowhere\": is not a file");
    let both = "--kubeconfig \"/proc/version\": cannot be given with --objects, which takes the place of the API server";
    assert_eq!(wrong(&["--objects=/", "--kubeconfig=/proc/version"]), both);
}

#[test]
fn the_demo_keeps_its_nodes_only_when_asked() {
    let removed = Programme { afterwards: Afterwards::Remove, manifests: None };
    assert_eq!(parse(&["demo"]), Ok(Config::Demo(removed)));
    let kept = Programme { afterwards: Afterwards::Keep, manifests: Some("/".into()) };
    assert_eq!(parse(&["demo", "--keep", "--manifests", "/"]), Ok(Config::Demo(kept)));
    let errors = parse(&["demo", "--manifests", "/nowhere"]).unwrap_err();
    assert_eq!(errors.0[0].to_string(), "--manifests \"/nowhere\": is not a directory");
}

#[test]
fn every_flag_is_also_read_from_the_environment_under_its_own_name() {
    use clap::CommandFactory;
    let command = RawConfig::command();
    let mesh = command.find_subcommand("mesh").unwrap();
    let mut seen = 0;
    for argument in mesh.get_arguments().filter(|argument| argument.get_id() != "help") {
        let flag = format!("--{}", argument.get_long().unwrap());
        assert_eq!(argument.get_env().unwrap().to_str(), Some(variable(&flag).as_str()));
        seen += 1;
    }
    assert_eq!(seen, 25);
}

#[test]
fn the_holder_needs_nothing_and_knows_its_flags() {
    let holder = |arguments: &[&str]| match parse(&[&["holder"], arguments].concat())? {
        Config::Holder(config) => Ok(config),
        other => panic!("not the holder: {other:?}"),
    };
    let config = holder(&[]).unwrap();
    assert_eq!(config.socket, Path::new("/run/gammarus/holder.sock"));
    let config = holder(&["--socket=/a", "--log-format=json", "--log-level=debug"]).unwrap();
    let expected = HolderConfig { socket: "/a".into(), format: LogFormat::Json, filter: "debug".to_owned() };
    assert_eq!(config, expected);
    let errors: ConfigErrors = holder(&["--socket=", "--log-format=xml"]).unwrap_err();
    assert_eq!(errors.0.len(), 2, "{errors}");
}

#[test]
fn the_controller_needs_nothing_and_knows_its_flags() {
    let controller = |arguments: &[&str]| match parse(&[&["controller"], arguments].concat())? {
        Config::Controller(config) => Ok(*config),
        other => panic!("not the controller: {other:?}"),
    };
    let config = controller(&[]).unwrap();
    assert_eq!((config.kubeconfig, config.namespace, config.startup_taint), (None, None, StartupTaint::Left));
    assert_eq!(config.health_listen.to_string(), "[::]:15021");
    let config = controller(&["--kubeconfig=/proc/version", "--namespace=mesh", "--startup-taint"]).unwrap();
    assert_eq!(config.kubeconfig.as_deref(), Some(Path::new("/proc/version")));
    assert_eq!((config.namespace.as_deref(), config.startup_taint), (Some("mesh"), StartupTaint::Lifted));
    let errors: ConfigErrors =
        controller(&["--kubeconfig=/nowhere", "--namespace=a.b", "--admin-listen=1.2.3.4:5"]).unwrap_err();
    assert_eq!(errors.0.len(), 3, "{errors}");
}

#[test]
fn what_is_made_for_gateways_is_said_whole_or_not_at_all() {
    let provision = |arguments: &[&str]| match parse(&[&["controller"], arguments].concat())? {
        Config::Controller(config) => Ok(config.provision),
        other => panic!("not the controller: {other:?}"),
    };
    assert_eq!(provision(&[]).unwrap(), None);
    let whole =
        ["--ingress-image=a:1", "--ca-address=ca:8443", "--feed-address=feed:8444", "--trust-domain=a.b"];
    let settings = provision(&whole).unwrap().unwrap();
    assert_eq!((settings.image.as_deref(), &*settings.image_pull_policy), (Some("a:1"), "IfNotPresent"));
    let of_pod = [&["--pod=controller-1"], &whole[1..]].concat();
    assert_eq!(provision(&of_pod).unwrap().unwrap().image, None);
    assert_eq!((&*settings.ca_address, &*settings.feed_address), ("ca:8443", "feed:8444"));
    assert_eq!((&*settings.trust_domain, &*settings.log_level), ("a.b", "info"));
    let errors: ConfigErrors =
        provision(&["--ingress-image=", "--ingress-image-pull-policy=Often", "--pod=A"]).unwrap_err();
    let errors = errors.to_string();
    for flag in [
        "--ingress-image ",
        "--pod ",
        "--ingress-image-pull-policy ",
        "--ca-address is required",
        "--feed-address is required",
    ] {
        assert!(errors.contains(flag), "{flag}: {errors}");
    }
}

#[test]
fn a_gateways_proxy_is_told_which_gateway_and_which_pod_it_is() {
    let ingress = |arguments: &[&str]| match parse(&[&["ingress"][..], arguments].concat())? {
        Config::Ingress(config) => Ok::<_, ConfigErrors>(*config),
        other => panic!("not a Gateway's: {other:?}"),
    };
    let errors = ingress(&[]).unwrap_err().to_string();
    for flag in ["--gateway", "--pod", "--objects", "--node", "--ca-address"] {
        assert!(errors.contains(&format!("{flag} is required")), "{errors}");
    }
    let serving = |gateway: &str| ingress(&[&NEEDED[..], &["--pod=front-1", "--gateway", gateway]].concat());
    let config = serving("edge/front").unwrap();
    assert_eq!((&*config.gateway.to_string(), &*config.pod.to_string()), ("edge/front", "edge/front-1"));
    assert_eq!((&*config.service_account, config.system_authorities), ("default", None));
    let no_file = ingress(&[&NEEDED[..], &["--pod=a", "--gateway=b/c", "--system-authorities=/"]].concat());
    assert!(no_file.unwrap_err().to_string().contains("is not a file"));
    for wrong in ["front", "edge/", "Edge/front", "edge/front/1"] {
        assert!(serving(wrong).unwrap_err().to_string().contains("is not NAMESPACE/NAME"), "{wrong}");
    }
}

#[test]
fn a_gateways_proxy_is_fed_or_reads_a_directory_and_not_both() {
    let flags = NEEDED.chunks(2).filter(|flag| flag[0] != "--objects");
    let needed: Vec<&str> = flags.flatten().copied().collect();
    let ingress = |arguments: &[&str]| {
        let own = ["ingress", "--pod=front-1", "--gateway=edge/front"];
        match parse(&[&own[..], &needed, arguments].concat())? {
            Config::Ingress(config) => Ok::<_, ConfigErrors>(config.objects),
            other => panic!("not a Gateway's: {other:?}"),
        }
    };
    let fed = ingress(&[
        "--feed-address=gammarus-controller.mesh.svc:8444",
        "--feed-service-account=mesh/controller",
    ]);
    let IngressObjects::Feed { address, service_account, state_dir } = fed.unwrap() else {
        panic!("not fed")
    };
    assert_eq!(address.to_string(), "gammarus-controller.mesh.svc:8444");
    assert_eq!(
        (&*service_account.to_string(), state_dir),
        ("mesh/controller", PathBuf::from("/var/lib/gammarus"))
    );
    let both = ingress(&["--feed-address=a:1", "--objects=/"]).unwrap_err().to_string();
    assert!(both.contains("cannot be given with --objects"), "{both}");
    let errors = ingress(&["--feed-address=a", "--feed-service-account=controller"]).unwrap_err();
    assert_eq!(errors.0.len(), 2, "{errors}");
}

#[test]
fn a_controller_that_feeds_needs_a_ca() {
    let controller = |arguments: &[&str]| parse(&[&["controller"], arguments].concat()).map(|_| ());
    let errors = controller(&["--feed-listen=[::]:8444"]).unwrap_err();
    assert_eq!(errors.0.len(), 3, "{errors}");
    let ca = NEEDED.chunks(2).filter(|flag| flag[0].starts_with("--ca-") || flag[0] == "--token-file");
    let ca: Vec<&str> = ca.flatten().copied().collect();
    controller(&[&["--feed-listen=[::]:8444"][..], &ca].concat()).unwrap();
}

#[test]
fn a_gateways_proxy_believes_nobody_about_clients_unless_it_is_told_whom() {
    let ingress = |arguments: &[&str]| {
        let own = ["ingress", "--pod=front-1", "--gateway=edge/front"];
        match parse(&[&own[..], &NEEDED, arguments].concat())? {
            Config::Ingress(config) => Ok::<_, ConfigErrors>(config.intermediaries),
            other => panic!("not a Gateway's: {other:?}"),
        }
    };
    assert_eq!(ingress(&[]).unwrap(), Intermediaries::default());
    assert_eq!(ingress(&["--trusted-hops=2"]).unwrap().trusted_hops, 2);
    let said = ingress(&["--proxy-protocol"]).unwrap().proxy_protocol;
    assert_eq!(said, Some(ProxyProtocol { from: None }));
    let said = ingress(&["--proxy-protocol", "--proxy-protocol-from=10.0.0.0/8, 2001:db8::1"]).unwrap();
    let from = ["10.0.0.0/8", "2001:db8::1/128"].map(|range| range.parse().unwrap());
    assert_eq!(said.proxy_protocol.unwrap().from.unwrap(), from);
    for (wrong, problem) in [
        (&["--trusted-hops=-1"][..], "is not a number in range"),
        (&["--trusted-hops=101"], "is not a number in range"),
        (&["--proxy-protocol-from=10.0.0.0/8"], "--proxy-protocol is not given"),
        (&["--proxy-protocol", "--proxy-protocol-from=10.0.0.1/8"], "bits set behind its prefix"),
        (&["--proxy-protocol", "--proxy-protocol-from=10.0.0.0/8,"], "is not a list of ADDRESS/LENGTH"),
        (&["--proxy-protocol", "--proxy-protocol-from="], "is empty"),
    ] {
        let errors = ingress(wrong).unwrap_err();
        assert!(errors.0.len() == 1 && errors.to_string().contains(problem), "{wrong:?}: {errors}");
    }
}
