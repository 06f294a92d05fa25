"""A restricted dataset in a real store, read by a GPU job that has boto3, Amazon's client and its own key; and nothing else opens it."""
from checks import s3_client, status_of
from harness import SPIFFE_ID, allowed, gateway_config, kind, texts
from process import eventually
from test_seal_format import World, aes

BODY = bytes(range(256)) * 3000


def setup(t):
    world = World(t)
    world.run("keys", "init", "--tenant", "acme")
    world.run("keys", "export", "--tenant", "acme", "--recipient", "job", "--direction", "answer", "-o", "answer.branch")
    store = t.component("s3")
    direct = s3_client(store.url, keys=(store.access_key, store.secret_key))
    bucket = "sealed-" + str(t.folder)[-8:].lower().replace("_", "x")
    direct.create_bucket(Bucket=bucket)
    direct.put_object(Bucket=bucket, Key="handbook/register.csv", Body=BODY, ContentType="text/csv")
    secrets = {"keys/lake.key": store.secret_key, "root.key": (world.folder / "root.key").read_text()}
    for file in (world.folder / "keys").glob("*.json"):
        secrets[f"branch/{file.name}"] = file.read_text()
    stores = {"lake": {
        "endpoints": [store.url], "region": store.region, "access_key_id": store.access_key, "secret_key_file": "keys/lake.key",
        "datasets": [{"id": "handbook", "bucket": bucket, "prefix": "handbook/", "level": "restricted", "residency": ["world"]}]}}
    clusters = {"eu": {"endpoints": ["http://127.0.0.1:9"], "models": ["m"]}}
    config = gateway_config([{"name": "lake", "path": "/lake/*", "store": "lake"}], stores=stores, clusters=clusters)
    config["identity"]["mtls"]["trust_domains"][0]["workloads"] = [
        {"id": SPIFFE_ID, "teams": ["research"], "cluster": "eu", "can_open": "job"}]
    config["keys"] = {"directory": "branch", "roots": {"file": {"file": "root.key"}}}
    config["recipients"] = {"job": {"root": "file"}}
    gateway = t.gateway(config, secrets)
    job = s3_client(gateway.url + "/lake", ca=gateway.ca, certificate=gateway.client_certificate)
    return world, gateway, job, bucket


def opened(world, sealed):
    name, _ = aes(b"\0" * 32)
    _, key = aes((world.folder / "answer.branch").read_bytes())
    return world.stock_open(sealed, (name.replace(b"/rest/", b"/answer/"), key))


def test_the_job_opens_what_it_reads_whole_and_in_parts(t):
    world, gateway, job, bucket = setup(t)
    for part in (None, (0, 0), (5, 70000), (len(BODY) - 10, len(BODY) - 1)):
        wanted = {} if part is None else {"Range": f"bytes={part[0]}-{part[1]}"}
        answer = job.get_object(Bucket=bucket, Key="handbook/register.csv", **wanted)
        sealed = answer["Body"].read()
        first, last = part or (0, len(BODY) - 1)
        assert answer["ContentType"] == "application/vnd.tidegate.sealed"
        assert answer["ContentLength"] == len(sealed) and (first == last or BODY[first:last + 1][:200] not in sealed)
        if part:
            assert answer["ContentRange"] == f"bytes {first}-{last}/{len(BODY)}", answer
        text, context = opened(world, sealed)
        assert text == BODY[first:last + 1], part
        said = {"tenant": "acme", "recipient": "job", "direction": "answer", "store": "lake", "bucket": bucket, "key": "handbook/register.csv",
                "range": f"{first}-{last}", "total": str(len(BODY)), "level": "restricted", "content-type": "text/csv"}
        assert said.items() <= context.items(), context
    decisions = [record for record in gateway.records() if kind(record) == "decision"]
    assert all(allowed(record) and record["protection"] == "sealed" for record in decisions), decisions
    # Why it did not leave in the clear.
    assert all(record["evaluations"][0]["policies"] == ["test-restricted-only-sealed"] for record in decisions)
    assert not any("register.csv" in text for record in decisions for text in texts(record))
    ids = {record["id"] for record in decisions}

    def outcomes():
        return [r for r in gateway.records() if kind(r) == "outcome" and r["id"] in ids]
    eventually(lambda: len(outcomes()) == len(ids), "each crossing has its outcome", 10)
    for outcome in outcomes():
        assert outcome["answer"]["key"] == "t/acme/job/answer/v1" and len(outcome["response_ciphertext"]) == 64, outcome


def test_each_answer_is_a_message_of_its_own(t):
    world, gateway, job, bucket = setup(t)
    one, two = (job.get_object(Bucket=bucket, Key="handbook/register.csv") for _ in range(2))
    assert one["ETag"] != two["ETag"]
    assert one["Body"].read()[:200] != two["Body"].read()[:200]


def test_several_ranges_missing_objects_and_metadata(t):
    world, gateway, job, bucket = setup(t)
    assert status_of(job.get_object, Bucket=bucket, Key="handbook/register.csv", Range="bytes=0-1,5-9") == 416
    assert status_of(job.get_object, Bucket=bucket, Key="handbook/none") == 404
    assert status_of(job.get_object, Bucket=bucket, Key="handbook/register.csv", Range="bytes=99999999-") == 416
    # Metadata of restricted data has no sealed form, so it does not leave at all; a listing neither.
    assert status_of(job.head_object, Bucket=bucket, Key="handbook/register.csv") == 403
    assert status_of(job.list_objects_v2, Bucket=bucket, Prefix="handbook/") == 403
