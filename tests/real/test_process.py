"""The process itself: what it gave up, what it tells strangers, and what it never writes down."""
import contextlib
import http.client
import json
import os

from harness import CA, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY, chat_route, gateway_config, service_route
from process import eventually

# One for each place in which a caller can put a secret.
MARKERS = {"token": "mk-token-5f1c", "key": "mk-key-8a2d", "cookie": "mk-cookie-77b0", "prompt": "mk-prompt-c3e9", "query": "mk-query-d41d",
           "credential": "mk-credential-0b6e", "answer": "mk-answer-91aa"}


def test_it_can_start_no_program_and_says_what_holds_it(t):
    gateway, _ = t.echo_gateway()
    assert gateway.request("GET", "/app/x")[0] == 200
    with open(f"/proc/{gateway.process.pid}/status") as status:
        facts = dict(line.rstrip("\n").split(":\t", 1) for line in status if ":\t" in line)
    assert (facts["NoNewPrivs"], facts["Seccomp"]) == ("1", "2"), facts
    log = gateway.log()
    assert "seccomp: no program can be started from here" in log
    assert ("landlock: only the journal, keys and fetched policies can be written" in log) != ("NOT CONFINED by landlock" in log), log
    with open(f"/proc/{gateway.process.pid}/limits") as limits:
        cores, = [line.split() for line in limits if line.startswith("Max core file size")]
    assert cores[4:6] == ["0", "0"], cores
    if os.getuid() == 0:
        assert "running as root" in log


def test_strangers_learn_only_whether_it_is_ready(t):
    upstream = t.recorder()
    tls = {"certificate": SERVER, "key": SERVER_KEY, "client_auth": "optional", "client_ca": CA}
    gateway = t.gateway(gateway_config([service_route()], services={"echo": {"endpoints": [upstream.url]}}, changes={"admin.tls": tls}))

    def ask(path, certificate=False):
        connection = http.client.HTTPSConnection("localhost", gateway.admin_port, timeout=10, context=gateway.tls(certificate))
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
    assert ask("/livez") == (200, "ok\n")
    status, text = ask("/readyz")
    assert status == 200 and json.loads(text) == {"ready": True}
    for path in ("/metrics", "/version", "/elsewhere"):
        status, text = ask(path)
        assert status == 403 and "certificate" in text, (path, text)
    assert "tidegate_audit_records" in ask("/metrics", certificate=True)[1]
    assert len(json.loads(ask("/readyz", certificate=True)[1])) > 1
    # A certificate of somebody else is none at all.
    stranger = t.gateway(gateway_config([service_route()], services={"echo": {"endpoints": [upstream.url]}}), start=False, name="other")
    context = gateway.tls()
    context.load_cert_chain(stranger.folder / CLIENT, stranger.folder / CLIENT_KEY)
    connection = http.client.HTTPSConnection("localhost", gateway.admin_port, timeout=10, context=context)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", "/metrics")
        assert connection.getresponse().status != 200


def test_instances_that_share_a_configuration_have_names_of_their_own(t):
    gateway, _ = t.echo_gateway(start=False)
    gateway.start("--name", "pod-7")
    assert gateway.request("GET", "/app/x")[0] == 200
    gateway.stop()
    told = "".join(file.read_text(errors="replace") for file in gateway.journal.glob("**/*") if file.is_file())
    assert "pod-7" in told and "border-1" not in told


def test_no_secret_of_a_caller_is_written_down(t):
    """Everything on, log at its finest: tokens, keys, cookies, prompts, answers and query values are nowhere but at the upstream."""
    upstream, issuer = t.recorder(), t.issuer()
    signer, entry, secrets = issuer
    secrets = {**secrets, "keys/eu.key": MARKERS["credential"]}
    clusters = {"eu": {"endpoints": [upstream.url], "models": ["m"], "credential_file": "keys/eu.key"}}
    config = gateway_config([chat_route(), service_route()], clusters=clusters, services={"echo": {"endpoints": [upstream.url]}}, issuer=entry,
                            changes={"telemetry": {"log_filter": "trace"}})
    gateway = t.gateway(config, secrets)
    prompt = json.dumps({"model": "m", "messages": [{"role": "user", "content": MARKERS["prompt"]}]})
    token = signer.token()
    good = {"Authorization": f"Bearer {token}", "Content-Type": "application/json", "Cookie": f"a={MARKERS['cookie']}"}
    assert gateway.request("POST", "/v1/chat/completions", prompt, good)[0] == 200
    for bad in ({"Authorization": f"Bearer {MARKERS['token']}"}, {"X-Api-Key": MARKERS["key"]},
                {"Authorization": f"Bearer {token[:-6]}AAAAAA"}):
        assert gateway.request("POST", "/v1/chat/completions", prompt, {**bad, "Content-Type": "application/json"})[0] in (401, 403)
    assert gateway.request("GET", f"/app/x?secret={MARKERS['query']}")[0] == 200
    assert MARKERS["prompt"].encode() in b"".join(upstream.raw.values()), "the marker did not reach the upstream"
    eventually(lambda: len(gateway.records()) >= 6, "all records are there")
    metrics = gateway.admin("/metrics")
    gateway.stop()
    written = {"log": gateway.log(), "metrics": metrics}
    for file in gateway.journal.glob("**/*"):
        if file.is_file():
            written[str(file.relative_to(gateway.journal))] = file.read_bytes().decode(errors="replace")
    found = [(what, where) for what, marker in {**MARKERS, "whole token": token, "signature": token.rsplit(".", 1)[1]}.items()
             for where, text in written.items() if marker in text]
    assert not found, found
