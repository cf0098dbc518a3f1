//! The objects of a Gateway, from YAML as a person writes it.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::objects::{Part, Wanted};
use super::shortfall::{Provisions, Saying, Shortfall};
use super::{Demand, Settings};
use crate::attach::gateway::{Gateways, ListenerOwner};
use crate::attach::{ConditionReason, ConditionStatus, ConditionType, fixture};
use crate::cluster::objects::{Changed, ObjectKey, Objects};
use crate::controller::gateways::{GatewayStatuses, ListenersJudgement};
use crate::snapshot::transport::{Port, Transport};

const OBJECTS: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: GatewayClass, metadata: {name: other}, spec: {controllerName: example.com/other}}
---
{kind: Namespace, metadata: {name: shop}}
---
{kind: Gateway, metadata: {name: web, uid: g1}, spec: {gatewayClassName: gammarus,
  addresses: [{value: ''}, {type: IPAddress, value: 192.0.2.1}, {value: 192.0.2.2}],
  allowedListeners: {namespaces: {from: Same}},
  infrastructure: {labels: {team: edge, gammarus.io/gateway: mine, gammarus.io/mesh: enabled}, annotations: {note: 'yes'}},
  listeners: [{name: a, hostname: a.example, port: 80, protocol: HTTP}, {name: b, hostname: b.example, port: 80, protocol: HTTP},
    {name: no-certificate, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: gone}]}},
    {name: health, port: 15021, protocol: TCP}]}}
---
{kind: ListenerSet, metadata: {name: more}, spec: {parentRef: {name: web}, listeners: [{name: raw, port: 9000, protocol: TCP}]}}
---
{kind: Gateway, metadata: {name: strange, uid: g2}, spec: {gatewayClassName: gammarus, listeners: [{name: a, port: 80, protocol: SCTP}]}}
---
{kind: Gateway, metadata: {name: foreign, uid: g3}, spec: {gatewayClassName: other, listeners: [{name: a, port: 80, protocol: HTTP}]}}
";

fn settings() -> Settings {
    Settings {
        image: Some("gammarus:1".to_owned()),
        image_pull_policy: "IfNotPresent".to_owned(),
        trust_domain: "cluster.local".to_owned(),
        ca_address: "ca:8443".to_owned(),
        feed_address: "feed:8444".to_owned(),
        feed_service_account: None,
        log_format: "json".to_owned(),
        log_level: "info".to_owned(),
    }
}

fn demands(objects: &Objects) -> Vec<Demand> {
    let gateways = Gateways::new(objects);
    gateways.gateways.values().filter_map(|judged| Demand::find(objects, judged)).collect()
}

fn web() -> Demand {
    let [demand] = demands(&fixture::objects(OBJECTS)).try_into().unwrap();
    demand
}

/// The same with these parameters.
#[track_caller]
fn with(document: &str) -> Demand {
    let config_map =
        json!({"kind": "ConfigMap", "metadata": {"name": "own"}, "data": {"gateway.yaml": document}});
    let named = OBJECTS.replace(
        "infrastructure: {",
        "infrastructure: {parametersRef: {group: '', kind: ConfigMap, name: own}, ",
    );
    let [demand] = demands(&fixture::objects(&format!("{named}---\n{config_map}"))).try_into().unwrap();
    demand
}

#[track_caller]
fn part(demand: &Demand, part: Part) -> Wanted {
    let all = Wanted::all(demand, &settings(), Some("roots"));
    all.into_iter().find(|wanted| wanted.part == part).unwrap()
}

#[test]
fn a_gateway_that_is_accepted_asks_for_the_ports_that_are_served() {
    let demand = web();
    assert_eq!(demand.gateway, ObjectKey::new("shop", "web"));
    let ports: Vec<String> = demand.ports.iter().map(Port::to_string).collect();
    // Of two on one port one, of its ListenerSet's own, and none of what has no certificate.
    assert_eq!(ports, ["tcp-80", "tcp-9000", "tcp-15021"]);
    assert_eq!(demand.address.as_deref(), Some("192.0.2.1"));
}

#[test]
fn one_that_is_being_deleted_asks_for_nothing() {
    let leaving = "{name: web, uid: g1, deletionTimestamp: '2026-01-01T00:00:00Z'}";
    let objects = fixture::objects(&OBJECTS.replace("{name: web, uid: g1}", leaving));
    assert_eq!(demands(&objects), []);
}

#[test]
fn all_have_one_name_and_the_gateways_labels_under_ours() {
    let demand = with("{autoscaling: {maxReplicas: 5}, podDisruptionBudget: {minAvailable: 1}}");
    let all = Wanted::all(&demand, &settings(), Some("roots"));
    assert_eq!(all.iter().map(|wanted| wanted.part).collect::<Vec<_>>(), Part::ALL);
    for Wanted { key, object, part, .. } in &all {
        assert_eq!(key.to_string(), "shop/web-gammarus");
        let labels = &object["metadata"]["labels"];
        assert_eq!(labels["team"], "edge", "{part:?}");
        assert_eq!(labels["gammarus.io/gateway"], "web-gammarus", "{part:?}");
        assert_eq!(labels["gateway.networking.k8s.io/gateway-name"], "web", "{part:?}");
        assert_eq!(object["metadata"]["annotations"]["note"], "yes", "{part:?}");
        assert_eq!(object["metadata"]["ownerReferences"][0]["uid"], "g1", "{part:?}");
    }
    let template = &part(&web(), Part::Deployment).object["spec"]["template"];
    let labels = &template["metadata"]["labels"];
    assert_eq!((&labels["gammarus.io/mesh"], &labels["team"]), (&json!("disabled"), &json!("edge")));
    assert_eq!(template["metadata"]["annotations"], json!({"note": "yes"}));
}

#[test]
fn names_of_every_length_fit_into_names_and_labels() {
    let mut names = BTreeSet::new();
    for end in ["b", "c"] {
        let name = format!("{}{end}", "a".repeat(252));
        let demand = Demand { gateway: ObjectKey::new("shop", &name), ..web() };
        for Wanted { key, object, .. } in Wanted::all(&demand, &settings(), Some("roots")) {
            assert_eq!(key.name.len(), 63);
            let labels = object["metadata"]["labels"].as_object().unwrap();
            assert!(labels.values().all(|value| value.as_str().unwrap().len() <= 63), "{labels:?}");
            assert_eq!(object["metadata"]["ownerReferences"][0]["name"], name);
            names.insert(key);
        }
    }
    assert_eq!(names.len(), 2, "each Gateway has one of its own");
}

#[test]
fn udp_and_tcp_share_a_number() {
    let raw = "{name: raw, port: 9000, protocol: TCP}";
    let both = "{name: bytes, port: 53, protocol: TCP}, {name: datagrams, port: 53, protocol: UDP}";
    let [mut demand] = demands(&fixture::objects(&OBJECTS.replace(raw, both))).try_into().unwrap();
    demand.ports.retain(|port| port.number == 53);
    let port = |name: &str, protocol: &str| json!({"name": name, "port": 53, "targetPort": 53, "protocol": protocol});
    let service = part(&demand, Part::Service).object;
    assert_eq!(service["spec"]["ports"], json!([port("tcp-53", "TCP"), port("udp-53", "UDP")]));
}

#[test]
fn a_listener_more_or_less_is_no_reason_for_other_pods() {
    let tcp = |number| Port { number, transport: Transport::Tcp };
    let one = Demand { ports: [tcp(80)].into(), ..web() };
    let more = Demand { ports: [tcp(80), tcp(443), tcp(9000)].into(), ..web() };
    assert_eq!(part(&one, Part::Deployment).object, part(&more, Part::Deployment).object);
    assert_ne!(part(&one, Part::Service).object, part(&more, Part::Service).object);
}

#[test]
fn the_proxys_own_ports_make_room_for_listeners() {
    let ports = |demand: &Demand| {
        let deployment = part(demand, Part::Deployment).object;
        let container = &deployment["spec"]["template"]["spec"]["containers"][0];
        let ports = container["ports"].as_array().unwrap().iter();
        let numbers: Vec<u64> = ports.map(|port| port["containerPort"].as_u64().unwrap()).collect();
        let variable = |name: &str| {
            let all = container["env"].as_array().unwrap();
            all.iter().find(|own| own["name"] == name).unwrap()["value"].as_str().unwrap().to_owned()
        };
        (numbers, variable("GAMMARUS_HEALTH_LISTEN"), variable("GAMMARUS_ADMIN_LISTEN"))
    };
    let admin = || "127.0.0.1:15000".to_owned();
    assert_eq!(ports(&web()), (vec![15022], "[::]:15022".to_owned(), admin()));
    let tcp = |number| Port { number, transport: Transport::Tcp };
    let others = Demand { ports: [80, 15000, 15001].map(tcp).into(), ..web() };
    let moved = "127.0.0.1:15002".to_owned();
    assert_eq!(ports(&others), (vec![15021], "[::]:15021".to_owned(), moved));
    // A port of UDP is another one.
    let datagrams = Port { number: 15021, transport: Transport::Udp };
    let datagrams = Demand { ports: [datagrams].into(), ..web() };
    assert_eq!(ports(&datagrams), (vec![15021], "[::]:15021".to_owned(), admin()));
}

#[test]
fn parameters_say_how_the_proxies_serve() {
    let pod =
        |document: &str| part(&with(document), Part::Deployment).object["spec"]["template"]["spec"].take();
    let said = |pod: &Value| {
        let all = pod["containers"][0]["env"].as_array().unwrap().iter();
        let own = ["TRUSTED_HOPS", "PROXY_PROTOCOL", "PROXY_PROTOCOL_FROM", "DRAIN_SECONDS"];
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let is_own = |name: &str| own.iter().any(|own| name == format!("GAMMARUS_{own}"));
        let pairs = all.map(|variable| (text(&variable["name"]), text(&variable["value"])));
        pairs.filter(|(name, _)| is_own(name)).map(|(_, value)| value).collect::<Vec<_>>()
    };
    let plain = pod("");
    assert_eq!((said(&plain), &plain["terminationGracePeriodSeconds"]), (vec![], &json!(40)));
    let hops = pod("{client: {trustedHops: 2}, drainSeconds: 300}");
    assert_eq!(
        (said(&hops), &hops["terminationGracePeriodSeconds"]),
        (vec!["2".into(), "300".into()], &json!(320))
    );
    assert_eq!(said(&pod("client: {proxyProtocol: {}}")), ["true"]);
    let from = pod("client: {proxyProtocol: {from: [10.0.0.0/8, '2001:db8::1']}}");
    assert_eq!(said(&from), ["true", "10.0.0.0/8,2001:db8::1"]);
}

#[test]
fn parameters_shape_the_pods() {
    let spec = |document: &str| part(&with(document), Part::Deployment).object["spec"].take();
    let pod = |document: &str| spec(document)["template"]["spec"].take();
    assert_eq!(spec("replicas: 0")["replicas"], 0);
    let plain = pod("");
    assert_eq!(plain["containers"][0]["resources"], json!({"requests": {"cpu": "50m", "memory": "64Mi"}}));
    let set = pod("resources: {requests: {cpu: 1}, limits: {memory: 1Gi}}
nodeSelector: {pool: edge}
tolerations: [{key: edge, operator: Exists}]
priorityClassName: high
topologySpreadConstraints: [{maxSkew: 2, topologyKey: zone, whenUnsatisfiable: DoNotSchedule}]");
    assert_eq!(
        set["containers"][0]["resources"],
        json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Gi"}})
    );
    assert_eq!(set["nodeSelector"], json!({"kubernetes.io/os": "linux", "pool": "edge"}));
    assert_eq!(set["tolerations"], json!([{"key": "edge", "operator": "Exists"}]));
    assert_eq!(set["priorityClassName"], "high");
    let own = json!({"matchLabels": {"gammarus.io/gateway": "web-gammarus"}});
    let constraint = json!({"maxSkew": 2, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": own});
    assert_eq!(set["topologySpreadConstraints"], json!([constraint]));
    assert_eq!(plain["topologySpreadConstraints"][0]["labelSelector"], own);
    // All else is as it is without.
    let mut without = set;
    for field in ["containers", "nodeSelector", "topologySpreadConstraints"] {
        without[field] = plain[field].clone();
    }
    for field in ["tolerations", "priorityClassName"] {
        without.as_object_mut().unwrap().remove(field);
    }
    assert_eq!(without, plain);
}

#[test]
fn how_many_there_are_is_said_by_one() {
    let deployment = |document: &str| part(&with(document), Part::Deployment);
    let (left, given, scaled) = (
        deployment(""),
        deployment("replicas: 5"),
        deployment("autoscaling: {minReplicas: 3, maxReplicas: 9, targetCPUUtilizationPercentage: 60}"),
    );
    let replicas = |object: &Value| object["spec"]["replicas"].clone();
    assert_eq!((replicas(&left.object), replicas(&left.to_create())), (json!(null), json!(2)));
    assert_eq!((replicas(&given.object), replicas(&given.to_create())), (json!(5), json!(5)));
    assert_eq!((replicas(&scaled.object), replicas(&scaled.to_create())), (json!(null), json!(3)));
    let autoscaling = "autoscaling: {minReplicas: 3, maxReplicas: 9, targetCPUUtilizationPercentage: 60}";
    let autoscaler = part(&with(autoscaling), Part::HorizontalPodAutoscaler).object;
    let cpu = json!({"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 60}});
    assert_eq!(
        (&autoscaler["apiVersion"], &autoscaler["spec"]),
        (
            &json!("autoscaling/v2"),
            &json!({
                "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "web-gammarus"},
                "minReplicas": 3, "maxReplicas": 9, "metrics": [{"type": "Resource", "resource": cpu}],
            })
        )
    );
    let budget = part(&with("podDisruptionBudget: {maxUnavailable: 50%}"), Part::PodDisruptionBudget).object;
    let own = json!({"matchLabels": {"gammarus.io/gateway": "web-gammarus"}});
    assert_eq!(budget["spec"], json!({"maxUnavailable": "50%", "selector": own}));
}

#[test]
fn a_service_is_of_the_type_that_is_chosen_and_asks_for_the_address() {
    let service = |document: &str| part(&with(document), Part::Service).object["spec"].take();
    let asked = service("service: {externalTrafficPolicy: Local, loadBalancerClass: example.com/edge}");
    assert_eq!((&asked["type"], &asked["loadBalancerIP"]), (&json!("LoadBalancer"), &json!("192.0.2.1")));
    assert_eq!((&asked["ipFamilyPolicy"], &asked["ipFamilies"]), (&json!("SingleStack"), &json!(["IPv4"])));
    assert_eq!(
        (&asked["externalTrafficPolicy"], &asked["loadBalancerClass"]),
        (&json!("Local"), &json!("example.com/edge"))
    );
    let inside = service("service: {type: ClusterIP}");
    assert_eq!(
        (&inside["type"], &inside["ipFamilyPolicy"]),
        (&json!("ClusterIP"), &json!("PreferDualStack"))
    );
    for field in ["loadBalancerIP", "ipFamilies", "externalTrafficPolicy", "loadBalancerClass"] {
        assert!(inside[field].is_null(), "{field}");
    }
}

#[test]
fn where_parameters_are_broken_nothing_is_asked_for_but_the_trust_bundle() {
    let broken = with("replica: 3");
    assert!(broken.parameters.is_none());
    let all = Wanted::all(&broken, &settings(), Some("roots"));
    assert_eq!(all.iter().map(|wanted| wanted.part).collect::<Vec<_>>(), [Part::ConfigMap]);
    assert!(Wanted::all(&broken, &settings(), None).is_empty());
}

#[test]
fn without_a_port_there_is_no_service_and_without_a_bundle_no_config_map() {
    let none = Demand { ports: BTreeSet::new(), ..web() };
    let parts = |demand: &Demand, trust| -> Vec<Part> {
        Wanted::all(demand, &settings(), trust).iter().map(|wanted| wanted.part).collect()
    };
    assert_eq!(parts(&none, Some("roots")), [Part::ServiceAccount, Part::ConfigMap, Part::Deployment]);
    assert_eq!(parts(&web(), None), [Part::ServiceAccount, Part::Deployment, Part::Service]);
}

#[test]
fn an_object_is_right_as_long_as_all_of_ours_is_in_it() {
    let wanted = part(&web(), Part::Deployment);
    assert!(wanted.to_create()["spec"]["replicas"] == 2 && wanted.object["spec"]["replicas"].is_null());
    let mut live = wanted.to_create();
    let container = |live: &mut Value, field: &str, value: Value| {
        live["spec"]["template"]["spec"]["containers"][0][field] = value;
    };
    container(&mut live, "terminationMessagePath", json!("/dev/null"));
    live["metadata"]["labels"]["theirs"] = json!("too");
    live["spec"]["template"]["spec"]["containers"]
        .as_array_mut()
        .unwrap()
        .insert(0, json!({"name": "theirs"}));
    assert!(wanted.is_in(&live), "what others have added is theirs");
    for (pointer, value) in [
        ("/spec/template/spec/containers/1/image", json!("other")),
        ("/spec/template/spec/containers/1/command", json!(["/node-proxy", "ingress", "--more"])),
        ("/metadata/labels/team", json!("theirs")),
        ("/spec/template/spec/containers/1/env", json!([])),
    ] {
        let mut changed = live.clone();
        *changed.pointer_mut(pointer).unwrap() = value;
        assert!(!wanted.is_in(&changed), "{pointer}");
    }
    // What is wanted no more is found by the hash.
    let fewer = Demand { ports: web().ports.into_iter().take(1).collect(), ..web() };
    assert!(!part(&fewer, Part::Service).is_in(&part(&web(), Part::Service).object));
    // An empty map is as good as none.
    let plain = part(&Demand { annotations: std::collections::BTreeMap::new(), ..web() }, Part::Deployment);
    let mut live = plain.to_create();
    live["spec"]["template"]["metadata"].as_object_mut().unwrap().remove("annotations");
    assert!(plain.is_in(&live));
}

#[test]
fn a_port_that_was_moved_is_in_the_way_and_gets_another_name_until_it_has_gone() {
    let service = part(&web(), Part::Service);
    let port =
        |name: &str, number: u16| json!({"name": name, "port": number, "protocol": "TCP", "nodePort": 30000});
    let live = |ports: &[Value]| json!({"spec": {"ports": ports}});
    let (own, theirs) = (port("tcp-80", 80), port("theirs", 9));
    assert_eq!(service.in_the_way(&live(&[own.clone(), theirs.clone()])), [0; 0]);
    // One that is ours by its number is put right by the apply itself, whatever it is called.
    assert_eq!(service.in_the_way(&live(&[port("tcp-9000", 80)])), [0; 0]);
    let moved = live(&[theirs, port("tcp-80", 8081), own]);
    assert_eq!(service.in_the_way(&moved), [1]);
    let applied = service.beside(&moved);
    let ports = applied["spec"]["ports"].as_array().unwrap();
    let former = json!({"name": "gammarus-former-tcp-8081", "port": 8081, "protocol": "TCP"});
    assert_eq!((ports.len(), ports.last()), (4, Some(&former)));
    assert_eq!(service.in_the_way(&applied), [3], "until it has gone");
    let account = part(&web(), Part::ServiceAccount);
    assert_eq!((account.in_the_way(&moved), account.beside(&moved)), (Vec::new(), account.object));
}

/// A Gateway with an address and with a ListenerSet: the state that keeps it from being served is all that differs.
struct Said {
    statuses: GatewayStatuses,
    provisions: Provisions,
}

impl Said {
    fn new(is_on: bool) -> Self {
        let service = "---
{kind: Service, metadata: {name: web-gammarus, ownerReferences: [{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway,
  name: web, uid: g1}]}, spec: {type: LoadBalancer, clusterIP: 10.96.0.9, ports: [{port: 80}]},
  status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: 192.0.2.2}]}}}";
        let objects = fixture::objects(&format!("{OBJECTS}{service}"));
        let (mut statuses, provisions) = (GatewayStatuses::default(), Provisions::new(is_on));
        statuses.update(&objects, &Changed::everything(&objects));
        let asked = provisions.ask(statuses.demands(), Some("roots"));
        assert_eq!(asked.len(), usize::from(is_on));
        Self { statuses, provisions }
    }

    /// `Programmed` of the Gateway, its first listener, its ListenerSet and the listener of that.
    fn programmed(&self) -> Vec<String> {
        let web = ObjectKey::new("shop", "web");
        let of = |judged: &ListenersJudgement| {
            let lists = [&judged.conditions, &judged.listeners[0].conditions];
            lists.map(|list| {
                let own = list.iter().find(|own| own.kind == ConditionType::Programmed).unwrap();
                assert_eq!(own.status == ConditionStatus::True, own.reason == ConditionReason::Programmed);
                format!("{} {}", own.reason, own.message)
            })
        };
        let owners =
            [ListenerOwner::Gateway(web.clone()), ListenerOwner::ListenerSet(ObjectKey::new("shop", "more"))];
        let all = owners.iter().map(|owner| {
            assert_eq!(self.statuses.find_gateway(owner), Some(&web));
            match self.provisions.complete(&web, self.statuses.find_holder(owner).unwrap()) {
                Saying::Later => [String::new(), String::new()],
                Saying::Now(judged) => of(&judged),
            }
        });
        all.flatten().collect()
    }
}

#[test]
fn what_could_not_be_provided_is_said_by_the_gateway_and_all_that_waits_for_it() {
    let said = Said::new(true);
    let web = ObjectKey::new("shop", "web");
    assert_eq!(said.programmed(), [""; 4], "nothing was tried yet");
    assert!(said.provisions.settle(&web, None));
    assert_eq!(said.programmed(), ["Programmed "; 4]);
    let waiting = Some(Shortfall::Waiting { message: "no replica".to_owned() });
    assert!(said.provisions.settle(&web, waiting.clone()));
    assert!(!said.provisions.settle(&web, waiting), "nothing else than before");
    let pending = "Pending the Gateway: no replica";
    assert_eq!(said.programmed(), ["Pending no replica", pending, pending, pending]);
    let refused =
        Shortfall::Refused { reason: ConditionReason::NoResources, message: "Service: no".to_owned() };
    said.provisions.settle(&web, Some(refused));
    let pending = "Pending the Gateway: Service: no";
    assert_eq!(said.programmed(), ["NoResources Service: no", pending, pending, pending]);
}

#[test]
fn where_nothing_is_provided_nothing_is_waited_for() {
    assert_eq!(Said::new(false).programmed(), ["Programmed "; 4]);
}

#[test]
fn another_trust_bundle_is_another_thing_to_provide() {
    let said = Said::new(true);
    let demands = said.statuses.demands();
    assert_eq!(said.provisions.ask(demands, Some("roots")), []);
    assert_eq!(said.provisions.ask(demands, Some("others")), [ObjectKey::new("shop", "web")]);
    assert_eq!(said.provisions.ask(&Default::default(), Some("others")), []);
    assert!(!said.provisions.settle(&ObjectKey::new("shop", "web"), None), "it has gone meanwhile");
}
