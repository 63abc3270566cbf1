// A server that says a fixed text at fixed times of the audio, and fails when told to: what the page shows for a
// refusal, a drop or a warning can be tested exactly. Words and times are those of the sample.

import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { extname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { acceptWebSocket } from './websocket.mjs';

const WEB = fileURLToPath(new URL('../../../web/', import.meta.url));
const TYPES = { '.html': 'text/html; charset=utf-8', '.js': 'text/javascript; charset=utf-8', '.css': 'text/css; charset=utf-8', '.svg': 'image/svg+xml', '.flac': 'audio/flac' };

/** The strictest policy that the page is made for. */
export const POLICY = "default-src 'self'; media-src 'self' blob:; object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/** The sentences of the sample with the time of each word, in seconds. */
export const SENTENCES = [
  'and mister john dashwood had then leisure to consider how much there might be prudently in his power to do for them',
  'he was not an ill disposed young man',
].map((text, index) => {
  const begin = [0.35, 7.35][index];
  const end = [6.7, 9.8][index];
  const words = text.split(' ');
  const letters = words.join('').length;
  let at = begin;
  return words.map((word) => {
    const start = at;
    at += ((end - begin) * word.length) / letters;
    return { word, start, end: at - 0.03, confidence: word === 'dashwood' ? 0.41 : 0.95 };
  });
});

/**
 * Serves the page on a free port. `behaviour` may be changed while it runs:
 * `key` (asked for), `free` and `slots`, `state` and `retryAfterMs` of /ready, `dropAtSeconds` (once; then `refuse` if `refuseAfterDrop`),
 * `error` (an error event instead of ready), `warning` (a message after ready), `transcription` (the answer to a POST).
 */
export async function startScriptedServer(behaviour = {}) {
  const sessions = []; // what each socket asked for and sent
  const server = createServer(async (request, response) => {
    const path = new URL(request.url, 'http://x').pathname;
    const json = (status, body) => {
      response.writeHead(status, { 'content-type': 'application/json' });
      response.end(JSON.stringify(body));
    };
    const allowed = !behaviour.key || request.headers.authorization === `Bearer ${behaviour.key}`;
    if (path === '/ready') {
      const { free = 3, slots = 4, state = 'ready', retryAfterMs } = behaviour;
      json(state === 'ready' ? 200 : 503, { state: state === 'ready' && free === 0 ? 'full' : state, slots, free, retry_after_ms: retryAfterMs ?? 0 });
    } else if (path === '/v1/models') {
      if (allowed) json(200, { object: 'list', data: [{ id: 'scripted', object: 'model' }] });
      else json(401, { error: { message: 'a key is needed', code: 'unauthorized' } });
    } else if (path === '/v1/audio/transcriptions') {
      for await (const _ of request);
      const { status = 200, body } = behaviour.transcription ?? { body: verboseJson() };
      json(status, body);
    } else {
      const name = path === '/' ? 'index.html' : path.slice(1);
      try {
        const content = await readFile(join(WEB, name));
        response.writeHead(200, { 'content-type': TYPES[extname(name)], 'content-security-policy': POLICY });
        response.end(content);
      } catch {
        json(404, { error: { message: 'no such page' } });
      }
    }
  });
  const open = new Set();
  server.on('connection', (socket) => {
    open.add(socket);
    socket.on('close', () => open.delete(socket));
  });
  server.on('upgrade', (request, socket) => {
    const protocols = (request.headers['sec-websocket-protocol'] ?? '').split(/,\s*/);
    const key = protocols.find((name) => name.startsWith('key.'))?.slice(4);
    const allowed = !behaviour.key || (key && Buffer.from(key, 'base64url').toString() === behaviour.key);
    if (!allowed || behaviour.free === 0 || behaviour.refuse) {
      socket.end(`HTTP/1.1 ${allowed ? '503 Service Unavailable' : '401 Unauthorized'}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n`);
      return;
    }
    const query = new URL(request.url, 'http://x').searchParams;
    const session = { query, protocols, bytes: 0, texts: [] };
    sessions.push(session);
    speak(acceptWebSocket(request, socket, 'waxwing.v1'), session, behaviour);
  });
  await new Promise((resolve) => { server.listen(0, '127.0.0.1', resolve); });
  return {
    url: `http://127.0.0.1:${server.address().port}/`,
    sessions,
    behaviour,
    async stop() {
      for (const socket of open) socket.destroy();
      await new Promise((resolve) => { server.close(resolve); });
    },
  };
}

/** One session: partials as the audio passes the words, finals 0.5 s after each sentence. */
function speak(peer, session, behaviour) {
  const rate = Number(session.query.get('sample_rate'));
  const send = (event) => peer.sendText(JSON.stringify(event));
  let utterance = 0;
  let shown = 0;
  let stopped = false;
  if (behaviour.error) {
    send({ type: 'error', ...behaviour.error });
    peer.close(1011);
    return;
  }
  send({ type: 'ready', session: 'scripted-1', model: 'scripted', sample_rate: rate, latency_ms: { segment: 640, right_context: 160 } });
  if (behaviour.warning) send({ type: 'warning', code: 'test', message: behaviour.warning });

  const finish = (words, audio_processed) => {
    send({ type: 'final', utterance, start: words[0].start, end: words.at(-1).end, text: words.map((word) => word.word).join(' '),
      confidence: 0.9, audio_processed, words });
    utterance += 1;
    shown = 0;
  };
  const advance = (seconds) => {
    while (utterance < SENTENCES.length) {
      const words = SENTENCES[utterance];
      const heard = words.filter((word) => word.end <= seconds);
      if (heard.length === words.length && seconds >= words.at(-1).end + 0.5) {
        finish(words, seconds);
        continue;
      }
      if (heard.length > shown) {
        shown = heard.length;
        send({ type: 'partial', utterance, start: heard[0].start, end: heard.at(-1).end, text: heard.map((word) => word.word).join(' '),
          stable_words: Math.max(0, heard.length - 2), audio_processed: seconds, words: heard });
      }
      return;
    }
  };
  peer.onBinary = (body) => {
    if (stopped) return;
    session.bytes += body.length;
    const seconds = session.bytes / 2 / rate;
    advance(seconds);
    if (behaviour.dropAtSeconds && seconds >= behaviour.dropAtSeconds) {
      behaviour.dropAtSeconds = undefined;
      behaviour.refuse = behaviour.refuseAfterDrop;
      peer.drop();
    }
  };
  peer.onText = (text) => {
    session.texts.push(text);
    if (JSON.parse(text).type !== 'stop' || behaviour.deaf) return;
    stopped = true;
    const seconds = session.bytes / 2 / rate;
    const words = (SENTENCES[utterance] ?? []).filter((word) => word.end <= seconds);
    if (words.length > 0) finish(words, seconds);
    send({ type: 'done', audio_seconds: seconds, utterances: utterance, ignored_messages: 0 });
    peer.close(1000);
  };
}

function verboseJson() {
  const words = SENTENCES.flat();
  const segments = SENTENCES.map((sentence, id) => ({
    id, start: sentence[0].start, end: sentence.at(-1).end, text: sentence.map((word) => word.word).join(' '),
  }));
  return { task: 'transcribe', language: 'english', duration: 10.09, text: segments.map((segment) => segment.text).join(' '), segments, words };
}
