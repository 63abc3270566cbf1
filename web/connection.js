// One run of speech over the native WebSocket protocol. It sends a recording as it grows, gives back events in the
// recording's own time, and, when the connection is lost, opens another and goes on where the last final ended, so
// that no word is lost or said twice.
//
// Phases: 'connecting' → 'open' → 'finishing' → 'closed'; from 'open' and 'finishing' back to 'connecting' after a loss.

import { littleEndian } from './recording.js';
import { SendLog } from './latency.js';

const MESSAGE_SAMPLES = 8192; // 16 KiB, far below the server's 256 KiB
const MAX_BUFFERED_BYTES = 256 * 1024; // what the socket may hold before a file waits
const READY_TIMEOUT_MS = 10_000;
const ANSWER_TIMEOUT_MS = 30_000; // while finishing, without any event
const MAX_RESENT_SECONDS = 30; // an utterance is never longer than this
const MAX_ATTEMPTS = 9;

/** Milliseconds before attempt `attempt` (from 0): 0.5 s doubling to 8 s, of which a random quarter is taken off so
 *  that the clients of a restarted server do not return all at once. */
export function backoffMs(attempt, random = Math.random()) {
  return Math.min(8000, 500 * 2 ** attempt) * (1 - random / 4);
}

export class Connection {
  /**
   * @param {object} options
   * @param {import('./recording.js').Recording} options.recording what to send; call `pump` when it has grown
   * @param {() => { url: string, subprotocols: string[] }} options.target read anew for each attempt
   * @param {() => Promise<{kind: string, retryAfterMs?: number}>} options.diagnose says why a socket was refused
   * @param {(event: object, timing: object) => void} options.onEvent server events, times shifted to the recording's
   * @param {(phase: string, detail?: object) => void} options.onPhase
   * @param {(direction: string, text: string) => void} options.onRaw every text message, and a word on binary ones
   */
  constructor(options) {
    Object.assign(this, options);
    this.phase = 'idle';
    this.attempt = 0;
    this.wasReady = false;
    this.base = 0; // position in the recording at which the current session began
    this.sent = 0; // position up to which the current session has been sent
    this.committed = 0; // position up to which everything is final
    this.processed = 0; // position up to which the server has said it listened
    this.session = 0; // number of sockets opened, so that utterances of two sessions differ
    this.ending = false; // the recording is complete
    this.log = new SendLog();
    this.timers = new Set();
  }

  start() {
    this.open();
  }

  /** The recording is complete: send what is left, then `stop`, then wait for `done`. */
  finish() {
    if (this.ending || this.phase === 'closed') return;
    this.ending = true;
    if (this.phase === 'open') this.setPhase('finishing');
    this.pump();
  }

  /** Ends at once, without last words. */
  abort() {
    this.close({ kind: 'aborted' });
  }

  get buffered() {
    return this.recording.length - this.sent + (this.socket?.bufferedAmount ?? 0) / 2;
  }

  setPhase(phase, detail) {
    this.phase = phase;
    this.onPhase(phase, detail);
  }

  after(milliseconds, action) {
    const timer = setTimeout(() => {
      this.timers.delete(timer);
      action();
    }, milliseconds);
    this.timers.add(timer);
    return timer;
  }

  clearTimers() {
    for (const timer of this.timers) clearTimeout(timer);
    this.timers.clear();
  }

  open() {
    this.setPhase('connecting', { attempt: this.attempt });
    this.session += 1;
    this.ready = false;
    this.stopSent = false;
    this.failure = undefined;
    const { url, subprotocols } = this.target();
    const socket = new WebSocket(url, subprotocols);
    this.socket = socket;
    socket.binaryType = 'arraybuffer';
    this.onRaw('→', `GET ${new URL(url).pathname}${new URL(url).search}`);
    this.after(READY_TIMEOUT_MS, () => { if (!this.ready && this.socket === socket) this.lost(socket); });
    socket.onmessage = ({ data }) => { if (this.socket === socket) this.receive(data); };
    socket.onclose = () => this.lost(socket);
  }

  receive(data) {
    this.onRaw('←', data);
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      return;
    }
    this.lastEvent = performance.now();
    switch (event.type) {
      case 'ready':
        this.begin(event);
        return;
      case 'error':
        // The close that follows decides; by then it is known whether trying again makes sense.
        this.failure = event;
        return;
      case 'done':
        this.onEvent(event, {});
        this.close();
        return;
      case 'partial':
      case 'final':
        this.account(event);
        return;
      default:
        this.onEvent(event, {});
    }
  }

  /** The server listens: send from where the finals ended. */
  begin(event) {
    const { recording } = this;
    this.ready = true;
    const farthest = Math.max(recording.firstReadable, this.sent - MAX_RESENT_SECONDS * recording.rateHz);
    this.base = this.wasReady ? Math.max(this.committed, farthest) : recording.firstReadable;
    const resumed = this.wasReady;
    this.wasReady = true;
    this.attempt = 0;
    this.sent = this.base;
    this.log = new SendLog();
    this.setPhase(this.ending ? 'finishing' : 'open', { resumed });
    this.onEvent(event, {});
    this.pump();
  }

  /** Shifts an event to the recording's time and measures its delays. */
  account(event) {
    const { recording, base, log } = this;
    const now = performance.now();
    const offset = base / recording.rateHz;
    const position = (seconds) => base + Math.floor(seconds * recording.rateHz);
    const since = (seconds) => {
      const sent = log.timeOf(position(seconds));
      return sent === undefined ? undefined : (now - sent) / 1000;
    };
    const timing = { lag: since(event.audio_processed ?? 0), wordDelay: since(event.end) };
    this.processed = Math.max(this.processed, position(event.audio_processed ?? event.end));
    if (event.type === 'final') {
      // A little beyond the last word, so that its end is not heard again as a word of its own.
      this.committed = Math.max(this.committed, Math.min(this.sent, position(event.end + 0.1)));
      const keep = Math.max(this.committed, this.sent - MAX_RESENT_SECONDS * recording.rateHz);
      recording.release(Math.min(keep, this.sent));
      log.forget(this.committed);
    }
    this.onEvent(shifted(event, offset, this.session), timing);
  }

  /** Sends what the recording has and the socket takes. */
  pump() {
    const { recording, socket } = this;
    if (!this.ready || socket?.readyState !== WebSocket.OPEN || this.stopSent) return;
    const before = this.sent;
    while (this.sent < recording.length && socket.bufferedAmount < MAX_BUFFERED_BYTES) {
      const samples = recording.read(this.sent, MESSAGE_SAMPLES);
      if (samples.length === 0) break;
      socket.send(littleEndian(samples));
      this.sent += samples.length;
      this.log.note(this.sent, performance.now());
    }
    if (this.sent > before) this.onSent?.(before, this.sent);
    // Being told so, the owner may have finished, and `stop` is on its way.
    if (this.stopSent) return;
    if (this.sent < recording.length) {
      this.schedulePump();
    } else if (this.ending) {
      this.stopSent = true;
      this.onRaw('→', '{"type":"stop"}');
      socket.send('{"type":"stop"}');
      this.watchForAnswer(socket);
    }
  }

  schedulePump() {
    if (this.pumping) return;
    this.pumping = true;
    this.after(20, () => {
      this.pumping = false;
      this.pump();
    });
  }

  /** A server that took `stop` and then says nothing for long has been lost without a close. */
  watchForAnswer(socket) {
    this.lastEvent = performance.now();
    const look = () => {
      if (this.socket !== socket || this.phase === 'closed') return;
      const silent = performance.now() - this.lastEvent;
      if (silent >= ANSWER_TIMEOUT_MS) this.lost(socket);
      else this.after(ANSWER_TIMEOUT_MS - silent, look);
    };
    this.after(ANSWER_TIMEOUT_MS, look);
  }

  /** The socket is gone, or as good as gone, before `done`. */
  async lost(socket) {
    if (this.socket !== socket || this.phase === 'closed') return;
    this.socket = undefined;
    this.ready = false;
    this.pumping = false;
    this.clearTimers();
    socket.onclose = null;
    socket.close();
    const failure = this.failure;
    if (failure && !failure.retryable) {
      this.close({ kind: 'server', code: failure.code, message: failure.message });
      return;
    }
    const reason = failure
      ? { kind: failure.code === 'server_full' ? 'full' : failure.code === 'draining' ? 'draining' : 'server',
          code: failure.code, message: failure.message, retryAfterMs: failure.retry_after_ms }
      : await this.diagnose();
    if (this.phase === 'closed') return;
    const hopeless = reason.kind === 'key' || this.attempt >= MAX_ATTEMPTS;
    // Before the first `ready` nothing has been said yet: the page tells why and offers to try again.
    if (!this.wasReady || hopeless) {
      this.close(reason);
      return;
    }
    const wait = Math.max(reason.retryAfterMs ?? 0, backoffMs(this.attempt));
    this.attempt += 1;
    this.setPhase('connecting', { attempt: this.attempt, wait, reason });
    this.after(wait, () => this.open());
  }

  /** Tries to connect at once instead of waiting. */
  retryNow() {
    if (this.phase !== 'connecting' || this.socket) return;
    this.clearTimers();
    this.open();
  }

  close(problem) {
    if (this.phase === 'closed') return;
    this.clearTimers();
    const { socket } = this;
    this.socket = undefined;
    this.ready = false;
    this.setPhase('closed', problem);
    if (socket) {
      socket.onclose = null;
      socket.onmessage = null;
      socket.close(1000);
    }
  }
}

/** A partial or final with its times moved by `offset` seconds and its utterance named across sessions. */
function shifted(event, offset, session) {
  return {
    ...event,
    key: `${session}.${event.utterance}`,
    start: event.start + offset,
    end: event.end + offset,
    audio_processed: (event.audio_processed ?? event.end) + offset,
    words: event.words?.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset })),
  };
}
