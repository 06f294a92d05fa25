"""boto3, unsigned, through the gateway to a real S3 store: clients hold no key of the store."""
import hmac
import shutil
import subprocess

from checks import s3_client, status_of, use_store
from harness import CLIENT, CLIENT_KEY, allowed, gateway_config, kind, texts
from process import Skip, eventually


def setup(t):
    store = t.component("s3")
    direct = s3_client(store.url, keys=(store.access_key, store.secret_key))
    bucket = "docs-" + str(t.folder)[-8:].lower().replace("_", "x")
    direct.create_bucket(Bucket=bucket)
    direct.put_object(Bucket=bucket, Key="payroll/may.csv", Body=b"secret")
    issuer, trusted, secrets = t.issuer()
    secrets["keys/lake.key"] = store.secret_key
    stores = {"lake": {
        "endpoints": [store.url], "region": store.region, "access_key_id": store.access_key, "secret_key_file": "keys/lake.key",
        "datasets": [
            {"id": "handbook", "bucket": bucket, "prefix": "handbook/", "level": "public", "residency": ["world"]},
            {"id": "payroll", "bucket": bucket, "prefix": "payroll/", "level": "public", "residency": ["world"]},
        ]}}
    # Whoever reads must be known to be somewhere; the certificate's workload is on the cluster `eu`.
    clusters = {"eu": {"endpoints": ["http://127.0.0.1:9"], "models": ["m"]}}
    routes = [{"name": "lake", "path": "/lake/*", "store": "lake"}]
    gateway = t.gateway(gateway_config(routes, stores=stores, clusters=clusters, issuer=trusted), secrets)
    return gateway, direct, bucket, issuer


def test_a_job_with_a_certificate_uses_its_dataset(t):
    gateway, direct, bucket, _ = setup(t)
    job = s3_client(gateway.url + "/lake", ca=gateway.ca, certificate=gateway.client_certificate)
    use_store(job, bucket, "handbook/")
    decisions = [record for record in gateway.records() if kind(record) == "decision"]
    assert len(decisions) == 7 and all(map(allowed, decisions)), decisions
    # Object keys are private data too: a record holds their digest.
    assert not any("guide.txt" in text for record in decisions for text in texts(record))


def test_an_upload_is_recorded_with_its_digest(t):
    gateway, direct, bucket, _ = setup(t)
    job = s3_client(gateway.url + "/lake", ca=gateway.ca, certificate=gateway.client_certificate)
    body = bytes(range(256)) * 5000
    job.put_object(Bucket=bucket, Key="handbook/upload", Body=body)
    assert direct.get_object(Bucket=bucket, Key="handbook/upload")["Body"].read() == body

    def outcome():
        decided = [r["id"] for r in gateway.records() if r["kind"] == "decision" and r.get("action") == "write"]
        return next((r for r in gateway.records() if r["kind"] == "outcome" and r["id"] in decided), None)

    eventually(lambda: outcome() is not None, "the upload has an outcome", 10)
    found = outcome()
    # The client sent it in signed chunks; what is digested is what the store got.
    key = (gateway.journal / "keys" / "acme.key").read_bytes()
    assert found["request_digest"] == hmac.new(key, body, "sha256").hexdigest(), found
    assert found["request_bytes"] == len(body), found


def test_a_token_over_the_jobs_connection(t):
    gateway, direct, bucket, issuer = setup(t)
    direct.put_object(Bucket=bucket, Key="handbook/a", Body=b"one")

    def client(groups):
        return s3_client(gateway.url + "/lake", ca=gateway.ca, certificate=gateway.client_certificate, token=issuer.token(groups=groups))

    assert client(["research"]).get_object(Bucket=bucket, Key="handbook/a")["Body"].read() == b"one"
    assert status_of(client(["finance"]).get_object, Bucket=bucket, Key="handbook/a") == 403


def test_what_is_not_permitted_is_refused(t):
    gateway, direct, bucket, issuer = setup(t)
    job = s3_client(gateway.url + "/lake", ca=gateway.ca, certificate=gateway.client_certificate)
    nobody = s3_client(gateway.url + "/lake", ca=gateway.ca)
    assert status_of(job.get_object, Bucket=bucket, Key="payroll/may.csv") == 403
    assert status_of(job.get_object, Bucket=bucket, Key="elsewhere/x") == 403
    assert status_of(job.list_objects_v2, Bucket=bucket) == 403
    assert status_of(nobody.get_object, Bucket=bucket, Key="handbook/a") == 401
    assert status_of(job.copy_object, Bucket=bucket, Key="handbook/b", CopySource=f"{bucket}/payroll/may.csv") == 400
    assert status_of(job.get_object_acl, Bucket=bucket, Key="handbook/a") == 400
    assert status_of(job.delete_objects, Bucket=bucket, Delete={"Objects": [{"Key": "handbook/a"}]}) == 405
    assert status_of(job.create_multipart_upload, Bucket=bucket, Key="handbook/b") == 405
    upload = {"Bucket": bucket, "Key": "handbook/b", "UploadId": "1"}
    assert status_of(job.upload_part, PartNumber=1, Body=b"x", **upload) == 400
    assert direct.list_objects_v2(Bucket=bucket)["KeyCount"] == 1, "a refused operation reached the store"


def test_curl_with_a_certificate(t):
    if not shutil.which("curl"):
        raise Skip("curl is not on this machine")
    gateway, direct, bucket, _ = setup(t)
    direct.put_object(Bucket=bucket, Key="handbook/a", Body=b"one")
    done = subprocess.run(
        ["curl", "--silent", "--fail", "--cacert", gateway.ca, "--cert", gateway.folder / CLIENT, "--key", gateway.folder / CLIENT_KEY,
         f"{gateway.url}/lake/{bucket}/handbook/a"], capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (0, b"one"), done
