"""Real llama.cpp clusters that hang, die and come back under load: whatever a permitted cluster can serve is served, and no other one hears of it."""
import http.client
import json
import signal
import threading

import components
from harness import COMPONENTS, allowed, chat_route, entities, gateway_config, kind
from process import eventually

CLUSTERS = ("eu", "eu-2", "us")
POLICY = """
@id("test-research-asks-any-model")
permit (principal in Tidegate::Team::"research", action == Tidegate::Action::"infer", resource);
"""


def test_a_cluster_that_hangs_dies_and_returns_costs_no_request(t):
    world = World(t)
    gateway, eu = world.gateway, world.clusters[0]

    def metric(name, *labels):
        return sum(int(line.rsplit(" ", 1)[1]) for line in gateway.admin("/metrics").splitlines()
                   if line.startswith(name) and all(label in line for label in labels))

    def served(cluster):
        return metric("http_client_request_duration_seconds_count", f'tidegate_upstream="{cluster}"', 'status_code="200"')

    def serves(cluster):
        """Waits until `cluster` has served 15 requests more."""
        before = served(cluster)
        eventually(lambda: served(cluster) >= before + 15, f"`{cluster}` serves", 90)

    def state():
        return metric("tidegate_upstream_endpoint_state", 'tidegate_upstream="eu"')

    with world.load as load:
        serves("eu")

        eu.process.signal(signal.SIGSTOP)
        eventually(lambda: state() == 2, "its checks fail", 30)
        serves("eu-2")
        eu.process.signal(signal.SIGCONT)
        eventually(lambda: state() == 0, "it is well again", 60)
        serves("eu")

        eu.process.kill()
        eventually(lambda: state() != 0, "it is left out", 30)
        serves("eu-2")
        eu.start()
        eventually(eu.is_ready, "the model is loaded again", 120)
        eventually(lambda: state() == 0, "it is called again", 60)
        serves("eu")

    counts = [served(cluster) for cluster in CLUSTERS]
    assert not load.failed, f"{len(load.failed)} of {len(load.failed) + load.answered} failed: {load.failed[:3]}"
    assert not world.outside.raw, "a cluster outside the residency saw something"
    gateway.process.stop()
    decisions = [record for record in gateway.records() if kind(record) == "decision"]
    destinations = [record["destination"] for record in decisions if allowed(record)]
    assert set(destinations) == {"eu", "eu-2"}, set(destinations)
    assert all(map(allowed, decisions)), [record for record in decisions if not allowed(record)][:2]
    again = sum(record["attempt"] > 1 for record in decisions)
    assert 0 < again <= max(10, load.answered / 10), again
    print(f"     {load.answered} answered, none failed, {again} by a second attempt; {dict(zip(CLUSTERS, counts))}")


def test_data_waits_for_no_cluster_outside_its_residency(t):
    """All clusters of the residency are dead: the request fails, and the one outside hears nothing."""
    world = World(t)
    for cluster in world.clusters:
        cluster.process.kill()
    answers = [world.load.ask(world.load.connection()) for _ in range(20)]
    assert all(status in (403, 502, 503) for status, _ in answers), answers
    assert not world.outside.raw, "a cluster outside the residency saw something"


class World:
    """A gateway before two real clusters in the EU, and one in the US that would answer anything."""

    def __init__(self, t):
        self.clusters = [components.Llama(COMPONENTS, t.folder / name) for name in CLUSTERS[:2]]
        for cluster in self.clusters:
            t.defer(cluster.stop)
        self.outside = t.recorder()
        issuer, trusted, secrets = t.issuer()
        config = gateway_config([chat_route(infer={"clusters": list(CLUSTERS)})], issuer=trusted, clusters=self._settings(secrets))
        self.gateway = t.gateway(config, secrets, start=False)
        self._know_the_clusters(self.gateway.folder / "policies")
        self.gateway.start()
        self.load = Questions(self.gateway, issuer.token(seconds=900), components.MODEL)

    def _settings(self, secrets):
        settings = {"us": {"endpoints": [self.outside.url], "models": [components.MODEL]}}
        for name, cluster in zip(CLUSTERS, self.clusters):
            secrets[f"keys/{name}.key"] = cluster.key
            settings[name] = {
                "endpoints": [cluster.url], "models": [components.MODEL], "credential_file": f"keys/{name}.key",
                "timeouts": {"first_byte": "10s"}, "ejection": {"base": "1s"},
                "health": {"path": "/health", "interval": "200ms", "timeout": "1s", "healthy": 1, "unhealthy": 2}}
        return settings

    @staticmethod
    def _know_the_clusters(folder):
        def entity(kind, id, *parents, **attributes):
            def uid(kind, id):
                return {"type": f"Tidegate::{kind}", "id": id}
            return {"uid": uid(kind, id), "attrs": attributes, "parents": [uid(*parent) for parent in parents]}
        model, provider = components.MODEL, ("Provider", "acme-gpu")
        more = [
            entity("Jurisdiction", "US", ("Jurisdiction", "world")),
            entity("Cluster", "eu-2", ("Jurisdiction", "EU"), provider, peer=False),
            entity("Cluster", "us", ("Jurisdiction", "US"), provider, peer=False),
            *(entity("Model", f"{name}/{model}", ("Cluster", name), name=model) for name in ("eu-2", "us"))]
        (folder / "entities.json").write_text(json.dumps(entities() + more, indent=1))
        (folder / "any.cedar").write_text(POLICY)


class Questions:
    """Threads that ask a model without pause."""

    def __init__(self, gateway, token, model, threads=3):
        self.answered, self.failed, self._gateway, self._stop = 0, [], gateway, threading.Event()
        self._lock = threading.Lock()
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
        self._body = json.dumps({"model": model, "max_tokens": 4, "temperature": 0, "messages": [{"role": "user", "content": "Name a colour."}]})
        self._threads = [threading.Thread(target=self._work, daemon=True) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join(60)

    def connection(self):
        return self._gateway.connection(seconds=60)

    def ask(self, connection):
        """One question: the status, and the answer."""
        connection.request("POST", "/v1/chat/completions", self._body, self._headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def _work(self):
        connection = self.connection()
        while not self._stop.is_set():
            try:
                status, answer = self.ask(connection)
            except (OSError, http.client.HTTPException, ValueError) as error:
                self.failed.append(repr(error))
                connection = self.connection()
                continue
            if status == 200 and answer["choices"][0]["message"]["content"]:
                with self._lock:
                    self.answered += 1
            else:
                self.failed.append((status, answer))
