"""Proofs with a real solver: the shipped policies hold, each rule is what holds them, and what cannot be answered is not proved."""
import json
import os
import re
import shutil
import subprocess
import time

import components
from harness import COMPONENTS, ROOT, TARGET

# The rule that is taken away, the invariant that it alone upholds, and what the request that slips through must show.
RULES = {
    "residency": ("nothing leaves its residency", r"residency +(nowhere|.*)\n +destination"),
    "restricted-only-sealed": ("restricted never leaves unsealed", r"level +restricted\n"),
    "anonymous-only-public": ("anonymous never sends above public", r'who +Workload "anonymous"'),
    "agents-never-delete": ("agents never delete", r"what +delete (.|\n)*agent +"),
}


def test_the_shipped_policies_are_proved(t):
    world = World(t)
    code, text = world.prove()
    assert code == 0 and "6 of 6 claims proved" in text and "remembered" not in text, text
    assert text.count("│ proved") + text.count("┆ proved") == 6, text
    # An equal question is not asked again, and an unequal one is.
    fast = min(world.timed() for _ in range(3))
    code, text = world.prove()
    assert code == 0 and "all remembered" in text and fast < 2, (fast, text)
    report = world.report("--no-cache")
    assert report["proved"] and not any(claim["cached"] for claim in report["claims"]), report
    world.edit("40-services.cedar", '"HEAD"', '"OPTIONS"')
    code, text = world.prove()
    assert code == 0 and "remembered" not in text, text
    folder = world.folder / "cache/tidegate/prove"
    assert len(list(folder.iterdir())) == 12 and folder.stat().st_mode & 0o777 == 0o700, list(folder.iterdir())
    assert sorted(path.name for path in world.policies.iterdir()) == sorted(path.name for path in (ROOT / "policies").iterdir())


def test_without_a_rule_its_invariant_is_disproved(t):
    world = World(t)
    for rule, (invariant, shows) in RULES.items():
        world.without(rule)
        code, text = world.prove()
        assert code == 1 and f"✗ {invariant}\n" in text and "5 of 6 claims proved" in text, text
        assert re.search(shows, text) and "Cedar        must be denied, and is allowed by " in text, text
        # A program gets the whole request, and a disproof is remembered as well.
        claim = next(claim for claim in world.report()["claims"] if claim["says"] == invariant)
        found = claim["verdict"]["counterexample"]
        assert claim["cached"] and claim["verdict"]["result"] == "disproved" and found["policies"], claim
        assert found["request"]["principal"].startswith("Tidegate::") and found["entities"], found
    # A rule that no invariant speaks of may go.
    world.without("no-endless-generation")
    assert world.prove()[0] == 0


def test_an_invariant_that_is_about_nothing_proves_nothing(t):
    world = World(t)
    world.without("restricted-only-sealed")
    world.edit("invariants/restricted.bad.cedar", "context.data.level >= 3", "context.data.level >= 3 && context.data.level <= 0")
    code, text = world.prove()
    assert code == 1 and "? restricted never leaves unsealed\n" in text and "5 of 6 claims proved" in text, text
    assert "it describes no request that there can be" in text, text


def test_a_release_carries_its_proof_to_the_gateway(t):
    """Proved, signed and demanded, each by its own command; and another text under the same id is another claim."""
    world = World(t)
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", world.folder / "key.pem"], check=True, capture_output=True)
    (world.folder / "key.pem").chmod(0o600)
    pinned = next(claim["sha256"] for claim in world.release(1)["claims"] if claim["id"] == "restricted-unsealed")
    assert world.check(["restricted-unsealed"])[0] == 0
    code, text = world.check([f"restricted-unsealed@{pinned}", "agent-deletes"])
    assert code == 0, text
    # Weakened, it is still proved, and by its id alone nobody could tell.
    world.edit("invariants/restricted.bad.cedar", "context.data.level >= 3", "context.data.level >= 3 && context.request.bytes > 4096")
    world.release(2)
    assert world.check(["restricted-unsealed"])[0] == 0
    code, text = world.check([f"restricted-unsealed@{pinned}"])
    assert code == 1 and f"does not attest `restricted-unsealed@{pinned}`, but agent-deletes, " in text, text


def test_what_holds_for_every_bundle(t):
    world = World(t)
    world.add('@id("never-seal") forbid (principal, action in Tidegate::Action::"send", resource)'
              ' when { context.protection.sealed && context.data.level == 0 };')
    code, text = world.prove()
    assert code == 1 and "allowed with protection none, denied with protection sealed by " in text and "never-seal" in text, text
    assert re.search(r"level +public\n(.|\n)*protection +sealed\n", text), text
    world.reset()
    world.add('@id("later") forbid (principal, action, resource)'
              ' when { context.now.offset(duration("9223372036854775807ms")) < context.now };')
    code, text = world.prove()
    assert code == 1 and "✗ no policy ever has an error" in text and "denied by an error: " in text, text


def test_no_answer_is_no_proof(t):
    world = World(t)
    code, text = world.prove("--timeout", "1ms")
    assert code == 1 and "not proved for" in text and "no answer within 1 ms" in text, text
    # What was proved even so is remembered, and rightly; the next find nothing.
    shutil.rmtree(world.folder / "cache", ignore_errors=True)
    # A solver that hangs or dies proves nothing, and is not waited for.
    for what, body in {"hangs": "exec sleep 1000", "dies": "exit 1", "lies": "while read -r line; do echo maybe; done"}.items():
        solver = world.folder / what
        solver.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "This is cvc5 version 9 ({what})" && exit\n{body}\n')
        solver.chmod(0o755)
        began = time.monotonic()
        code, text = world.prove("--timeout", "100ms", "--jobs", "14", env={"CVC5": str(solver)})
        assert code == 1 and "0 of 6 claims proved" in text and time.monotonic() - began < 250, text
    # Nothing of it is remembered.
    assert not list((world.folder / "cache").rglob("*.json"))


def test_without_a_solver_it_says_where_to_get_one(t):
    world = World(t)
    for env, said in [
        ({"CVC5": "", "PATH": str(world.folder)}, "apt-get install cvc5"),
        ({"CVC5": str(world.folder / "nowhere")}, "cannot run the solver"),
        ({"CVC5": shutil.which("cat")}, "is no cvc5"),
    ]:
        code, text = world.prove(env=env)
        assert code == 3 and said in text and "CVC5" in text, text


class World:
    """The shipped policies in a folder, a solver, and a program that was built to use it."""

    program = None

    def __init__(self, t):
        self.folder, self.policies = t.folder, t.folder / "policies"
        self.env = {**os.environ, **components.cvc5(COMPONENTS), "XDG_CACHE_HOME": str(self.folder / "cache"), "NO_COLOR": "1"}
        World.program = World.program or build()
        self.reset()

    def reset(self):
        shutil.rmtree(self.policies, ignore_errors=True)
        shutil.copytree(ROOT / "policies", self.policies)

    def prove(self, *arguments, env=None):
        done = subprocess.run([World.program, "policy", "prove", *arguments], cwd=self.folder, env={**self.env, **(env or {})},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def run(self, *arguments):
        done = subprocess.run([World.program, *arguments], cwd=self.folder, env=self.env, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr

    def release(self, serial):
        """Proves and signs the policies; the proof."""
        proof = self.report()
        (self.folder / "proof.json").write_text(json.dumps(proof))
        code, text = self.run("policy", "bundle", "policies", "--key", "key.pem", "--serial", str(serial), "--proof", "proof.json")
        assert code == 0, text
        self.key = re.search(r'keys = \["(.+)"\]', text)[1]
        return proof

    def check(self, claims):
        """What a gateway that demands these claims says of the policies."""
        (self.folder / "tidegate.toml").write_text(
            '[listen]\naddress = "127.0.0.1:0"\n[admin]\naddress = "127.0.0.1:0"\n[audit]\ndirectory = "journal"\n'
            f'[policy]\ndirectory = "policies"\nkeys = ["{self.key}"]\nattestation = "required"\nclaims = {json.dumps(claims)}\n'
            '[services.status]\nendpoints = ["http://127.0.0.1:9"]\n'
            '[[routes]]\nname = "all"\npath = "/*"\nservice = "status"\nidentity = "none"\nlevel = "public"\nresidency = ["world"]\n')
        return self.run("check", "--config", "tidegate.toml")

    def timed(self):
        began = time.monotonic()
        self.prove()
        return time.monotonic() - began

    def report(self, *arguments):
        return json.loads(self.prove("--output", "json", *arguments)[1])

    def edit(self, file, old, new):
        path = self.policies / file
        text = path.read_text()
        assert old in text, (file, old)
        path.write_text(text.replace(old, new, 1))

    def add(self, policy):
        (self.policies / "50-more.cedar").write_text(policy + "\n")

    def without(self, rule):
        self.reset()
        for path in self.policies.glob("*.cedar"):
            text = path.read_text()
            if (start := text.find(f'@id("{rule}")')) >= 0:
                path.write_text(text[:start] + text[text.index(";", start) + 1:])
                return
        raise AssertionError(f"there is no rule {rule}")


def build():
    """The program with proofs, kept beside the one that other tests use."""
    kept = TARGET / "debug" / "tidegate-prove"
    usual = ["cargo", "build", "--locked", "--bin", "tidegate"]
    for arguments in ([*usual, "--features", "prove"], usual):
        done = subprocess.run(arguments, cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        if arguments is not usual:
            shutil.copy2(TARGET / "debug" / "tidegate", kept)
    return kept
