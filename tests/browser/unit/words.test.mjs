import assert from 'node:assert/strict';
import { test } from 'node:test';

import { backoffMs } from '../../../web/connection.js';
import { finalsOf, sniffRate } from '../../../web/file.js';
import { describe, describeReconnect, microphoneProblem } from '../../../web/messages.js';
import { wavHeader } from '../../../web/recording.js';
import { access, base64url, keyInFragment, streamUrl } from '../../../web/server.js';
import { snippets } from '../../../web/snippets.js';

test('each failure of the microphone has words of its own', () => {
  const names = ['InsecureContext', 'NotAllowedError', 'NotFoundError', 'NotReadableError'];
  const titles = names.map((name) => describe(microphoneProblem({ name })).title);
  assert.equal(new Set(titles).size, names.length);
  assert.ok(titles.every((title) => !/went wrong/.test(title)));
});

test('a full server says how many places it has and when it is tried again', () => {
  const { text, retryMs } = describe({ kind: 'full', slots: 8, retryAfterMs: 1500 });
  assert.match(text, /All 8 places/);
  assert.equal(retryMs, 1500);
  assert.ok(describe({ kind: 'full' }).retryMs > 0);
});

test('an unknown problem is still described', () => {
  assert.match(describe({ kind: 'never heard of' }).title, /went wrong/);
});

test('a reconnect says that the text is kept and how long it waits', () => {
  assert.match(describeReconnect({ reason: { kind: 'unreachable' }, wait: 1200 }), /text is kept.*in 2 s/);
});

test('attempts are ever further apart, up to a bound, and never all at once', () => {
  const waits = Array.from({ length: 10 }, (_, attempt) => backoffMs(attempt, 0));
  assert.deepEqual(waits.slice(0, 6), [500, 1000, 2000, 4000, 8000, 8000]);
  assert.equal(backoffMs(2, 1), 1500);
});

test('the key travels in a subprotocol that any key fits into', () => {
  access.key = 'ü?>~/key+';
  const [version, key] = access.subprotocols();
  assert.equal(version, 'waxwing.v1');
  assert.match(key, /^key\.[A-Za-z0-9_-]+$/);
  assert.equal(Buffer.from(key.slice(4), 'base64url').toString(), access.key);
  assert.deepEqual(access.headers(), { Authorization: `Bearer ${access.key}` });
  access.key = '';
  assert.deepEqual(access.subprotocols(), ['waxwing.v1']);
  assert.deepEqual(access.headers(), {});
  assert.equal(base64url('a'), 'YQ');
});

test('the key is read from the fragment', () => {
  assert.equal(keyInFragment('#key=abc-_1'), 'abc-_1');
  assert.equal(keyInFragment('#other=1'), '');
  assert.equal(keyInFragment(''), '');
});

test('the socket address keeps the host, the scheme and the folder', () => {
  assert.equal(streamUrl('http://127.0.0.1:8080/#x', { encoding: 's16le' }), 'ws://127.0.0.1:8080/v1/stream?encoding=s16le');
  assert.equal(streamUrl('https://a.example/waxwing/', { channels: 1 }), 'wss://a.example/waxwing/v1/stream?channels=1');
});

test('the rate is read from WAV and FLAC headers', () => {
  assert.equal(sniffRate(new Uint8Array(wavHeader(44100, 0))), 44100);
  const flac = new Uint8Array(42);
  flac.set([0x66, 0x4c, 0x61, 0x43]);
  flac.set([0x03, 0xe8, 0x00], 18);
  assert.equal(sniffRate(flac), 16000);
  assert.equal(sniffRate(new Uint8Array(64)), 48000);
  assert.equal(sniffRate(new Uint8Array(0)), 48000);
});

test('a posted file becomes finals with their words', () => {
  const words = [{ word: 'a', start: 0, end: 1 }, { word: 'b', start: 2, end: 3 }];
  const finals = finalsOf({ duration: 4, text: 'a b', words, segments: [
    { start: 0, end: 1, text: ' a' }, { start: 2, end: 3, text: 'b' }, { start: 3, end: 4, text: ' ' }] });
  assert.deepEqual(finals.map(({ text, words: own }) => [text, own.length]), [['a', 1], ['b', 1]]);
  assert.equal(finalsOf({ duration: 2, text: 'c' })[0].end, 2);
});

test('snippets name this server and never hold a key', () => {
  const open = snippets('http://localhost:8080/', false);
  assert.match(open.curl, /http:\/\/localhost:8080\/v1\/audio/);
  assert.match(open.javascript, /ws:\/\/localhost:8080\/v1\/stream/);
  assert.match(open.python, /base_url="http:\/\/localhost:8080\/v1"/);
  assert.doesNotMatch(open.curl, /WAXWING_KEY/);
  const closed = snippets('https://x.example/', true);
  assert.match(closed.curl, /\$WAXWING_KEY/);
  assert.match(closed.javascript, /wss:\/\/x\.example/);
  assert.match(closed.python, /import os/);
});
