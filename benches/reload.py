#!/usr/bin/env python3
"""How long a gateway takes to reload 10,000 policies, and what its requests notice of it.

  benches/reload.py --bin target/release/tidegate [--policies 10000] [--rate 500] [--before 60] [--reloads 5]

A gateway on all cores gets requests at a fixed rate, each timed from the moment when it was due. For a minute nothing changes; then its policies
are replaced several times, by a rename as a deployment would do it. Printed: the seconds from the rename until /readyz names the new bundle, and the
99th percentile of the requests before and during reloads. Requests are denied, so nothing but the gateway is measured. Run it on a quiet machine.
"""
import argparse
import asyncio
import json
import os
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUEST = b"GET /x HTTP/1.1\r\nHost: bench\r\n\r\n"
CONNECTIONS = 16
# Without a scope, so each decision looks at them; like those of benches/policies.rs.
UNSCOPED = 20
PER_FILE = 2000


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bin", required=True, type=Path)
    arguments.add_argument("--policies", type=int, default=10_000)
    arguments.add_argument("--rate", type=int, default=500)
    arguments.add_argument("--before", type=float, default=60)
    arguments.add_argument("--reloads", type=int, default=5)
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="reload-", dir=ROOT / "target") as folder:
        gateway = Gateway(Path(folder), options)
        try:
            asyncio.run(measure(gateway, options))
        finally:
            gateway.stop()


async def measure(gateway, options):
    load = Load(gateway.data, options.rate)
    running = asyncio.create_task(load.run())
    await asyncio.sleep(options.before)
    quiet, load.times = load.times, []
    during, took = [], []
    for version in range(1, options.reloads + 1):
        load.times = []
        took.append(await gateway.reload(version))
        during += load.times
        await asyncio.sleep(1)
    running.cancel()
    before, after = p99(quiet), p99(during)
    print(f"reload of {options.policies:,} policies: {statistics.median(took):.2f} s, at most {max(took):.2f} s")
    print(f"p99 of {len(quiet):,} requests before {before * 1e3:.2f} ms, of {len(during):,} during reloads {after * 1e3:.2f} ms, "
          f"{after / before:.2f}x; load average {os.getloadavg()[0]:.1f}")


def p99(times):
    return statistics.quantiles(times, n=100)[98]


class Load:
    """Requests over some connections, each due at its time whether or not those before it were answered."""

    def __init__(self, port, rate):
        self.port, self.rate, self.times = port, rate, []

    async def run(self):
        await asyncio.gather(*(self.connection(index) for index in range(CONNECTIONS)))

    async def connection(self, index):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        step = CONNECTIONS / self.rate
        due = time.perf_counter() + step * index / CONNECTIONS
        while True:
            await asyncio.sleep(max(0, due - time.perf_counter()))
            writer.write(REQUEST)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 403"), head
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            self.times.append(time.perf_counter() - due)
            due += step


class Gateway:
    def __init__(self, folder, options):
        self.folder, self.options = folder, options
        shutil.copytree(ROOT / "policies", folder / "policies", ignore=shutil.ignore_patterns("examples"))
        teams = range(options.policies // 4)
        entities = json.loads((folder / "policies/entities.json").read_text())
        entities += [{"uid": {"type": "Tidegate::Team", "id": f"bench-{team}"}, "attrs": {}, "parents": []} for team in teams]
        (folder / "policies/entities.json").write_text(json.dumps(entities))
        self.policies(folder / "policies")
        self.version(0)
        (folder / "tidegate.toml").write_text(
            '[listen]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n[listen.limits]\nmax_connections_per_ip = 0\n'
            '[policy]\ndirectory = "policies"\n[audit]\ndirectory = "journal"\n[services.status]\nendpoints = ["http://127.0.0.1:9"]\n'
            '[[routes]]\nname = "all"\npath = "/*"\nservice = "status"\nidentity = "none"\naudit = "best_effort"\nlevel = "public"\nresidency = ["world"]\n'
        )
        argv = [options.bin.resolve(), "serve", "--config", folder / "tidegate.toml"]
        self.process = subprocess.Popen(list(map(str, argv)), stdout=subprocess.PIPE, stderr=open(folder / "log", "w"))
        lines = [json.loads(self.process.stdout.readline() or self.told()) for _ in range(2)]
        ports = {line["listener"]: int(line["address"].rsplit(":", 1)[1]) for line in lines}
        self.data, self.admin = ports["data"], ports["admin"]

    def told(self):
        raise SystemExit((self.folder / "log").read_text()[-2000:])

    def policies(self, folder):
        """What a large organisation has; a file holds at most 1 MiB."""
        shipped = sum(file.read_text().count("@id(") for file in folder.glob("*.cedar"))
        count = self.options.policies - shipped - UNSCOPED - 1
        texts = [f'@id("bench-blocked-{n}")\nforbid (principal, action, resource) when {{ context.request.path like "/blocked-{n}/*" }};\n'
                 for n in range(UNSCOPED)]
        texts += [f'@id("bench-{n}")\npermit (principal in Tidegate::Team::"bench-{n % (self.options.policies // 4)}", action, resource)\n'
                  f'when {{ context.data.level <= {n % 3} && context.request.bytes < {n + 1000} }};\n' for n in range(count)]
        for start in range(0, len(texts), PER_FILE):
            (folder / f"90-bench-{start}.cedar").write_text("".join(texts[start:start + PER_FILE]))

    def version(self, version):
        """The one policy that differs from version to version."""
        file = self.folder / "policies/99-version.cedar"
        part = file.with_name(".part")
        part.write_text(f'@id("bench-version-{version}")\nforbid (principal, action, resource);\n')
        part.rename(file)

    async def ready(self):
        """The hash of the bundle in force."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.admin)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()
        return json.loads(answer.split(b"\r\n\r\n", 1)[1])["bundle"]

    async def reload(self, version):
        """Seconds from the rename until the new bundle is in force."""
        before = await self.ready()
        self.version(version)
        began = time.perf_counter()
        self.process.send_signal(signal.SIGHUP)
        while await self.ready() == before:
            assert time.perf_counter() - began < 60, self.told()
            await asyncio.sleep(0.02)
        return time.perf_counter() - began

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(timeout=60)


if __name__ == "__main__":
    main()
