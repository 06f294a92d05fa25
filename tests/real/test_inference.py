"""The official `openai` client, through the gateway, to a real llama.cpp with a real small model."""
from checks import ask_model, embed_texts, openai_client, status_of
from harness import allowed, chat_route, gateway_config, kind
from process import eventually


def setup(t):
    llm = t.component("llm")
    issuer, trusted, secrets = t.issuer()
    secrets["keys/eu.key"] = llm.key
    clusters = {name: {"endpoints": [url], "models": [llm.model], "credential_file": "keys/eu.key"}
                for name, url in (("eu", llm.url), ("eu-embed", llm.embeddings_url))}
    routes = [chat_route(), chat_route("eu-embed", "/v1/embeddings", "embed")]
    return llm, issuer, t.gateway(gateway_config(routes, clusters=clusters, issuer=trusted), secrets)


def test_chat_stream_and_embeddings(t):
    llm, issuer, gateway = setup(t)
    client = openai_client(gateway.url + "/v1", issuer.token(), gateway.ca)
    chat = ask_model(client, llm.model)
    embedded = embed_texts(client, llm.model)
    # Outcomes are written when a body has ended, and nobody waits for them.
    records = eventually(lambda: [r for r in [gateway.records()] if sum(kind(x) == "outcome" for x in r) == 3], "three outcomes")[0]
    decisions = [record for record in records if kind(record) == "decision"]
    assert len(decisions) == 3 and all(map(allowed, decisions)), records
    usages = [usage_of(record) for record in records if kind(record) == "outcome"]
    both = (chat.prompt_tokens, chat.completion_tokens)
    assert sorted(usages) == sorted([both, both, (embedded.prompt_tokens, 0)]), (usages, chat, embedded)


def usage_of(outcome):
    usage = outcome["usage"]
    return usage["input_tokens"], usage["output_tokens"]


def test_refusals_reach_the_client_as_errors(t):
    llm, issuer, gateway = setup(t)

    def ask(token, model):
        client = openai_client(gateway.url + "/v1", token, gateway.ca)
        return status_of(client.chat.completions.create, model=model, messages=[{"role": "user", "content": "hi"}], max_tokens=1)

    assert ask(issuer.token(groups=["finance"]), llm.model) == 403
    assert ask(issuer.token(seconds=-600), llm.model) == 401
    assert ask("forged." + issuer.token().split(".", 1)[1], llm.model) == 401
    assert ask(issuer.token(), "no-such-model") in (403, 404)
