"""Sentences to synthesise, in lower case, without punctuation or digits.

Prose comes from three Debian packages (WordNet glosses and examples, quotations of the GCIDE dictionary, fortunes); everyday
speech (digits, dates, times, spelled letters, short commands, single words) from small templates. A sentence is a pair
``(spoken, written)``: what the synthesiser reads, with punctuation for its prosody, and the transcript, words only.
"""

import gzip
import re
import zlib
from collections import Counter
from pathlib import Path

WORD = re.compile(r"^[a-z]+(?:'[a-z]+)*$")
UNITS = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen".split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
ORDINALS = ("first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth fifteenth sixteenth "
            "seventeenth eighteenth nineteenth twentieth thirtieth fortieth fiftieth sixtieth hundredth thousandth").split()
MONTHS = "january february march april may june july august september october november december".split()
DAYS = "monday tuesday wednesday thursday friday saturday sunday today tomorrow yesterday tonight".split()
NATO = ("alpha bravo charlie delta echo foxtrot golf hotel india juliet kilo lima mike november oscar papa quebec romeo sierra tango "
        "uniform victor whiskey x-ray yankee zulu").split()
NAMES = ("james mary robert patricia john jennifer michael linda david elizabeth william barbara richard susan joseph jessica thomas sarah "
         "charles karen daniel nancy matthew lisa anthony betty mark margaret paul sandra steven ashley andrew emily kevin donna brian "
         "michelle george carol edward amanda ronald melissa timothy deborah jason stephanie smith johnson brown jones garcia miller davis "
         "wilson anderson taylor moore martin thompson white harris clark lewis robinson walker young king wright scott green baker adams").split()
PLACES = ("london|paris|new york|chicago|boston|toronto|sydney|berlin|madrid|rome|dublin|glasgow|texas|california|florida|canada|england|"
          "france|germany|spain|italy|india|china|japan|the airport|the station|the office|the hotel|the library|the market|the hospital").split("|")
ROOMS = "kitchen|bedroom|living room|garage|hallway|bathroom|garden|office".split("|")
THINGS = ("light lights heating fan television music radio alarm door window oven camera printer screen computer phone car "
          "volume brightness temperature").split()
ITEMS = ("order|appointment|account|message|payment|ticket|parcel|reservation|subscription|report|document|meeting|flight|booking|invoice|letter|request").split("|")
DONE = "confirmed|cancelled|received|sent|updated|delayed|moved|approved|closed|changed|printed|deleted|completed|accepted|rejected".split("|")
PEOPLE = "my brother|my mother|the doctor|the manager|your friend|the teacher|his wife|our neighbour|the driver|her father|the customer|an agent".split("|")


def number_words(value):
    """Spells a whole number below a billion as it is read out."""
    if value < 20:
        return UNITS[value]
    if value < 100:
        return TENS[value // 10 - 2] + (" " + UNITS[value % 10] if value % 10 else "")
    for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
        if value >= size:
            rest = value % size
            return number_words(value // size) + " " + name + (" " + number_words(rest) if rest else "")
    raise ValueError(value)


def _wordnet(root):
    for part in ("noun", "verb", "adj", "adv"):
        path = root / "usr/share/wordnet" / f"data.{part}"
        for line in path.read_text(encoding="latin-1").splitlines():
            if line.startswith("  ") or "|" not in line:
                continue
            gloss = line.split("|", 1)[1]
            yield from re.findall(r'"([^"]+)"', gloss)
            yield from re.sub(r'"[^"]*"', ";", gloss).split(";")


def _gcide(root):
    """The quotations: paragraphs indented by twelve blanks that end in ``--Author``."""
    text = gzip.open(root / "usr/share/dictd/gcide.dict.dz", "rt", encoding="utf-8", errors="replace").read()
    for block in re.findall(r"(?m)(?:^ {12}\S.*\n)+", text):
        quote = re.sub(r"\s+", " ", block).split(" --")[0]
        yield from re.split(r"(?<=[.!?;])\s+", quote)


def _fortunes(root):
    for path in sorted((root / "usr/share/games/fortunes").iterdir()):
        if path.suffix or path.name in ("ascii-art", "translate-me", "off"):
            continue
        for fortune in path.read_text(encoding="utf-8", errors="replace").split("\n%\n"):
            yield from re.split(r"(?<=[.!?])\s+", re.sub(r"\s+", " ", fortune.split("\n\t\t--")[0]))


def normalise(sentence):
    """Returns the transcript of a sentence, or None when it holds anything that is not plainly a word."""
    plain = sentence.lower().replace("\u2019", "'").replace("--", " ").replace("-", " ")
    plain = re.sub(r"[.,;:!?\"()]", " ", plain)
    words = plain.split()
    return " ".join(words) if words and all(WORD.match(word) for word in words) else None


def prose(root):
    """Clean sentences of 3 to 24 words from the packages unpacked under ``root``, each once; rare words are left out."""
    found = {}
    for source in (_wordnet, _gcide, _fortunes):
        for sentence in source(root):
            sentence = sentence.strip(" .;,:'")
            written = normalise(sentence)
            if written and 3 <= len(written.split()) <= 24 and not re.search(r"\b[b-hj-np-z]\b", written):
                found.setdefault(written, re.sub(r"[\"()]", "", sentence).replace("--", ", "))
    count = Counter(word for written in found for word in written.split())
    return [(spoken, written) for written, spoken in found.items() if all(count[word] >= 3 for word in written.split())]


class Everyday:
    """Draws short everyday utterances from templates and single words from a frequency-weighted list."""

    def __init__(self, rng, words):
        self.rng = rng
        count = Counter(words)
        self.words = [word for word in count if count[word] >= 3 and len(word) > 1]
        weight = [count[word] ** 0.6 for word in self.words]
        total = sum(weight)
        self.weight = [value / total for value in weight]

    def pick(self, options):
        return options[self.rng.integers(len(options))]

    def number(self):
        return number_words(int(10 ** self.rng.uniform(0, self.pick((1.3, 2, 3, 6)))))

    def digits(self):
        digits = [self.pick(UNITS[:10] + ["oh"]) for _ in range(self.rng.integers(1, 9))]
        return ", ".join(" ".join(digits[i:i + 3]) for i in range(0, len(digits), 3))

    def letters(self):
        names = [chr(97 + self.rng.integers(26)) for _ in range(self.rng.integers(1, 7))]
        return ", ".join(name.upper() for name in names)

    def few_words(self):
        return ", ".join(str(word) for word in self.rng.choice(self.words, self.rng.integers(1, 5), p=self.weight))

    def date(self):
        day = self.pick(ORDINALS[:20])
        form = self.rng.integers(5)
        year = self.pick(("nineteen ", "twenty ")) + number_words(int(self.rng.integers(10, 100)))
        return (f"the {day} of {self.pick(MONTHS)}", f"{self.pick(MONTHS)} {day}, {year}", f"{self.pick(DAYS)}, {self.pick(MONTHS)} {day}",
                f"{self.pick(DAYS)} at {self.time()}", f"on {self.pick(DAYS)} the {day}")[form]

    def time(self):
        hour = self.pick(UNITS[1:13])
        return self.pick((f"{hour} o'clock", f"{hour} thirty", f"half past {hour}", f"quarter to {hour}",
                          f"{hour} {self.pick(TENS[:4])} {self.pick(UNITS[1:10])}", f"{hour} in the {self.pick(('morning', 'evening', 'afternoon'))}"))

    def name(self):
        return f"{self.pick(NAMES)} {self.pick(NAMES)}"

    def command(self):
        thing, room, item, done, person = (self.pick(x) for x in (THINGS, ROOMS, ITEMS, DONE, PEOPLE))
        return self.pick((
            f"turn {self.pick(('on', 'off', 'up', 'down'))} the {thing} in the {room}", f"set a timer for {self.number()} {self.pick(('seconds', 'minutes', 'hours', 'days'))}",
            f"please {self.pick(('send', 'read', 'open', 'save', 'repeat', 'print', 'check', 'find', 'show', 'cancel'))} {self.pick(('my', 'the', 'your', 'this', 'another'))} {item}",
            f"your {item} has been {done}", f"the {item} was {done} on {self.date()}", f"what is the {self.pick(('weather', 'time', 'price', 'news', 'score'))} in {self.pick(PLACES)}",
            f"can you tell {person} that I will be {self.number()} minutes late", f"how do I get to {self.pick(PLACES)} from {self.pick(PLACES)}",
            f"for {self.pick(('sales', 'billing', 'support', 'opening hours', 'new customers', 'all other questions'))}, choose {self.pick(UNITS[1:10])}",
            f"thank you for waiting, {person} will be with you in {self.number()} minutes", f"could you please spell your {self.pick(('name', 'address', 'first name', 'last name', 'street'))}",
            f"my number is {self.digits()}", f"call {self.name()} {self.pick(('now', 'later', 'at home', 'at work', 'on the mobile'))}",
            f"remind me to {self.pick(('call', 'write to', 'visit', 'pay', 'meet'))} {person} {self.pick(DAYS)}", f"we are sorry, {person} is not {self.pick(('here', 'available', 'ready', 'at home'))} right now",
            f"it costs {self.number()} {self.pick(('dollars', 'pounds', 'euros', 'cents'))}", f"{self.pick(('yes', 'no', 'okay', 'hello', 'good morning', 'goodbye', 'thanks', 'sorry'))}, {self.pick(('please', 'thank you', 'of course', 'not yet', 'I think so', 'see you tomorrow'))}",
            f"there {self.pick(('are', 'were'))} {self.number()} {self.pick(('people', 'messages', 'files', 'rooms', 'cars', 'calls', 'users', 'pages'))} in the {self.pick(('building', 'list', 'queue', 'system', 'office', 'directory'))}",
            f"you {self.pick(('have', 'had', 'need', 'want', 'entered', 'selected'))} {self.pick(('the wrong', 'a new', 'no', 'one', 'another', 'an old'))} {self.pick(('number', 'file', 'password', 'address', 'code', 'option'))}",
            f"if you {self.pick(('want', 'would like', 'wish', 'need'))} to {self.pick(('stop', 'continue', 'go back', 'try again', 'start over', 'leave', 'wait'))}, say {self.pick(('yes', 'no', 'stop', 'help', 'next'))}"))

    def draw(self):
        """Returns one (spoken, written) pair."""
        kind = self.rng.choice(9, p=(0.08, 0.08, 0.09, 0.25, 0.06, 0.04, 0.03, 0.32, 0.05))
        spoken = (self.number, self.digits, self.letters, self.few_words, self.date, self.time, self.name, self.command,
                  lambda: self.pick((self.pick(NATO), self.pick(ORDINALS), self.pick(DAYS), self.pick(MONTHS), self.pick(UNITS))))[kind]()
        return spoken, normalise(spoken)


def held_out(written):
    """Whether a sentence belongs to those that are only measured on: one in forty, by its checksum. Short ones never do, they come again in others."""
    return len(written.split()) >= 4 and zlib.crc32(written.encode()) % 40 == 0


def runs_of_words(texts):
    """What :func:`overlaps` looks for: five words in a row of the texts, or a whole one of three or four."""
    grams = set()
    for text in texts:
        words = text.split()
        grams.update(tuple(words[i:i + 5]) for i in range(max(1, len(words) - 4)) if len(words) >= 3)
    return grams


def overlaps(written, grams):
    """Whether a sentence shares such a run of words."""
    words = written.split()
    return any(tuple(words[i:i + n]) in grams for n in (3, 4, 5) for i in range(len(words) - n + 1))


def sentences(root, rng, forbidden=(), everyday_share=0.3, measured=False):
    """Yields (spoken, written) without end. ``forbidden`` are transcripts of test sets: nothing that shares five words in a row with one is used.
    ``measured`` gives the sentences that are held out instead of all others."""
    grams, pool = runs_of_words(forbidden), prose(root)
    everyday = Everyday(rng, [word for _, written in pool for word in written.split()])
    order = rng.permutation(len(pool))
    position = 0
    while True:
        if rng.random() < everyday_share:
            spoken, written = everyday.draw()
        else:
            spoken, written = pool[order[position % len(pool)]]
            position += 1
        if held_out(written) == measured and not overlaps(written, grams):
            yield spoken, written
