#!/usr/bin/env python3
"""What a candidate beside the live policies costs, measured beside the same gateway without it.

  benches/shadow.py --bin target/release/tidegate [--rounds 5] [--seconds 4]

Two gateways of the same build take turns: one has a `[policy.shadow]` candidate that differs in every decision, the other none. Requests
are denied, so nothing but the gateway is measured: parse, decide, record (`best_effort`), answer. The gateway has CPU 0 to itself and is
saturated from CPU 1 over 32 connections of plain HTTP. Medians of interleaved rounds are printed, and the CPU time of the threads that
serve for each request apart from that of the thread that asks the candidate. Run it on a quiet machine.
"""
import argparse
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")
REQUEST = b"GET /x HTTP/1.1\r\nHost: bench\r\n\r\n"
CONNECTIONS = 32
CLOSED = '@id("bench-closed")\nforbid (principal, action, resource);\n'


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bin", required=True, type=Path)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--seconds", type=float, default=4)
    options = arguments.parse_args()
    os.sched_setaffinity(0, {1})
    with tempfile.TemporaryDirectory(prefix="shadow-", dir=ROOT / "target") as folder:
        gateways = [Gateway(Path(folder) / name, options.bin.resolve(), name == "with") for name in ("without", "with")]
        try:
            rates = {gateway.name: [] for gateway in gateways}
            for _ in range(options.rounds):
                for gateway in gateways:
                    rates[gateway.name].append(gateway.measure(options.seconds))
            compared, dropped = (gateways[1].metric(name) for name in ("compared", "dropped"))
        finally:
            for gateway in gateways:
                gateway.stop()
        medians = {name: statistics.median(rate for rate, _, _ in all) for name, all in rates.items()}
        for name, all in rates.items():
            shown = ", ".join(f"{rate:,.0f}" for rate, _, _ in all)
            serving = statistics.median(1e6 * serving for _, serving, _ in all)
            asking = statistics.median(asking for _, _, asking in all)
            print(f"{name:<8} {medians[name]:>9,.0f} req/s, {serving:.1f} CPU us a request, {100 * asking:.1f} % of its CPU asks   rounds: {shown}")
        print(f"cost     {100 * (1 - medians['with'] / medians['without']):.1f} % of throughput; load average {os.getloadavg()[0]:.1f}")
        print(f"compared {compared:,.0f}, dropped {dropped:,.0f}")


class Gateway:
    def __init__(self, folder, program, shadow):
        self.name = folder.name
        folder.mkdir()
        shutil.copytree(ROOT / "policies", folder / "policies", ignore=shutil.ignore_patterns("examples"))
        (folder / "policies/90-bench.cedar").write_text(CLOSED)
        if shadow:
            shutil.copytree(folder / "policies", folder / "candidate")
            (folder / "candidate/90-bench.cedar").write_text(CLOSED.replace("bench-closed", "bench-other"))
        (folder / "tidegate.toml").write_text(
            '[gateway]\nworkers = 1\n[listen]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n'
            '[listen.limits]\nmax_connections_per_ip = 0\n'
            '[policy]\ndirectory = "policies"\n'
            + ('[policy.shadow]\ndirectory = "candidate"\n' if shadow else "")
            + '[audit]\ndirectory = "journal"\n[services.status]\nendpoints = ["http://127.0.0.1:9"]\n'
            '[[routes]]\nname = "all"\npath = "/*"\nservice = "status"\nidentity = "none"\naudit = "best_effort"\n'
            'level = "public"\nresidency = ["world"]\n'
        )
        argv = ["taskset", "-c", "0", program, "serve", "--config", folder / "tidegate.toml"]
        self.process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=open(folder / "log", "w"))
        lines = [json.loads(self.process.stdout.readline()) for _ in range(2)]
        ports = {line["listener"]: int(line["address"].rsplit(":", 1)[1]) for line in lines}
        self.data, self.admin = ports["data"], ports["admin"]
        deadline = time.monotonic() + 60
        while shadow and not (self.get("/readyz")["shadow"] or {}).get("candidate"):
            assert time.monotonic() < deadline, "the candidate was not taken"
            time.sleep(0.1)

    def get(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}{path}") as answer:
            return json.load(answer)

    def metric(self, name):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin}/metrics") as answer:
            text = answer.read().decode()
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"tidegate_shadow_{name}", line))

    def measure(self, seconds):
        """Requests a second, CPU seconds of serving for each, and the share of its CPU that asks the candidate."""
        sockets = [socket.create_connection(("127.0.0.1", self.data)) for _ in range(CONNECTIONS)]
        for one in sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, before, began = 0, self.cpu(), time.monotonic()
        while time.monotonic() - began < seconds:
            for one in sockets:
                one.sendall(REQUEST)
            for one in sockets:
                read(one)
            count += len(sockets)
        took, (serving, asking) = time.monotonic() - began, (now - then for now, then in zip(self.cpu(), before))
        for one in sockets:
            one.close()
        return count / took, serving / count, asking / (serving + asking)

    def cpu(self):
        """CPU seconds of all threads but the one that asks, and of that one."""
        spent = [0, 0]
        for task in Path(f"/proc/{self.process.pid}/task").iterdir():
            head, tail = (task / "stat").read_text().rsplit(")", 1)
            fields = tail.split()
            spent[head.endswith("tidegate-shadow")] += (int(fields[11]) + int(fields[12])) / TICK
        return spent

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


def read(one):
    """One answer, which has a length."""
    answer = one.recv(65536)
    while b"\r\n\r\n" not in answer:
        answer += one.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    assert head.startswith(b"HTTP/1.1 403"), head
    left = int(re.search(rb"(?i)content-length: (\d+)", head)[1]) - len(body)
    while left > 0:
        left -= len(one.recv(65536))


if __name__ == "__main__":
    main()
