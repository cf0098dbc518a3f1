//! Plans for Gateways, ListenerSets and GatewayClasses, against statuses as they may be found.

use super::*;
use crate::attach::fixture;
use crate::attach::gateway::Gateways;
use crate::controller::live::{Address, LiveCondition, LiveKind};

const NOW: &str = "2026-11-22T09:00:00Z";
const THEN: &str = "2026-11-21T09:00:00Z";

fn said(kind: &str, status: &str, reason: &str) -> LiveCondition {
    LiveCondition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: "".into(),
        observed_generation: Some(4),
        last_transition_time: THEN.into(),
    }
}

fn condition(kind: ConditionType, status: ConditionStatus, reason: ConditionReason) -> Condition {
    Condition { kind, status, reason, message: String::new(), observed_generation: Some(4) }
}

/// As the CRD's default is.
fn pending() -> Vec<LiveCondition> {
    vec![said("Accepted", "Unknown", "Pending"), said("Programmed", "Unknown", "Pending")]
}

fn accepted() -> Condition {
    condition(ConditionType::Accepted, ConditionStatus::True, ConditionReason::Accepted)
}

fn waiting(reason: ConditionReason) -> Condition {
    condition(ConditionType::Programmed, ConditionStatus::False, reason)
}

fn listener(name: &str, attached_routes: i32) -> ListenerJudgement {
    let resolved =
        condition(ConditionType::ResolvedRefs, ConditionStatus::True, ConditionReason::ResolvedRefs);
    ListenerJudgement {
        name: name.into(),
        kinds: vec![RouteKind::Http, RouteKind::Grpc],
        attached_routes,
        conditions: vec![accepted(), resolved, waiting(ConditionReason::Pending)],
    }
}

fn address(value: &str) -> Address {
    Address { kind: Some("IPAddress".into()), value: value.into() }
}

fn gateway(listeners: Vec<ListenerJudgement>, addresses: &[&str], sets: i32) -> ListenersJudgement {
    let addresses = addresses.iter().map(|value| address(value)).collect();
    ListenersJudgement {
        generation: Some(4),
        conditions: vec![accepted(), waiting(ConditionReason::AddressNotAssigned)],
        listeners,
        holder: Holder::Gateway { addresses, attached_listener_sets: sets },
    }
}

fn right() -> Vec<LiveCondition> {
    vec![said("Accepted", "True", "Accepted"), said("Programmed", "False", "AddressNotAssigned")]
}

fn live_listener(name: &str, attached_routes: i32) -> LiveListener {
    let kind = |kind: &str| LiveKind { group: Some(GROUP.into()), kind: kind.into() };
    LiveListener {
        name: name.into(),
        supported_kinds: vec![kind("HTTPRoute"), kind("GRPCRoute")],
        attached_routes,
        conditions: vec![
            said("Accepted", "True", "Accepted"),
            said("ResolvedRefs", "True", "ResolvedRefs"),
            said("Programmed", "False", "Pending"),
        ],
    }
}

fn live(said: Said) -> Live {
    Live { uid: "u".to_owned(), version: "77".to_owned(), generation: Some(4), said }
}

fn seen(conditions: Option<Vec<LiveCondition>>, listeners: Option<Vec<LiveListener>>) -> Live {
    live(Said::Listeners {
        has_status: conditions.is_some() || listeners.is_some(),
        conditions,
        listeners,
        addresses: None,
        attached_listener_sets: None,
    })
}

/// The operations of a plan behind the version, as `op path`.
#[track_caller]
fn written(plan: &Plan) -> Vec<String> {
    let Plan::Write { patch, .. } = plan else { panic!("nothing is written: {plan:?}") };
    assert_eq!(patch[0], json!({"op": "replace", "path": "/metadata/resourceVersion", "value": "77"}));
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    patch[1..].iter().map(|op| format!("{} {}", word(&op["op"]), word(&op["path"]))).collect()
}

#[track_caller]
fn value(plan: &Plan, place: usize) -> Value {
    let Plan::Write { patch, .. } = plan else { panic!("nothing is written: {plan:?}") };
    patch[place + 1]["value"].clone()
}

const NOTHING: Plan = Plan::Right { left_out: 0 };

#[test]
fn a_gateway_gets_all_of_its_status_and_one_that_is_right_gets_nothing() {
    let judged = gateway(vec![listener("http", 2)], &["10.0.0.1"], 1);
    let plan = plan_listeners(&seen(Some(pending()), None), &judged, NOW);
    assert_eq!(
        written(&plan),
        [
            "replace /status/conditions/0",
            "replace /status/conditions/1",
            "add /status/listeners",
            "add /status/addresses",
            "add /status/attachedListenerSets",
        ]
    );
    assert_eq!(value(&plan, 1)["reason"], "AddressNotAssigned");
    let listener = &value(&plan, 2)[0];
    assert_eq!(
        (&listener["name"], &listener["attachedRoutes"], &listener["supportedKinds"][1]),
        (&json!("http"), &json!(2), &json!({"group": GROUP, "kind": "GRPCRoute"}))
    );
    assert_eq!(listener["conditions"][2]["observedGeneration"], 4);
    assert_eq!(value(&plan, 3), json!([{"type": "IPAddress", "value": "10.0.0.1"}]));
    assert_eq!(value(&plan, 4), 1);
    let there = live(Said::Listeners {
        has_status: true,
        conditions: Some(right()),
        listeners: Some(vec![live_listener("http", 2)]),
        addresses: Some(vec![address("10.0.0.1")]),
        attached_listener_sets: Some(1),
    });
    assert_eq!(plan_listeners(&there, &judged, NOW), NOTHING);
    // What is not there any more is said, too.
    let plan = plan_listeners(&there, &gateway(vec![self::listener("http", 2)], &[], 0), NOW);
    assert_eq!(written(&plan), ["add /status/addresses", "add /status/attachedListenerSets"]);
    assert_eq!((value(&plan, 0), value(&plan, 1)), (json!([]), json!(0)));
    let without = plan_listeners(&seen(None, None), &gateway(Vec::new(), &[], 0), NOW);
    assert_eq!(written(&without), ["add /status", "add /status/conditions"]);
}

#[test]
fn of_listeners_only_what_differs_is_written() {
    let judged = gateway(vec![listener("a", 1), listener("b", 0), listener("new", 0)], &[], 0);
    let mut counted = live_listener("a", 5);
    counted.conditions.insert(1, said("other.io/x", "True", "Y"));
    counted.conditions.push(said("OverlappingTLSConfig", "True", "OverlappingHostnames"));
    let mut kinds = live_listener("b", 0);
    kinds.supported_kinds.pop();
    kinds.conditions[1] = said("ResolvedRefs", "False", "InvalidRouteKinds");
    let listeners = vec![live_listener("gone", 1), counted, live_listener("left", 1), kinds];
    let plan = plan_listeners(&seen(Some(right()), Some(listeners)), &judged, NOW);
    assert_eq!(
        written(&plan),
        [
            "add /status/listeners/1/attachedRoutes",
            "remove /status/listeners/1/conditions/4",
            "add /status/listeners/3/supportedKinds",
            "replace /status/listeners/3/conditions/1",
            "remove /status/listeners/2",
            "remove /status/listeners/0",
            "add /status/listeners/-",
        ]
    );
    assert_eq!(value(&plan, 3)["lastTransitionTime"], NOW);
}

#[test]
fn a_listener_set_has_neither_addresses_nor_sets() {
    let judged = ListenersJudgement { holder: Holder::ListenerSet, ..gateway(Vec::new(), &[], 0) };
    assert_eq!(plan_listeners(&seen(Some(right()), None), &judged, NOW), NOTHING);
    let plan = plan_listeners(&seen(Some(right()), Some(vec![live_listener("a", 0)])), &judged, NOW);
    assert_eq!(written(&plan), ["remove /status/listeners/0"]);
    for generation in [Some(3), Some(5), None] {
        let judged = ListenersJudgement { generation, ..judged.clone() };
        assert_eq!(plan_listeners(&seen(None, None), &judged, NOW), Plan::Wait, "{generation:?}");
    }
}

#[test]
fn a_class_says_what_is_supported_of_which_crds() {
    let class = |parameters: &str| {
        let text = format!(
            "{{kind: GatewayClass, metadata: {{name: a, generation: 4}},
               spec: {{controllerName: gammarus.io/gateway-controller{parameters}}}}}"
        );
        Gateways::new(&fixture::objects(&text)).classes["a"].clone()
    };
    let seen = |conditions: Option<Vec<LiveCondition>>, features: Option<Vec<String>>| {
        live(Said::Class { has_status: conditions.is_some(), conditions, features })
    };
    let pending = || Some(vec![said("Accepted", "Unknown", "Pending")]);
    let plan = plan_class(&seen(pending(), None), &class(""), &Ok(()), NOW);
    assert_eq!(
        written(&plan),
        ["replace /status/conditions/0", "add /status/conditions/-", "add /status/supportedFeatures"]
    );
    assert_eq!(value(&plan, 1)["reason"], "SupportedVersion");
    assert_eq!(value(&plan, 2)[0], json!({"name": GATEWAY_FEATURES[0]}));
    let features = || Some(GATEWAY_FEATURES.map(str::to_owned).to_vec());
    let fine =
        vec![said("Accepted", "True", "Accepted"), said("SupportedVersion", "True", "SupportedVersion")];
    assert_eq!(plan_class(&seen(Some(fine.clone()), features()), &class(""), &Ok(()), NOW), NOTHING);
    let wrong = Err("x is of v1.2.0".to_owned());
    let plan = plan_class(&seen(Some(fine), None), &class(""), &wrong, NOW);
    assert_eq!(written(&plan), ["replace /status/conditions/1"], "nothing is promised of others");
    assert_eq!(
        (&value(&plan, 0)["status"], &value(&plan, 0)["message"]),
        (&json!("False"), &json!("x is of v1.2.0"))
    );
    let refused = class(", parametersRef: {group: '', kind: Secret, name: a}");
    let plan = plan_class(&seen(pending(), features()), &refused, &Ok(()), NOW);
    assert_eq!(
        (&value(&plan, 0)["status"], &value(&plan, 0)["reason"]),
        (&json!("False"), &json!("InvalidParameters"))
    );
}
