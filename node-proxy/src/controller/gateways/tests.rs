//! What is said, and of what something else is to be said after a change.

use super::*;
use crate::attach::fixture;

const OBJECTS: &str = "
{kind: GatewayClass, metadata: {name: gammarus}, spec: {controllerName: gammarus.io/gateway-controller}}
---
{kind: Namespace, metadata: {name: shop}}
---
{kind: Service, metadata: {name: web}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
---
{kind: Gateway, metadata: {name: web, uid: g1, generation: 2}, spec: {gatewayClassName: gammarus,
  addresses: [{value: 192.0.2.1}], allowedListeners: {namespaces: {from: All}},
  listeners: [{name: http, port: 80, protocol: HTTP},
    {name: https, port: 443, protocol: HTTPS, tls: {certificateRefs: [{name: cert}]}}]}}
---
{kind: ListenerSet, metadata: {name: more, generation: 3}, spec: {parentRef: {name: web},
  listeners: [{name: http, port: 81, protocol: HTTP}]}}
---
{kind: HTTPRoute, metadata: {name: a}, spec: {parentRefs: [{name: web}, {name: web, sectionName: http}],
  rules: [{backendRefs: [{name: web, port: 80}]}]}}
---
{kind: HTTPRoute, metadata: {name: b}, spec: {parentRefs: [{name: more, kind: ListenerSet}, {name: web, sectionName: gone}],
  rules: [{backendRefs: [{name: web, port: 80}]}]}}
";

/// The Gateway's Service, of type LoadBalancer, with this address.
fn balancer(owner: &str, address: &str) -> String {
    format!(
        "---
{{kind: Service, metadata: {{name: web-gammarus, ownerReferences: [{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway,
  name: web, uid: {owner}}}]}}, spec: {{type: LoadBalancer, clusterIP: 10.96.0.9, ports: [{{port: 80}}]}},
  status: {{loadBalancer: {{ingress: [{{{address}}}]}}}}}}"
    )
}

fn judge(more: &str) -> (GatewayStatuses, Vec<Subject>, Vec<String>) {
    let objects = fixture::objects(&format!("{OBJECTS}{more}"));
    let mut statuses = GatewayStatuses::default();
    let (subjects, lines) = statuses.update(&objects, &Changed::everything(&objects));
    (statuses, subjects, lines)
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new("shop", name)
}

/// `Programmed` of the Gateway, of its listeners, of the ListenerSet and of its listener.
fn programmed(statuses: &GatewayStatuses) -> Vec<String> {
    let owners = [ListenerOwner::Gateway(key("web")), ListenerOwner::ListenerSet(key("more"))];
    let mut said = Vec::new();
    for owner in &owners {
        let holder = statuses.find_holder(owner).unwrap();
        let all = std::iter::once(&holder.conditions)
            .chain(holder.listeners.iter().map(|listener| &listener.conditions));
        said.extend(all.map(|conditions| {
            let own = conditions.iter().find(|own| own.kind == ConditionType::Programmed).unwrap();
            format!("{}={}", own.status, own.reason)
        }));
    }
    said
}

#[test]
fn routes_are_counted_once_and_only_where_they_are_accepted() {
    let (statuses, subjects, _) = judge("");
    let count = |owner: ListenerOwner| {
        let holder = statuses.find_holder(&owner).unwrap();
        let counts =
            holder.listeners.iter().map(|listener| (listener.name.to_string(), listener.attached_routes));
        counts.collect::<Vec<_>>()
    };
    let counted = |name: &str, count: i32| (name.to_owned(), count);
    assert_eq!(count(ListenerOwner::Gateway(key("web"))), [counted("http", 1), counted("https", 1)]);
    assert_eq!(count(ListenerOwner::ListenerSet(key("more"))), [counted("http", 1)]);
    let holder = statuses.find_holder(&ListenerOwner::Gateway(key("web"))).unwrap();
    assert_eq!(holder.generation, Some(2));
    assert!(
        matches!(&holder.holder, Holder::Gateway { attached_listener_sets: 1, addresses } if addresses.is_empty())
    );
    let route = RouteRef { kind: RouteKind::Http, key: key("b") };
    let parents: Vec<String> =
        statuses.find_route(&route).iter().map(|parent| parent.conditions[0].to_string()).collect();
    assert_eq!(parents[0], "Accepted=True Accepted");
    assert!(parents[1].starts_with("Accepted=False NoMatchingParent"), "{parents:?}");
    let mut said: Vec<String> = subjects.iter().map(ToString::to_string).collect();
    said.sort();
    assert_eq!(
        said,
        [
            "Gateway shop/web",
            "GatewayClass gammarus",
            "HTTPRoute shop/a",
            "HTTPRoute shop/b",
            "ListenerSet shop/more"
        ]
    );
}

#[test]
fn a_gateway_is_programmed_once_it_has_the_address_that_it_asks_for() {
    let said = |more: &str| programmed(&judge(more).0);
    let waits = |reason: &str| {
        let pending = "False=Pending".to_owned();
        let own = [format!("False={reason}"), pending.clone(), "False=Invalid".to_owned()];
        own.into_iter().chain([pending.clone(), pending]).collect::<Vec<_>>()
    };
    assert_eq!(said(""), waits("AddressNotUsable"));
    assert_eq!(
        said(&balancer("g2", "ip: 192.0.2.1")),
        waits("AddressNotUsable"),
        "another one's of that name"
    );
    assert_eq!(said(&balancer("g1", "ip: 192.0.2.7")), waits("AddressNotUsable"));
    let yes = "True=Programmed";
    assert_eq!(said(&balancer("g1", "ip: 192.0.2.1")), [yes, yes, "False=Invalid", yes, yes]);
    let (statuses, ..) = judge(&balancer("g1", "hostname: a.example"));
    let holder = statuses.find_holder(&ListenerOwner::Gateway(key("web"))).unwrap();
    let Holder::Gateway { addresses, .. } = &holder.holder else { panic!("a Gateway") };
    assert_eq!(addresses[0], Address { kind: Some("Hostname".into()), value: "a.example".into() });
}

/// What the Gateway says of its addresses and of being programmed, if it asks for these and has this Service.
fn with_addresses(asked: &str, service: &str) -> (Vec<String>, String) {
    let objects = OBJECTS.replace("addresses: [{value: 192.0.2.1}]", &format!("addresses: [{asked}]"));
    let objects = fixture::objects(&format!("{objects}{service}"));
    let mut statuses = GatewayStatuses::default();
    statuses.update(&objects, &Changed::everything(&objects));
    let holder = statuses.find_holder(&ListenerOwner::Gateway(key("web"))).unwrap();
    let Holder::Gateway { addresses, .. } = &holder.holder else { panic!("a Gateway") };
    let programmed = holder.conditions.iter().find(|own| own.kind == ConditionType::Programmed).unwrap();
    (addresses.iter().map(|own| own.value.to_string()).collect(), programmed.to_string())
}

#[test]
fn an_address_that_is_asked_for_is_there_or_named() {
    let given = balancer("g1", "ip: 192.0.2.1");
    let not_usable =
        |why: &str| format!("Programmed=False AddressNotUsable: spec.addresses: it was not given {why}");
    let yes = "Programmed=True Programmed".to_owned();
    let none = || Vec::<String>::new();
    let one = || vec!["192.0.2.1".to_owned()];
    for (asked, service, expected) in [
        ("", "", (none(), "Programmed=False AddressNotAssigned: Service shop/web-gammarus has not been given an address yet".to_owned())),
        ("", &*given, (one(), yes.clone())),
        ("{value: 192.0.2.1}", "", (none(), not_usable("192.0.2.1"))),
        ("{value: 192.0.2.1}", &given, (one(), yes.clone())),
        // Of two one can be asked for, be it the one that cannot be had.
        (
            "{value: 192.0.2.1}, {value: 192.0.2.2}",
            &given,
            (one(), not_usable("192.0.2.2; a Service asks for one address, which is 192.0.2.1")),
        ),
        (
            "{value: 192.0.2.2}, {value: 192.0.2.1}",
            "",
            (none(), not_usable("192.0.2.2, 192.0.2.1; a Service asks for one address, which is 192.0.2.2")),
        ),
        // One address is written in many ways.
        ("{value: '2001:DB8::0:1'}", &balancer("g1", "ip: '2001:db8::1'"), (vec!["2001:db8::1".to_owned()], yes)),
    ] {
        assert_eq!(with_addresses(asked, service), expected, "{asked}");
    }
}

#[test]
fn what_is_left_of_another_class_is_no_address_of_the_gateway() {
    let before = balancer("g1", "ip: 192.0.2.1").replace("web-gammarus", "web-former");
    let not_assigned =
        "Programmed=False AddressNotAssigned: Service shop/web-gammarus has not been given an address yet";
    assert_eq!(with_addresses("", &before), (Vec::new(), not_assigned.to_owned()));
    let both = format!("{before}\n{}", balancer("g1", "ip: 192.0.2.2"));
    assert_eq!(
        with_addresses("", &both),
        (vec!["192.0.2.2".to_owned()], "Programmed=True Programmed".to_owned())
    );
}

#[test]
fn without_a_balancer_the_addresses_are_the_clusters() {
    let of_type = |kind: &str| {
        let service = balancer("g1", "ip: 192.0.2.1").replace(
            "type: LoadBalancer, clusterIP: 10.96.0.9",
            &format!("type: {kind}, clusterIP: 10.96.0.9, clusterIPs: [10.96.0.9, 'fd00::9']"),
        );
        with_addresses("", &service).0
    };
    for kind in ["ClusterIP", "NodePort"] {
        assert_eq!(of_type(kind), ["10.96.0.9", "fd00::9"], "{kind}");
    }
    assert_eq!(of_type("LoadBalancer"), ["192.0.2.1"]);
}

#[test]
fn what_does_not_concern_a_gateway_is_not_judged_again() {
    let (mut statuses, ..) = judge("");
    let objects = fixture::objects(OBJECTS);
    let mut changed = Changed::default();
    changed.secrets.insert(key("other"), None);
    changed.config_maps.insert(key("cert"), None);
    assert!(!statuses.is_concerned(&changed), "a Secret that nobody names");
    changed.secrets.insert(key("cert"), None);
    assert!(statuses.is_concerned(&changed));
    assert_eq!(statuses.update(&objects, &changed), (Vec::new(), Vec::new()), "nothing is otherwise");
    let mut changed = Changed::default();
    changed.services.insert(key("web"), None);
    assert!(statuses.is_concerned(&changed) && !GatewayStatuses::default().is_concerned(&changed));

    // What is gone is told of, so that what was said of it is taken away.
    let without: Vec<&str> = OBJECTS.split("---").filter(|text| !text.contains("kind: Gateway,")).collect();
    let changed = Changed::everything(&objects);
    let (subjects, lines) = statuses.update(&fixture::objects(&without.join("---")), &changed);
    assert_eq!(subjects.len(), 4, "{subjects:?}");
    let gone = "Gateway shop/web: Accepted: no longer said";
    assert!(lines.iter().any(|line| line == gone), "{lines:?}");
    assert!(statuses.find_route(&RouteRef { kind: RouteKind::Http, key: key("a") }).is_empty());
}

#[test]
fn policies_are_told_of_with_their_ancestors_and_when_there_is_nothing_to_say_any_more() {
    const POLICY: &str = "---
{kind: BackendTLSPolicy, metadata: {name: p, generation: 4}, spec: {targetRefs: [{group: '', kind: Service, name: web}],
  validation: {hostname: web.example, wellKnownCACertificates: System}}}";
    let (mut statuses, subjects, lines) = judge(POLICY);
    assert!(subjects.contains(&Subject::BackendTlsPolicy(key("p"))), "{subjects:?}");
    let line = "BackendTLSPolicy shop/p at Gateway shop/web: Accepted: Accepted=True Accepted";
    assert!(lines.iter().any(|own| own == line), "{lines:?}");
    let found = statuses.find_policy(&key("p")).unwrap();
    let ancestor = &found.parents[0];
    assert_eq!((found.generation, ancestor.role, found.parents.len()), (Some(4), Role::Gateway, 1));
    let reference = serde_json::to_value(&ancestor.parent_ref).unwrap();
    let expected = json!({"group": GROUP, "kind": "Gateway", "namespace": "shop", "name": "web"});
    assert_eq!(reference, expected);

    // Without a class of ours there is still something to take away; and a policy that is not there is nobody's.
    let without: Vec<&str> =
        OBJECTS.split("---").filter(|text| !text.contains("kind: GatewayClass")).collect();
    let objects = fixture::objects(&format!("{}{POLICY}", without.join("---")));
    let (subjects, _) = statuses.update(&objects, &Changed::everything(&fixture::objects(OBJECTS)));
    assert!(subjects.contains(&Subject::BackendTlsPolicy(key("p"))), "{subjects:?}");
    assert_eq!(statuses.find_policy(&key("p")).unwrap().parents, []);
    let mut new = GatewayStatuses::default();
    new.update(&objects, &Changed::everything(&objects));
    assert_eq!(new.find_policy(&key("p")).unwrap().parents, []);
    let gone = fixture::objects(&without.join("---"));
    new.update(&gone, &Changed::everything(&objects));
    assert!(new.find_policy(&key("p")).is_none());
}
