//! Envoy, with an HTTP/1.1 hop and with one of HTTP/2; where `ENVOY` names its program.

use node_proxy::demo::command::Process;
use serde_json::{Value, json};

use crate::contender::{Contender, HopVersion};
use crate::stage::{BACKEND_PORT, Bare, Stage};

/// Requests and connections at a time: more than any work has.
const MOST: u32 = 100_000;

/// A pair that routes by header on the client's side and checks the SPIFFE ID of its peer, as the mesh does.
pub(crate) fn contend(bare: &Bare, program: &str, version: HopVersion) -> Contender {
    let (name, client_port, server_port, base) = match version {
        HopVersion::Http1 => ("envoy-h1", 9004, 9444, 10),
        HopVersion::Http2 => ("envoy-h2", 9005, 9445, 20),
    };
    let hop = |cluster: &str| {
        let place = (bare.server_address().to_string(), server_port);
        with(
            self::cluster(cluster, place, version),
            "transport_socket",
            &tls(bare, ("client", "Upstream"), version),
        )
    };
    let routes = json!([
        {"match": {"prefix": "/", "headers": [{"name": "version", "string_match": {"exact": "new"}}]},
         "route": {"cluster": "new", "timeout": "0s"}},
        {"match": {"prefix": "/"}, "route": {"cluster": "old", "timeout": "0s"}},
    ]);
    let client = json!({"static_resources": {
        "listeners": [listener(bare, (name, "client"), ("127.0.0.1", client_port), (&routes, None))],
        "clusters": [hop("old"), hop("new")],
    }});
    let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "app", "timeout": "0s"}}]);
    let own = tls(bare, ("server", "Downstream"), version);
    let server = json!({"static_resources": {
        "listeners": [listener(bare, (name, "server"), ("0.0.0.0", server_port), (&routes, Some(&own)))],
        "clusters": [cluster("app", ("127.0.0.1".to_owned(), BACKEND_PORT), HopVersion::Http1)],
    }});
    let mut running = Vec::new();
    for (pod, side, config, id) in
        [(Stage::PEER_SERVER, "server", server, base), (Stage::PEER_CLIENT, "client", client, base + 1)]
    {
        let name = format!("{name}-{side}");
        let config = bare.write(&format!("{name}.json"), &config.to_string());
        let id = id.to_string();
        let argv = [
            program,
            "-c",
            &config,
            "--concurrency",
            "1",
            "--base-id",
            &id,
            "--disable-hot-restart",
            "-l",
            "warn",
        ];
        running.push(bare.world.spawn(pod, &name, &argv).unwrap());
    }
    Contender {
        name,
        version: bare.version(&[program, "--version"]),
        client: Stage::PEER_CLIENT,
        origin: format!("http://127.0.0.1:{client_port}"),
        processes: running.iter().map(Process::id).collect(),
        _running: running,
    }
}

fn with(mut object: Value, field: &str, value: &Value) -> Value {
    object[field] = value.clone();
    object
}

fn extension(kind: &str) -> String {
    format!("type.googleapis.com/envoy.extensions.{kind}")
}

fn address((host, port): (&str, u16)) -> Value {
    json!({"socket_address": {"address": host, "port_value": port}})
}

fn listener(
    bare: &Bare,
    (name, side): (&str, &str),
    place: (&str, u16),
    (routes, tls): (&Value, Option<&Value>),
) -> Value {
    let log = bare.file(&format!("{name}-{side}.access"));
    let manager = json!({
        "@type": extension("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": side, "codec_type": "AUTO", "generate_request_id": false,
        "access_log": [{"name": "file", "typed_config": {
            "@type": extension("access_loggers.file.v3.FileAccessLog"), "path": log}}],
        "http_filters": [{"name": "router", "typed_config": {
            "@type": extension("filters.http.router.v3.Router")}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    let chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    let chain = tls.map_or_else(|| chain.clone(), |tls| with(chain.clone(), "transport_socket", tls));
    json!({"name": side, "address": address(place), "filter_chains": [chain]})
}

fn cluster(name: &str, (host, port): (String, u16), version: HopVersion) -> Value {
    let protocol = match version {
        HopVersion::Http1 => "http_protocol_options",
        HopVersion::Http2 => "http2_protocol_options",
    };
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "circuit_breakers": {"thresholds": [{
            "max_connections": MOST, "max_pending_requests": MOST, "max_requests": MOST}]},
        "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": extension("upstreams.http.v3.HttpProtocolOptions"), "explicit_http_config": {protocol: {}}}},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [
            {"endpoint": {"address": address((&host, port))}}]}]},
    })
}

/// TLS 1.3 at one end, with the other end's SPIFFE ID checked.
fn tls(bare: &Bare, (name, way): (&str, &str), version: HopVersion) -> Value {
    let peer = if name == "client" { "server" } else { "client" };
    let file = |kind: &str| json!({"filename": bare.pki.file(kind)});
    let context = json!({
        "@type": extension(&format!("transport_sockets.tls.v3.{way}TlsContext")),
        "common_tls_context": {
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
            "tls_certificates": [{
                "certificate_chain": file(&format!("{name}.crt")), "private_key": file(&format!("{name}.key"))}],
            "validation_context": {
                "trusted_ca": file("ca.crt"),
                "match_typed_subject_alt_names": [{"san_type": "URI", "matcher": {
                    "exact": format!("spiffe://cluster.local/ns/outside/sa/{peer}")}}]},
            "alpn_protocols": [version.alpn()],
        },
    });
    let context =
        if way == "Downstream" { with(context, "require_client_certificate", &json!(true)) } else { context };
    json!({"name": "tls", "typed_config": context})
}
