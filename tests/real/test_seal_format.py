"""Sealed files and Amazon's own client: each opens what the other sealed. `tidegate keys` makes the keys, `tidegate seal|open` do the work."""
import json
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import components
from harness import COMPONENTS, binary, python_clients

CONTEXT = {"tenant": "acme", "recipient": "job", "direction": "rest"}
L = 65536


def test_each_side_opens_what_the_other_sealed(t):
    world = World(t)
    for size in (0, 1, L - 1, L, L + 1, 5 * L + 17):
        plain = os.urandom(size)
        sealed = world.seal(plain, "--context", "purpose=train")
        text, header = world.stock_open(sealed)
        assert text == plain, size
        assert {**CONTEXT, "purpose": "train"}.items() <= header.items(), header
        assert world.open(sealed, "--context", "purpose=train").stdout == plain
        theirs = world.stock_seal(plain, {**CONTEXT, "purpose": "train"})
        opened = world.open(theirs)
        assert opened.returncode == 0 and opened.stdout == plain, (size, opened.stderr)


def test_a_job_opens_with_its_private_key_alone(t):
    world = World(t)
    plain = os.urandom(L + 3)
    sealed = world.seal(plain, recipient="rsa")
    assert world.stock_open(sealed, world.rsa_key())[0] == plain
    done = world.open(sealed, recipient="rsa")
    assert done.returncode != 0 and not done.stdout, "nobody here can open it"


def test_facts_that_are_not_stored_bind_on_both_sides(t):
    world = World(t)
    plain, facts, required = os.urandom(9000), {**CONTEXT, "purpose": "train"}, {"job": "7", "shard": "ünï"}
    ours = [word for pair in required.items() for word in ("--required", "=".join(pair))]
    sealed = world.seal(plain, "--context", "purpose=train", *ours)
    assert b"shard" not in sealed and b"purpose" in sealed
    done = world.required("open", sealed, {}, required)
    assert done.returncode == 0 and done.stdout == plain, done.stderr[-1000:]
    theirs = world.required("seal", plain, facts, required)
    assert theirs.returncode == 0 and b"shard" not in theirs.stdout, theirs.stderr[-1000:]
    assert world.open(theirs.stdout, *ours).stdout == plain
    for facts in ([], ours[:2], ["--required", "job=8", *ours[2:]]):
        done = world.open(theirs.stdout, *facts)
        assert done.returncode == 1 and not done.stdout, done
    assert world.required("open", sealed, {}, {**required, "job": "8"}).returncode != 0


def test_a_message_for_several_opens_with_the_key_of_each(t):
    world = World(t)
    file = world.folder / "tidegate.toml"
    file.write_text(file.read_text() + '[recipients.both]\nroot = "file"\nalso = ["rsa", "job"]\n')
    world.run("keys", "init", "--tenant", "acme")
    plain = os.urandom(300)
    sealed = world.seal(plain, recipient="both")
    named = [re.search(name, sealed)[0] for name in (rb"t/acme/both/rest/v1", rb"public/rsa/[0-9a-f]{16}", rb"t/acme/job/rest/v1")]
    assert world.open(sealed, recipient="both").stdout == plain
    assert world.stock_open(sealed)[0] == plain and world.stock_open(sealed, (named[1], world.rsa_key()[1]))[0] == plain
    # If one of them cannot be given the key, nobody is: half a message is worse than an error.
    for key in (world.folder / "keys").glob("*.json"):
        if json.loads(key.read_text())["name"].startswith("t/acme/job/"):
            key.unlink()
    done = subprocess.run([binary(), "seal", *world.common("both"), "-", "-o", "-"], cwd=world.folder, input=plain, capture_output=True)
    assert done.returncode == 3 and not done.stdout and b"job" in done.stderr, done


def test_a_slow_pipe_gives_each_frame_when_it_is_whole(t):
    world = World(t)
    sealed = world.seal(b"a" * 128 + b"b" * 128 + b"c", "--frame", "128")
    process = subprocess.Popen([binary(), "open", *world.common("job"), "-", "-o", "-"], cwd=world.folder,
                               stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    head = len(sealed) - 2 * (128 + 32) - 41
    process.stdin.write(sealed[:head + 160])
    process.stdin.flush()
    assert process.stdout.read(128) == b"a" * 128, "the first frame comes before the second is sent"
    process.stdin.write(sealed[head + 160:])
    process.stdin.close()
    assert process.stdout.read() == b"b" * 128 + b"c" and process.wait(30) == 0


def test_what_does_not_open_says_what_and_leaves_nothing(t):
    world = World(t)
    sealed = world.seal(b"x" * 300, "--frame", "128", "--required", "job=7")
    target = world.folder / "out"

    def refused(data, *more, word):
        (world.folder / "in").write_bytes(data)
        done = subprocess.run([binary(), "open", *world.common("job"), *more, "in", "-o", "out"], cwd=world.folder, capture_output=True, text=True)
        assert done.returncode == 1 and word in done.stderr, (word, done)
        assert not target.exists() and not list(world.folder.glob("*.part"))
        for secret in world.secrets():
            assert secret not in done.stderr + done.stdout

    required = ("--required", "job=7")
    refused(sealed, word="none of the message's keys")
    refused(sealed, "--required", "job=8", word="none of the message's keys")
    refused(sealed, *required, "--context", "tenant=other", word="context")
    frames = len(sealed) - 2 * 160 - (40 + 44)
    refused(sealed[:frames + 160], *required, word="truncated after frame 1")
    refused(sealed + b"x", *required, word="follow")
    flipped = bytearray(sealed)
    flipped[frames + 160 + 50] ^= 1
    refused(bytes(flipped), *required, word="frame 2")
    flipped = bytearray(sealed)
    flipped[frames - 1] ^= 1
    refused(bytes(flipped), *required, word="header")
    flipped = bytearray(sealed)
    flipped[frames - 40] ^= 1
    refused(bytes(flipped), *required, word="commitment")
    refused(b"no message at all", *required, word="malformed")
    done = subprocess.run([binary(), "open", *world.common("job"), *required, "missing", "-o", "out"], cwd=world.folder, capture_output=True)
    assert done.returncode == 3


def test_keys_are_rotated_retired_and_shredded(t):
    world = World(t)
    sealed = world.seal(b"kept")
    world.run("keys", "rotate", "--recipient", "job", "--direction", "rest")
    assert world.open(sealed).stdout == b"kept", "an old version opens"
    newer = world.seal(b"newer")
    rows = json.loads(world.run("keys", "list", "--recipient", "job", "--direction", "rest", "--output", "json"))
    assert [(row["version"], row["state"]) for row in rows] == [(1, "old"), (2, "active")], rows
    world.run("keys", "rewrap")
    assert world.open(sealed).stdout == b"kept"
    world.run("keys", "retire", "--recipient", "job", "--direction", "rest", "--version", "1")
    assert world.open(sealed).returncode == 1
    world.run("keys", "retire", "--recipient", "job", "--direction", "rest", "--version", "1", "--destroy", "--yes")
    assert world.open(newer).stdout == b"newer"
    for path in (world.folder / "keys").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        text = path.read_bytes()
        assert not any(secret.encode() in text for secret in world.secrets())


class World:
    """A folder with a configuration, a root key, branch keys and a job's own keys."""

    def __init__(self, t, name="seal"):
        python_clients()
        self.folder = t.folder / name
        self.folder.mkdir()
        subprocess.run(["openssl", "genrsa", "-out", "job.key", "2048"], cwd=self.folder, check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", "job.key", "-pubout", "-out", "job.pem"], cwd=self.folder, check=True, capture_output=True)
        (self.folder / "tidegate.toml").write_text("""
[listen]
address = "127.0.0.1:0"
[policy]
directory = "policies"
[audit]
directory = "journal"
[keys]
directory = "keys"
[keys.roots.file]
file = "root.key"
[recipients.job]
root = "file"
[recipients.rsa]
public_key = "job.pem"
""")
        self.run("keys", "init", "--tenant", "acme")
        self.run("keys", "export", "--tenant", "acme", "--recipient", "job", "--direction", "rest", "-o", "job.branch")
        self.branch = (self.folder / "job.branch").read_bytes()
        assert len(self.branch) == 32 and stat.S_IMODE((self.folder / "job.branch").stat().st_mode) == 0o600

    def run(self, *arguments):
        done = subprocess.run([binary(), *arguments[:2], "--config", "tidegate.toml", *arguments[2:]], cwd=self.folder, capture_output=True, text=True)
        assert done.returncode == 0, done
        return done.stdout

    def common(self, recipient):
        return ["--config", "tidegate.toml", "--tenant", "acme", "--recipient", recipient]

    def seal(self, plain, *more, recipient="job"):
        done = subprocess.run([binary(), "seal", *self.common(recipient), *more, "-", "-o", "-"], cwd=self.folder, input=plain, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def open(self, sealed, *more, recipient="job"):
        return subprocess.run([binary(), "open", *self.common(recipient), *more, "-", "-o", "-"], cwd=self.folder, input=sealed, capture_output=True)

    def required(self, what, data, stored, required):
        path = str(components.install("mpl", COMPONENTS))
        return subprocess.run([sys.executable, Path(__file__).with_name("required_context.py"), what, "job.branch", json.dumps(stored), json.dumps(required)],
                              cwd=self.folder, input=data, capture_output=True, env={**os.environ, "PYTHONPATH": path})

    def secrets(self):
        import base64
        keys = [self.branch, base64.b64decode((self.folder / "root.key").read_text())]
        return [form for key in keys for form in (key.hex(), base64.b64encode(key).decode())]

    def stock_open(self, sealed, key=None):
        text, header = client().decrypt(source=sealed, key_provider=provider(key or aes(self.branch)))
        return text, header.encryption_context

    def stock_seal(self, plain, context):
        import aws_encryption_sdk as esdk
        suite = esdk.identifiers.Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
        sealed, _ = client().encrypt(source=plain, key_provider=provider(aes(self.branch)), encryption_context=context,
                                     algorithm=suite, frame_length=4096)
        return sealed

    def rsa_key(self):
        from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
        from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
        pem = (self.folder / "job.key").read_bytes()
        name = re.search(rb"public/rsa/[0-9a-f]{16}", self.seal(b"", recipient="rsa"))[0]
        return name, WrappingKey(WrappingAlgorithm.RSA_OAEP_SHA256_MGF1, pem, EncryptionKeyType.PRIVATE)


def client():
    import aws_encryption_sdk as esdk
    return esdk.EncryptionSDKClient(commitment_policy=esdk.CommitmentPolicy.REQUIRE_ENCRYPT_REQUIRE_DECRYPT)


def aes(branch):
    from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
    from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
    key = WrappingKey(WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING, branch, EncryptionKeyType.SYMMETRIC)
    return b"t/acme/job/rest/v1", key


def provider(named):
    from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider
    name, key = named

    class Raw(RawMasterKeyProvider):
        provider_id = "tidegate"

        def _get_raw_key(self, key_id):
            assert key_id == name, (key_id, name)
            return key

    found = Raw()
    found.add_master_key(name)
    return found
