"""Every container and rate that people post, made from one clip by ffmpeg, against the same words."""

import difflib
import subprocess

import httpx
import pytest

ENCODINGS = {
    "wav-8k": ["-ar", "8000", "-f", "wav"],
    "wav-44k1-stereo": ["-ar", "44100", "-ac", "2", "-f", "wav"],
    "wav-48k-24bit": ["-ar", "48000", "-c:a", "pcm_s24le", "-f", "wav"],
    "wav-float": ["-c:a", "pcm_f32le", "-f", "wav"],
    "wav-8bit": ["-c:a", "pcm_u8", "-f", "wav"],
    "wav-mulaw": ["-ar", "8000", "-c:a", "pcm_mulaw", "-f", "wav"],
    "wav-alaw": ["-ar", "8000", "-c:a", "pcm_alaw", "-f", "wav"],
    "flac": ["-f", "flac"],
    "ogg-vorbis": ["-c:a", "libvorbis", "-q:a", "5", "-f", "ogg"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", "64k", "-f", "mp3"],
    "m4a": ["-c:a", "aac", "-b:a", "64k", "-f", "ipod", "-movflags", "frag_keyframe+empty_moov"],
    "ogg-opus": ["-c:a", "libopus", "-b:a", "32k", "-f", "ogg"],
    "webm-opus": ["-c:a", "libopus", "-b:a", "32k", "-f", "webm"],
}


@pytest.fixture(scope="module")
def reference(server, clips):
    return transcribe(server, clips["0870"].read_bytes(), "0870.wav")


def transcribe(server, audio: bytes, name: str) -> str:
    answer = httpx.post(
        f"{server.url}/v1/audio/transcriptions", files={"file": (name, audio)}, data={"model": "whisper-1"}, timeout=60
    )
    assert answer.status_code == 200, answer.text
    return answer.json()["text"]


@pytest.mark.parametrize("name", ENCODINGS)
def test_a_container_is_heard(server, clips, ffmpeg, reference, name, tmp_path):
    encoded = subprocess.run(
        [ffmpeg, "-v", "error", "-i", str(clips["0870"]), *ENCODINGS[name], "-"], stdout=subprocess.PIPE, check=True
    ).stdout
    text = transcribe(server, encoded, f"clip.{name.partition('-')[0]}")
    if name in {"flac", "wav-float"}:
        assert text == reference
    # Lossy codecs and an 8 kHz band change some letters, never most of them.
    assert difflib.SequenceMatcher(None, reference, text).ratio() >= 0.5, text
