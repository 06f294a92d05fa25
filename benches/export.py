#!/usr/bin/env python3
"""What a collector that is down for minutes costs: memory, latency, and records missing afterwards.

  benches/export.py                       3 minutes of outage; needs `cargo build --release` first
  benches/export.py --outage 20 --rate 50 a quick look

Two gateways get the same load at the same time, request by request in turn, so that a busy machine slows both: the collector of one goes
away, that of the other stays. Printed as JSON: growth of memory over the outage, p99 of both in that time, and what the journal has
that the collector has not once it is back and the lag is 0. Exit code 0: within the bar; 1: not.
"""
import argparse
import json
import multiprocessing
import os
import socketserver
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "real"))
os.environ.setdefault("TIDEGATE_BIN", str(ROOT / "target" / "release" / "tidegate"))
import harness                                      # noqa: E402
from process import eventually                      # noqa: E402

GROWTH_MIB, RATIO = 16, 1.1
# Not forked: a child would hold the collector's socket open.
spawned = multiprocessing.get_context("spawn")


class Upstream(socketserver.StreamRequestHandler):
    """Answers every GET with four bytes."""

    def handle(self):
        while True:
            line = self.rfile.readline()
            if line == b"":
                return
            if line == b"\r\n":
                self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone")


def serve(ports):
    socketserver.ThreadingTCPServer.daemon_threads = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Upstream) as server:
        ports.put(server.server_address[1])
        server.serve_forever()


def load(gateways, rate, window, results):
    """Requests to the gateways in turn, `rate` a second to each, from one connection each. `window` names the time; results are sent when it
    changes: latencies in milliseconds, by gateway."""
    import http.client
    connections = [http.client.HTTPSConnection("localhost", port, timeout=30, context=harness.ssl.create_default_context(cafile=ca)) for port, ca in gateways]
    current, taken, number = window.value, [[] for _ in gateways], 0
    due = time.perf_counter()
    while True:
        if window.value != current:
            results.put((current, taken))
            current, taken = window.value, [[] for _ in gateways]
            if current < 0:
                return
        due += 1 / rate
        time.sleep(max(0.0, due - time.perf_counter()))
        order = range(len(gateways)) if number % 2 else reversed(range(len(gateways)))
        number += 1
        for which in order:
            began = time.perf_counter()
            connections[which].request("GET", f"/app/{number}")
            answer = connections[which].getresponse()
            answer.read()
            assert answer.status == 200, answer.status
            taken[which].append((time.perf_counter() - began) * 1000)


def quantile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def memory(gateway):
    for line in Path(f"/proc/{gateway.process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def lag(gateway):
    for line in gateway.admin("/metrics").splitlines():
        if line.startswith("tidegate_audit_export_lag_records{"):
            return float(line.rsplit(" ", 1)[1])
    return -1.0


def measure(t, options):
    ports = spawned.Queue()
    upstream = spawned.Process(target=serve, args=(ports,), daemon=True)
    upstream.start()
    endpoint = f"http://127.0.0.1:{ports.get(timeout=10)}"
    pairs = []
    for name in ("outage", "control"):
        collector = t.collector()
        config = harness.gateway_config([harness.service_route()], services={"echo": {"endpoints": [endpoint]}},
                                        changes={"gateway.workers": 1, "audit.export": {"backend": {"endpoint": collector.url}}})
        pairs.append((t.gateway(config, name=name), collector))
    (broken, collector), (control, _) = pairs
    window, results = spawned.Value("i", 0), spawned.Queue()
    worker = spawned.Process(target=load, daemon=True,
                                     args=([(g.port, str(g.ca)) for g, _ in pairs], options.rate, window, results))
    worker.start()
    time.sleep(options.warm)
    before, at_start = memory(broken), (window.value, memory(control))
    collector.stop()
    window.value = 1
    results.get(timeout=60)
    peak, until = before, time.monotonic() + options.outage
    while time.monotonic() < until:
        peak = max(peak, memory(broken))
        time.sleep(0.5)
    behind = lag(broken)
    control_growth = memory(control) - at_start[1]
    window.value = 2
    _, taken = results.get(timeout=60)
    collector.start()
    began = time.monotonic()
    eventually(lambda: lag(broken) < 4 * options.rate, "it has caught up, under load", 300)
    caught_up = time.monotonic() - began
    peak_after = memory(broken)
    window.value = -1
    results.get(timeout=60)
    worker.join(10)
    eventually(lambda: lag(broken) == 0, "the lag is 0", 120)
    broken.stop()
    records = broken.records()
    missing = set(range(len(records))) - collector.seqs()
    upstream.terminate()
    a, b = taken
    return {
        "outage_s": options.outage, "rate_per_gateway": options.rate, "requests": len(a), "lag_records_at_the_end": behind,
        "rss_mib_before": round(before, 1), "rss_growth_mib": round(peak - before, 1), "rss_mib_after_catching_up": round(peak_after, 1),
        "control_rss_growth_mib": round(control_growth, 1),
        "p50_ms": round(quantile(a, 0.5), 2), "p50_ms_control": round(quantile(b, 0.5), 2),
        "p99_ms": round(quantile(a, 0.99), 2), "p99_ms_control": round(quantile(b, 0.99), 2), "p99_ratio": round(quantile(a, 0.99) / quantile(b, 0.99), 3),
        "catching_up_s": round(caught_up, 1), "records": len(records), "missing": len(missing),
        "sent_more_than_once": len(collector.got()) - len(collector.seqs()), "load_average": os.getloadavg()[0],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--outage", type=float, default=180, metavar="SECONDS")
    parser.add_argument("--warm", type=float, default=30, metavar="SECONDS")
    parser.add_argument("--rate", type=float, default=200, metavar="PER_SECOND", help="to each of the two gateways")
    options = parser.parse_args()
    shared = harness.Shared()
    t = harness.Test("bench-export", shared)
    try:
        found = measure(t, options)
    finally:
        t.close(keep=False)
        shared.close()
    print(json.dumps(found, indent=1))
    good = found["rss_growth_mib"] <= GROWTH_MIB and found["p99_ratio"] <= RATIO and found["missing"] == 0
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
