"""The official `openai` client, unchanged but for `base_url`, and curl as the README writes it."""

import json
import subprocess

import openai
import pytest

from conftest import word_errors


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def test_json_is_the_transcript_of_real_speech(client, clips, transcripts):
    errors = words = 0
    for name, clip in clips.items():
        result = client.audio.transcriptions.create(file=clip.open("rb"), model="whisper-1")
        errors += word_errors(transcripts[name], result.text)
        words += len(transcripts[name].split())
    # 71 words judge no model; they prove that speech, not noise, came through the whole path.
    assert errors / words <= 0.55, f"{errors} of {words} words wrong"


def test_verbose_json_has_times_that_grow(client, clips):
    result = client.audio.transcriptions.create(
        file=clips["0870"].open("rb"),
        model="whisper-1",
        response_format="verbose_json",
        timestamp_granularities=["word", "segment"],
    )
    assert result.duration == pytest.approx(7.1, abs=1.0)
    assert result.words and result.segments
    starts = [word.start for word in result.words]
    assert starts == sorted(starts)
    assert all(word.start <= word.end <= result.duration + 1e-6 for word in result.words)
    assert " ".join(word.word for word in result.words) == result.text


def test_srt_is_numbered_cues(client, clips):
    text = client.audio.transcriptions.create(
        file=clips["0870"].open("rb"), model="whisper-1", response_format="srt"
    )
    lines = str(text).splitlines()
    assert lines[0] == "1"
    assert " --> " in lines[1] and "," in lines[1]


def test_stream_ends_with_what_json_says(client, clips):
    whole = client.audio.transcriptions.create(file=clips["0870"].open("rb"), model="whisper-1").text
    stream = client.audio.transcriptions.create(file=clips["0870"].open("rb"), model="whisper-1", stream=True)
    seen = list(stream)
    assert seen[-1].type == "transcript.text.done"
    assert seen[-1].text == whole
    deltas = "".join(event.delta for event in seen if event.type == "transcript.text.delta")
    assert deltas.strip() == whole


def test_models_are_listed(client):
    assert [model.id for model in client.models.list()][0] == "en-emformer"


def test_unknown_model_is_a_404_that_names_the_known_ones(client, clips):
    with pytest.raises(openai.NotFoundError) as refused:
        client.audio.transcriptions.create(file=clips["0880"].open("rb"), model="en-emfromer")
    assert "en-emformer" in str(refused.value)


def test_unknown_response_format_names_the_field(client, clips):
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(
            file=clips["0880"].open("rb"), model="whisper-1", response_format="docx"
        )
    assert refused.value.body["param"] == "response_format"


def test_a_text_file_named_wav_is_refused_in_words(client):
    with pytest.raises(openai.BadRequestError) as refused:
        client.audio.transcriptions.create(file=("notes.wav", b"these are notes, not audio\n" * 40), model="whisper-1")
    assert refused.value.body["param"] == "file"


def test_an_empty_file_is_refused(client):
    with pytest.raises(openai.BadRequestError):
        client.audio.transcriptions.create(file=("empty.wav", b""), model="whisper-1")


def test_a_truncated_wav_gives_what_is_there_and_says_so(server, clips):
    whole = clips["0870"].read_bytes()
    answer = subprocess.run(
        ["curl", "-sS", "-F", "file=@-;filename=cut.wav", "-F", "model=whisper-1", f"{server.url}/v1/audio/transcriptions"],
        input=whole[: len(whole) // 2],
        stdout=subprocess.PIPE,
        check=True,
    )
    body = json.loads(answer.stdout)
    assert body["text"]
    assert any("truncated" in warning for warning in body["warnings"])


def test_curl_as_in_the_readme(server, clips):
    answer = subprocess.run(
        ["curl", "-sS", "-F", f"file=@{clips['0880']}", "-F", "model=whisper-1", f"{server.url}/v1/audio/transcriptions"],
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(answer.stdout)["text"]


def test_a_file_piped_from_ffmpeg_equals_the_file(server, clips, client, ffmpeg):
    direct = client.audio.transcriptions.create(file=clips["0880"].open("rb"), model="whisper-1").text
    piped = subprocess.run(
        f"{ffmpeg} -v error -i {clips['0880']} -f wav - | curl -sS -F 'file=@-;filename=pipe.wav' -F model=whisper-1 "
        f"{server.url}/v1/audio/transcriptions",
        shell=True,
        stdout=subprocess.PIPE,
        check=True,
    )
    assert json.loads(piped.stdout)["text"] == direct
