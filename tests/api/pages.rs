//! A server that does not stream its lists: they come page by page.

use serde_json::json;

use crate::api_server::ApiServer;
use crate::churn::Editor;
use crate::follower::Follower;

/// More than two pages.
const NAMESPACES: usize = 1_200;

/// How many lists of namespaces, or pages of them, the server was asked for.
fn lists(server: &ApiServer) -> f64 {
    let metrics = server.kubectl(&["get", "--raw", "/metrics"]).output();
    let lists = metrics.lines().filter(|line| {
        let is_list = line.contains("resource=\"namespaces\"") && line.contains("verb=\"LIST\"");
        line.starts_with("apiserver_request_total{") && is_list
    });
    lists.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
}

#[test]
fn a_list_of_several_pages_is_whole_before_anything_is_told_and_goes_on_as_a_watch() {
    let server = ApiServer::start_with(&["--feature-gates=WatchList=false"]);
    let editor = Editor::new(&server.kubeconfig());
    let namespaces = "/api/v1/namespaces";
    for number in 0..NAMESPACES {
        let namespace = json!({"metadata": {"name": format!("n-{number}"), "labels": {"a": "b"}}});
        editor.send("POST", namespaces, "application/json", &namespace);
    }
    let before = lists(&server);
    let follower = Follower::ready(&server.kubeconfig(), None);
    let count = |follower: &Follower| {
        let objects = follower.view.objects();
        objects.namespaces.keys().filter(|key| key.name.starts_with("n-")).count()
    };
    assert_eq!(count(&follower), NAMESPACES);
    let pages = lists(&server) - before;
    assert!(pages >= 3.0, "{pages} pages");
    // What follows the list is told from its version on, and of what it named.
    follower.touched();
    let label = json!({"metadata": {"labels": {"a": "c"}}});
    editor.send("PATCH", "/api/v1/namespaces/n-1199", "application/merge-patch+json", &label);
    let namespace = json!({"metadata": {"name": "n-last"}});
    editor.send("POST", namespaces, "application/json", &namespace);
    follower.wait_until("one more", |follower| count(follower) == NAMESPACES + 1);
    assert_eq!(follower.touched(), 2);
}
