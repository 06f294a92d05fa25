"""The gateway under test: its configuration, certificates, policies, process, and journal; and what a test is handed.

Everything that knows a name of the configuration file, the command line's output or a record's shape is here, so that a
change of those is one edit. Standard library only.
"""
import contextlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import components
from doubles import Issuer, Recorder
from process import Process, Skip, end_all

ROOT = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve()
COMPONENTS = TARGET / "components"
SPIFFE_ID = "spiffe://tidegate.demo/job/trainer"
RECORD_HEADER = "tidegate-record"


def binary():
    """The program under test."""
    path = Path(os.environ.get("TIDEGATE_BIN") or TARGET / "debug" / "tidegate")
    if not path.exists():
        raise AssertionError(f"{path} is not there: `cargo build`, or set TIDEGATE_BIN")
    return path


# ---- names of files that `tidegate certs init DIR` makes ----------------------------------------------------------

CA, SERVER, SERVER_KEY = "certs/ca.pem", "certs/server.pem", "certs/server.key"
CLIENT, CLIENT_KEY = "certs/client.pem", "certs/client.key"


# ---- configuration ------------------------------------------------------------------------------------------------

def gateway_config(routes, clusters=None, stores=None, services=None, issuer=None, otlp=None, changes=None):
    """The configuration of one gateway as nested dicts; `changes` replaces keys by dotted path."""
    config = {
        "gateway": {"name": "border-1"},
        "listen": {
            "address": "127.0.0.1:0",
            "tls": {"certificate": SERVER, "key": SERVER_KEY, "client_auth": "optional", "client_ca": CA},
        },
        "admin": {"address": "127.0.0.1:0"},
        "identity": {
            "mtls": {"trust_domains": [{
                "name": "tidegate.demo", "tenant": "acme",
                "workloads": [{"id": SPIFFE_ID, "teams": ["research"], "cluster": "eu"}],
            }]},
        },
        "policy": {"directory": "policies"},
        "audit": {"directory": "journal"},
        "routes": routes,
    }
    if issuer:
        config["identity"]["issuers"] = [{
            "algorithms": ["RS256"], "tenant": "acme", "teams_claim": "groups", **issuer}]
    if otlp:
        config["telemetry"] = {"otlp_endpoint": otlp, "metrics_interval": "1s"}
    for section, entries in (("clusters", clusters), ("stores", stores), ("services", services)):
        if entries:
            config[section] = entries
    for path, value in (changes or {}).items():
        *parents, last = path.split(".")
        place = config
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    return config


def service_route(name="app", path="/app/*", service="echo", **more):
    """Plain HTTP, nobody is asked who they are: whatever is refused is refused by the gate itself."""
    return {"name": name, "path": path, "service": service, "level": "public", "residency": ["world"], "identity": "none", **more}


def chat_route(cluster="eu", path="/v1/chat/completions", does="infer", **more):
    """Completions; with `does="embed"` embeddings."""
    return {"name": path.rsplit("/", 1)[1], "path": path, does: {"clusters": [cluster]}, "level": "internal",
            "residency": ["EU"], **more}


def to_toml(value):
    """Nested dicts as TOML: a table a section, everything below it inline."""
    def inline(item):
        if isinstance(item, dict):
            return "{ " + ", ".join(f"{json.dumps(k)} = {inline(v)}" for k, v in item.items()) + " }"
        if isinstance(item, list):
            return "[" + ", ".join(map(inline, item)) + "]"
        return json.dumps(item)
    lines = []
    for section, entry in value.items():
        if isinstance(entry, list):
            lines += [line for one in entry for line in (f"[[{section}]]", *(f"{k} = {inline(v)}" for k, v in one.items()), "")]
        else:
            lines += [f"[{section}]", *(f"{json.dumps(k)} = {inline(v)}" for k, v in entry.items()), ""]
    return "\n".join(lines)


# ---- policies -----------------------------------------------------------------------------------------------------

POLICIES = """
@id("test-research-asks-models-in-the-eu")
permit (
  principal in Tidegate::Team::"research",
  action in [Tidegate::Action::"infer", Tidegate::Action::"embed"],
  resource
) when { resource in [Tidegate::Cluster::"eu", Tidegate::Cluster::"eu-embed"] };

@id("test-anyone-asks-m")
permit (principal, action == Tidegate::Action::"infer", resource == Tidegate::Model::"eu/m");

@id("test-research-uses-the-handbook")
permit (
  principal in Tidegate::Team::"research",
  action in [Tidegate::Action::"read", Tidegate::Action::"list", Tidegate::Action::"write", Tidegate::Action::"delete"],
  resource == Tidegate::Dataset::"handbook"
);

@id("test-anyone-calls-echo")
permit (principal, action == Tidegate::Action::"call", resource == Tidegate::Service::"echo");

@id("test-residency")
forbid (principal, action in Tidegate::Action::"send", resource)
unless { context has destination && context.destination in context.data.residency };

@id("test-restricted-only-sealed")
forbid (principal, action in Tidegate::Action::"send", resource)
when { context.data.level >= 3 }
unless {
  context.protection.sealed ||
  // What a far side opened stays with its own models.
  context has destination && context.destination == Tidegate::Cluster::"eu-embed"
};
"""


def entities():
    """Master data of the tests: a cluster and a store in the EU, two datasets, one service."""
    def uid(kind, id):
        return {"type": f"Tidegate::{kind}", "id": id}

    def entity(kind, id, parents=(), **attributes):
        return {"uid": uid(kind, id), "attrs": attributes, "parents": [uid(*parent) for parent in parents]}
    eu = [("Jurisdiction", "EU")]
    return [
        entity("Jurisdiction", "world"),
        entity("Jurisdiction", "EU", [("Jurisdiction", "world")]),
        entity("Team", "research"),
        entity("Team", "finance"),
        entity("Provider", "acme-gpu"),
        entity("Cluster", "private", eu, peer=False),
        entity("Cluster", "eu", [*eu, ("Provider", "acme-gpu")], peer=False),
        entity("Cluster", "eu-embed", [*eu, ("Provider", "acme-gpu")], peer=False),
        entity("Model", "eu/m", [("Cluster", "eu")], name="m"),
        entity("Model", f"eu/{components.MODEL}", [("Cluster", "eu")], name=components.MODEL),
        entity("Model", f"eu-embed/{components.MODEL}", [("Cluster", "eu-embed")], name=components.MODEL),
        entity("Store", "lake", eu),
        entity("Dataset", "handbook", [("Store", "lake")], owner={"__entity": uid("Team", "research")}),
        entity("Dataset", "payroll", [("Store", "lake")], owner={"__entity": uid("Team", "finance")}),
        entity("Service", "echo"),
    ]


def write_policies(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for schema in (ROOT / "policies").glob("*.cedarschema"):
        shutil.copy(schema, folder)
    (folder / "tests.cedar").write_text(POLICIES)
    (folder / "entities.json").write_text(json.dumps(entities(), indent=1))


# ---- records ------------------------------------------------------------------------------------------------------

def records_of(journal):
    """All records of a journal, oldest first, as `tidegate audit query` prints them: one object a line."""
    done = subprocess.run([binary(), "audit", "query", "--journal", journal, "--output", "json", "--limit", str(10**9)],
                          stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    if done.returncode:
        raise AssertionError(f"audit query left with {done.returncode}: {done.stderr[-1000:]}")
    return [json.loads(line) for line in done.stdout.splitlines()]


def kind(record):
    """`decision`, `outcome`, `refusal`, `refusals` (several counted together) or `event`."""
    return record["kind"]


def crossing(record):
    """What a decision and its outcome have in common."""
    return record["id"], record["attempt"]


def allowed(record):
    """Whether a decision let the request through; `deny` and `reject` did not."""
    return record["decision"] == "allow"


def refused(record):
    """How many refused requests a record stands for."""
    if kind(record) == "decision":
        return 0 if allowed(record) else 1
    return {"refusal": 1, "refusals": record.get("count", 0)}.get(kind(record), 0)


def texts(value):
    """Every string anywhere in a record."""
    if isinstance(value, dict):
        return [text for item in value.values() for text in texts(item)]
    if isinstance(value, list):
        return [text for item in value for text in texts(item)]
    return [value] if isinstance(value, str) else []


# ---- the gateway --------------------------------------------------------------------------------------------------

class Gateway:
    """One `tidegate serve` in a folder of its own; it can be killed and started again in the same folder."""

    def __init__(self, folder, config, secrets=None):
        self.folder, self.journal, self.process = folder, folder / config["audit"]["directory"], None
        folder.mkdir(parents=True, exist_ok=True)
        self.command("certs", "init", folder / "certs", "--client-id", SPIFFE_ID)
        write_policies(folder / "policies")
        for name, text in (secrets or {}).items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            path.chmod(0o600)
        self.file = folder / "tidegate.toml"
        self.file.write_text(to_toml(config))
        self._runs, self.env = 0, {}

    def command(self, *arguments):
        """A subcommand that must succeed; gives what it prints."""
        done = subprocess.run([binary(), *map(str, arguments)], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise AssertionError(f"tidegate {' '.join(map(str, arguments))} left with {done.returncode}:\n{done.stderr[-2000:]}")
        return done.stdout

    def start(self, *arguments):
        """Starts it, with these arguments too, and learns the ports; gives the seconds that it took."""
        self._runs += 1
        out = self.folder / f"stdout-{self._runs}"
        began = time.monotonic()
        self.process = Process([binary(), "serve", "--config", self.file, *arguments], self.folder / f"stderr-{self._runs}", self.env, cwd=self.folder, stdout=out)
        listeners = self.process.ready(lambda: self._listeners(out), 20)
        took = time.monotonic() - began
        self.port, self.admin_port = listeners["data"], listeners["admin"]
        return took

    @staticmethod
    def _listeners(out):
        found = {}
        for line in out.read_text().splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if entry.get("event") == "listening":
                    found[entry["listener"]] = int(entry["address"].rsplit(":", 1)[1])
        return found if {"data", "admin"} <= set(found) else None

    def stop(self):
        if self.process:
            self.process.stop(10)

    @property
    def url(self):
        return f"https://localhost:{self.port}"

    @property
    def ca(self):
        return self.folder / CA

    @property
    def client_certificate(self):
        return str(self.folder / CLIENT), str(self.folder / CLIENT_KEY)

    def tls(self, certificate=False, protocols=("http/1.1",)):
        context = ssl.create_default_context(cafile=self.ca)
        context.set_alpn_protocols(list(protocols))
        if certificate:
            context.load_cert_chain(*self.client_certificate)
        return context

    def connection(self, certificate=False, seconds=30):
        return http.client.HTTPSConnection("localhost", self.port, timeout=seconds, context=self.tls(certificate))

    def request(self, method, path, body=None, headers=None, certificate=False):
        """One request on a connection of its own: status, headers, body."""
        connection = self.connection(certificate)
        with contextlib.closing(connection):
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()

    def admin(self, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.admin_port}{path}", timeout=5) as answer:
            return answer.read().decode()

    def records(self):
        return records_of(self.journal)

    def log(self):
        """The operator's log, of all starts."""
        return "".join(file.read_text() for file in self.folder.glob("stderr-*"))


# ---- what a test gets ---------------------------------------------------------------------------------------------

class Shared:
    """Components, started once for all tests that ask, and one outcome for all if that fails."""

    def __init__(self):
        self._running, self._work = {}, None

    def get(self, name):
        if name not in self._running:
            if self._work is None:
                TARGET.mkdir(parents=True, exist_ok=True)
                self._work = Path(tempfile.mkdtemp(prefix="real-components-", dir=TARGET))
            try:
                self._running[name] = components.start(name, COMPONENTS, self._work / name)
            except (Skip, AssertionError) as error:
                self._running[name] = error
        if isinstance(self._running[name], Exception):
            raise self._running[name]
        return self._running[name]

    def close(self):
        for running in self._running.values():
            if not isinstance(running, Exception):
                running.process.stop(2)      # their data is thrown away, and weed takes 16 s to leave by itself
        end_all()
        if self._work:
            shutil.rmtree(self._work, ignore_errors=True)


class Test:
    """Handed to each test function: a folder, things that are ended with the test, shared components."""

    def __init__(self, name, shared):
        self.name, self._shared, self._exit = name, shared, contextlib.ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=TARGET))

    def close(self, keep):
        self._exit.close()
        if not keep:
            shutil.rmtree(self.folder, ignore_errors=True)

    def defer(self, action, *arguments):
        self._exit.callback(action, *arguments)

    def component(self, name):
        return self._shared.get(name)

    def recorder(self, tls=None):
        recorder = Recorder(tls)
        self.defer(recorder.close)
        return recorder

    def collector(self, tls=None, onward=None):
        """An OTLP collector that can be told to misbehave."""
        otlp_messages()
        from collector import Collector
        collector = Collector(tls, onward)
        self.defer(collector.stop)
        return collector

    def issuer(self):
        """A token issuer of our own, and the configuration entry that trusts it. Its key set goes into `keys/jwks.json`."""
        python_clients()      # among them the package that signs
        issuer = Issuer()
        entry = {"issuer": issuer.issuer, "audiences": [issuer.audience], "jwks_file": "keys/jwks.json"}
        return issuer, entry, {"keys/jwks.json": json.dumps(issuer.jwks())}

    def gateway(self, config, secrets=None, start=True, name="gateway"):
        gateway = Gateway(self.folder / name, config, secrets)
        self.defer(gateway.stop)
        if start:
            gateway.start()
        return gateway

    def echo_gateway(self, changes=None, start=True, **route):
        """A gateway in front of a recorder, one open route `/app/*`."""
        recorder = self.recorder()
        config = gateway_config([service_route(**route)], services={"echo": {"endpoints": [recorder.url]}}, changes=changes)
        return self.gateway(config, start=start), recorder


def otlp_messages():
    """Puts the OTLP messages of the `opentelemetry-proto` package on the path."""
    folder = str(components.install("otlptap", COMPONENTS))
    if folder not in sys.path:
        sys.path.insert(0, folder)


def python_clients():
    """Puts the pinned client libraries on the path."""
    folder = str(components.install("clients", COMPONENTS))
    if folder not in sys.path:
        sys.path.insert(0, folder)

