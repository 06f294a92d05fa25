"""Restricted prompts through two gateways to a real model: the official client at one end, llama.cpp at the other, and in the middle
somebody who ends TLS, as a provider's load balancer does, and keeps every byte."""
import asyncio
import json
import ssl
import threading

from checks import openai_client
from harness import CA, CLIENT, CLIENT_KEY, SERVER, SERVER_KEY, SPIFFE_ID, allowed, chat_route, gateway_config, kind
from process import eventually
from test_seal_format import World

PROMPT = "Repeat after me: zebra quartz lighthouse seventeen"
ANSWERED = ("chat.completion", "choices")


def test_prompts_and_answers_cross_sealed(t):
    llm, border, far, tap, client = setup(t)
    question = [{"role": "user", "content": PROMPT}]
    whole = client.chat.completions.create(model=llm.model, messages=question, max_tokens=12)
    assert whole.choices[0].message.content and whole.usage.completion_tokens > 0
    pieces = [choice.delta.content or "" for chunk in client.chat.completions.create(
        model=llm.model, messages=question, max_tokens=12, stream=True, stream_options={"include_usage": True}) for choice in chunk.choices]
    assert len(pieces) > 3 and "".join(pieces).strip(), pieces

    seen = b"".join(tap.captured)
    assert seen.count(b"application/vnd.tidegate.sealed") >= 4, "two requests and two answers"
    for word in (PROMPT, "zebra quartz", *ANSWERED, whole.choices[0].message.content):
        assert word.encode() not in seen, f"{word} on the wire"
        for gateway in (border, far):
            kept = gateway.log() + "".join(json.dumps(record) for record in gateway.records())
            assert word not in kept, f"{word} in a journal or log"

    def closed(gateway):
        return [record for record in gateway.records() if kind(record) == "outcome"]
    eventually(lambda: len(closed(border)) == len(closed(far)) == 2, "both sides closed both records", 10)
    decisions = [record for record in border.records() if kind(record) == "decision"]
    assert all(allowed(record) and record["protection"] == "sealed" for record in decisions), decisions
    opened = [record["opened"] for record in far.records() if kind(record) == "decision"]
    assert [record["seal"]["message_id"] for record in decisions] == [record["message_id"] for record in opened]
    assert [outcome["usage"] for outcome in closed(border)] == [outcome["usage"] for outcome in closed(far)]


def test_sealing_goes_on_after_a_restart(t):
    """Uses of keys are counted in their folder, which the gateway may write also when its journal is already there."""
    llm, border, far, _, client = setup(t)
    question = [{"role": "user", "content": PROMPT}]
    for _ in range(2):
        whole = client.chat.completions.create(model=llm.model, messages=question, max_tokens=2)
        assert whole.choices[0].message.content
        border.stop()
        border.start()
        client = client.with_options(base_url=border.url + "/v1")


def test_without_the_key_nothing_opens(t):
    llm, border, far, tap, client = setup(t, other_keys=True)
    try:
        client.chat.completions.create(model=llm.model, messages=[{"role": "user", "content": PROMPT}], max_tokens=2)
        raise AssertionError("it was answered")
    except Exception as error:
        assert getattr(error, "status_code", None) == 502, error
    refused = [record for record in far.records() if record.get("code") == "seal_key_unknown"]
    assert refused, far.records()
    assert not any(kind(record) == "decision" and allowed(record) for record in far.records())


def setup(t, other_keys=False):
    llm = t.component("llm")
    issuer, trusted, secrets = t.issuer()
    keys = key_files(World(t))
    far_keys = key_files(World(t, "other")) if other_keys else keys
    far_config = gateway_config(
        [chat_route("eu-embed", opens=True)],
        clusters={"eu-embed": {"endpoints": [llm.url], "models": [llm.model], "credential_file": "keys/llm.key"}})
    far_config["identity"]["mtls"]["trust_domains"][0]["workloads"] = [{"id": SPIFFE_ID, "teams": ["research"], "peer": True}]
    far = t.gateway({**far_config, **KEYS}, {"keys/llm.key": llm.key, **far_keys}, name="far")
    tap = Tap(far)
    t.defer(tap.close)
    config = gateway_config([chat_route("eu", level="restricted")], issuer=trusted, clusters={"eu": {
        "endpoints": [tap.url], "models": [llm.model], "can_open": "job", "ca": str(far.folder / CA), "server_name": "localhost",
        "http2": "never", "allow_networks": ["127.0.0.0/8"]}})
    border = t.gateway({**config, **KEYS}, {**secrets, **keys}, name="border")
    return llm, border, far, tap, openai_client(border.url + "/v1", issuer.token(), border.ca)


KEYS = {"keys": {"directory": "branch", "roots": {"file": {"file": "root.key"}}}, "recipients": {"job": {"root": "file"}}}


def key_files(world):
    files = {f"branch/{file.name}": file.read_text() for file in (world.folder / "keys").glob("*.json")}
    return {"root.key": (world.folder / "root.key").read_text(), **files}


class Tap:
    """Ends the border's TLS and begins its own to the far side, whose peer it is; keeps what passes, both ways.

    One event loop does all of it: two threads may not read and write one TLS session at the same time."""

    def __init__(self, far):
        self.captured = []
        self.inside = ssl.create_default_context(cafile=str(far.folder / CA))
        self.inside.load_cert_chain(far.folder / CLIENT, far.folder / CLIENT_KEY)
        self.target = int(far.url.rsplit(":", 1)[1])
        outside = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        outside.load_cert_chain(far.folder / SERVER, far.folder / SERVER_KEY)
        self.loop = asyncio.new_event_loop()
        server = self.loop.run_until_complete(asyncio.start_server(self.carry, "127.0.0.1", 0, ssl=outside))
        self.url = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        self.thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.thread.start()

    async def carry(self, reader, writer):
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target, ssl=self.inside, server_hostname="localhost")
        await asyncio.gather(self.copy(reader, far_writer), self.copy(far_reader, writer))

    async def copy(self, reader, writer):
        try:
            while piece := await reader.read(65536):
                self.captured.append(piece)
                writer.write(piece)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
