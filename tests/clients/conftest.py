"""One real server for all client tests: the release binary on a free port, with the embedded model."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

import httpx
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
RECORDINGS = pathlib.Path("/usr/share/pocketsphinx/test/data")
LIBRIVOX = RECORDINGS / "librivox"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Server:
    """A running `waxwing serve`; `stop` sends SIGTERM and returns the exit status."""

    def __init__(self, *arguments: str, log: pathlib.Path):
        binary = os.environ.get("WAXWING_BIN", str(ROOT / "target/release/waxwing"))
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [binary, "serve", "--port", str(self.port), *arguments], stdout=output, stderr=output
            )
        deadline = time.monotonic() + 60
        while True:
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server did not become ready:\n{log.read_text()}")
            try:
                if httpx.get(f"{self.url}/ready").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.02)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(timeout=40)


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    running = Server(log=tmp_path_factory.mktemp("server") / "log")
    yield running
    assert running.stop() == 0, running.log.read_text()


@pytest.fixture(scope="session")
def clips() -> dict[str, pathlib.Path]:
    """The five LibriVox clips, by the last number of their name."""
    return {path.stem[-4:]: path for path in sorted(LIBRIVOX.glob("*.wav"))}


@pytest.fixture(scope="session")
def transcripts() -> dict[str, str]:
    """What the clips say, lower case without punctuation, by the last number of their name."""
    lines = (LIBRIVOX / "transcription").read_text().splitlines()
    found = {}
    for line in lines:
        text, _, name = line.rpartition("(")
        words = text.replace("<s>", " ").replace("</s>", " ").lower().split()
        found[name.rstrip(") \n")[-4:]] = " ".join(words)
    return found


@pytest.fixture(scope="session")
def ffmpeg() -> str:
    path = shutil.which("ffmpeg")
    assert path, "ffmpeg is needed: tests/run installs it"
    return path


def word_errors(reference: str, hypothesis: str) -> int:
    """Levenshtein distance in words."""
    left, right = reference.split(), hypothesis.split()
    row = list(range(len(right) + 1))
    for i, expected in enumerate(left, 1):
        previous, row[0] = row[0], i
        for j, actual in enumerate(right, 1):
            previous, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, previous + (expected != actual))
    return row[-1]


def events(text: str) -> list[dict]:
    """The JSON objects of a server-sent event stream."""
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: ") and line != "data: [DONE]"]
