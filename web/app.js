// The page of Waxwing, without a build step. This module holds the state and connects the others:
//
//   microphone.js (worklet.js) ─┐
//   file.js ────────────────────┼→ recording.js → connection.js ⇄ GET /v1/stream
//   the sample ─────────────────┘        │              │ events
//                               spectrum.js             ↓
//                                        ↓        transcript.js → view.js, export.js
//                                  picture.js ←─────────┘
//
// A *run* is one press of Start, one file or one sample. All times on the page are seconds of one time line on which the
// runs follow each other (`run.offset`). messages.js has the words for what goes wrong, server.js what is asked outside
// a session. Nothing here needs an inline script or style, so the strictest content policy holds: `default-src 'self'`
// and `media-src blob:` for hearing a line again.
//
// sample.flac: two sentences of "Sense and Sensibility" (Jane Austen), read for LibriVox, in the public domain; taken
// from the test data of PocketSphinx.

import { Connection } from './connection.js';
import { formats } from './export.js';
import { decodeFile, finalsOf, postFile } from './file.js';
import { RecentMedian } from './latency.js';
import { Level } from './level.js';
import { describe, describeReconnect, levelHints, microphoneProblem } from './messages.js';
import { listMicrophones, openMicrophone } from './microphone.js';
import { Picture } from './picture.js';
import { Player } from './player.js';
import { Recording } from './recording.js';
import { access, diagnose, getModels, getReady, keyInFragment, streamUrl } from './server.js';
import { snippets } from './snippets.js';
import { Spectrum } from './spectrum.js';
import { clock, Transcript } from './transcript.js';
import { byId, make, Notice, RawEvents, toast, TranscriptView } from './view.js';

const STATES = ['idle', 'connecting', 'listening', 'finishing', 'done'];
const SERVER_LOOK_MS = 10_000;
const STOP_WAITING_AFTER_MS = 4000;

const transcript = new Transcript();
const picture = new Picture(byId('picture'));
const notice = new Notice();
const raw = new RawEvents();
const view = new TranscriptView({ onPlay: hear });
const runs = new Map(); // id → run, as long as one of its lines may be heard
let run = null; // the one in progress
let numRuns = 0;
let state = 'idle';
let heard = null; // the line that is playing
let needsKey = false;
let wakeLock = null;
let retryTimer;

const player = new Player({
  onTime(seconds) {
    view.markPlaying(heard, seconds);
    picture.setPlayhead(seconds);
  },
  onEnd() {
    heard = null;
    view.clearPlaying();
    picture.setPlayhead(undefined);
  },
});

// ---- State -------------------------------------------------------------------------------------------------------

function setState(next) {
  state = next;
  const reached = STATES.indexOf(next);
  for (const item of byId('states').children) {
    const index = STATES.indexOf(item.dataset.state);
    item.classList.toggle('current', index === reached);
    item.classList.toggle('past', index < reached);
  }
  document.body.dataset.state = next;
  byId('state-spoken').textContent = next[0].toUpperCase() + next.slice(1);
  const active = isActive();
  const toggle = byId('toggle');
  toggle.classList.toggle('on', active);
  toggle.disabled = next === 'finishing';
  byId('toggle-text').textContent = next === 'finishing' ? 'Finishing…' : active ? 'Stop' : 'Start';
  for (const id of ['sample', 'choose', 'device']) byId(id).disabled = active;
  if (next === 'finishing') {
    const current = run;
    // The last words usually take a moment; a server that is gone should not hold the page for ever.
    setTimeout(() => {
      if (state !== 'finishing' || run !== current) return;
      toggle.disabled = false;
      byId('toggle-text').textContent = 'Stop waiting';
    }, STOP_WAITING_AFTER_MS);
  }
  keepAwake(next === 'listening');
}

const isActive = () => state === 'connecting' || state === 'listening' || state === 'finishing';

function toggle() {
  if (!isActive()) startMicrophone();
  else if (state === 'finishing') run.connection?.abort();
  else stop();
}

async function keepAwake(wanted) {
  if (wanted && !wakeLock) {
    // Refused on low battery or in a hidden page: then the screen may go dark, no more.
    wakeLock = await navigator.wakeLock?.request('screen').catch(() => null) ?? null;
    wakeLock?.addEventListener('release', () => { wakeLock = null; });
    if (state !== 'listening') wakeLock?.release();
  } else if (!wanted) {
    wakeLock?.release();
  }
}

// ---- Runs --------------------------------------------------------------------------------------------------------

/** Begins a run; `restart` begins the same again after a refusal. */
function newRun(kind, restart) {
  clearInterval(retryTimer);
  notice.hide();
  player.stop();
  numRuns += 1;
  run = { id: numRuns, kind, restart, offset: picture.seconds, drawn: 0, finals: 0, lag: new RecentMedian(), cancelled: false };
  runs.set(run.id, run);
  byId('number-final').textContent = '–';
  byId('number-lag').textContent = '–';
  byId('hint').textContent = '';
  setState('connecting');
  return run;
}

/** Gives the run its recording, at the rate that the sound has. */
function record(current, rateHz) {
  current.recording ??= new Recording(rateHz);
  current.spectrum ??= new Spectrum(rateHz);
  return current.recording;
}

/** Draws the part of the recording that is not in the picture yet. */
function drawSound(current, until) {
  if (until <= current.drawn) return;
  const samples = current.recording.read(current.drawn, until - current.drawn);
  current.drawn += samples.length;
  picture.addColumns(current.spectrum.push(samples));
}

function connect(current) {
  const { recording } = current;
  current.connection = new Connection({
    recording,
    target: () => ({
      url: streamUrl(document.baseURI, { encoding: 's16le', sample_rate: recording.rateHz, channels: 1 }),
      subprotocols: access.subprotocols(),
    }),
    diagnose,
    onEvent: (event, timing) => onEvent(current, event, timing),
    onPhase: (phase, detail) => onPhase(current, phase, detail),
    onRaw: (direction, text) => raw.add(direction, text),
    onSent: (_from, until) => {
      if (current.kind !== 'file') return;
      drawSound(current, until);
      if (until === recording.length) current.connection.finish();
    },
  });
  current.connection.start();
}

async function startMicrophone() {
  const current = newRun('microphone', startMicrophone);
  const level = new Level();
  byId('why').textContent = 'If your browser asks, allow the microphone. The sound goes to this server and nowhere else.';
  try {
    const microphone = await openMicrophone({
      deviceId: remembered('microphone'),
      onChunk({ samples, ...loudness }, rateHz) {
        if (current.cancelled) return;
        const recording = record(current, rateHz);
        recording.append(samples);
        drawSound(current, recording.length);
        current.connection?.pump();
        showLevel(level.update(loudness, samples.length / rateHz));
      },
      onLost() {
        notice.show(describe({ kind: 'microphone_gone' }));
        stop();
      },
    });
    current.microphone = microphone;
    if (current.cancelled) {
      microphone.close();
      return;
    }
    record(current, microphone.rateHz);
    showDevices(microphone.deviceId);
    connect(current);
  } catch (error) {
    if (current.cancelled) return;
    endRun(current, 'idle');
    showProblem(microphoneProblem(error), startMicrophone);
  }
}

/** Plays the built-in sample at its own pace, as if it were spoken now. */
async function startSample() {
  const current = newRun('sample', startSample);
  try {
    const response = await fetch(new URL('sample.flac', document.baseURI), { headers: access.headers() });
    if (!response.ok) throw new Error(`status ${response.status}`);
    const blob = await response.blob();
    const url = URL.createObjectURL(blob);
    const decoded = await decodeFile(blob, url);
    if (!decoded) throw new Error('not decodable');
    if (current.cancelled) {
      URL.revokeObjectURL(url);
      return;
    }
    record(current, decoded.rateHz);
    current.decoded = decoded;
    current.sound = new Audio(url);
    current.sound.onended = () => URL.revokeObjectURL(url);
  } catch {
    if (current.cancelled) return;
    endRun(current, 'idle');
    showProblem({ kind: 'no_sample' });
    return;
  }
  connect(current);
}

/** Called when the session is ready: from here the sample is spoken. */
function paceSample(current) {
  if (current.pacing) return;
  const { recording, decoded, connection, sound } = current;
  const level = new Level();
  const began = performance.now();
  // Hearing it is a pleasure, not a need: a machine without a loudspeaker goes on.
  sound.play().catch(() => {});
  current.pacing = setInterval(() => {
    const from = recording.length;
    const until = Math.min(decoded.samples.length, Math.floor(((performance.now() - began) / 1000) * decoded.rateHz));
    const samples = decoded.samples.subarray(from, until);
    recording.append(samples);
    drawSound(current, recording.length);
    connection.pump();
    if (samples.length > 0) showLevel({ level: level.update(loudnessOf(samples), samples.length / decoded.rateHz).level });
    if (until === decoded.samples.length) {
      clearInterval(current.pacing);
      connection.finish();
    }
  }, 40);
}

function loudnessOf(samples) {
  let peak = 0;
  let energy = 0;
  for (const sample of samples) {
    peak = Math.max(peak, Math.abs(sample) / 32768);
    energy += (sample / 32768) ** 2;
  }
  return { peak, rms: Math.sqrt(energy / samples.length), clipped: 0 };
}

async function startFile(file) {
  if (isActive()) {
    toast('Stop first, then drop the file again.');
    return;
  }
  const current = newRun('file', () => startFile(file));
  current.file = file;
  showProgress(undefined, `Reading ${file.name}`);
  const url = URL.createObjectURL(file);
  const decoded = await decodeFile(file, url).catch(() => null);
  URL.revokeObjectURL(url);
  if (current.cancelled) return;
  if (!decoded || decoded.samples.length === 0) {
    await sendFile(current);
    return;
  }
  current.began = performance.now();
  record(current, decoded.rateHz).append(decoded.samples);
  current.totalSeconds = current.recording.seconds;
  connect(current);
}

/** Posts a file that the browser cannot decode; the server can. */
async function sendFile(current) {
  const { file } = current;
  current.abort = new AbortController();
  setState('listening');
  raw.add('→', `POST /v1/audio/transcriptions ${file.name}, ${file.size} bytes`);
  try {
    const answer = await postFile(file, {
      headers: access.headers(),
      signal: current.abort.signal,
      onProgress(fraction) {
        if (fraction < 1) showProgress(fraction, `Sending ${file.name}: ${Math.round(fraction * 100)} %`);
        else {
          setState('finishing');
          showProgress(undefined, `The server is listening to ${file.name}…`);
        }
      },
    });
    raw.add('←', JSON.stringify(answer));
    for (const final of finalsOf(answer)) addFinal(current, final);
    picture.skip(answer.duration ?? 0);
    endRun(current, 'done');
    if (current.finals === 0) toast('There were no words in this file.');
  } catch (error) {
    endRun(current, 'done');
    if (error.aborted) return;
    const kind = error.status === 0 ? 'unreachable' : error.status === 401 ? 'key' : error.status === 503 ? 'full' : 'bad_file';
    showProblem({ kind, message: error.message }, current.restart);
  }
}

/** Ends the sound and waits for the last words. */
async function stop() {
  const current = run;
  if (!current || state === 'finishing') return;
  const waiting = state === 'connecting' && !current.connection;
  if (waiting) {
    // Before there is anything to finish: the prompt for the microphone is open, or a file is being read.
    current.cancelled = true;
    endRun(current, 'idle');
    return;
  }
  if (current.abort) {
    current.abort.abort();
    return;
  }
  setState('finishing');
  quiet(current);
  if (current.kind === 'file') current.recording.truncate(current.connection.sent);
  await current.microphone?.close();
  current.connection.finish();
}

function quiet(current) {
  clearInterval(current.pacing);
  current.sound?.pause();
}

function endRun(current, next) {
  current.cancelled = true;
  quiet(current);
  current.microphone?.close();
  current.decoded = undefined;
  if (run !== current) return;
  run = null;
  showLevel({ level: 0 });
  byId('progress-box').hidden = true;
  byId('why').textContent = 'Start asks your browser for the microphone. The sound goes to this server and nowhere else.';
  setState(next);
  lookAtServer();
}

function onPhase(current, phase, detail = {}) {
  if (run !== current) return;
  switch (phase) {
    case 'connecting':
      if (!current.connection?.ending) setState('connecting');
      if (detail.wait) {
        notice.show({
          title: 'Connection lost', text: describeReconnect(detail), quiet: true, dismissable: false,
          buttons: [{ label: 'Try now', run: () => current.connection.retryNow() }],
        });
      }
      break;
    case 'open':
    case 'finishing':
      if (detail.resumed) {
        notice.hide();
        toast('Connected again. Nothing was lost.');
      }
      setState(phase === 'open' ? 'listening' : 'finishing');
      if (phase === 'open' && current.kind === 'sample') paceSample(current);
      lookAtServer();
      break;
    case 'closed':
      onClosed(current, detail);
      break;
  }
}

function onClosed(current, problem) {
  keepPartial(current);
  const nothingSaid = problem.kind !== undefined && current.finals === 0;
  endRun(current, nothingSaid ? 'idle' : 'done');
  if (problem.kind === undefined && current.finals === 0) toast('There were no words in it.');
  if (problem.kind !== undefined && problem.kind !== 'aborted') showProblem(problem, current.restart);
}

/** A session that ends without its last final still leaves what was read. */
function keepPartial(current) {
  const { partial } = transcript;
  if (!partial) return;
  const text = `${partial.stable} ${partial.open}`.trim();
  addFinal(current, { text, start: partial.start - current.offset, end: partial.end - current.offset, words: [] });
}

// ---- Events ------------------------------------------------------------------------------------------------------

function onEvent(current, event, timing) {
  const { offset } = current;
  switch (event.type) {
    case 'ready':
      showServer(event.model);
      break;
    case 'partial': {
      const moved = onPage(event, offset);
      transcript.setPartial(moved);
      view.setPartial(transcript.partial);
      picture.setPartial(moved.words?.length > 0 ? spans(moved.words)
        : transcript.partial ? [{ text: event.text, start: moved.start, end: moved.end }] : []);
      showTiming(current, event, timing);
      break;
    }
    case 'final':
      addFinal(current, event, current.kind === 'file' ? undefined : timing.wordDelay);
      showTiming(current, event, timing);
      break;
    case 'warning':
      toast(event.message);
      break;
  }
}

/** Adds a final whose times are seconds of its run. */
function addFinal(current, event, delay) {
  const moved = onPage(event, current.offset);
  const line = transcript.addFinal(moved, { run: current.id, delay });
  view.setPartial(null);
  picture.setPartial([]);
  if (!line) return;
  current.finals += 1;
  view.add(line);
  picture.addWords(moved.words?.length > 0 ? spans(moved.words) : [{ text: line.text, start: line.start, end: line.end }]);
  if (delay !== undefined) byId('number-final').textContent = `${delay.toFixed(1)} s`;
  showTools();
}

const spans = (words) => words.map(({ word, start, end }) => ({ text: word, start, end }));

const onPage = (event, offset) => ({
  ...event,
  start: event.start + offset,
  end: event.end + offset,
  words: event.words?.map((word) => ({ ...word, start: word.start + offset, end: word.end + offset })),
});

function showTiming(current, event, { lag }) {
  if (current.kind === 'file') {
    const fraction = Math.min(1, event.audio_processed / current.totalSeconds);
    const speed = event.audio_processed / ((performance.now() - current.began) / 1000);
    showProgress(fraction, `${clock(event.audio_processed)} of ${clock(current.totalSeconds)}, ${speed.toFixed(speed < 10 ? 1 : 0)} × real time`);
  } else if (lag !== undefined) {
    current.lag.add(lag);
    byId('number-lag').textContent = `${Math.round(current.lag.median * 1000)} ms`;
  }
}

function showProgress(fraction, text) {
  byId('progress-box').hidden = false;
  if (fraction === undefined) byId('progress').removeAttribute('value');
  else byId('progress').value = fraction;
  byId('progress-text').textContent = text;
}

function showLevel({ level, hint }) {
  const percent = Math.round(level * 100);
  byId('meter-fill').style.transform = `scaleX(${level.toFixed(3)})`;
  byId('meter').setAttribute('aria-valuenow', percent);
  const text = hint ? levelHints[hint] : '';
  if (byId('hint').textContent !== text) byId('hint').textContent = text;
}

setInterval(() => {
  const { connection, recording } = run ?? {};
  if (!recording) return;
  byId('number-audio').textContent = clock(recording.seconds);
  byId('number-buffer').textContent = `${((connection?.buffered ?? recording.length) / recording.rateHz).toFixed(1)} s`;
}, 200);

// ---- Problems ----------------------------------------------------------------------------------------------------

/** Says what happened; where waiting helps, counts down and tries again. */
function showProblem(problem, again) {
  if (problem.kind === 'key') askForKey();
  const { title, text, action, retryMs } = describe(problem);
  const buttons = [];
  clearInterval(retryTimer);
  const retry = () => {
    clearInterval(retryTimer);
    again();
  };
  const waits = retryMs !== undefined && again;
  if (action === 'retry' && again) buttons.push({ label: waits ? 'Try now' : 'Try again', run: retry });
  if (waits) {
    buttons.push({ label: 'Do not wait', run: () => {
      clearInterval(retryTimer);
      notice.hide();
    } });
  }
  const countdown = notice.show({ title, text, buttons, dismissable: !waits });
  if (!waits) return;
  let left = Math.max(1, Math.ceil(retryMs / 1000));
  const show = () => { countdown.textContent = `Trying again in ${left} s.`; };
  show();
  retryTimer = setInterval(() => {
    left -= 1;
    if (left <= 0) retry();
    else show();
  }, 1000);
}

// ---- Server and key ----------------------------------------------------------------------------------------------

let model = '';

function showServer(id) {
  if (id) model = id;
}

async function lookAtServer() {
  const ready = await getReady();
  const dot = byId('server-dot');
  dot.className = `dot ${ready.reachable && ready.ready ? 'good' : 'bad'}`;
  byId('server-text').textContent = !ready.reachable ? 'The server does not answer'
    : ready.ready ? `Ready${model ? `, ${model}` : ''}` : `Server: ${ready.state}`;
  byId('number-slots').textContent = ready.free === undefined ? '–'
    : ready.slots === undefined ? String(ready.free) : `${ready.free} of ${ready.slots}`;
}

function askForKey() {
  needsKey = true;
  byId('key-form').hidden = false;
  byId('key').focus();
  showSnippet();
}

async function checkKey() {
  const { allowed, models } = await getModels();
  if (models.length > 0) showServer(models[0]);
  if (allowed) {
    byId('key-form').hidden = true;
    if (access.key !== '') needsKey = true;
  } else {
    showProblem({ kind: 'key' });
  }
  showSnippet();
  await lookAtServer();
  return allowed;
}

/** Takes a key out of the address, so that it stays neither in the history nor in a bookmark. */
function takeKeyFromAddress() {
  const key = keyInFragment(location.hash);
  if (key === '') return false;
  access.key = key;
  history.replaceState(null, '', location.pathname + location.search);
  return true;
}

// ---- Devices and what is remembered ------------------------------------------------------------------------------

function remembered(name) {
  try {
    return localStorage.getItem(`waxwing.${name}`) ?? '';
  } catch {
    return ''; // storage is switched off
  }
}

function remember(name, value) {
  try {
    localStorage.setItem(`waxwing.${name}`, value);
  } catch {
    // Then it is chosen again next time.
  }
}

async function showDevices(used) {
  const devices = await listMicrophones();
  byId('device-box').hidden = devices.length === 0;
  const chosen = used ?? remembered('microphone');
  byId('device').replaceChildren(...devices.map(({ deviceId, label }) => {
    const option = make('option', { text: label, value: deviceId });
    option.selected = deviceId === chosen;
    return option;
  }));
}

// ---- Hearing, copying, saving, clearing --------------------------------------------------------------------------

async function hear(line) {
  if (heard === line) {
    player.stop();
    return;
  }
  const source = runs.get(line.run);
  if (!source) return;
  if (isActive() && source.kind === 'microphone' && run === source) {
    toast('Stop first: the microphone would hear it too.');
    return;
  }
  player.stop();
  heard = line;
  // A little before and after, because a word's sound is longer than its mark.
  const from = Math.max(0, line.start - source.offset - 0.25);
  const to = line.end - source.offset + 0.35;
  const played = source.recording
    ? await player.play(source.recording.wav(from, to), source.offset + from)
    : await player.play(source.file, source.offset, from, to);
  if (!played) toast('Your browser cannot play this sound.');
}

async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Pages that are not from https or localhost have no clipboard: the old way still works there.
    const area = make('textarea', { className: 'hidden' });
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand('copy');
    area.remove();
  }
  toast(`${what} copied.`);
}

function save() {
  const format = byId('format').value;
  const { type, write } = formats[format];
  const url = URL.createObjectURL(new Blob([write(transcript.lines)], { type }));
  const now = new Date();
  const stamp = new Date(now.getTime() - now.getTimezoneOffset() * 60_000).toISOString().slice(0, 16).replace(/[T:]/g, '-');
  make('a', { href: url, download: `waxwing-${stamp}.${format}` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

function clear() {
  const count = transcript.lines.length;
  player.stop();
  const undo = transcript.clear();
  view.replace(transcript.lines);
  showTools();
  toast(`${count} ${count === 1 ? 'line' : 'lines'} cleared.`, {
    label: 'Undo',
    run() {
      undo();
      view.replace(transcript.lines);
      showTools();
    },
    expired() {
      for (const [id, old] of runs) {
        if (old !== run && !transcript.lines.some((line) => line.run === id)) runs.delete(id);
      }
    },
  });
}

function showTools() {
  for (const id of ['copy', 'save', 'clear']) byId(id).disabled = transcript.isEmpty;
}

let language = 'curl';

function showSnippet() {
  byId('code-text').textContent = snippets(new URL('.', document.baseURI).href, needsKey)[language];
  for (const button of document.querySelectorAll('[data-snippet]')) {
    button.setAttribute('aria-pressed', String(button.dataset.snippet === language));
  }
}

// ---- Wiring ------------------------------------------------------------------------------------------------------

byId('toggle').addEventListener('click', toggle);
byId('sample').addEventListener('click', startSample);
byId('choose').addEventListener('click', () => byId('file').click());
byId('file').addEventListener('change', ({ target }) => {
  const [file] = target.files;
  target.value = '';
  if (file) startFile(file);
});
byId('device').addEventListener('change', ({ target }) => remember('microphone', target.value));
byId('copy').addEventListener('click', () => copy(formats[byId('format').value].write(transcript.lines), 'Transcript'));
byId('save').addEventListener('click', save);
byId('clear').addEventListener('click', clear);
byId('format').addEventListener('change', ({ target }) => remember('format', target.value));
byId('events-copy').addEventListener('click', () => copy(raw.text, 'Events'));
byId('code-copy').addEventListener('click', () => copy(byId('code-text').textContent, 'Code'));
for (const button of document.querySelectorAll('[data-snippet]')) {
  button.addEventListener('click', () => {
    language = button.dataset.snippet;
    showSnippet();
  });
}

byId('key-form').addEventListener('submit', async (event) => {
  event.preventDefault();
  access.key = byId('key').value.trim();
  if (!await checkKey()) return;
  notice.hide();
  byId('key').value = '';
  if (byId('key-keep').checked) sessionStorage.setItem('waxwing.key', access.key);
  toast('The key fits.');
});

document.addEventListener('keydown', (event) => {
  const plainSpace = event.key === ' ' && !event.repeat && !event.ctrlKey && !event.metaKey && !event.altKey;
  if (!plainSpace || event.target.closest('input, select, textarea, button, summary, a')) return;
  event.preventDefault();
  if (!byId('toggle').disabled) toggle();
});

// Leaving one element of the page for another fires both events: count them.
let dragDepth = 0;
const hasFiles = (event) => [...event.dataTransfer.types].includes('Files');
const showDrop = (change) => {
  dragDepth = Math.max(0, dragDepth + change);
  byId('drop').hidden = dragDepth === 0;
};
addEventListener('dragenter', (event) => { if (hasFiles(event)) showDrop(1); });
addEventListener('dragleave', (event) => { if (hasFiles(event)) showDrop(-1); });
addEventListener('dragover', (event) => { if (hasFiles(event)) event.preventDefault(); });
addEventListener('drop', (event) => {
  if (!hasFiles(event)) return;
  event.preventDefault();
  showDrop(-Infinity);
  const [file] = event.dataTransfer.files;
  if (file) startFile(file);
});

addEventListener('hashchange', () => { if (takeKeyFromAddress()) checkKey(); });
document.addEventListener('visibilitychange', () => {
  if (document.hidden) return;
  lookAtServer();
  keepAwake(state === 'listening');
});
navigator.mediaDevices?.addEventListener('devicechange', () => showDevices());
setInterval(() => { if (!document.hidden) lookAtServer(); }, SERVER_LOOK_MS);

if (!takeKeyFromAddress()) access.key = sessionStorage.getItem('waxwing.key') ?? '';
if (remembered('format') in formats) byId('format').value = remembered('format');
setState('idle');
showTools();
showDevices();
checkKey();
