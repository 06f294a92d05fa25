"""A dataset that lies sealed in a real store, and a GPU job with boto3, Amazon's client and keys of its own."""
import json
import os
import time
import uuid
from unittest import mock

from checks import s3_client, status_of, use_store
from harness import SPIFFE_ID, gateway_config, kind
from process import eventually
from test_seal_format import World, aes, client, provider

L = 65536
BODY = bytes(range(256)) * 3000 + b"MARKER-dataset-8f1c"


def setup(t, level="public", can_open="job"):
    """The gateway with the routes `/open` and `/pass` to one dataset, its keys, and the job's client for each route."""
    world = World(t)
    with (world.folder / "tidegate.toml").open("a") as file:
        file.write('[recipients.lake]\nroot = "file"\n')
    world.run("keys", "init", "--tenant", "acme")
    for recipient, direction in (("lake", "rest"), ("job", "answer"), ("job", "request")):
        world.run("keys", "export", "--tenant", "acme", "--recipient", recipient, "--direction", direction, "-o", f"{recipient}.{direction}")
    store = t.component("s3")
    direct = s3_client(store.url, keys=(store.access_key, store.secret_key))
    bucket = "rest-" + str(t.folder)[-8:].lower().replace("_", "x")
    direct.create_bucket(Bucket=bucket)
    secrets = {"keys/lake.key": store.secret_key}
    for name in ("root.key", "job.pem"):
        secrets[name] = (world.folder / name).read_text()
    for file in (world.folder / "keys").glob("*.json"):
        secrets[f"branch/{file.name}"] = file.read_text()
    stores = {"lake": {
        "endpoints": [store.url], "region": store.region, "access_key_id": store.access_key, "secret_key_file": "keys/lake.key",
        "datasets": [{"id": "handbook", "bucket": bucket, "prefix": "handbook/", "level": level, "residency": ["world"],
                      "sealed": {"tenant": "acme", "recipient": "lake"}}]}}
    clusters = {"eu": {"endpoints": ["http://127.0.0.1:9"], "models": ["m"]}}
    routes = [{"name": way, "path": f"/{way}/*", "store": "lake", "objects": way, "opens": way == "open"} for way in ("open", "pass")]
    config = gateway_config(routes, stores=stores, clusters=clusters)
    config["identity"]["mtls"]["trust_domains"][0]["workloads"] = [
        {"id": SPIFFE_ID, "teams": ["research"], "cluster": "eu", "can_open": can_open}]
    config["keys"] = {"directory": "branch", "roots": {"file": {"file": "root.key"}}}
    config["recipients"] = {"job": {"root": "file"}, "lake": {"root": "file"}, "rsa": {"public_key": "job.pem"}}
    gateway = t.gateway(config, secrets)
    ways = [s3_client(f"{gateway.url}/{way}", ca=gateway.ca, certificate=gateway.client_certificate) for way in ("open", "pass")]
    return world, gateway, direct, bucket, ways


def opened(world, sealed, recipient, direction):
    """With the stock client and the exported branch key."""
    _, key = aes((world.folder / f"{recipient}.{direction}").read_bytes())
    return world.stock_open(sealed, (f"t/acme/{recipient}/{direction}/v1".encode(), key))


def lies(direct, bucket, key):
    return direct.get_object(Bucket=bucket, Key=key)["Body"].read()


def test_the_store_holds_messages_and_the_job_sees_plaintext(t):
    world, gateway, direct, bucket, (job, _) = setup(t)
    key = "handbook/register.csv"
    for size in (0, 1, L - 1, L, 2 * L, len(BODY)):
        body = BODY[len(BODY) - size:]
        job.put_object(Bucket=bucket, Key=key, Body=body, ContentType="text/csv", Metadata={"note": "kept"})
        sealed = lies(direct, bucket, key)
        assert b"MARKER" not in sealed and len(sealed) > size
        text, context = opened(world, sealed, "lake", "rest")
        assert text == body and context["key"] == key and context["content-type"] == "text/csv", context
        answer = job.get_object(Bucket=bucket, Key=key)
        assert answer["Body"].read() == body and answer["ContentType"] == "text/csv" and answer["Metadata"] == {"note": "kept"}
        assert job.head_object(Bucket=bucket, Key=key)["ContentLength"] == size
        for wanted, part in (("bytes=0-0", body[:1]), ("bytes=-9", body[-9:]), (f"bytes={L - 1}-{L}", body[L - 1:L + 1])):
            if not part:
                assert status_of(job.get_object, Bucket=bucket, Key=key, Range=wanted) == 416, (size, wanted)
                continue
            assert job.get_object(Bucket=bucket, Key=key, Range=wanted)["Body"].read() == part, (size, wanted)
    # A listing shows what lies there.
    listed = job.list_objects_v2(Bucket=bucket, Prefix="handbook/")["Contents"]
    assert [(entry["Key"], entry["Size"]) for entry in listed] == [(key, len(sealed))]
    job.delete_object(Bucket=bucket, Key=key)
    use_store(job, bucket, "handbook/")
    assert not any("MARKER" in json.dumps(record) for record in gateway.records())


def test_a_range_fetches_the_frames_that_it_touches(t):
    _, gateway, _, bucket, (job, _) = setup(t)
    body = (BODY * 7)[:5_000_000]
    job.put_object(Bucket=bucket, Key="handbook/five", Body=body)
    answer = job.get_object(Bucket=bucket, Key="handbook/five", Range="bytes=2500000-2599999")
    assert answer["Body"].read() == body[2_500_000:2_600_000]

    def outcome():
        return next((r for r in gateway.records() if kind(r) == "outcome" and r.get("fetched_bytes")), None)
    eventually(lambda: outcome() is not None, "the read has an outcome", 10)
    # Two edges, the header and the final frame besides; the worst of all places is the same within a frame.
    assert outcome()["fetched_bytes"] <= 200_000 and outcome()["object"]["key"] == "t/acme/lake/rest/v1", outcome()


def test_restricted_objects_come_sealed_for_the_job_and_go_back(t):
    world, gateway, direct, bucket, (job, kept) = setup(t, level="restricted")
    key = "handbook/register.csv"
    job.put_object(Bucket=bucket, Key=key, Body=BODY)
    for wanted, part in ((None, BODY), ("bytes=5-70000", BODY[5:70001]), ("bytes=-100", BODY[-100:])):
        more = {} if wanted is None else {"Range": wanted}
        answer = job.get_object(Bucket=bucket, Key=key, **more)
        text, context = opened(world, answer["Body"].read(), "job", "answer")
        assert text == part and context["total"] == str(len(BODY)) and context["recipient"] == "job", context
    # The job never gets the dataset's key, and a message of the dataset is no use to it.
    message = kept.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert message == lies(direct, bucket, key)
    # What it has made goes back sealed by itself, and comes again as it was sent.
    made = BODY[::-1]
    world.branch = (world.folder / "job.request").read_bytes()
    name, branch = b"t/acme/job/request/v1", aes(world.branch)[1]
    sealed, _ = client().encrypt(source=made, key_provider=provider((name, branch)), frame_length=4096,
                                 algorithm=suite(), encryption_context={"tenant": "acme", "recipient": "job", "direction": "request"})
    kept.put_object(Bucket=bucket, Key="handbook/made", Body=sealed)
    again = kept.get_object(Bucket=bucket, Key="handbook/made")["Body"].read()
    assert again == sealed and opened(world, again, "job", "request")[0] == made
    # Plaintext, or a message of somebody else's, does not get there; and is no object of the dataset to the route that opens.
    assert status_of(kept.put_object, Bucket=bucket, Key="handbook/no", Body=made) == 422
    assert status_of(job.get_object, Bucket=bucket, Key="handbook/made") == 502
    assert status_of(direct.get_object, Bucket=bucket, Key="handbook/no") == 404


def test_a_job_seals_an_upload_for_the_way(t):
    world, gateway, direct, bucket, _ = setup(t, level="restricted")
    # The body is the message itself, not chunks with a checksum of it.
    with mock.patch.dict(os.environ, {"AWS_REQUEST_CHECKSUM_CALCULATION": "when_required"}):
        job = s3_client(f"{gateway.url}/open", ca=gateway.ca, certificate=gateway.client_certificate)
    key = "handbook/made"
    context = {"tenant": "acme", "recipient": "job", "direction": "request", "method": "PUT", "path": f"/open/{bucket}/{key}",
               "level": "restricted", "decision": str(uuid.uuid4()), "expires": str(int(time.time()) + 120), "content-type": "text/csv"}
    branch = aes((world.folder / "job.request").read_bytes())[1]
    sealed, _ = client().encrypt(source=BODY, key_provider=provider((b"t/acme/job/request/v1", branch)), frame_length=4096,
                                 algorithm=suite(), encryption_context=context)
    job.put_object(Bucket=bucket, Key=key, Body=sealed, ContentType="application/vnd.tidegate.sealed")
    text, context = opened(world, lies(direct, bucket, key), "lake", "rest")
    assert text == BODY and context["content-type"] == "text/csv", context
    assert status_of(job.put_object, Bucket=bucket, Key=key, Body=sealed, ContentType="application/vnd.tidegate.sealed") == 409


def test_a_job_with_a_private_key_of_its_own(t):
    world, _, _, bucket, (job, _) = setup(t, level="restricted", can_open="rsa")
    job.put_object(Bucket=bucket, Key="handbook/a", Body=BODY)
    for wanted, part in ((None, BODY), ("bytes=65530-65549", BODY[65530:65550])):
        more = {} if wanted is None else {"Range": wanted}
        sealed = job.get_object(Bucket=bucket, Key="handbook/a", **more)["Body"].read()
        assert world.stock_open(sealed, world.rsa_key())[0] == part


def test_what_was_overwritten_swapped_or_cut_is_an_error(t):
    world, _, direct, bucket, (job, _) = setup(t)
    for key in ("handbook/a", "handbook/b"):
        job.put_object(Bucket=bucket, Key=key, Body=BODY)
    first = job.get_object(Bucket=bucket, Key="handbook/a", Range="bytes=0-70000")
    assert first["Body"].read() == BODY[:70001]
    job.put_object(Bucket=bucket, Key="handbook/a", Body=BODY[::-1])
    assert status_of(job.get_object, Bucket=bucket, Key="handbook/a", Range="bytes=70001-", IfMatch=first["ETag"]) == 412
    a, b = lies(direct, bucket, "handbook/a"), lies(direct, bucket, "handbook/b")
    frame = len(a) - len(BODY) % L - 40 - L - 32
    for what, bad in (("another object's", b), ("cut", a[:-41]), ("cut at a frame", a[:frame]), ("plain", BODY), ("empty", b""),
                      ("of two versions", a[:frame] + b[frame:])):
        direct.put_object(Bucket=bucket, Key="handbook/a", Body=bad)
        assert status_of(job.get_object, Bucket=bucket, Key="handbook/a") == 502, what
        assert status_of(job.get_object, Bucket=bucket, Key="handbook/a", Range="bytes=-10") == 502, what
        assert status_of(job.head_object, Bucket=bucket, Key="handbook/a") == 502, what
    direct.put_object(Bucket=bucket, Key="handbook/a", Body=a)
    assert job.get_object(Bucket=bucket, Key="handbook/a")["Body"].read() == BODY[::-1]


def test_sealed_answers_of_two_versions_say_so(t):
    world, _, _, bucket, (job, _) = setup(t, level="restricted")
    versions = []
    for body in (BODY, BODY[::-1]):
        job.put_object(Bucket=bucket, Key="handbook/a", Body=body)
        for wanted in ("bytes=0-9", "bytes=10-19"):
            sealed = job.get_object(Bucket=bucket, Key="handbook/a", Range=wanted)["Body"].read()
            versions.append(opened(world, sealed, "job", "answer")[1]["version"])
    assert versions[0] == versions[1] != versions[2] == versions[3], versions


def suite():
    import aws_encryption_sdk as esdk
    return esdk.identifiers.Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY
