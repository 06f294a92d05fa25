"""A gateway whose files and whose clock change under it while it serves."""
import os
import re
import shutil
import signal

import components
from harness import COMPONENTS, chat_route, gateway_config, kind
from load import Load
from process import eventually

RELOADS = 200


def reloads(gateway):
    """How many sets of policies were accepted and refused so far."""
    counts = dict(re.findall(r'^tidegate_reloads_total{.*tidegate_result="(\w+)".*} (\d+)', gateway.admin("/metrics"), re.M))
    return int(counts.get("accepted", 0)), int(counts.get("refused", 0))


def version(folder, number):
    """A set of policies whose permit has the number in its name."""
    policies = folder / "tests.cedar"
    policies.write_text(re.sub(r'@id\("test-anyone-calls-echo.*?"\)', f'@id("test-anyone-calls-echo-{number}")', policies.read_text()))


def truncated(folder):
    text = (folder / "tests.cedar").read_text()
    (folder / "tests.cedar").write_text(text[:len(text) * 2 // 3])


def emptied(folder):
    (folder / "entities.json").write_text("")


def without_schema(folder):
    next(folder.glob("*.cedarschema")).unlink()


def without_an_entity(folder):
    text = (folder / "entities.json").read_text()
    (folder / "entities.json").write_text(text.replace('"echo"', '"ohce"'))


def mistyped(folder):
    with open(folder / "tests.cedar", "a") as file:
        file.write('@id("x") permit (principal, action, resource) when { context.data.level == "high" };')


BROKEN = [truncated, emptied, without_schema, without_an_entity, mistyped]


def test_two_hundred_reloads_half_of_them_broken(t):
    """The folder is a link that is put elsewhere, as Kubernetes does it. No request fails, and no decision is made by a mixture."""
    gateway, upstream = t.echo_gateway(changes={"policy.poll": "1h"}, start=False)
    policies = gateway.folder / "policies"
    original = policies.rename(gateway.folder / "original")

    def put(number, spoil=None):
        folder = shutil.copytree(original, gateway.folder / f"policies-{number}")
        version(folder, number)
        if spoil:
            spoil(folder)
        link = gateway.folder / "next"
        link.symlink_to(folder)
        os.replace(link, policies)

    put(0)
    gateway.start()
    with Load(gateway, threads=3) as load:
        eventually(lambda: load.answered, "the load runs")
        for number in range(1, RELOADS + 1):
            before = sum(reloads(gateway))
            put(number, BROKEN[number // 2 % len(BROKEN)] if number % 2 else None)
            gateway.process.signal(signal.SIGHUP)
            eventually(lambda: sum(reloads(gateway)) > before, f"change {number} is judged", 30)
    assert reloads(gateway) == (RELOADS // 2, RELOADS // 2)
    assert not load.broken and not load.other, (load.broken[:3], load.other[:3])
    assert len(load.answered) >= RELOADS, len(load.answered)
    gateway.stop()

    records = gateway.records()
    by_bundle = {}
    for record in records:
        if kind(record) == "decision":
            by_bundle.setdefault(record["bundle"], set()).add(tuple(record["policies"]))
    names = [policies for policies in by_bundle.values()]
    assert all(len(one) == 1 for one in names), "one bundle decided by policies of two"
    used = {int(policy.rsplit("-", 1)[1]) for one in names for (policy,) in one}
    assert not any(number % 2 for number in used), f"a broken set decided: {sorted(used)}"
    assert len(used) > RELOADS // 4, f"only {len(used)} sets were ever asked"
    told = [record for record in records if kind(record) == "event" and record["event"] == "reload"]
    assert len(told) == RELOADS and sum(bool(event.get("problems")) for event in told) == RELOADS // 2, told[:2]


def test_a_clock_that_steps_lets_no_expired_token_in(t):
    """An hour forth and two hours back, under a running gateway: its wall clock alone, as an operator or a broken time server would."""
    library = next(components.install("faketime", COMPONENTS).glob("usr/lib/*/faketime/libfaketime.so.1"))
    clock = t.folder / "clock"
    clock.write_text("+0")
    issuer, entry, secrets = t.issuer()
    upstream = t.recorder()
    clusters = {"eu": {"endpoints": [upstream.url], "models": ["m"]}}
    gateway = t.gateway(gateway_config([chat_route()], clusters=clusters, issuer=entry), secrets, start=False)
    gateway.env = {"LD_PRELOAD": str(library), "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1",
                   "FAKETIME_DONT_FAKE_MONOTONIC": "1", "DONT_FAKE_MONOTONIC": "1"}
    gateway.start()
    token = issuer.token(seconds=600)

    def ask(what):
        return gateway.request("POST", "/v1/chat/completions", '{"model": "m", "messages": []}',
                               {"Authorization": f"Bearer {what}", "Content-Type": "application/json"})[0]

    def steps():
        return [record["milliseconds"] for record in gateway.records() if kind(record) == "event" and record["event"] == "clock.step"]
    assert ask(token) == 200
    seen = len(upstream.requests)
    clock.write_text("+3600")
    eventually(lambda: ask(token) == 401, "a token that has expired by the new clock is refused, though it was known", 10)
    eventually(lambda: any(step > 3_000_000 for step in steps()), "the step is on record")
    clock.write_text("-3600")
    eventually(lambda: ask(token) in (401, 503), "a token from the future is refused", 10)
    eventually(lambda: any(step < -6_000_000 for step in steps()), "the step back is on record")
    refused = len(upstream.requests)
    clock.write_text("+0")
    eventually(lambda: ask(token) == 200, "the right time is the right time", 40)
    assert refused <= seen + 2, "what was refused reached the cluster"
    gateway.stop()
    numbers = [record["seq"] for record in gateway.records()]
    assert numbers == sorted(set(numbers)), "sequence numbers are not monotonic"
