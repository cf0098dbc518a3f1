//! What a parentRef can name: several Services, a port by number or name, and Services that hold no routes.

use super::stage::{ALL_TO_V1, ALL_TO_V2, Stage, WEB, http_route};

/// A Service over both versions, with ports that say different things of what they speak.
const MANY: &str = "
{apiVersion: v1, kind: Service, metadata: {name: many}, spec: {selector: {app: web}, ports: [
  {name: http, port: 80, targetPort: 8080}, {name: second, port: 81, targetPort: 8080},
  {name: third, port: 82, targetPort: 8080}, {name: tcp-raw, port: 83, targetPort: 8080}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: headless}, spec: {clusterIP: None, selector: {app: web}, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: elsewhere}, spec: {type: ExternalName, externalName: example.com}}
---
";

fn parent(rest: &str) -> String {
    format!("{{group: '', kind: Service, {rest}}}")
}

/// Both versions answer there: no route holds.
#[track_caller]
fn check_plain(stage: &Stage, url: &str) {
    let counts = stage.count("client", url, 40);
    assert!(counts.keys().eq(["200 v1", "200 v2"]), "{url} is routed: {counts:?}");
}

#[test]
fn a_parent_can_be_narrowed_to_a_port_by_number_or_name() {
    let mut stage = Stage::set();
    stage.apply(MANY);
    stage.apply(
        &(http_route("shop/by-number", &parent("name: many, port: 81"), ALL_TO_V1)
            + &http_route("shop/by-name", &parent("name: many, sectionName: third"), ALL_TO_V2)),
    );
    check_plain(&stage, "http://many/");
    stage.check("client", &["http://many:81/"], "200 v1");
    stage.check("client", &["http://many:82/"], "200 v2");
    check_opaque(&stage, "http://many:83/");

    stage.apply(&http_route(
        "shop/by-number",
        &parent("name: many, port: 81, sectionName: third"),
        ALL_TO_V1,
    ));
    stage
        .check_conditions("HTTPRoute shop/by-number", &["Accepted=False NoMatchingParent", "81 named third"]);
    check_plain(&stage, "http://many:81/");
    stage.apply(&http_route("shop/by-number", &parent("name: many, port: 84"), ALL_TO_V1));
    stage
        .check_conditions("HTTPRoute shop/by-number", &["Accepted=False NoMatchingParent", "no TCP port 84"]);
}

#[test]
fn a_route_with_several_parents_holds_on_each_and_what_is_wrong_with_one_stays_there() {
    let mut stage = Stage::set();
    stage.apply(MANY);
    let parents = [WEB.to_owned(), parent("name: many, port: 80"), parent("name: nobody")].join(", ");
    let applied = stage.apply(&http_route("shop/route", &parents, ALL_TO_V2));
    stage.check("client", &["http://web/"], "200 v2");
    stage.check("client", &["http://many/"], "200 v2");
    check_plain(&stage, "http://many:81/");
    let conditions = stage.conditions("HTTPRoute shop/route");
    assert_eq!(conditions.len(), 3, "{conditions:?}");
    assert!(conditions[0].contains("Accepted=True Accepted"), "{conditions:?}");
    assert!(conditions[1].contains("Accepted=True Accepted"), "{conditions:?}");
    assert!(
        conditions[2].contains("Accepted=False NoMatchingParent Service shop/nobody does not exist"),
        "{conditions:?}"
    );

    // A parent that is taken from the route is let go.
    stage.apply(&http_route("shop/route", WEB, ALL_TO_V2));
    check_plain(&stage, "http://many/");
    stage.check("client", &["http://web/"], "200 v2");
    stage.delete(&applied);
    check_plain(&stage, "http://web/");
}

#[test]
fn a_port_declared_as_another_protocol_beats_the_route() {
    let mut stage = Stage::set();
    stage.apply(MANY);
    stage.apply(&http_route("shop/route", &parent("name: many"), ALL_TO_V1));
    stage.check_conditions("HTTPRoute shop/route", &["Accepted=True", "port 83 is declared as tcp"]);
    for port in 80..=82 {
        stage.check("client", &[&format!("http://many:{port}/")], "200 v1");
    }
    check_opaque(&stage, "http://many:83/");
    stage.apply(&http_route("shop/route", &parent("name: many, port: 83"), ALL_TO_V1));
    stage.check_conditions("HTTPRoute shop/route", &["Accepted=False", "port 83 is declared as tcp"]);
    check_opaque(&stage, "http://many:83/");
    check_plain(&stage, "http://many/");
}

/// Connections, not requests, are dealt to both versions there.
#[track_caller]
fn check_opaque(stage: &Stage, url: &str) {
    let answers: Vec<String> = (0..24).map(|_| stage.ask("client", &[url])).collect();
    assert!(answers.iter().any(|answer| answer == "200 v1"), "{url}: {answers:?}");
    assert!(answers.iter().any(|answer| answer == "200 v2"), "{url}: {answers:?}");
    let connection = stage.count("client", url, 12);
    assert_eq!(connection.len(), 1, "one connection to {url} was split: {connection:?}");
}

#[test]
fn services_without_an_address_of_their_own_hold_no_routes() {
    let mut stage = Stage::set();
    stage.apply(MANY);
    let mistaken = "{group: gateway.networking.k8s.io, kind: Service, name: web}";
    for (parent, expected) in [
        (parent("name: headless"), "Accepted=False NoMatchingParent Service shop/headless is headless"),
        (
            parent("name: elsewhere"),
            "Accepted=False NoMatchingParent Service shop/elsewhere is of type ExternalName",
        ),
        (parent("name: nobody"), "Accepted=False NoMatchingParent Service shop/nobody does not exist"),
        (mistaken.to_owned(), "Accepted=False NoMatchingParent kind Service is in the core group"),
    ] {
        stage.apply(&http_route("shop/route", &parent, ALL_TO_V1));
        stage.check_conditions("HTTPRoute shop/route", &[expected]);
        check_plain(&stage, "http://web/");
    }
    // A pod behind a headless Service is reached by its own address, as ever.
    stage.apply(&http_route("shop/route", &parent("name: headless"), ALL_TO_V1));
    let address = stage.world.running_pod("v2").unwrap().addresses[0];
    stage.check("client", &[&format!("http://{address}:8080/")], "200 v2");
}
