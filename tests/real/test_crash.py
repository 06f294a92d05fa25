"""kill -9 under load, and a disk that is full: nothing crosses unrecorded, nothing recorded is lost."""
import os
import random
import shutil
import subprocess
import time

from harness import allowed, crossing, kind, texts
from load import Load
from process import Skip, eventually
from test_export import QUICK, complete

KILLS = 20


def test_kill_nine_twenty_times_under_load(t):
    collector = t.collector()
    gateway, upstream = t.echo_gateway({"audit.export": {"backend": {"endpoint": collector.url, **QUICK}}})
    starts = []
    with Load(gateway) as load:
        for _ in range(KILLS):
            before = len(load.answered)
            eventually(lambda: len(load.answered) > before, "the load is served", 20)
            time.sleep(random.uniform(0.05, 0.6))      # the fault strikes at any moment
            gateway.process.kill()
            starts.append(gateway.start())
        before = len(load.answered)
        eventually(lambda: len(load.answered) > before, "served after the last crash", 20)
    complete(gateway, collector)
    gateway.process.stop()

    decided = {text for record in gateway.records() if kind(record) == "decision" and allowed(record)
               for text in texts(record) if text.startswith("/app/load/")}
    forwarded = {path for path in upstream.paths() if path.startswith("/app/load/")}
    answered = {path for path, _ in load.answered}
    assert len(answered) > KILLS and not load.other, load.other[:5]
    assert forwarded <= decided, f"forwarded without a durable decision: {sorted(forwarded - decided)[:5]}"
    assert answered <= decided, f"answered without a record: {sorted(answered - decided)[:5]}"
    as_signed(gateway, collector)
    # Within 0.3 s on a quiet machine; this bound is for one that compiles beside it.
    assert max(starts) < 5, f"slowest start after a crash: {max(starts):.2f} s"
    print(f"     {len(answered)} answered, {len(forwarded)} forwarded, {len(decided)} decided; starts up to {max(starts):.2f} s")


def test_every_decision_has_an_outcome_after_a_crash(t):
    gateway, _ = t.echo_gateway()
    with Load(gateway) as load:
        eventually(lambda: len(load.answered) > 20, "the load is served", 20)
        gateway.process.kill()
    gateway.start()
    records = gateway.records()
    ended = {crossing(record) for record in records if kind(record) == "outcome"}
    still_open = [crossing(record) for record in records if kind(record) == "decision" and crossing(record) not in ended]
    assert not still_open, f"decisions without an outcome after recovery: {still_open[:5]}"


def test_full_disk_stops_and_resumes(t):
    if os.geteuid():
        raise Skip("mounting a small tmpfs needs root")
    collector = t.collector()
    gateway, upstream = t.echo_gateway({"audit.segment_size": "1MiB", "audit.queue": 1024,
                                        "audit.export": {"backend": {"endpoint": collector.url, **QUICK}}}, start=False)
    gateway.journal.mkdir(exist_ok=True)
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0700", "tmpfs", gateway.journal], capture_output=True, text=True)
    if mounted.returncode:
        raise Skip(f"no tmpfs can be mounted here: {mounted.stderr.strip()}")
    t.defer(subprocess.run, ["umount", "--lazy", gateway.journal])
    t.defer(gateway.stop)
    gateway.start()
    ballast = gateway.journal / "ballast"
    with open(ballast, "wb") as file:
        file.write(b"\0" * max(0, shutil.disk_usage(gateway.journal).free - 64 * 1024))

    statuses, number = [], 0
    while 503 not in statuses:
        assert number < 20000, "the disk is full and nobody says so"
        statuses.append(gateway.request("GET", f"/app/full/{number}")[0])
        number += 1
    assert set(statuses) == {200, 503}, set(statuses)
    assert len(upstream.paths()) == statuses.count(200), "something was forwarded that was not answered 200"
    seen = upstream.bytes()
    assert [gateway.request("GET", "/app/still-full")[0] for _ in range(5)] == [503] * 5
    assert upstream.bytes() == seen, "forwarded without a record"

    ballast.unlink()
    began = time.monotonic()
    eventually(lambda: gateway.request("GET", "/app/again")[0] == 200, "it resumes by itself", 10)
    assert time.monotonic() - began < 3
    assert gateway.process.code is None
    complete(gateway, collector)
    gateway.process.stop()
    as_signed(gateway, collector)


def as_signed(gateway, collector):
    """The tree has every record, and is the one of every checkpoint that the collector was sent."""
    vkey = gateway.journal / "tree" / "vkey"
    verified = gateway.command("audit", "verify", "--journal", gateway.journal, "--vkey", vkey)
    assert "verified  every record" in verified, verified
    sent = collector.checkpoints()
    assert sent, "no checkpoint had left"
    for number, checkpoint in enumerate(sent[:: max(1, len(sent) // 10)] + sent[-1:]):
        seen = gateway.folder / f"seen-{number}"
        seen.write_text(checkpoint.body)
        gateway.command("audit", "verify", "--journal", gateway.journal, "--vkey", vkey, "--checkpoint", seen)
