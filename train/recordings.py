"""Recorded speech of actors with its words: two adventure games that Debian ships in its main section, as shards beside the synthetic ones.

*Flight of the Amazon Queen* (1995): some 6,700 clips, MP3 at 11 kHz; every line's text stands in the game's own dialogue files, so the transcripts are exact.
*Beneath a Steel Sky* (1994): some 3,500 clips, 8 bits at 11 kHz, packed by the RNC method 1; its text is not read here, the full Whisper tiny.en transcribes the
clips, offline, and only what it is sure of is kept.

Both formats are those of ScummVM's engines (``engines/queen``, ``engines/sky``), written here anew.
"""

import argparse
import gzip
import importlib.resources
import io
import json
import os
import re
import struct
from collections import defaultdict
from pathlib import Path

import numba
import numpy as np
import soundfile
from scipy.signal import resample_poly

import text as sentences

RATE = 16_000
HELD_OUT = ("AND", "FRANK", "HENRY", "JOHN", "LOLA", "NAOMI", "ZOMBIE")        # conversations to measure on
WORD = re.compile(r"[a-z]+(?:'[a-z]+)*")


def resample(samples, rate):
    """f32 samples at ``rate`` -> f32 at 16 kHz."""
    divisor = np.gcd(RATE, rate)
    return resample_poly(samples, RATE // divisor, rate // divisor).astype(np.float32)


def words(sentence):
    """The transcript of a written line, or None where its reading is not plain: figures, interjections in capitals, stage directions."""
    plain = sentence.replace("\u2019", "'").lower().replace("-", " ")
    if re.search(r"[^a-z' .,!?;:\"\r\n]", plain):
        return None
    found = WORD.findall(plain)
    return " ".join(found) if found else None


def lexicon():
    """The words of hibari-tts's pronunciation dictionaries, in lower case."""
    assets, found = importlib.resources.files("hibari") / "assets", set()
    for name in ("gold", "silver"):
        found |= {word.lower() for word in json.loads(gzip.decompress((assets / f"lexicon_us_{name}.json.gz").read_bytes()))}
    return found


def known(word, dictionary):
    """Whether a word, or what it is inflected from, is in the dictionary."""
    stems = [word] + [word[:-len(end)] + more for end, more in (("'s", ""), ("s", ""), ("es", ""), ("ed", ""), ("d", ""), ("ing", ""), ("ing", "e"), ("ies", "y")) if word.endswith(end)]
    return any(stem in dictionary for stem in stems)


class Queen:
    """The clips of Flight of the Amazon Queen: ``for name, samples, text in Queen(folder)``."""

    def __init__(self, folder):
        self.data = (Path(folder) / "queen.1c").read_bytes()
        count, = struct.unpack_from(">H", self.data, 13)
        self.files = {}
        for i in range(count):
            at = 15 + 21 * i
            name = self.data[at:at + 12].split(b"\0")[0].decode("ascii").upper()
            _, offset, size = struct.unpack_from(">BII", self.data, at + 12)
            self.files[name] = (offset, size)

    def read(self, name):
        offset, size = self.files[name]
        return self.data[offset:offset + size]

    @staticmethod
    def string(data, at, align=4):
        """A string with its length in front: (text, position behind it)."""
        length = data[at]
        at += 1
        if not length:
            return "", at
        return data[at:at + length].decode("cp437"), (at + length + align - 1) & ~(align - 1)

    @staticmethod
    def segments(prefix, sentence):
        """A line is cut into clips by ``*`` and a command of two characters: {clip name: text}."""
        pieces, made = re.split(r"\*(?:XY\d\d\(\d{3},\d{3}\)|..)", sentence), {}
        for i, piece in enumerate(pieces):
            if words(piece):
                made[f"{prefix}{i + 1:x}".upper() + ".SB"] = piece
        return made

    def dialogue(self, name):
        """Lines of one conversation (``.DOG``): the hero's end in ``J``, the other's in ``P``."""
        data = self.read(name)[20:]
        levels, _, key, heroes, others = struct.unpack_from(">hhhhh", data)
        first, _, greetings = struct.unpack_from(">HHH", data, 22)
        found = {}
        for start, count, whose in ((32 + abs(levels) * 96, heroes, "J"), (first, others, "P")):
            at = start
            for _ in range(count):
                number, = struct.unpack_from(">h", data, at + 2)
                sentence, at = self.string(data, at + 4)
                found.update(self.segments(f"{key:2d}{number & 0xffff:4x}{whose}".replace(" ", "0"), sentence))
        other, at = self.string(data, greetings, 2)
        hero, _ = self.string(data, at, 2)
        found.update(self.segments(f"{key:02d}XXXXP", other))
        found.update(self.segments(f"{key:02d}XXXXJ", hero))
        return found

    def cutaway(self, name, numbers):
        """Lines of one scene (``.CUT``). Its sentences stand one after the other; ``numbers`` are those of its clips, which must agree."""
        data = self.read(name)[20:]
        at, = struct.unpack_from(">H", data, 8)
        _, at = self.string(data, at, 2)
        sentences = []
        while at < len(data) and data[at] and len(sentences) < 100:
            sentence, at = self.string(data, at, 2)
            if any(words(piece) or re.search(r"[a-zA-Z]{2}", piece) for piece in re.split(r"\*(?:XY\d\d\(\d{3},\d{3}\)|..)", sentence)):
                sentences.append(sentence)
        found = {}
        if len(sentences) == len(numbers):
            for number, sentence in zip(numbers, sentences):
                found.update(self.segments(f"{name[:-4]:_<5}{number}", sentence))
        return found

    def texts(self):
        """{clip name: written text} for every clip whose line was found, and the names of those to measure on."""
        numbers = defaultdict(set)
        for name in self.files:
            if name.endswith(".SB") and len(name) == 11:
                numbers[name[:5]].add(name[5:7])
        found, measured = {}, set()
        for i, line in enumerate(self.read("QUEEN2.JAS").decode("cp437").split("\r\n")):
            found.update(self.segments(f"JOE{i + 41:04d}", line))
        for name in self.files:
            if name.endswith(".DOG"):
                lines = self.dialogue(name)
                found.update(lines)
                measured |= set(lines) if name.startswith(HELD_OUT) else set()
            elif name.endswith(".CUT"):
                found.update(self.cutaway(name, sorted(numbers[f"{name[:-4]:_<5}"])))
        return found, measured

    def clips(self, dictionary, most=None):
        """(name, samples, text, whether to measure on it) of every clip with words: names may be unknown to the dictionary, grunts may not.
        ``most`` takes only that many lines, from all over the game."""
        texts, measured = self.texts()
        named = {word.lower() for sentence in texts.values() for word in re.findall(r"(?<=[a-z,] )[A-Z][a-z']+", sentence)}
        lines = sorted(texts.items())
        for name, sentence in lines[::max(1, len(lines) // most)] if most else lines:
            text = words(sentence)
            if text and name in self.files and all(known(word, dictionary) or word in named for word in text.split()):
                samples, rate = soundfile.read(io.BytesIO(self.read(name)), dtype="float32")
                samples = trim(resample(samples, rate))
                # Music and effects, and the few lines that were not spoken as they are written, show in the pace.
                if 0.3 * RATE < len(samples) < 16 * RATE and len(text) / 30 < len(samples) / RATE < 1.5 + len(text) / 5:
                    yield name, samples, text, name in measured


@numba.njit
def _take(state, packed, bits):
    """The next ``bits`` bits, lowest first. ``state``: bits at hand, how many they are, position in ``packed``, which is read by 16-bit words."""
    value = state[0] & ((1 << bits) - 1)
    state[0] >>= bits
    state[1] -= bits
    if state[1] < 16:
        state[2] += 2
        _refill(state, packed)
    return value


@numba.njit
def _refill(state, packed):
    at = state[2]
    if at + 1 < len(packed):
        state[0] |= (packed[at] | packed[at + 1] << 8) << state[1]
    state[1] += 16


@numba.njit
def _value(state, packed, codes, sizes, count):
    """One number of a Huffman table: the code says how many more bits there are. -1: no such code."""
    for i in range(count):
        if sizes[i] and state[0] & ((1 << sizes[i]) - 1) == codes[i]:
            _take(state, packed, sizes[i])
            return i if i < 2 else 1 << (i - 1) | _take(state, packed, i - 1)
    return -1


@numba.njit
def _unpack(packed, size):
    """RNC method 1, (bytes,) int64 -> (size,) uint8: blocks of literals and copies, each block with three Huffman tables. Empty if it is damaged."""
    made, out = np.zeros(size, np.uint8), 0
    state = np.zeros(3, np.int64)
    _refill(state, packed)
    _take(state, packed, 2)
    codes, sizes, counts = np.zeros((3, 32), np.int64), np.zeros((3, 32), np.int64), np.zeros(3, np.int64)
    while out < size:
        for table in range(3):
            counts[table] = _take(state, packed, 5)
            for i in range(counts[table]):
                sizes[table, i] = _take(state, packed, 4)
            code = 0
            for length in range(1, 16):
                for i in range(counts[table]):
                    if sizes[table, i] == length:
                        codes[table, i] = 0
                        for bit in range(length):
                            codes[table, i] |= (code >> bit & 1) << (length - 1 - bit)
                        code += 1
                code <<= 1
        copies = _take(state, packed, 16) - 1
        for copy in range(copies + 1):
            literals = _value(state, packed, codes[0], sizes[0], counts[0])
            if literals < 0 or out + literals > size or state[2] + literals > len(packed):
                return made[:0]
            made[out:out + literals] = packed[state[2]:state[2] + literals]
            out += literals
            if literals:
                # The word read ahead was literals; it is read again behind them.
                state[2] += literals
                state[1] -= 16
                state[0] &= (1 << state[1]) - 1
                _refill(state, packed)
            if copy < copies:
                distance = _value(state, packed, codes[1], sizes[1], counts[1]) + 1
                length = _value(state, packed, codes[2], sizes[2], counts[2]) + 2
                if distance < 1 or distance > out or length < 2 or out + length > size:
                    return made[:0]
                for _ in range(length):
                    made[out] = made[out - distance]
                    out += 1
    return made


class SteelSky:
    """The clips of Beneath a Steel Sky: ``for name, samples in SteelSky(folder)``."""

    def __init__(self, folder):
        self.table = (Path(folder) / "sky.dnr").read_bytes()
        self.data = np.fromfile(Path(folder) / "sky.dsk", np.uint8)

    def __iter__(self):
        for i in range(*struct.unpack_from("<I", self.table)):
            number, = struct.unpack_from("<H", self.table, 4 + 8 * i)
            offset = int.from_bytes(self.table[6 + 8 * i:9 + 8 * i], "little")
            size = int.from_bytes(self.table[9 + 8 * i:12 + 8 * i], "little") & 0x3fffff
            offset = (offset & 0x7fffff) << (4 if offset >> 23 else 0)
            if not 50_000 <= number < 55_300:
                continue
            packed = self.data[offset + 22:offset + size]
            if bytes(packed[:4]) != b"RNC\x01":
                continue
            unpacked = _unpack(packed[18:].astype(np.int64), int.from_bytes(packed[4:8].tobytes(), "big"))
            if len(unpacked) > 2000:
                samples = (unpacked.astype(np.float32) - 128) / 128
                yield f"{number}", resample(samples - samples.mean(), 11_025)


def trim(samples):
    """Cuts what is 35 dB under the peak off both ends, leaving 60 ms; scales the peak to one half."""
    loud = np.flatnonzero(np.abs(samples) > 0.018 * np.abs(samples).max(initial=1e-9))
    if len(loud) < RATE // 20:
        return np.zeros(0, np.float32)
    samples = samples[max(0, loud[0] - 960): loud[-1] + 960]
    return samples * (0.5 / np.abs(samples).max())


def write(clips, out, name):
    """Writes one shard of (samples, text) pairs as synthesis.py does."""
    out.mkdir(parents=True, exist_ok=True)
    index, pieces, position = [], [], 0
    for samples, text in clips:
        index.append([position, len(samples), text, name])
        pieces.append((samples * 32767).astype("<i2"))
        position += len(samples)
    if not index:
        raise SystemExit(f"{name}: no recording with usable words; is this the folder that --help names?")
    np.concatenate(pieces).tofile(out / f"shard-{name}.pcm")
    (out / f"shard-{name}.tmp").write_text(json.dumps(index))
    os.replace(out / f"shard-{name}.tmp", out / f"shard-{name}.json")
    print(f"{name}: {len(index)} clips, {position / RATE / 3600:.2f} h", flush=True)


def packed(clips, longest=14.0, seconds=0.35):
    """Neighbouring clips as one recording of at most ``longest`` seconds, a pause between them."""
    parts, total = [], 0
    pause = np.zeros(int(seconds * RATE), np.float32)
    for samples in clips:
        if parts and total + len(samples) > longest * RATE:
            yield np.concatenate(parts)
            parts, total = [], 0
        parts += [samples, pause]
        total += len(samples) + len(pause)
    if parts:
        yield np.concatenate(parts)


class Transcriber:
    """The whole Whisper tiny.en, offline, by CTranslate2: ``__call__(samples) -> (text or None, mean log-probability of a token)``."""

    def __init__(self, folder):
        import ctranslate2
        import tokenizers
        self.model = ctranslate2.models.Whisper(str(folder), compute_type="float32", intra_threads=1)
        self.tokenizer = tokenizers.Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
        self.prompt = [self.tokenizer.token_to_id(name) for name in ("<|startoftranscript|>", "<|notimestamps|>")]

    def __call__(self, samples):
        import ctranslate2
        import torch
        from features import FILTERS, WINDOW
        audio = torch.nn.functional.pad(torch.from_numpy(samples)[: 30 * RATE], (0, max(0, 30 * RATE - len(samples))))
        power = FILTERS @ torch.stft(audio, 400, 160, window=WINDOW, center=True, return_complex=True).abs().square()[:, :3000]
        log = power.clamp_min(1e-10).log10()
        log = (torch.maximum(log, log.max() - 8) + 4) / 4
        result = self.model.generate(ctranslate2.StorageView.from_array(log[None].contiguous().numpy()), [self.prompt], beam_size=5, return_scores=True, max_length=200)[0]
        return words(self.tokenizer.decode(result.sequences_ids[0])), result.scores[0]


def pseudo(folder, transcriber, surest):
    """Clips of Beneath a Steel Sky in recordings of up to 14 s with what Whisper hears, where it is sure."""
    clips = (trim(samples) for _, samples in SteelSky(folder))
    for samples in packed(clip for clip in clips if len(clip) > 0.3 * RATE):
        text, sure = transcriber(samples)
        if text and sure > surest and len(text) / 30 < len(samples) / RATE < 3 + len(text) / 5:
            yield samples, text


def write_set(clips, out):
    """Writes a test set: recordings and ``text.tsv``."""
    out.mkdir(parents=True, exist_ok=True)
    with open(out / "text.tsv", "w") as table:
        for name, samples, text in clips:
            soundfile.write(out / f"{name}.flac", samples, RATE)
            print(name, text, sep="\t", file=table)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--packages", type=Path, required=True, help="folder with the unpacked packages")
    parser.add_argument("--out", type=Path, required=True, help="folder of the shards")
    parser.add_argument("--measured", type=Path, required=True, help="folder for the test set of conversations that are kept out")
    parser.add_argument("--forbidden", type=Path, nargs="*", default=[], help="tab-separated transcripts of other test sets: lines that overlap are left out")
    parser.add_argument("--most", type=int, help="only about so many lines, for a trial")
    parser.add_argument("--whisper", type=Path, help="folder of Whisper tiny.en's CTranslate2 model: transcribes Beneath a Steel Sky as well")
    parser.add_argument("--surest", type=float, default=-0.4, help="least mean log-probability of Whisper's tokens that is believed")
    options = parser.parse_args()
    games = options.packages / "usr/share/scummvm"
    if not (options.out / "shard-queen.json").exists():
        clips = list(Queen(games / "flight-of-the-amazon-queen").clips(lexicon(), options.most))
        write_set(((name.lower()[:-3], samples, text) for name, samples, text, measured in clips if measured), options.measured)
        grams = sentences.runs_of_words(line.split("\t")[-1] for path in options.forbidden for line in path.read_text().splitlines())
        kept_out = {text for _, _, text, measured in clips if measured and " " in text}
        write([(samples, text) for _, samples, text, measured in clips if not measured and text not in kept_out and not sentences.overlaps(text, grams)],
              options.out, "queen")
    if options.whisper and not (options.out / "shard-sky.json").exists():
        write(list(pseudo(games / "beneath-a-steel-sky", Transcriber(options.whisper), options.surest)), options.out, "sky")
