//! Plans against statuses as they may be found.

use super::*;
use crate::attach::{ConditionReason, ConditionStatus, ConditionType};

const NOW: &str = "2026-11-22T09:00:00Z";
const THEN: &str = "2026-11-21T09:00:00Z";

fn parent_ref(name: &str) -> ParentRef {
    ParentRef {
        group: Some(String::new()),
        kind: Some("Service".to_owned()),
        name: name.to_owned(),
        namespace: None,
        port: Some(80),
        section_name: None,
    }
}

fn condition(kind: ConditionType, status: ConditionStatus, reason: ConditionReason) -> Condition {
    Condition { kind, status, reason, message: "m".to_owned(), observed_generation: Some(4) }
}

fn parent(name: &str) -> JudgedParent {
    JudgedParent {
        role: Role::Mesh,
        parent_ref: parent_ref(name),
        conditions: vec![
            condition(ConditionType::Accepted, ConditionStatus::True, ConditionReason::Accepted),
            condition(ConditionType::ResolvedRefs, ConditionStatus::True, ConditionReason::ResolvedRefs),
        ],
    }
}

fn judged(parents: Vec<JudgedParent>) -> Judgement {
    Judgement { generation: Some(4), parents }
}

fn said(kind: &str, status: &str, reason: &str) -> LiveCondition {
    LiveCondition {
        kind: kind.into(),
        status: status.into(),
        reason: reason.into(),
        message: "m".into(),
        observed_generation: Some(4),
        last_transition_time: THEN.into(),
    }
}

fn own(name: &str, conditions: Vec<LiveCondition>) -> LiveEntry {
    LiveEntry::Own { role: Role::Mesh, parent_ref: parent_ref(name), conditions }
}

fn right(name: &str) -> LiveEntry {
    own(name, vec![said("Accepted", "True", "Accepted"), said("ResolvedRefs", "True", "ResolvedRefs")])
}

fn route(entries: Option<Vec<LiveEntry>>) -> Live {
    Live { uid: "u".to_owned(), version: "77".to_owned(), generation: Some(4), said: Said::Entries(entries) }
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

#[test]
fn a_route_without_status_gets_one_and_one_that_is_right_gets_nothing() {
    let judged = judged(vec![parent("a"), parent("b")]);
    let plan = plan_route(&route(None), &judged, NOW);
    assert_eq!(written(&plan), ["add /status"]);
    let entries = &value(&plan, 0)["parents"];
    assert_eq!(entries[0]["controllerName"], CONTROLLER_NAME);
    assert_eq!(entries[1]["parentRef"], json!({"group": "", "kind": "Service", "name": "b", "port": 80}));
    assert_eq!(
        entries[0]["conditions"][0],
        json!({"type": "Accepted", "status": "True", "reason": "Accepted", "message": "m",
               "observedGeneration": 4, "lastTransitionTime": NOW})
    );
    let there = route(Some(vec![right("b"), LiveEntry::Foreign, right("a")]));
    assert_eq!(plan_route(&there, &judged, NOW), Plan::Right { left_out: 0 }, "in whatever order");
    assert_eq!(
        plan_route(&route(None), &Judgement { generation: Some(4), parents: vec![] }, NOW),
        Plan::Right { left_out: 0 }
    );
}

#[test]
fn only_what_differs_is_written_and_the_time_is_of_the_transition() {
    let judged = judged(vec![parent("a")]);
    let mut accepted = said("Accepted", "True", "Accepted");
    accepted.observed_generation = Some(3);
    let conditions =
        vec![said("other.io/x", "True", "Y"), accepted, said("ResolvedRefs", "False", "BackendNotFound")];
    let plan = plan_route(&route(Some(vec![LiveEntry::Foreign, own("a", conditions)])), &judged, NOW);
    assert_eq!(
        written(&plan),
        ["replace /status/parents/1/conditions/1", "replace /status/parents/1/conditions/2"]
    );
    assert_eq!(value(&plan, 0)["lastTransitionTime"], THEN, "its status is what it was");
    assert_eq!(value(&plan, 1)["lastTransitionTime"], NOW);
}

#[test]
fn what_is_no_longer_so_is_removed_from_the_end_and_others_is_left() {
    let wrong = own(
        "a",
        vec![
            said("PartiallyInvalid", "True", "UnsupportedValue"),
            said("Accepted", "True", "Accepted"),
            said("other.io/x", "True", "Y"),
            said("ResolvedRefs", "True", "ResolvedRefs"),
            said("Accepted", "True", "Accepted"),
        ],
    );
    let live = route(Some(vec![right("gone"), LiveEntry::Foreign, wrong, right("a"), LiveEntry::Foreign]));
    let plan = plan_route(&live, &judged(vec![parent("a"), parent("new")]), NOW);
    assert_eq!(
        written(&plan),
        [
            "remove /status/parents/2/conditions/4",
            "remove /status/parents/2/conditions/0",
            "remove /status/parents/3",
            "remove /status/parents/0",
            "add /status/parents/-",
        ]
    );
    let none = plan_route(&live, &judged(Vec::new()), NOW);
    assert_eq!(
        written(&none),
        ["remove /status/parents/3", "remove /status/parents/2", "remove /status/parents/0"]
    );
}

#[test]
fn what_is_said_of_gateways_stands_beside_what_is_said_of_services() {
    let of_gateway = |name: &str| JudgedParent { role: Role::Gateway, ..parent(name) };
    let mesh = right("a");
    let LiveEntry::Own { parent_ref, conditions, .. } = right("a") else { panic!("an entry of ours") };
    let gateway = LiveEntry::Own { role: Role::Gateway, parent_ref, conditions };
    let both = judged(vec![parent("a"), of_gateway("a")]);
    let plan = plan_route(&route(Some(vec![mesh.clone()])), &both, NOW);
    assert_eq!(written(&plan), ["add /status/parents/-"]);
    assert_eq!(value(&plan, 0)["controllerName"], GATEWAY_CONTROLLER_NAME);
    let there = route(Some(vec![gateway, LiveEntry::Foreign, mesh]));
    assert_eq!(plan_route(&there, &both, NOW), Plan::Right { left_out: 0 });
    assert_eq!(written(&plan_route(&there, &judged(vec![parent("a")]), NOW)), ["remove /status/parents/0"]);
    assert_eq!(
        written(&plan_route(&there, &judged(vec![of_gateway("a")]), NOW)),
        ["remove /status/parents/2"]
    );
    for role in [Role::Gateway, Role::Mesh] {
        assert_eq!(Role::find(role.controller_name()), Some(role));
    }
    assert_eq!(Role::find("example.com/other"), None);
}

#[test]
fn another_version_than_was_judged_is_waited_for() {
    let live = route(None);
    for generation in [Some(3), Some(5), None] {
        let judged = Judgement { generation, parents: vec![parent("a")] };
        assert_eq!(plan_route(&live, &judged, NOW), Plan::Wait, "{generation:?}");
    }
    let mut later = said("Accepted", "False", "NoMatchingParent");
    later.observed_generation = Some(5);
    let live = route(Some(vec![own("a", vec![later, said("ResolvedRefs", "False", "InvalidKind")])]));
    let plan = plan_route(&live, &judged(vec![parent("a")]), NOW);
    assert_eq!(
        written(&plan),
        ["replace /status/parents/0/conditions/1"],
        "and not what knows more than we do"
    );
}

#[test]
fn neighbours_are_never_driven_out() {
    let full: Vec<_> = (0..31).map(|_| LiveEntry::Foreign).collect();
    let parents = || vec![parent("a"), parent("b"), parent("c")];
    let plan = plan_route(&route(Some(full.clone())), &judged(parents()), NOW);
    assert_eq!(written(&plan), ["add /status/parents/-"]);
    assert!(matches!(plan, Plan::Write { left_out: 2, .. }));
    let full: Vec<_> = full.into_iter().chain([right("a")]).collect();
    assert_eq!(plan_route(&route(Some(full.clone())), &judged(parents()), NOW), Plan::Right { left_out: 2 });
    // What goes makes room for what comes.
    let plan = plan_route(&route(Some(full)), &judged(vec![parent("b")]), NOW);
    assert_eq!(written(&plan), ["remove /status/parents/31", "add /status/parents/-"]);
    let others: Vec<_> = (0..7).map(|number| said(&format!("other.io/{number}"), "True", "Y")).collect();
    let plan = plan_route(&route(Some(vec![own("a", others)])), &judged(vec![parent("a")]), NOW);
    assert_eq!(written(&plan), ["add /status/parents/0/conditions/-"]);
    assert_eq!(value(&plan, 0)["type"], "Accepted", "the one that matters most");
}

#[test]
fn messages_fit_one_by_one_and_together() {
    let mut long = parent("a");
    long.conditions[1].message = "ä".repeat(40_000);
    let plan = plan_route(&route(None), &judged(vec![long.clone()]), NOW);
    let message = value(&plan, 0)["parents"][0]["conditions"][1]["message"].as_str().unwrap().to_owned();
    assert!(message.len() <= 32 * 1024 && message.starts_with('ä'), "{}", message.len());
    let kept = message.find("...").unwrap();
    assert_eq!(message[kept..], format!("... ({} more bytes)", 80_000 - kept));
    long.conditions[0].message = "x".repeat(40_000);
    let parents: Vec<_> = (0..32)
        .map(|index: u32| JudgedParent { parent_ref: parent_ref(&index.to_string()), ..long.clone() })
        .collect();
    let plan = plan_route(&route(None), &judged(parents), NOW);
    assert!(value(&plan, 0).to_string().len() < 300 * 1024);
}

fn mesh(conditions: Option<Vec<LiveCondition>>, features: Option<Vec<String>>) -> Live {
    let said = Said::Mesh {
        is_own: true,
        has_parameters: false,
        has_status: conditions.is_some() || features.is_some(),
        conditions,
        features,
    };
    Live { uid: "u".to_owned(), version: "77".to_owned(), generation: Some(4), said }
}

#[test]
fn a_mesh_of_ours_says_what_it_does() {
    let pending = || vec![said("Accepted", "Unknown", "Pending"), said("Programmed", "Unknown", "Pending")];
    let plan = plan_mesh(&mesh(Some(pending()), None), NOW);
    assert_eq!(written(&plan), ["replace /status/conditions/0", "add /status/supportedFeatures"]);
    assert_eq!(value(&plan, 0)["status"], "True");
    assert_eq!(value(&plan, 1)[7], json!({"name": "Mesh"}));
    let features = || Some(SUPPORTED_FEATURES.map(str::to_owned).to_vec());
    let mut accepted = said("Accepted", "True", "Accepted");
    accepted.message = "".into();
    assert_eq!(plan_mesh(&mesh(Some(vec![accepted]), features()), NOW), Plan::Right { left_out: 0 });
    assert_eq!(
        written(&plan_mesh(&mesh(None, None), NOW)),
        ["add /status", "add /status/conditions", "add /status/supportedFeatures"]
    );
    let mut with_parameters = mesh(Some(pending()), features());
    if let Said::Mesh { has_parameters, .. } = &mut with_parameters.said {
        *has_parameters = true;
    }
    let plan = plan_mesh(&with_parameters, NOW);
    assert_eq!(
        (value(&plan, 0)["status"].clone(), value(&plan, 0)["reason"].clone()),
        (json!("False"), json!("InvalidParameters"))
    );
    let mut foreign = mesh(None, None);
    if let Said::Mesh { is_own, .. } = &mut foreign.said {
        *is_own = false;
    }
    assert_eq!(plan_mesh(&foreign, NOW), Plan::Right { left_out: 0 });
}

#[test]
fn a_policy_has_its_entries_by_ancestor_and_room_for_sixteen() {
    let policy = |entries| Live { said: Said::Entries(entries), ..route(None) };
    let ancestor = |name: &str| JudgedParent { role: Role::Gateway, ..parent(name) };
    let plan = plan_policy(&policy(None), &judged(vec![ancestor("a")]), NOW);
    assert_eq!(written(&plan), ["add /status"]);
    let entry = &value(&plan, 0)["ancestors"][0];
    assert_eq!((&entry["ancestorRef"]["name"], &entry["parentRef"]), (&json!("a"), &Value::Null));
    assert_eq!(entry["controllerName"], GATEWAY_CONTROLLER_NAME);

    let of_gateway = |name: &str| match right(name) {
        LiveEntry::Own { parent_ref, conditions, .. } => {
            LiveEntry::Own { role: Role::Gateway, parent_ref, conditions }
        }
        LiveEntry::Foreign => LiveEntry::Foreign,
    };
    let there = policy(Some(vec![of_gateway("gone"), LiveEntry::Foreign, of_gateway("a")]));
    let plan = plan_policy(&there, &judged(vec![ancestor("a"), ancestor("b")]), NOW);
    assert_eq!(written(&plan), ["remove /status/ancestors/0", "add /status/ancestors/-"]);
    assert_eq!(
        plan_policy(&there, &judged(vec![ancestor("a"), ancestor("gone")]), NOW),
        Plan::Right { left_out: 0 }
    );

    let full = policy(Some(vec![LiveEntry::Foreign; 15]));
    let plan = plan_policy(&full, &judged(vec![ancestor("a"), ancestor("b")]), NOW);
    assert_eq!(written(&plan), ["add /status/ancestors/-"]);
    assert!(matches!(plan, Plan::Write { left_out: 1, .. }));
}
