import assert from 'node:assert/strict';
import { test } from 'node:test';

import { cues, formats, toJson, toSrt, toText, toVtt } from '../../../web/export.js';

const line = { start: 1.5, end: 3661.0426, text: 'a < b & c --> d', words: [], confidence: 0.9 };
const spoken = (text, start, secondsPerWord) => {
  const words = text.split(' ').map((word, index) => ({
    word, start: start + index * secondsPerWord, end: start + (index + 0.8) * secondsPerWord, confidence: 0.9,
  }));
  return { start, end: words.at(-1).end, text, words };
};

test('text has one line for each final', () => {
  assert.equal(toText([line, { ...line, text: 'two' }]), 'a < b & c --> d\ntwo\n');
});

test('SubRip counts from 1 and has commas', () => {
  assert.equal(toSrt([line]), '1\n00:00:01,500 --> 01:01:01,043\na < b & c --> d\n\n');
});

test('WebVTT escapes what would be markup', () => {
  assert.equal(toVtt([line]), 'WEBVTT\n\n00:00:01.500 --> 01:01:01.043\na &lt; b &amp; c --&gt; d\n\n');
});

test('a rounded second carries over', () => {
  assert.match(toSrt([{ ...line, start: 59.9996 }]), /^1\n00:01:00,000/);
});

test('JSON has text, segments and words like the server', () => {
  const json = JSON.parse(toJson([spoken('he was', 0.1234567, 0.5), { ...line, start: 2 }]));
  assert.equal(json.text, 'he was a < b & c --> d');
  assert.equal(json.segments.length, 2);
  assert.equal(json.segments[0].start, 0.123);
  assert.deepEqual(json.words.map((word) => word.word), ['he', 'was']);
  assert.equal(json.duration, 3661.043);
});

test('long lines are cut at words into cues that are short enough and lose nothing', () => {
  const long = spoken(Array.from({ length: 60 }, (_, index) => `word${index}`).join(' '), 5, 0.4);
  const cut = cues([long]);
  assert.ok(cut.length > 1);
  assert.equal(cut.map((cue) => cue.text).join(' '), long.text);
  for (const [index, cue] of cut.entries()) {
    assert.ok(cue.text.length <= 84, cue.text);
    assert.ok(cue.end - cue.start <= 7);
    if (index > 0) assert.ok(cue.start >= cut[index - 1].end);
  }
  for (const text of toSrt([long]).split('\n')) assert.ok(text.length <= 60, text);
});

test('an empty transcript makes valid empty files', () => {
  assert.equal(formats.txt.write([]), '');
  assert.equal(formats.vtt.write([]), 'WEBVTT\n\n');
  assert.equal(JSON.parse(formats.json.write([])).text, '');
});
