// Runs: one press of Start, one sample, one file, from its first sound to its last word.

import { Connection } from './connection.js';
import { decodeFile, finalsOf, postFile } from './file.js';
import { RecentMedian } from './latency.js';
import { Level } from './level.js';
import { describe, describeReconnect, microphoneProblem } from './messages.js';
import { openMicrophone } from './microphone.js';
import { notice, picture, raw, transcript, view } from './page.js';
import { forgetProblem, showProblem } from './problems.js';
import { Recording } from './recording.js';
import { access, diagnose, streamUrl } from './server.js';
import { remembered, showDevices, wishes } from './settings.js';
import { Spectrum } from './spectrum.js';
import { hideProgress, isActive, lookAtServer, offerToStopWaiting, setState, showLevel, showProgress, showServer, state } from './status.js';
import { clock, timedWords } from './transcript.js';
import { byId, toast } from './view.js';

const ASKS_FIRST = 'Start asks your browser for the microphone. The sound goes to this server and nowhere else.';
const SENT_TO = 'The sound goes to this server and nowhere else.';
const STOP_WAITING_AFTER_MS = 4000;

/** Runs by id, as long as one of their lines may be heard. */
export const runs = new Map();
/** The run in progress. */
export let run = null;
let numRuns = 0;

/** What the one button does. */
export function toggle() {
  if (!isActive()) startMicrophone();
  else if (state === 'finishing') giveUp();
  else stop();
}

function giveUp() {
  const { connection, abort } = run;
  connection?.abort();
  abort?.abort();
}

/** The last words usually take a moment; a server that is gone should not hold the page for ever. */
function finishing(current) {
  setState('finishing');
  current.patience ??= setTimeout(() => {
    if (state === 'finishing' && run === current) offerToStopWaiting();
  }, STOP_WAITING_AFTER_MS);
}

/** Begins a run; `restart` begins the same again after a refusal. */
function newRun(kind, restart) {
  forgetProblem();
  document.dispatchEvent(new Event('run'));
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
  const wished = wishes(); // a run keeps them, over all its sockets
  current.connection = new Connection({
    recording,
    target: () => ({
      url: streamUrl(document.baseURI, { encoding: 's16le', sample_rate: recording.rateHz, channels: 1, ...wished }),
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
    byId('why').textContent = SENT_TO;
    showDevices(microphone.deviceId);
    connect(current);
  } catch (error) {
    if (current.cancelled) return;
    endRun(current, 'idle');
    showProblem(microphoneProblem(error), startMicrophone);
  }
}

/** Plays the built-in sample at its own pace, as if it were spoken now. */
export async function startSample() {
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

/** Transcribes a file: streamed where the browser can decode it, posted where only the server can. */
export async function startFile(file) {
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
      fields: wishes(),
      signal: current.abort.signal,
      onProgress(fraction) {
        if (fraction < 1) showProgress(fraction, `Sending ${file.name}: ${Math.round(fraction * 100)} %`);
        else {
          finishing(current);
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
  finishing(current);
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
  clearTimeout(current.patience);
  quiet(current);
  current.microphone?.close();
  current.decoded = undefined;
  if (run !== current) return;
  run = null;
  showLevel({ level: 0 });
  hideProgress();
  byId('why').textContent = ASKS_FIRST;
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
      if (phase === 'open') setState('listening');
      else finishing(current);
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

/** Takes an event of the server; `timing` has its delays in seconds. */
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
      picture.setPartial(timedWords(moved));
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
  picture.addWords(timedWords(moved));
  if (delay !== undefined) byId('number-final').textContent = `${delay.toFixed(1)} s`;
  document.dispatchEvent(new Event('line'));
}

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


setInterval(() => {
  const { connection, recording } = run ?? {};
  if (!recording) return;
  byId('number-audio').textContent = clock(recording.seconds);
  byId('number-buffer').textContent = `${((connection?.buffered ?? recording.length) / recording.rateHz).toFixed(1)} s`;
}, 200);
