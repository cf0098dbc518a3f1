//! Envoy, with an HTTP/1.1 hop and with one of HTTP/2; where `ENVOY` names its program.

use node_proxy::demo::command::Process;
use serde_json::{Value, json};

use crate::bare::{BACKEND_PORT, Bare, HTTP2_PORT, Logs, PEER_CLIENT, PEER_SERVER};
use crate::contender::{Contender, Entry, HopVersion};

/// Requests and connections at a time: more than any work has.
const MOST: u32 = 100_000;

/// Ports of the client's side and of the server's, the one behind, and what goes there.
type Line = (u16, u16, u16, Entry);

/// A pair that routes by header on the client's side and checks the SPIFFE ID of its peer, as the mesh does.
pub(crate) fn contend(bare: &Bare, program: &str, version: HopVersion) -> Contender {
    let (name, base, lines): (_, _, &[Line]) = match version {
        HopVersion::Http1 => ("envoy-h1", 10, &[(9004, 9444, BACKEND_PORT, Entry::Http1)]),
        HopVersion::Http2 => (
            "envoy-h2",
            20,
            &[(9005, 9445, BACKEND_PORT, Entry::Http1), (9015, 9455, HTTP2_PORT, Entry::Http2)],
        ),
    };
    // Envoys of one machine are told apart by a number.
    let base = if bare.logs == Logs::On { base } else { base + 100 };
    let sides = [
        (PEER_SERVER, "server", server(bare, name, lines, version), base),
        (PEER_CLIENT, "client", client(bare, name, lines, version), base + 1),
    ];
    let running = sides.map(|(pod, side, config, id)| {
        let name = format!("{name}-{side}");
        let config = bare.write(&format!("{name}.json"), config.to_string());
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
        bare.world.spawn(pod, &name, &argv).unwrap()
    });
    let mut entries: Vec<_> =
        lines.iter().map(|(port, .., entry)| (*entry, format!("127.0.0.1:{port}"))).collect();
    // What takes HTTP/2 takes gRPC.
    let calls = entries.iter().find(|(entry, _)| *entry == Entry::Http2).cloned();
    entries.extend(calls.map(|(_, address)| (Entry::Grpc, address)));
    Contender {
        name,
        version: bare.version(&[program, "--version"]),
        client: PEER_CLIENT,
        flooder: PEER_CLIENT,
        entries,
        processes: running.iter().rev().map(Process::id).collect(),
        _running: running.into(),
    }
}

fn client(bare: &Bare, name: &str, lines: &[Line], version: HopVersion) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    for (client_port, server_port, ..) in lines {
        let [old, new] = ["old", "new"].map(|name| format!("{name}-{client_port}"));
        let routes = json!([
            {"match": {"prefix": "/", "headers": [{"name": "version", "string_match": {"exact": "new"}}]},
             "route": {"cluster": new, "timeout": "0s"}},
            {"match": {"prefix": "/"}, "route": {"cluster": old, "timeout": "0s"}},
        ]);
        listeners.push(listener(bare, (name, "client"), ("127.0.0.1", *client_port), (&routes, None)));
        clusters.extend([old, new].map(|name| {
            let place = (bare.server_address().to_string(), *server_port);
            let tls = tls(bare, ("client", "Upstream"), version);
            with(cluster(&name, place, version), "transport_socket", &tls)
        }));
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
}

fn server(bare: &Bare, name: &str, lines: &[Line], version: HopVersion) -> Value {
    let (mut listeners, mut clusters) = (Vec::new(), Vec::new());
    let own = tls(bare, ("server", "Downstream"), version);
    for (_, server_port, backend, entry) in lines {
        let app = format!("app-{server_port}");
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": app, "timeout": "0s"}}]);
        listeners.push(listener(bare, (name, "server"), ("0.0.0.0", *server_port), (&routes, Some(&own))));
        let spoken = if *entry == Entry::Http2 { HopVersion::Http2 } else { HopVersion::Http1 };
        clusters.push(cluster(&app, ("127.0.0.1".to_owned(), *backend), spoken));
    }
    json!({"static_resources": {"listeners": listeners, "clusters": clusters}})
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
    let file = bare.file(&format!("{name}-{side}.access"));
    let log = json!([{"name": "file", "typed_config": {
        "@type": extension("access_loggers.file.v3.FileAccessLog"), "path": file}}]);
    let log = if bare.logs == Logs::On { log } else { json!([]) };
    let manager = json!({
        "@type": extension("filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": side, "codec_type": "AUTO", "generate_request_id": false,
        "access_log": log,
        "http_filters": [{"name": "router", "typed_config": {
            "@type": extension("filters.http.router.v3.Router")}}],
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]},
    });
    let chain = json!({"filters": [{"name": "http", "typed_config": manager}]});
    let chain = tls.map_or_else(|| chain.clone(), |tls| with(chain.clone(), "transport_socket", tls));
    json!({"name": format!("{side}-{}", place.1), "address": address(place), "filter_chains": [chain]})
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
