//! What stays open and goes both ways: WebSocket and gRPC, by Python's `websockets` and by gRPC's own library.

use super::Program;

fn python(source: &str) -> String {
    format!("exec /usr/bin/python3 -u -c '{source}'")
}

#[test]
fn a_websocket_goes_both_ways() {
    let program = Program::start("websocket", &[8765], &python(include_str!("websocket_server.py")));
    for (way, said) in program.every_way(&python(include_str!("websocket_client.py"))) {
        assert_eq!(said, "100 texts, 900000 bytes, a ping, closed with 1000", "{way}");
    }
    program.requests(1.0);
}

#[test]
fn grpc_calls_of_every_kind() {
    let program = Program::start("grpc", &[50051], &python(include_str!("grpc_server.py")));
    let told = [
        "unary: hello you, OK, trailer after-you",
        "missing: NOT_FOUND, no such thing, trailer after-missing",
        "unknown: UNIMPLEMENTED",
        "late: DEADLINE_EXCEEDED",
        "down: 500 messages",
        "up: 1000000 bytes",
        "both: 20 turns",
    ];
    for (way, said) in program.every_way(&python(include_str!("grpc_client.py"))) {
        assert_eq!(said.lines().collect::<Vec<_>>(), told, "{way}");
    }
    program.requests(7.0);
    let metrics = program.metrics("deploy/meshed");
    for (status, count) in [("0", 4.0), ("5", 1.0), ("12", 1.0)] {
        let labels = [("direction", "inbound"), ("tls", "true"), ("grpc_status", status)];
        assert_eq!(metrics.sum("response_total", &labels), count, "{}", metrics.family("response_total"));
    }
}
