"""Client code that is used twice: straight against a component, and through the gateway."""
import base64
import json
import urllib.parse
import urllib.request

from harness import python_clients


def openai_client(base_url, key, ca=None):
    """The official client, without retries, so that one call is one crossing."""
    python_clients()
    import ssl
    import openai
    http = openai.DefaultHttpxClient(verify=ssl.create_default_context(cafile=ca)) if ca else None
    return openai.OpenAI(base_url=base_url, api_key=key, max_retries=0, timeout=120, http_client=http)


def ask_model(client, model):
    """A chat answer at once and streamed, both with usage."""
    messages = [{"role": "user", "content": "Name three colours."}]
    whole = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0)
    assert whole.choices[0].message.content and 0 < whole.usage.completion_tokens <= 12, whole
    text, usage, chunks = "", None, 0
    stream = client.chat.completions.create(model=model, messages=messages, max_tokens=12, temperature=0, stream=True,
                                            stream_options={"include_usage": True})
    for chunk in stream:
        chunks += 1
        usage = chunk.usage or usage
        text += chunk.choices[0].delta.content or "" if chunk.choices else ""
    assert text == whole.choices[0].message.content, (text, whole)
    assert chunks > 3 and usage.completion_tokens == whole.usage.completion_tokens, (chunks, usage)
    return whole.usage


def embed_texts(client, model):
    answer = client.embeddings.create(model=model, input=["a gate", "a tide"])
    assert len(answer.data) == 2 and len(answer.data[0].embedding) > 100 and answer.usage.prompt_tokens > 0
    return answer.usage


def s3_client(url, keys=None, ca=None, certificate=None, token=None):
    """boto3 for a store. Without keys it signs nothing, as towards the gateway, which holds the store's keys itself."""
    python_clients()
    import boto3
    from botocore import UNSIGNED
    from botocore.config import Config
    config = Config(signature_version="s3v4" if keys else UNSIGNED, s3={"addressing_style": "path"},
                    retries={"total_max_attempts": 1}, client_cert=certificate)
    key, secret = keys or (None, None)
    client = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id=key, aws_secret_access_key=secret,
                          verify=str(ca) if ca else None, config=config)
    if token:
        def add_token(request, **_):
            request.headers["Authorization"] = f"Bearer {token}"
        client.meta.events.register("before-send.s3", add_token)
    return client


def use_store(client, bucket, prefix):
    """PUT, GET, Range, HEAD, LIST, DELETE of one object."""
    key, content = prefix + "guide.txt", bytes(range(256)) * 40
    client.put_object(Bucket=bucket, Key=key, Body=content)
    assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == content
    part = client.get_object(Bucket=bucket, Key=key, Range="bytes=256-1279")
    assert part["Body"].read() == content[256:1280] and part["ResponseMetadata"]["HTTPStatusCode"] == 206
    assert client.head_object(Bucket=bucket, Key=key)["ContentLength"] == len(content)
    listed = client.list_objects_v2(Bucket=bucket, Prefix=prefix)
    assert [entry["Key"] for entry in listed["Contents"]] == [key], listed
    client.delete_object(Bucket=bucket, Key=key)
    assert client.list_objects_v2(Bucket=bucket, Prefix=prefix)["KeyCount"] == 0


def status_of(call, *arguments, **named):
    """The HTTP status of a boto3 or openai call, whether it went well or not."""
    try:
        return call(*arguments, **named)["ResponseMetadata"]["HTTPStatusCode"]
    except Exception as error:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            return response["ResponseMetadata"]["HTTPStatusCode"]
        if hasattr(error, "status_code"):
            return error.status_code
        raise


def fetch_token(oidc, **fields):
    """An access token of the OpenID provider by client credentials, and its claims (unverified: the test only looks)."""
    form = urllib.parse.urlencode({"grant_type": "client_credentials", "scope": "infer", **fields}).encode()
    login = base64.b64encode(f"{oidc.client}:{oidc.secret}".encode()).decode()
    request = urllib.request.Request(oidc.url + "/token", form, {"Authorization": f"Basic {login}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        token = json.load(answer)["access_token"]
    payload = token.split(".")[1]
    return token, json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
