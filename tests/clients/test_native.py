"""The native protocol through an independent WebSocket client, as a script of a user would speak it."""

import asyncio
import json
import os
import signal
import wave

import httpx
import websockets

from conftest import ROOT, Server, word_errors


def samples(path) -> bytes:
    with wave.open(str(path)) as clip:
        return clip.readframes(clip.getnframes())


async def until_close(socket) -> list[dict]:
    """All events up to the server's Close, whatever its code."""
    seen = []
    try:
        while True:
            seen.append(json.loads(await socket.recv()))
    except websockets.ConnectionClosed:
        return seen


async def speak(url: str, audio: bytes, chunk: int = 6400, query: str = "") -> list[dict]:
    """Sends all audio, then `stop`; returns every event until the server closes."""
    async with websockets.connect(f"{url.replace('http', 'ws')}/v1/stream{query}") as socket:
        async def send():
            for at in range(0, len(audio), chunk):
                await socket.send(audio[at : at + chunk])
            await socket.send(json.dumps({"type": "stop"}))

        sender = asyncio.create_task(send())
        seen = [json.loads(message) async for message in socket]
        await sender
        assert socket.close_code == 1000
        return seen


def finals(seen: list[dict]) -> str:
    return " ".join(event["text"] for event in seen if event["type"] == "final").strip()


def test_words_arrive_and_the_last_event_is_done(server, clips, transcripts):
    seen = asyncio.run(speak(server.url, samples(clips["0870"])))
    assert seen[0]["type"] == "ready" and seen[0]["model"] == "en-emformer"
    assert [event["type"] for event in seen].count("done") == 1 and seen[-1]["type"] == "done"
    assert word_errors(transcripts["0870"], finals(seen)) / len(transcripts["0870"].split()) <= 0.7


def test_two_models_are_served_at_once(tmp_path, server, clips, transcripts):
    audio = samples(clips["0870"])
    both = Server("--model", f"en-emformer,{ROOT / 'model/pretrained/en-fsmn'}", log=tmp_path / "log")

    async def at_once():
        return await asyncio.gather(*(speak(both.url, audio, query=f"?model={name}") for name in ("en-emformer", "en-fsmn", "en-emformer", "en-fsmn")))

    accurate, small, again, small_again = asyncio.run(at_once())
    for seen, name in ((accurate, "en-emformer"), (small, "en-fsmn")):
        ready = seen[0]
        assert ready["model"] == name
        assert ready["latency_ms"]["segment"] + ready["latency_ms"]["right_context"] <= 1000
        assert seen[-1]["type"] == "done" and finals(seen)
    assert word_errors(transcripts["0870"], finals(accurate)) / len(transcripts["0870"].split()) <= 0.4
    # Neighbours change nothing, of whichever model.
    assert finals(accurate) == finals(again) == finals(asyncio.run(speak(server.url, audio)))
    assert finals(small) == finals(small_again)
    assert both.stop() == 0


def test_a_socket_and_a_post_say_the_same(server, clips):
    for clip in clips.values():
        socket = finals(asyncio.run(speak(server.url, samples(clip))))
        post = httpx.post(
            f"{server.url}/v1/audio/transcriptions",
            files={"file": clip.read_bytes()},
            data={"model": "whisper-1"},
            timeout=60,
        ).json()["text"]
        assert socket == post


def test_odd_splits_change_nothing(server, clips):
    audio = samples(clips["0880"])
    whole = finals(asyncio.run(speak(server.url, audio)))
    assert finals(asyncio.run(speak(server.url, audio, chunk=1237))) == whole


def test_flush_answers_and_the_stream_goes_on(server, clips):
    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
            await socket.send(samples(clips["0880"]))
            await socket.send(json.dumps({"type": "flush", "id": "42"}))
            await socket.send(samples(clips["0930"]))
            await socket.send(json.dumps({"type": "stop"}))
            return [json.loads(message) async for message in socket]

    seen = asyncio.run(run())
    kinds = [event["type"] for event in seen]
    assert {"type": "flushed", "id": "42"}.items() <= seen[kinds.index("flushed")].items()
    before = [event for event in seen[: kinds.index("flushed")] if event["type"] == "final"]
    after = [event for event in seen[kinds.index("flushed") :] if event["type"] == "final"]
    assert before and after
    assert before[-1]["end"] <= after[0]["start"]


def test_a_silent_client_is_told_how_far_it_is_heard(server):
    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
            await socket.send(bytes(2 * 16000 * 3))
            heard = []
            while not heard or heard[-1]["audio_processed"] < 1.9:
                event = json.loads(await socket.recv())
                if event["type"] == "partial":
                    heard.append(event)
            await socket.send(json.dumps({"type": "stop"}))
            return heard, await until_close(socket)

    heard, rest = asyncio.run(run())
    assert all(event["text"] == "" and event["stable_words"] == 0 for event in heard)
    assert all(event["start"] == event["end"] == event["audio_processed"] for event in heard)
    assert rest[-1]["type"] == "done" and rest[-1]["utterances"] == 0


def test_an_unknown_encoding_is_an_error_that_names_the_known_ones(server):
    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
            await socket.send(json.dumps({"type": "start", "encoding": "s16be"}))
            return await until_close(socket)

    seen = asyncio.run(run())
    assert seen[-1]["type"] == "error" and seen[-1]["code"] == "unknown_encoding"
    assert "s16le" in seen[-1]["message"]


def test_a_message_over_the_limit_closes_with_1009(server):
    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
            await socket.send(b"\0" * (256 * 1024 + 2))
            await until_close(socket)
            return socket.close_code

    assert asyncio.run(run()) == 1009


def test_a_killed_client_frees_its_slot(server, clips):
    def free() -> int:
        return httpx.get(f"{server.url}/ready").json()["free"]

    async def vanish():
        before = free()
        socket = await websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream")
        await socket.send(samples(clips["0880"])[:16000])
        await socket.recv()
        assert free() == before - 1
        socket.transport.abort()
        for _ in range(200):
            if free() == before:
                return
            await asyncio.sleep(0.02)
        raise AssertionError("the slot was not freed within 4 s")

    asyncio.run(vanish())


def test_sigterm_in_mid_speech_delivers_the_last_words(clips, tmp_path):
    server = Server(log=tmp_path / "log")

    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream") as socket:
            await socket.send(samples(clips["0870"])[: 2 * 16000 * 5])
            while json.loads(await socket.recv())["type"] != "partial":
                pass
            os.kill(server.process.pid, signal.SIGTERM)
            return await until_close(socket), socket.close_code

    seen, code = asyncio.run(run())
    assert code in (1001, 1012)
    assert any(event["type"] == "final" and event["text"] for event in seen)
    assert server.stop() == 0


def test_hotwords_that_cannot_be_spelled_are_named_and_the_others_work(server, clips):
    query = "?hotwords=mister%20dashwood,%E4%BD%A0%E5%A5%BD&formatted=true"
    seen = asyncio.run(speak(server.url, samples(clips["0870"]), query=query))
    assert [event["type"] for event in seen[:2]] == ["ready", "warning"]
    assert seen[1]["code"] == "unsupported_option" and "\u4f60" in seen[1]["message"]
    for event in seen:
        if event["type"] == "final":
            assert event["formatted"][0].isupper() and event["text"] == event["text"].lower()


def test_boosted_words_are_found_that_were_missed(server, clips, transcripts):
    """`configure` in mid-session: what is said afterwards is searched with the hotwords."""
    audio = b"".join(samples(clip) for clip in clips.values())
    said = set(" ".join(transcripts.values()).split())

    async def run():
        async with websockets.connect(f"{server.url.replace('http', 'ws')}/v1/stream?partials=false") as socket:
            sender = asyncio.create_task(send_all(socket, audio))
            plain = await until_flushed(socket)
            await sender
            missed = said - set(finals(plain).split())
            hotwords = [{"text": word, "boost": 2} for word in sorted(missed)]
            await socket.send(json.dumps({"type": "configure", "hotwords": hotwords, "formatted": True}))
            sender = asyncio.create_task(send_all(socket, audio))
            boosted = await until_flushed(socket)
            await sender
            return plain, missed, boosted

    plain, missed, boosted = asyncio.run(run())
    assert missed and missed & set(finals(boosted).split()), finals(boosted)
    assert all("formatted" not in event for event in plain)
    assert all("formatted" in event for event in boosted if event["type"] == "final")


async def send_all(socket, audio: bytes):
    for at in range(0, len(audio), 64_000):
        await socket.send(audio[at : at + 64_000])
    await socket.send(json.dumps({"type": "flush"}))


async def until_flushed(socket) -> list[dict]:
    seen = []
    while not seen or seen[-1]["type"] != "flushed":
        seen.append(json.loads(await socket.recv()))
    return seen


def test_wishes_that_have_no_effect_are_said_and_those_out_of_range_refused(server, clips):
    seen = asyncio.run(speak(server.url, samples(clips["0930"]), query="?beam_width=1&hotwords=waxwing"))
    assert seen[1]["code"] == "unsupported_option" and "beam_width" in seen[1]["message"]
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": clips["0930"].read_bytes()},
        data={"word_bonus": "11"},
        timeout=60,
    )
    assert answer.status_code == 400 and "word_bonus: expected -10 to 10" in answer.json()["error"]["message"]


def test_a_form_takes_hotwords_and_shows_the_written_form(server, clips):
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions",
        files={"file": clips["0870"].read_bytes()},
        data={"hotwords": "mister dashwood:2,\u4f60", "formatted": "true", "response_format": "verbose_json", "beam_width": "8"},
        timeout=60,
    ).json()
    assert any("\u4f60" in warning for warning in answer["warnings"])
    assert answer["formatted"][0].isupper()
    assert all(segment["formatted"] for segment in answer["segments"])
