#!/usr/bin/env python3
"""What sealing costs, measured beside the same gateway without it.

  benches/sealing.py --bin target/release/tidegate [--rounds 3] [--scenarios small,large,upload,huge,events]

small   objects of 1 KiB from a store, read by a job: the gateway's CPU for each request, sealed against unsealed
large   objects of 64 MiB read by a job: the gateway's CPU for each GiB, and throughput, sealed against unsealed
upload  objects of 64 MiB written to a store, sealed at rest against plain
huge    one object of 10 GiB, sealed: the gateway's memory before, during and after
events  a model's event stream through border and far side: time to the first event and bytes on the wire between them, sealed
        against unsealed, for model names of 5 and of 60 letters

The store is nginx with TLS on loopback, which looks at no signature; the gateway runs on CPU 0, everything else on CPU 1. Rounds are
interleaved and medians are printed. Needs nginx, openssl and taskset. Run it on a quiet machine.
"""
import argparse
import http.client
import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TICK = os.sysconf("SC_CLK_TCK")
SIZES = {"small": 1024, "large": 64 << 20, "huge": 10 << 30}
NAMES = {5: "tiny1", 60: "a-model-with-a-name-that-goes-on-for-sixty-letters-in-all-ok1"[:60]}
PERMIT = '@id("bench")\npermit (principal, action, resource);\n'


def main():
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--bin", required=True, type=Path)
    arguments.add_argument("--rounds", type=int, default=3)
    arguments.add_argument("--scenarios", default="small,large,upload,huge,events")
    options = arguments.parse_args()
    os.sched_setaffinity(0, {1})
    chosen = options.scenarios.split(",")
    with tempfile.TemporaryDirectory(prefix="sealing-", dir=ROOT / "target") as folder:
        # The store may run as another user.
        os.chmod(folder, 0o755)
        if set(chosen) & {*SIZES, "upload"}:
            with Store(Path(folder) / "store", options.bin.resolve()) as bench:
                for name in (name for name in ("small", "large", "upload", "huge") if name in chosen):
                    bench.huge() if name == "huge" else bench.measure(name, options.rounds)
        if "events" in chosen:
            with Pair(Path(folder) / "pair", options.bin.resolve()) as bench:
                bench.measure(options.rounds)


class Bench:
    """Processes in a folder; all are ended at the end."""

    def __init__(self, folder, program):
        self.folder, self.program, self.running = folder, program, []
        folder.mkdir()

    def __enter__(self):
        self.prepare()
        return self

    def __exit__(self, *_):
        for process in reversed(self.running):
            process.send_signal(signal.SIGTERM)
            process.wait(timeout=30)

    def start(self, argv, cpu, port, folder=None):
        log = open(self.folder / f"{port}.log", "w")
        process = subprocess.Popen(["taskset", "-c", str(cpu), *map(str, argv)], cwd=folder or self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.running.append(process)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return process
            except OSError:
                time.sleep(0.02)
        sys.exit(f"{argv[0]} did not start:\n{Path(log.name).read_text()[-2000:]}")

    def nginx(self, connections, server, port):
        """An nginx that keeps connections open and writes nothing down; `server` is its block, in which it listens at `port`."""
        (self.folder / "nginx.conf").write_text(f"""
daemon off; worker_processes 1; pid nginx.pid; error_log stderr error;
events {{ worker_connections {connections}; }}
http {{ access_log off; sendfile on; keepalive_requests 100000000; client_max_body_size 0; client_body_buffer_size 1m;
  client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;
  ssl_certificate certs/server.pem; ssl_certificate_key certs/server.key; ssl_protocols TLSv1.3;
  server {{ {server} }} }}
""")
        self.start(["nginx", "-p", self.folder, "-c", "nginx.conf"], 1, port)

    def gateway(self, name, config, cpu=0):
        """A gateway in a folder of its own, with certificates, keys, and a policy that permits what the safety rules do not forbid."""
        folder = self.folder / name
        (folder / "policies").mkdir(parents=True)
        for file in ("10-safety.cedar", "tidegate.cedarschema"):
            shutil.copy(ROOT / "policies" / file, folder / "policies")
        if name == "far":
            shutil.copy(ROOT / "policies/examples/far-side/10-safety.cedar", folder / "policies")
        (folder / "policies" / "50-bench.cedar").write_text(PERMIT)
        (folder / "policies" / "entities.json").write_text(json.dumps(self.entities()))
        shutil.copytree(self.folder / "certs", folder / "certs")
        if (self.folder / "keys").exists():
            shutil.copytree(self.folder / "keys", folder / "keys")
        port, admin = free_port(), free_port()
        text = f"""
[gateway]
name = "{name}"
workers = 1
[listen]
address = "127.0.0.1:{port}"
[listen.tls]
certificate = "certs/server.pem"
key = "certs/server.key"
client_auth = "required"
client_ca = "certs/ca.pem"
[admin]
address = "127.0.0.1:{admin}"
[policy]
directory = "policies"
[audit]
directory = "journal"
[keys]
directory = "keys/branch"
[keys.roots.main]
file = "keys/root.key"
[recipients.job]
root = "main"
""" + config
        (folder / "tidegate.toml").write_text(text)
        if not (self.folder / "keys").exists():
            (folder / "keys").mkdir(mode=0o700)
            self.run(folder, "keys", "init", "--config", "tidegate.toml", "--tenant", "bench")
            shutil.copytree(folder / "keys", self.folder / "keys")
        process = self.start([self.program, "serve", "--config", "tidegate.toml"], cpu, port, folder)
        return process, port

    def certificates(self):
        """A CA, a server's certificate, and one of a client, whose SPIFFE ID it returns."""
        self.run(self.folder, "certs", "init", "certs")
        text = subprocess.run(["openssl", "x509", "-in", self.folder / "certs/client.pem", "-noout", "-ext", "subjectAltName"],
                              capture_output=True, text=True, check=True).stdout
        return text.split("URI:")[1].split(",")[0].strip()

    def run(self, folder, *argv):
        done = subprocess.run([str(self.program), *map(str, argv)], cwd=folder, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"tidegate {' '.join(map(str, argv))} failed:\n{done.stdout}{done.stderr}")

    def client(self, port):
        context = ssl.create_default_context(cafile=str(self.folder / "certs/ca.pem"))
        context.load_cert_chain(self.folder / "certs/client.pem", self.folder / "certs/client.key")
        return http.client.HTTPSConnection("localhost", port, context=context, timeout=600)

    def entities(self):
        def entity(kind, uid, parents=(), **attrs):
            return {"uid": {"type": f"Tidegate::{kind}", "id": uid}, "attrs": attrs,
                    "parents": [{"type": f"Tidegate::{kind}", "id": name} for kind, name in parents]}
        owner = {"__entity": {"type": "Tidegate::Team", "id": "bench"}}
        found = [entity("Jurisdiction", "EU"), entity("Team", "bench"), entity("Store", "lake", [("Jurisdiction", "EU")]),
                 entity("Store", "vault", [("Jurisdiction", "EU")]), entity("Gateway", "tidegate")]
        for cluster in ("haven", "private"):
            found.append(entity("Cluster", cluster, [("Jurisdiction", "EU")], peer=cluster == "haven"))
            found += [entity("Model", f"{cluster}/{name}", [("Cluster", cluster)], name=name) for name in NAMES.values()]
        found += [entity("Dataset", name, [("Store", "lake")], owner=owner) for name in ("open", "shut")]
        found.append(entity("Dataset", "rest", [("Store", "vault")], owner=owner))
        return found


def trust(spiffe_id, more):
    domain = spiffe_id.split("/")[2]
    return f"""
[[identity.mtls.trust_domains]]
name = "{domain}"
tenant = "bench"
[[identity.mtls.trust_domains.workloads]]
id = "{spiffe_id}"
teams = ["bench"]
{more}
"""


class Store(Bench):
    """A gateway before nginx, with the same objects in a dataset that is open and in one that is restricted."""

    def prepare(self):
        spiffe_id = self.certificates()
        for name, size in SIZES.items():
            for dataset in ("open", "shut"):
                file = self.folder / "www" / "bucket" / dataset / name
                file.parent.mkdir(parents=True, exist_ok=True)
                with open(file, "wb") as out:
                    out.write(os.urandom(min(size, 1 << 20)) * 1)
                    out.truncate(size)
        for dataset in ("open", "rest"):
            file = self.folder / "www" / "bucket" / dataset
            file.mkdir(exist_ok=True)
            # nginx, started by root, writes as somebody else.
            file.chmod(0o777)
        store = free_port()
        self.nginx(64, f"listen 127.0.0.1:{store} ssl; root www; dav_methods PUT; create_full_put_path on;", store)
        (self.folder / "store.secret").write_text("secret")
        datasets = "".join(f"""
[[stores.lake.datasets]]
id = "{name}"
bucket = "bucket"
prefix = "{name}/"
level = "{level}"
residency = ["EU"]
""" for name, level in (("open", "internal"), ("shut", "restricted")))
        secret = self.folder / "store.secret"
        secret.chmod(0o600)
        access = f"""endpoints = ["https://localhost:{store}"]
ca = "certs/ca.pem"
http2 = "never"
allow_networks = ["127.0.0.0/8"]
region = "eu"
access_key_id = "bench"
secret_key_file = "{secret}\""""
        self.process, port = self.gateway("border", trust(spiffe_id, 'cluster = "haven"\ncan_open = "job"') + f"""
[clusters.haven]
endpoints = ["http://127.0.0.1:9"]
models = ["{NAMES[5]}"]
[stores.lake]
{access}
{datasets}
[stores.vault]
{access}
[[stores.vault.datasets]]
id = "rest"
bucket = "bucket"
prefix = "rest/"
level = "internal"
residency = ["EU"]
sealed = {{ tenant = "bench", recipient = "job" }}
[[routes]]
name = "lake"
path = "/lake/*"
store = "lake"
audit = "best_effort"
[[routes]]
name = "vault"
path = "/vault/*"
store = "vault"
objects = "open"
audit = "best_effort"
""")
        self.connection = self.client(port)
        self.body = os.urandom(1 << 20) * (SIZES["large"] >> 20)

    def read(self, dataset, name):
        """One object; its bytes on the wire and the seconds that it took."""
        began, total, piece = time.perf_counter(), 0, bytearray(1 << 20)
        self.connection.request("GET", f"/lake/bucket/{dataset}/{name}")
        answer = self.connection.getresponse()
        if answer.status != 200:
            sys.exit(f"{dataset}/{name}: {answer.status} {answer.read(300)}")
        sealed = answer.headers["content-type"] == "application/vnd.tidegate.sealed"
        if sealed != (dataset == "shut"):
            sys.exit(f"{dataset}/{name} came {'sealed' if sealed else 'in the clear'}")
        while count := answer.readinto(piece):
            total += count
        return total, time.perf_counter() - began

    def write(self, dataset, _):
        """One object of 64 MiB; its bytes and the seconds that it took."""
        store, body = ("vault", "rest") if dataset == "shut" else ("lake", "open"), self.body
        began = time.perf_counter()
        self.connection.request("PUT", f"/{store[0]}/bucket/{store[1]}/upload", body)
        answer = self.connection.getresponse()
        text = answer.read()
        if answer.status not in (200, 201, 204):
            sys.exit(f"PUT: {answer.status} {text[:300]}")
        return len(body), time.perf_counter() - began

    def measure(self, name, rounds):
        times = 4000 if name == "small" else 16
        once = self.write if name == "upload" else self.read
        cpu, wall = {"open": [], "shut": []}, {"open": [], "shut": []}
        for dataset in cpu:
            once(dataset, name)
        for _ in range(rounds):
            for dataset in cpu:
                before = cpu_seconds(self.process.pid)
                seconds = sum(once(dataset, name)[1] for _ in range(times))
                cpu[dataset].append((cpu_seconds(self.process.pid) - before) / times)
                wall[dataset].append(seconds / times)
        open_cpu, shut_cpu = (statistics.median(cpu[dataset]) for dataset in ("open", "shut"))
        open_wall, shut_wall = (statistics.median(wall[dataset]) for dataset in ("open", "shut"))
        if name == "small":
            print(f"small   CPU a request: unsealed {open_cpu * 1e6:.1f} us, sealed {shut_cpu * 1e6:.1f} us, "
                  f"difference {(shut_cpu - open_cpu) * 1e6:+.1f} us; time {open_wall * 1e6:.0f} and {shut_wall * 1e6:.0f} us")
        else:
            gib = len(self.body) / (1 << 30)
            print(f"{name:<7} CPU s/GiB: unsealed {open_cpu / gib:.3f}, sealed {shut_cpu / gib:.3f}, throughput of one core {open_cpu / shut_cpu:.2f}x; "
                  f"wall {len(self.body) / open_wall / 1e6:.0f} and {len(self.body) / shut_wall / 1e6:.0f} MB/s")

    def huge(self):
        before, over, peak = resident_mib(self.process.pid), threading.Event(), [0.0]

        def watch():
            while not over.wait(0.1):
                peak[0] = max(peak[0], resident_mib(self.process.pid))
        watcher = threading.Thread(target=watch)
        watcher.start()
        total, seconds = self.read("shut", "huge")
        over.set()
        watcher.join()
        print(f"huge    {total} bytes sealed in {seconds:.0f} s; memory {before:.1f} MiB before, {peak[0]:.1f} at most, {resident_mib(self.process.pid):.1f} after")


class Pair(Bench):
    """A border and a far side with a model behind it; between them a relay that counts bytes."""

    def prepare(self):
        spiffe_id = self.certificates()
        model = Model()
        path = 'infer = {{ clusters = ["{}"] }}\nlevel = "{}"\nresidency = ["EU"]\naudit = "best_effort"\n'
        clusters = "endpoints = [\"{}\"]\nmodels = " + json.dumps(list(NAMES.values())) + "\n"
        # Keys are made by the first gateway.
        _, far = self.gateway("far", trust(spiffe_id, "peer = true") + "\n[clusters.private]\n" + clusters.format(model.url) + f"""
[[routes]]
name = "plain"
path = "/plain/chat/completions"
{path.format("private", "internal")}
[[routes]]
name = "sealed"
path = "/sealed/chat/completions"
opens = true
{path.format("private", "internal")}
""")
        self.relay = Relay(far)
        _, self.port = self.gateway("border", trust(spiffe_id, "") + "\n[clusters.haven]\n" + clusters.format(f"https://localhost:{self.relay.port}") + f"""
can_open = "job"
http2 = "never"
ca = "certs/ca.pem"
client_certificate = "certs/client.pem"
client_key = "certs/client.key"
allow_networks = ["127.0.0.0/8"]
[[routes]]
name = "plain"
path = "/plain/chat/completions"
{path.format("haven", "internal")}
[[routes]]
name = "sealed"
path = "/sealed/chat/completions"
{path.format("haven", "restricted")}
""")
        self.connection = self.client(self.port)

    def stream(self, way, name):
        """Seconds to the first event, and the bytes that the relay saw."""
        before, body = self.relay.bytes, json.dumps({"model": name, "stream": True, "messages": [{"role": "user", "content": "count"}]})
        began = time.perf_counter()
        self.connection.request("POST", f"/{way}/chat/completions", body, {"content-type": "application/json"})
        answer = self.connection.getresponse()
        if answer.status != 200:
            sys.exit(f"{way}: {answer.status} {answer.read(300)}")
        answer.readline()
        first = time.perf_counter() - began
        events = sum(line.startswith(b"data:") for line in iter(answer.readline, b"")) + 1
        assert events == Model.EVENTS + 1, events
        return first, self.relay.bytes - before

    def measure(self, rounds):
        for letters, name in NAMES.items():
            first, size = {"plain": [], "sealed": []}, {"plain": [], "sealed": []}
            for way in first:
                self.stream(way, name)
            for _ in range(rounds * 30):
                for way in first:
                    seconds, count = self.stream(way, name)
                    first[way].append(seconds)
                    size[way].append(count)
            (plain, sealed), (small, large) = ([statistics.median(found[way]) for way in ("plain", "sealed")] for found in (first, size))
            print(f"events  name of {letters} letters: first event {plain * 1e6:.0f} us unsealed, {sealed * 1e6:.0f} us sealed ({(sealed - plain) * 1e6:+.0f}); "
                  f"{Model.EVENTS} events in {small:.0f} and {large:.0f} bytes of TLS ({large / small:.2f}x)")


class Model:
    """Streams a fixed number of events as a model does, each on its own."""
    EVENTS = 200

    def __init__(self):
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_POST(self):
                name = json.loads(self.rfile.read(int(self.headers["content-length"])))["model"]
                self.send_response(200)
                self.send_header("content-type", "text/event-stream")
                self.send_header("transfer-encoding", "chunked")
                self.end_headers()
                for index in range(Model.EVENTS):
                    delta = {"content": f" tide{index % 7}"}
                    event = {"id": "chatcmpl-123456789012345678901234", "object": "chat.completion.chunk", "created": 1700000000,
                             "model": name, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
                    self.piece(b"data: " + json.dumps(event).encode() + b"\n\n")
                self.piece(b"data: [DONE]\n\n")
                self.piece(b"")

            def piece(self, data):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
                self.wfile.flush()
                # A token takes its time; without it events would share a record.
                time.sleep(0.0005)

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{server.server_address[1]}"


class Relay:
    """Passes TCP on and counts."""

    def __init__(self, target):
        self.bytes, self.target = 0, target
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        threading.Thread(target=self.accept, args=(listener,), daemon=True).start()

    def accept(self, listener):
        while True:
            near, _ = listener.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                threading.Thread(target=self.copy, args=(one, other), daemon=True).start()

    def copy(self, one, other):
        try:
            while piece := one.recv(1 << 16):
                self.bytes += len(piece)
                other.sendall(piece)
            other.shutdown(socket.SHUT_WR)
        except OSError:
            pass  # One end is gone; so is the other soon.


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def resident_mib(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


if __name__ == "__main__":
    main()
