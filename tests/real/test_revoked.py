"""The official `openai` client reads a stream of a real model when what permitted it is taken away."""
import time

import harness
from checks import openai_client
from harness import chat_route, gateway_config, kind
from process import eventually

FOLLOWED = "100ms"


def streaming(t):
    """A gateway before a real model, and a stream of it that has begun and would go on for a long time."""
    llm = t.component("llm")
    issuer, trusted, secrets = t.issuer()
    secrets["keys/eu.key"] = llm.key
    secrets["revoked.toml"] = "revoked = []\n"
    clusters = {"eu": {"endpoints": [llm.url], "models": [llm.model], "credential_file": "keys/eu.key"}}
    changes = {"identity.revoked": {"file": "revoked.toml", "poll": FOLLOWED}, "policy.poll": FOLLOWED}
    gateway = t.gateway(gateway_config([chat_route()], clusters=clusters, issuer=trusted, changes=changes), secrets)
    client = openai_client(gateway.url + "/v1", issuer.token(), gateway.ca)
    stream = client.chat.completions.create(
        model=llm.model, stream=True, max_tokens=4000, extra_body={"ignore_eos": True},
        messages=[{"role": "user", "content": "Count from one to one thousand."}])
    for _ in range(5):
        next(stream)
    # Found where the client's constructor found it.
    import openai
    return openai, gateway, stream


def ended(openai, gateway, stream, code, take_away):
    take_away()
    began = time.monotonic()
    try:
        for _ in stream:
            pass
    except openai.APIError as error:
        took = time.monotonic() - began
        assert error.code == code, (error.code, error.message)
        assert took < 2, f"{took} s, of which two polls are {FOLLOWED} each"
    else:
        raise AssertionError("the client took what was cut for a whole answer")
    outcome, = eventually(lambda: [r for r in gateway.records() if kind(r) == "outcome"], "the outcome")
    assert (outcome["ending"], outcome["code"]) == ("withdrawn", code), outcome
    return outcome


def test_a_revoked_subject_loses_its_stream(t):
    openai, gateway, stream = streaming(t)
    entry = '[[revoked]]\nsubject = "https://issuer.tidegate.test|ada"\nreason = "left the company"\n'
    ended(openai, gateway, stream, "principal_revoked", lambda: replace(gateway.folder / "revoked.toml", entry))


def test_a_new_policy_ends_a_stream(t):
    openai, gateway, stream = streaming(t)
    closed = harness.POLICIES + '\n@id("test-closed")\nforbid (principal, action, resource);\n'
    outcome = ended(openai, gateway, stream, "permission_withdrawn",
                    lambda: replace(gateway.folder / "policies" / "tests.cedar", closed))
    assert outcome["withdrawn"]["policies"] == ["test-closed"], outcome


def replace(path, text):
    beside = path.with_suffix(".new")
    beside.write_text(text)
    beside.rename(path)
