"""Tokens of a real OpenID provider, its keys fetched by URL."""
import json

from checks import fetch_token
from harness import chat_route, gateway_config
from process import eventually


def test_access_tokens_of_a_real_issuer(t):
    oidc, upstream = t.component("oidc"), t.recorder()
    trusted = {"issuer": oidc.url, "audiences": [oidc.audience], "jwks_url": oidc.jwks_url}
    clusters = {"eu": {"endpoints": [upstream.url], "models": ["smollm2-135m"]}}
    gateway = t.gateway(gateway_config([chat_route()], clusters=clusters, issuer=trusted))

    def ask(token):
        body = json.dumps({"model": "smollm2-135m", "messages": [{"role": "user", "content": "hi"}]})
        return gateway.request("POST", "/v1/chat/completions", body,
                               {"Authorization": f"Bearer {token}", "Content-Type": "application/json"})[0]

    good, claims = fetch_token(oidc, groups="research")
    assert ask(good) == 200, claims
    request, = upstream.requests
    assert not request.header("authorization"), "the caller's token must not travel upstream"
    assert ask(fetch_token(oidc, groups="finance")[0]) == 403
    head, payload, signature = good.split(".")
    assert ask(f"{head}.{payload}.{signature[:-8]}AAAAAAAA") == 401
    # Leeway for clocks is allowed, for ever is not.
    short = fetch_token(oidc, groups="research", ttl="1")[0]
    eventually(lambda: ask(short) == 401, "an expired token is refused", 75)
    seen = len(upstream.requests)
    assert ask(short) == 401 and len(upstream.requests) == seen
