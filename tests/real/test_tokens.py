"""Tokens of a real OpenID provider, its keys fetched by URL."""
import base64
import json

import components
from checks import fetch_token
from harness import COMPONENTS, chat_route, gateway_config
from process import eventually


def asker(gateway):
    """What a token gets for a prompt."""
    body = json.dumps({"model": "smollm2-135m", "messages": [{"role": "user", "content": "hi"}]})

    def ask(token):
        return gateway.request("POST", "/v1/chat/completions", body,
                               {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})[0]
    return ask


def test_access_tokens_of_a_real_issuer(t):
    oidc, upstream = t.component("oidc"), t.recorder()
    trusted = {"issuer": oidc.url, "audiences": [oidc.audience], "jwks_url": oidc.jwks_url, "leeway": "1s"}
    clusters = {"eu": {"endpoints": [upstream.url], "models": ["smollm2-135m"]}}
    gateway = t.gateway(gateway_config([chat_route()], clusters=clusters, issuer=trusted))
    ask = asker(gateway)
    good, claims = fetch_token(oidc, groups="research")
    assert ask(good) == 200, claims
    request, = upstream.requests
    assert not request.header("authorization"), "the caller's token must not travel upstream"
    assert ask(fetch_token(oidc, groups="finance")[0]) == 403
    head, payload, signature = good.split(".")
    assert ask(f"{head}.{payload}.{signature[:-8]}AAAAAAAA") == 401
    # Leeway for clocks is allowed, for ever is not.
    short = fetch_token(oidc, groups="research", ttl="1")[0]
    eventually(lambda: ask(short) == 401, "an expired token is refused", 15)
    seen = len(upstream.requests)
    assert ask(short) == 401 and len(upstream.requests) == seen


def test_keys_are_discovered_rotated_and_outlive_an_outage(t):
    """No address of keys is configured. The issuer is stopped, comes back with a new key beside the old one, then without the old one."""
    upstream = t.recorder()

    def issuer(kids, port=None):
        return components.oidc_with(kids, COMPONENTS, t.folder / "oidc", port)

    def token(oidc):
        return fetch_token(oidc, groups="research", ttl="3600")[0]

    first = issuer("one")
    trusted = {"issuer": first.url, "audiences": [first.audience], "max_stale": "10m"}
    clusters = {"eu": {"endpoints": [upstream.url], "models": ["smollm2-135m"]}}
    ask = asker(t.gateway(gateway_config([chat_route()], clusters=clusters, issuer=trusted)))
    old, fresh = token(first), token(first)
    assert ask(old) == 200
    first.process.stop()
    assert ask(old) == 200 and ask(fresh) == 200, "the last good keys verify while the issuer is away"

    second = issuer("two,one", first.port)
    new = token(second)
    # An unknown key is looked for at most once in 30 s, however often it is shown.
    eventually(lambda: ask(new) == 200, "the new key is fetched", 45)
    assert ask(old) == 200, "both keys are published"
    second.process.stop()

    issuer("two", first.port)
    head = base64.urlsafe_b64encode(json.dumps({"alg": "RS256", "typ": "at+jwt", "kid": "never"}).encode()).decode().rstrip("=")
    stranger = ".".join([head, *new.split(".")[1:]])

    def retired():
        assert ask(stranger) == 401
        return ask(old) == 401
    eventually(retired, "what the retired key verified is refused", 45)
    assert ask(new) == 200
