"""Spans at a real OTLP collector, and the admin listener."""
from harness import RECORD_HEADER, gateway_config, service_route
from process import eventually


def test_spans_arrive_with_the_record_id(t):
    collector, upstream = t.component("otlp"), t.recorder()
    gateway = t.gateway(gateway_config([service_route()], services={"echo": {"endpoints": [upstream.url]}}, otlp=collector.url))
    caller = "0af7651916cd43dd8448eb211c80319c"
    status, headers, _ = gateway.request("GET", "/app/traced?secret=words", headers={
        "traceparent": f"00-{caller}-b7ad6b7169203331-01", "tracestate": "a=b", "baggage": "who=ada"})
    record = headers[RECORD_HEADER]
    assert status == 200 and record, headers.items()
    refused = gateway.request("GET", "/app//x")[1]
    eventually(lambda: record in collector.process.text(), "the span carries the record id", 30)
    log = collector.process.text()
    assert "tidegate" in log and "http.route" in log
    assert "words" not in log, "a query value must not be exported"
    assert refused is not None
    for name in ("decide", "tidegate.decision", "http.response.status_code", "service.instance.id"):
        assert name in log, f"{name} is not in any span"
    assert caller in log, "the caller's trace is linked"
    sent = b"".join(bytes(part) for part in upstream.raw.values()).decode(errors="replace").lower()
    assert "traceparent: 00-" in sent and caller not in sent, "the caller's trace is not continued"
    assert "baggage" not in sent and "tracestate" not in sent, sent
    eventually(lambda: "http.server.request.duration" in collector.process.text(), "metrics are pushed", 30)


def test_admin_listener(t):
    gateway, _ = t.echo_gateway()
    gateway.request("GET", "/app/x")
    assert gateway.admin("/livez") is not None and gateway.admin("/readyz") is not None
    assert "tidegate" in gateway.admin("/version") or "0.1" in gateway.admin("/version")
    metrics = gateway.admin("/metrics")
    assert "http_server_request_duration" in metrics and 'decision="allow"' in metrics, metrics[:2000]
