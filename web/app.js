// The page of Waxwing, without a build step. This module wires the others:
//
//   microphone.js (worklet.js) ─┐
//   file.js ────────────────────┼→ recording.js → connection.js ⇄ GET /v1/stream
//   the sample ─────────────────┘        │              │ events
//                               spectrum.js             ↓
//                                        ↓        transcript.js → view.js, export.js
//                                  picture.js ←─────────┘
//
// runs.js drives this path, status.js shows how it goes, problems.js what went wrong (in the words of messages.js).
//
// A *run* is one press of Start, one file or one sample. All times on the page are seconds of one time line on which the
// runs follow each other (`run.offset`). server.js asks what is asked outside a session. Nothing here needs an inline script or style, so the strictest content policy holds: `default-src 'self'`
// and `media-src blob:` for hearing a line again.
//
// sample.flac: two sentences of "Sense and Sensibility" (Jane Austen), read for LibriVox, in the public domain; taken
// from the test data of PocketSphinx.

import { formats } from './export.js';
import { notice, picture, raw, transcript, view } from './page.js';
import { Player } from './player.js';
import { checkKey, takeKeyFromAddress } from './problems.js';
import { run, runs, startFile, startSample, toggle } from './runs.js';
import { access } from './server.js';
import { remember, remembered, showDevices, showWishes } from './settings.js';
import { snippets } from './snippets.js';
import { isActive, keepAwake, lookAtServer, setState } from './status.js';
import { byId, make, toast } from './view.js';

const SERVER_LOOK_MS = 10_000;

// ---- Hearing, copying, saving, clearing --------------------------------------------------------------------------

let heard = null; // the line that is playing

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
  byId('code-text').textContent = snippets(new URL('.', document.baseURI).href, access.needed)[language];
  for (const button of document.querySelectorAll('[data-snippet]')) {
    button.setAttribute('aria-pressed', String(button.dataset.snippet === language));
  }
}

view.onPlay = hear;
// A new run must not hear an old one.
document.addEventListener('run', () => player.stop());
document.addEventListener('line', showTools);
byId('code').addEventListener('toggle', showSnippet);
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
  if (byId('key-keep').checked) remember('key', access.key, 'sessionStorage');
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
  // The browser takes the wake lock away from a hidden page.
  keepAwake();
});
navigator.mediaDevices?.addEventListener('devicechange', () => showDevices());
setInterval(() => { if (!document.hidden) lookAtServer(); }, SERVER_LOOK_MS);

if (!takeKeyFromAddress()) access.key = remembered('key', 'sessionStorage');
if (remembered('format') in formats) byId('format').value = remembered('format');
setState('idle');
showTools();
showDevices();
showWishes();
checkKey();
