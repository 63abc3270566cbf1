import assert from 'node:assert/strict';
import { test } from 'node:test';

import { clock, pieces, timedWords, Transcript } from '../../../web/transcript.js';

const final = (utterance, text, start = 0, end = 1) => ({ type: 'final', utterance, text, start, end, words: [] });

test('a partial shows its stable words apart from the open ones', () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: 'and mister john', stable_words: 2, start: 0.3, end: 1 });
  assert.equal(transcript.partial.stable, 'and mister');
  assert.equal(transcript.partial.open, 'john');
});

test('a partial that claims more stable words than it has is all stable', () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: 'and mister', stable_words: 9, start: 0, end: 1 });
  assert.deepEqual([transcript.partial.stable, transcript.partial.open], ['and mister', '']);
});

test('an empty partial takes the last one away', () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: 'and', start: 0, end: 1 });
  transcript.setPartial({ text: ' ', start: 0, end: 1 });
  assert.equal(transcript.partial, null);
});

test('a final replaces the partial and never changes afterwards', () => {
  const transcript = new Transcript();
  transcript.setPartial({ text: 'he was', start: 0, end: 1 });
  const line = transcript.addFinal(final(0, 'he was not'));
  assert.equal(transcript.partial, null);
  transcript.setPartial({ text: 'an ill', start: 1, end: 2 });
  transcript.addFinal(final(1, 'an ill disposed', 1, 2));
  assert.deepEqual(transcript.lines.map((each) => each.text), ['he was not', 'an ill disposed']);
  assert.equal(transcript.lines[0], line);
  assert.ok(transcript.lines[1].id > line.id);
});

test('a final without words makes no line', () => {
  const transcript = new Transcript();
  assert.equal(transcript.addFinal(final(0, '  ')), null);
  assert.ok(transcript.isEmpty);
});

test('a written form is shown where there is one, without the times of the spoken words', () => {
  const transcript = new Transcript();
  const words = [{ word: 'two', start: 0, end: 1 }];
  const line = transcript.addFinal({ ...final(0, 'two'), formatted: '2', words });
  assert.equal(line.text, '2');
  assert.deepEqual(pieces(line), [{ text: '2' }]);
});

test('clearing can be undone, also after more was said', () => {
  const transcript = new Transcript();
  transcript.addFinal(final(0, 'one'));
  transcript.addFinal(final(1, 'two'));
  const undo = transcript.clear();
  assert.ok(transcript.isEmpty);
  transcript.addFinal(final(2, 'three'));
  undo();
  assert.deepEqual(transcript.lines.map((line) => line.text), ['one', 'two', 'three']);
});

test('a line falls into its words only where they are its text', () => {
  const words = [{ word: 'he', start: 0, end: 0.2, confidence: 0.9 }, { word: 'was', start: 0.3, end: 0.5, confidence: 0.4 }];
  assert.equal(pieces({ text: 'he was', words }).length, 2);
  assert.deepEqual(pieces({ text: 'He was.', words }), [{ text: 'He was.' }]);
});

test('words without times are spread over the span, in order and inside it', () => {
  const words = timedWords({ text: 'an ill disposed', start: 2, end: 4 });
  assert.deepEqual(words.map((word) => word.text), ['an', 'ill', 'disposed']);
  assert.equal(words[0].start, 2);
  assert.ok(Math.abs(words[2].end - 4) < 1e-9);
  assert.ok(words[0].end <= words[1].start + 1e-9 && words[2].end - words[2].start > words[0].end - words[0].start);
});

test('clock', () => {
  assert.equal(clock(7.9), '0:07');
  assert.equal(clock(754), '12:34');
  assert.equal(clock(3723), '1:02:03');
  assert.equal(clock(-1), '0:00');
});
