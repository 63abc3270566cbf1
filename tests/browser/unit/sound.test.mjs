import assert from 'node:assert/strict';
import { test } from 'node:test';

import { RecentMedian, SendLog } from '../../../web/latency.js';
import { Level } from '../../../web/level.js';
import { Recording, toInt16 } from '../../../web/recording.js';
import { BANDS, Fft, Spectrum } from '../../../web/spectrum.js';

const counting = (length, from = 0) => Int16Array.from({ length }, (_, index) => from + index);

test('a recording reads across chunks what was appended', () => {
  const recording = new Recording(100);
  for (let at = 0; at < 100; at += 7) recording.append(counting(Math.min(7, 100 - at), at));
  assert.equal(recording.length, 100);
  for (const [from, max] of [[0, 100], [3, 20], [6, 1], [99, 50]]) {
    assert.deepEqual([...recording.read(from, max)], [...counting(Math.min(max, 100 - from), from)]);
  }
  assert.equal(recording.read(100, 5).length, 0);
});

test('released samples leave memory and stay in the WAV', async () => {
  const recording = new Recording(10); // 100 samples are ten seconds
  for (let at = 0; at < 300; at += 10) recording.append(counting(10, at));
  recording.release(255);
  assert.equal(recording.firstReadable, 250);
  assert.equal(recording.read(0, 5).length, 0);
  const wav = new Uint8Array(await recording.wav(0, 30).arrayBuffer());
  assert.equal(wav.length, 44 + 600);
  assert.deepEqual([...new Int16Array(wav.buffer.slice(44))], [...counting(300)]);
  const part = await recording.wav(24.5, 25.5).arrayBuffer();
  assert.deepEqual([...new Int16Array(part.slice(44))], [...counting(10, 245)]);
});

test('release waits until ten seconds are worth it', () => {
  const recording = new Recording(10);
  for (let at = 0; at < 90; at += 10) recording.append(counting(10, at));
  recording.release(90);
  assert.equal(recording.firstReadable, 0);
});

test('truncating cuts inside a chunk', () => {
  const recording = new Recording(10);
  recording.append(counting(10));
  recording.append(counting(10, 10));
  recording.truncate(14);
  assert.equal(recording.length, 14);
  assert.deepEqual([...recording.read(8, 100)], [8, 9, 10, 11, 12, 13]);
});

test('a WAV header says what follows', async () => {
  const recording = new Recording(44100);
  recording.append(counting(5));
  const view = new DataView(await recording.wav(0, 1).arrayBuffer());
  assert.equal(view.getUint32(24, true), 44100);
  assert.equal(view.getUint32(40, true), 10);
  assert.equal(view.getUint32(4, true), 36 + 10);
});

test('channels are mixed, rounded and clipped', () => {
  assert.deepEqual([...toInt16([[0.5, 1, -1, 0], [0.25, 1, -1, 0]])], [12288, 32767, -32768, 0]);
});

test('a send log says when a sample went', () => {
  const log = new SendLog();
  log.note(100, 1);
  log.note(200, 2);
  assert.deepEqual([log.timeOf(0), log.timeOf(100), log.timeOf(101), log.timeOf(200), log.timeOf(201)], [1, 1, 2, 2, undefined]);
});

test('the median is of the newest values', () => {
  const recent = new RecentMedian(3);
  assert.equal(recent.median, undefined);
  for (const value of [100, 1, 2, 3]) recent.add(value);
  assert.equal(recent.median, 2);
});

const hintAfter = (chunk, seconds) => {
  const level = new Level();
  let hint;
  for (let at = 0; at < seconds; at += 0.02) ({ hint } = level.update(chunk, 0.02));
  return hint;
};

test('hints: clipping at once, silence and quiet after a while, nothing for speech', () => {
  assert.equal(hintAfter({ peak: 1, rms: 0.5, clipped: 4 }, 0.1), 'clipping');
  assert.equal(hintAfter({ peak: 0, rms: 0, clipped: 0 }, 1), undefined);
  assert.equal(hintAfter({ peak: 0, rms: 0, clipped: 0 }, 5), 'silence');
  assert.equal(hintAfter({ peak: 0.005, rms: 0.002, clipped: 0 }, 5), 'quiet');
  assert.equal(hintAfter({ peak: 0.3, rms: 0.1, clipped: 0 }, 5), undefined);
});

test('a pause between words is no silence', () => {
  const level = new Level();
  for (let at = 0; at < 10; at += 0.02) level.update({ peak: 0.3, rms: 0.1, clipped: 0 }, 0.02);
  let hint;
  for (let at = 0; at < 3; at += 0.02) ({ hint } = level.update({ peak: 0.0001, rms: 0.0001, clipped: 0 }, 0.02));
  assert.equal(hint, undefined);
});

test('the transform finds a tone, as the definition does', () => {
  const size = 64;
  const real = Float32Array.from({ length: size }, (_, i) => Math.cos((2 * Math.PI * 5 * i) / size) + Math.sin(i));
  const input = Float64Array.from(real);
  const imaginary = new Float32Array(size);
  new Fft(size).transform(real, imaginary);
  for (let bin = 0; bin < size; bin += 1) {
    let [r, m] = [0, 0];
    for (let i = 0; i < size; i += 1) {
      r += input[i] * Math.cos((2 * Math.PI * bin * i) / size);
      m -= input[i] * Math.sin((2 * Math.PI * bin * i) / size);
    }
    assert.ok(Math.abs(real[bin] - r) < 1e-3 && Math.abs(imaginary[bin] - m) < 1e-3, `bin ${bin}`);
  }
});

test('a hundred columns a second at any rate and split, brighter where the tone is', () => {
  for (const rate of [8000, 11025, 16000, 44100, 48000]) {
    const tone = Int16Array.from({ length: rate }, (_, i) => Math.round(12000 * Math.sin((2 * Math.PI * 1000 * i) / rate)));
    const whole = new Spectrum(rate).push(tone);
    assert.equal(whole.length, 100, String(rate));
    const split = new Spectrum(rate);
    const parts = [];
    for (let at = 0; at < tone.length; at += 333) parts.push(...split.push(tone.subarray(at, at + 333)));
    assert.deepEqual(parts, whole);
    const loudest = whole[50].indexOf(Math.max(...whole[50]));
    assert.ok(loudest > BANDS * 0.25 && loudest < BANDS * 0.55, `band ${loudest} at ${rate}`);
  }
});
