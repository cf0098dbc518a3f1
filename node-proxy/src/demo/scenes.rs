//! The scenes: each applies a file of `manifests/demo/`, types requests in pods and checks the answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use super::command::until;
use super::fault::DemoError;
use super::objects::fresh_uid;
use super::pod::APP_PORT;
use super::screen::{differs, unless};
use super::story::{Story, answerer};

/// What is there before the first scene.
pub(crate) const STAGE: [(&str, &str); 2] = [
    ("namespaces.yaml", include_str!("../../../manifests/demo/namespaces.yaml")),
    ("services.yaml", include_str!("../../../manifests/demo/services.yaml")),
];
const HEADER_ROUTE: &str = include_str!("../../../manifests/demo/header-route.yaml");
const SPLIT_ROUTE: &str = include_str!("../../../manifests/demo/split-route.yaml");
const CONSUMER_ROUTE: &str = include_str!("../../../manifests/demo/consumer-route.yaml");
const MATCH_ROUTE: &str = include_str!("../../../manifests/demo/match-route.yaml");

const FILTER_ROUTE: &str = include_str!("../../../manifests/demo/filter-route.yaml");
const TCP_ROUTE: &str = include_str!("../../../manifests/demo/tcp-route.yaml");
const OUTSIDE_JOINS: &str = include_str!("../../../manifests/demo/outside-joins.yaml");

const SERVER: &str = "http://my-server";
const FROM_CHECKOUT: &str = "http://my-server.shop";
const V1: &str = "my-server-v1";
const V2: &str = "my-server-v2";
/// Prints the status after the answer.
const WITH_STATUS: [&str; 4] = ["-o", "/dev/null", "-w", "%{http_code}:"];

/// Counts who answered, line by line.
fn count(answers: &str) -> BTreeMap<&str, usize> {
    let mut counts = BTreeMap::new();
    for line in answers.lines() {
        *counts.entry(answerer(line)).or_default() += 1;
    }
    counts
}

pub(crate) fn no_route(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("No route: a Service is its endpoints");
    let first = || story.ask("client", &[SERVER]).is_ok_and(|answer| answer.starts_with("my-server-v"));
    let _checked_next = until(Duration::from_secs(30), first);
    let answer = story.curl("client", &[SERVER])?;
    let addresses = &story.world.running_pod("client")?.addresses;
    let kept = addresses.iter().any(|address| answer.trim_end().ends_with(&format!("from {address}")));
    story.screen.check("the application sees the client's own address", unless(kept, answer.trim()));
    let answers = story.curl("client", &["http://my-server/?n=[1-60]"])?;
    let counts = count(&answers);
    let both = counts.keys().copied().eq([V1, V2]) && counts.values().sum::<usize>() == 60;
    story.screen.check("60 requests are answered by both versions", unless(both, format!("{counts:?}")));
    Ok(())
}

pub(crate) fn header_route(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("A route by header: `version: new` goes to v2, the rest to v1");
    story.apply("header-route.yaml", HEADER_ROUTE)?;
    story.settle("client", &["-H", "version: new", SERVER], V2);
    story.expect("client", &["-H", "version: new", SERVER], V2, "`version: new` goes to v2")?;
    let claim = "`Version: new` does, too: header names have no case";
    story.expect("client", &["-H", "Version: new", SERVER], V2, claim)?;
    story.expect("client", &["-H", "version: New", SERVER], V1, "`version: New` does not: values do")?;
    story.expect("client", &["-H", "version: old", SERVER], V1, "`version: old` goes to v1")?;
    story.expect("client", &[SERVER], V1, "without the header it is v1")?;
    let rest = story.ask("client", &["http://my-server/?n=[1-40]"])?;
    let new = story.ask("client", &["-H", "version: new", "http://my-server/?n=[1-40]"])?;
    let claim = "40 more of each go nowhere else";
    let seen = format!("{:?} and {:?}", count(&rest), count(&new));
    let clean = count(&rest) == BTreeMap::from([(V1, 40)]) && count(&new) == BTreeMap::from([(V2, 40)]);
    story.screen.check(claim, unless(clean, seen));
    Ok(())
}

pub(crate) fn split(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("A split: 90 to 10");
    story.apply("split-route.yaml", SPLIT_ROUTE)?;
    // The old route sent every one of these to v2.
    story.settle("client", &["-H", "version: new", SERVER], V1);
    let answers = story.curl("client", &["http://my-server/?n=[1-500]"])?;
    let counts = count(&answers);
    let [v1, v2] = [V1, V2].map(|version| counts.get(version).copied().unwrap_or_default());
    story.screen.say(&format!("  v1 answered {v1}, v2 answered {v2}"));
    story.screen.check("every request was answered", differs("500", &(v1 + v2).to_string()));
    // 50 are expected with a deviation of 6.7: beyond five of those it is not chance.
    let claim = "v2 had about a tenth, between 17 and 83";
    story.screen.check(claim, unless((17..=83).contains(&v2), format!("it had {v2}")));
    Ok(())
}

pub(crate) fn consumer_route(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("A consumer route: the clients of one namespace have rules of their own");
    story.apply("header-route.yaml", HEADER_ROUTE)?;
    story.settle("client", &["-H", "version: new", SERVER], V2);
    story.expect("buyer", &[FROM_CHECKOUT], V1, "before it, checkout follows the rules of shop")?;
    story.apply("consumer-route.yaml", CONSUMER_ROUTE)?;
    let buy = format!("{FROM_CHECKOUT}/buy");
    story.settle("buyer", &[&buy], V2);
    story.expect("buyer", &[&buy], V2, "a client in checkout gets v2")?;
    let new = ["-H", "version: new"];
    let not_found = [&WITH_STATUS[..], &new, &[FROM_CHECKOUT]].concat();
    let claim = "the rules of shop no longer hold for it: no match is 404, with no fall-through";
    story.expect("buyer", &not_found, "404", claim)?;
    story.expect("client", &["http://my-server/buy"], V1, "a client in shop still gets v1 by default")?;
    story.expect("client", &[&new[..], &[SERVER]].concat(), V2, "... and v2 by the header")
}

pub(crate) fn path_query_method(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("Path, query and method");
    story.apply("match-route.yaml", MATCH_ROUTE)?;
    story.settle("client", &["http://my-server/v2"], V2);
    let url = |rest: &str| format!("{SERVER}{rest}");
    story.expect("client", &[&url("/v2")], V2, "/v2 goes to v2")?;
    story.expect("client", &[&url("/v2/items")], V2, "/v2/items does: a prefix is of whole segments")?;
    story.expect("client", &[&url("/v20")], V1, "/v20 does not")?;
    story.expect("client", &[&url("/?version=new")], V2, "?version=new goes to v2")?;
    story.expect("client", &[&url("/?version=newer")], V1, "?version=newer does not")?;
    story.expect("client", &["-X", "POST", &url("/")], V2, "a POST goes to v2")?;
    story.expect("client", &["-X", "PUT", &url("/")], V1, "a PUT goes to v1")
}

pub(crate) fn filters(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("Filters: a redirect, a rewrite, a header");
    story.apply("filter-route.yaml", FILTER_ROUTE)?;
    let (old, new) = (format!("{SERVER}/old/items"), format!("{SERVER}/api/items"));
    story.settle("client", &[&new], V2);
    let moved = story.curl("client", &["-o", "/dev/null", "-w", "%{http_code} %{redirect_url}", &old])?;
    let claim = "/old is redirected to where it has moved";
    story.screen.check(claim, differs(&format!("301 {new}"), moved.trim()));
    let told = story.curl("client", &["-L", "-H", "Accept: application/json", &old])?;
    let told: serde_json::Value = serde_json::from_str(&told).unwrap_or_default();
    for (claim, expected, seen) in [
        ("a client that follows gets v2", V2, &told["name"]),
        ("... which was asked for the path that it knows", "/items", &told["target"]),
        ("... and told by which entrance the request came", "api", &told["headers"]["x-entrance"][0]),
    ] {
        story.screen.check(claim, differs(expected, seen.as_str().unwrap_or_default()));
    }
    Ok(())
}

pub(crate) fn connections(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("A TCPRoute: connections by weight, whatever is spoken on them");
    story.apply("tcp-route.yaml", TCP_ROUTE)?;
    // Without the route, port 9000 would be HTTP like any other, request by request.
    let is_one_s = |answers: &str| count(answers).into_values().eq([40]);
    let kept = ["http://my-server:9000/?n=[1-40]"];
    let in_effect = || story.ask("client", &kept).is_ok_and(|answers| is_one_s(&answers));
    let _checked_next = until(Duration::from_secs(10), in_effect);
    let answers = story.curl("client", &kept)?;
    let claim = "40 requests on one connection have one backend";
    story.screen.check(claim, unless(is_one_s(&answers), format!("{:?}", count(&answers))));
    let answers = story.curl("client", &["-H", "Connection: close", kept[0]])?;
    let counts = count(&answers);
    story.screen.say(&format!("  connections of each: {counts:?}"));
    // That all of 40 fall on one side happens once in 550 billion times.
    let both = counts.keys().copied().eq([V1, V2]) && counts.values().sum::<usize>() == 40;
    story.screen.check("40 connections have both", unless(both, "they had not"));
    Ok(())
}

pub(crate) fn identities(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("Who spoke with whom: both nodes have the proven identities");
    story
        .screen
        .say("A pod that comes, asks once, and goes, so that its connection is written down as ended.");
    let passer = story.world.pod("passer-by").namespace("shop").service_account("passer-by").on("node-a");
    passer.start()?;
    let path = format!("/identities-{}", fresh_uid()?);
    let answer = story.curl("passer-by", &[&format!("{SERVER}{path}")])?;
    story.screen.check("it is answered", differs(V1, answerer(&answer)));
    let addresses = story.world.running_pod("passer-by")?.addresses.clone();
    story.world.remove_pod("passer-by")?;

    let client = "spiffe://cluster.local/ns/shop/sa/passer-by";
    let server = "spiffe://cluster.local/ns/shop/sa/my-server";
    let mut of_client = None;
    let mut of_server = None;
    let _checked_next = until(Duration::from_secs(20), || {
        of_client = find_line(story, "node-a", |line| line.contains(&path));
        let ours = |line: &str| addresses.iter().any(|address| line.contains(&address.to_string()));
        of_server = find_line(story, "node-b", |line| ours(line) && line.contains(client));
        of_client.is_some() && of_server.is_some()
    });
    for (node, line) in [("node-a", of_client), ("node-b", of_server)] {
        story.screen.typed(node, "tail -1 access.log");
        let line = line.unwrap_or_default();
        story.screen.shown(&line, 1);
        let both = line.contains(client) && line.contains(server);
        let claim = format!("{node} has written both identities of the hop");
        story.screen.check(&claim, unless(both, "no such line"));
    }
    Ok(())
}

/// The last scene: nothing is outside any more when it has been played.
pub(crate) fn running_pods_join(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("A label: pods that run already join, and nobody restarts them");
    story.apply("outside-joins.yaml", OUTSIDE_JOINS)?;
    let server = story.world.running_pod("outside-server")?.addresses[0];
    let server = format!("http://{}", SocketAddr::new(server, APP_PORT));
    story
        .screen
        .say("For a moment they still speak plain text, lest a node that hears of it late is surprised.");
    let identity = "spiffe://cluster.local/ns/outside/sa/default";
    let speaks_as_itself = || {
        let proven = |line: &str| line.contains("dst.workload=outside-server") && line.contains(identity);
        story.ask("outsider", &[&server]).is_ok() && find_line(story, "node-a", proven).is_some()
    };
    let joined = until(Duration::from_secs(60), speaks_as_itself);
    story.screen.check("their connections have identities", unless(joined, "they stayed outside"));
    let capture = story.world.capture()?;
    let markers = Markers::new()?;
    let answer = markers.send(story, "outsider", &server)?;
    story
        .screen
        .check("the same request as before is answered", differs("outside-server", answerer(&answer)));
    let recording = capture.stop()?;
    for (what, marker) in markers.each() {
        let claim = format!("the {what} that could be read before cannot be any more");
        story.screen.check(&claim, unless(!recording.shows(marker), format!("{marker} is there")));
    }
    Ok(())
}

fn find_line(story: &Story, node: &str, is_it: impl Fn(&str) -> bool) -> Option<String> {
    let log = story.world.access_log(node).ok()?;
    log.lines().find(|line| is_it(line)).map(str::to_owned)
}

pub(crate) fn capture(story: &mut Story) -> Result<(), DemoError> {
    story.screen.scene("Between the nodes: what a listener on the wire can read");
    story.screen.typed("fabric", "tcpdump -i any -w fabric.pcap tcp");
    let capture = story.world.capture()?;
    let [meshed, plain] = [Markers::new()?, Markers::new()?];
    let answer = meshed.send(story, "client", SERVER)?;
    story.screen.check("the request in the mesh is answered", differs(V1, answerer(&answer)));
    let server = story.world.running_pod("outside-server")?.addresses[0];
    let outside = format!("http://{}", SocketAddr::new(server, APP_PORT));
    let answer = plain.send(story, "outsider", &outside)?;
    let claim = "the same request outside the mesh is answered";
    story.screen.check(claim, differs("outside-server", answerer(&answer)));
    let recording = capture.stop()?;

    let mut packets = 0;
    let [client, server] = ["client", V1].map(|pod| story.world.running_pod(pod));
    for (one, other) in client?.addresses.iter().zip(&server?.addresses) {
        packets += recording.packets(*one, *other)?;
    }
    story.screen.say(&format!("  {packets} packets with bytes in them between client and {V1}"));
    story.screen.check("the capture saw the mesh's own packets", unless(packets > 0, "there were none"));
    for (what, marker) in plain.each() {
        let claim = format!("control: outside the mesh the {what} can be read");
        story.screen.check(&claim, unless(recording.shows(marker), format!("{marker} is not there")));
    }
    for (what, marker) in meshed.each() {
        let claim = format!("in the mesh the {what} cannot");
        story.screen.check(&claim, unless(!recording.shows(marker), format!("{marker} is there")));
    }
    Ok(())
}

/// Texts that occur nowhere else, one for each part of a request.
struct Markers {
    path: String,
    header: String,
    body: String,
}

impl Markers {
    fn new() -> Result<Self, DemoError> {
        Ok(Self {
            path: format!("path-{}", fresh_uid()?),
            header: format!("header-{}", fresh_uid()?),
            body: format!("body-{}", fresh_uid()?),
        })
    }

    fn send(&self, story: &Story, pod: &str, server: &str) -> Result<String, DemoError> {
        let header = format!("x-marker: {}", self.header);
        story.curl(pod, &["-H", &header, "-d", &self.body, &format!("{server}/{}", self.path)])
    }

    fn each(&self) -> [(&'static str, &str); 3] {
        [("path", &self.path), ("header", &self.header), ("body", &self.body)]
    }
}
