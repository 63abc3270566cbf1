// The real binary: WAXWING_BIN, or the release build of this repository. And a wire to it that can be cut.

import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { request } from 'node:http';
import { connect, createServer } from 'node:net';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

const BINARY = process.env.WAXWING_BIN ?? fileURLToPath(new URL('../../../target/release/waxwing', import.meta.url));

/** Starts `waxwing serve` on a free port; `settings` are environment variables without their prefix. */
export async function startServer(settings = {}) {
  const environment = Object.fromEntries(Object.entries(settings).map(([name, value]) => [`WAXWING_${name}`, String(value)]));
  const child = spawn(BINARY, ['serve', '--json', '--port', '0'], {
    env: { ...process.env, ...environment }, stdio: ['ignore', 'pipe', 'pipe'],
  });
  let log = '';
  child.stderr.on('data', (data) => { log += data; });
  const exited = once(child, 'exit');
  const lines = createInterface({ input: child.stdout });
  const first = await Promise.race([once(lines, 'line'), exited.then(() => null)]);
  if (!first) throw new Error(`${BINARY} ended before it was ready:\n${log}`);
  const facts = JSON.parse(first[0]);
  return {
    url: `http://127.0.0.1:${facts.port}/`,
    port: facts.port,
    facts,
    log: () => log,
    /** SIGTERM; gives the exit code once it has drained. */
    async stop() {
      child.kill('SIGTERM');
      const [code] = await exited;
      return code;
    },
  };
}

/** A port that leads to `port` until it is cut: then what is open breaks and nothing new gets through until `mend`. */
export async function startWire(port) {
  const pairs = new Set();
  let whole = true;
  const wire = createServer((near) => {
    if (!whole) {
      near.destroy();
      return;
    }
    const far = connect(port, '127.0.0.1');
    const pair = [near, far];
    pairs.add(pair);
    const end = () => {
      pairs.delete(pair);
      for (const socket of pair) socket.destroy();
    };
    for (const socket of pair) socket.on('error', end).on('close', end);
    near.pipe(far).pipe(near);
  });
  wire.listen(0, '127.0.0.1');
  await once(wire, 'listening');
  const breakAll = () => { for (const pair of [...pairs]) for (const socket of pair) socket.destroy(); };
  return {
    url: `http://127.0.0.1:${wire.address().port}/`,
    cut() {
      whole = false;
      breakAll();
    },
    mend() { whole = true; },
    async stop() {
      whole = false;
      breakAll();
      wire.close();
      await once(wire, 'close');
    },
  };
}

/** Takes a place on the server and keeps it until the socket that it gives is destroyed. */
export async function holdSession(port) {
  const asking = request({
    host: '127.0.0.1', port, path: '/v1/stream',
    headers: { connection: 'Upgrade', upgrade: 'websocket', 'sec-websocket-version': '13', 'sec-websocket-key': randomBytes(16).toString('base64') },
  });
  asking.end();
  const [, socket] = await once(asking, 'upgrade');
  socket.on('error', () => {}).resume();
  return socket;
}

/** The text that the server gives for a posted file. */
export async function post(url, name, bytes) {
  const form = new FormData();
  form.append('model', 'whisper-1');
  form.append('file', new Blob([bytes]), name);
  const response = await fetch(new URL('v1/audio/transcriptions', url), { method: 'POST', body: form });
  if (!response.ok) throw new Error(await response.text());
  return (await response.json()).text;
}
