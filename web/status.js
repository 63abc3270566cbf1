// What the page shows about itself: the state, the level, the progress, the server. It keeps the screen awake while
// somebody speaks.

import { levelHints } from './messages.js';
import { getReady } from './server.js';
import { byId } from './view.js';

const STATES = ['idle', 'connecting', 'listening', 'finishing', 'done'];

export let state = 'idle';
let model = '';
let wakeLock = null;

/** Goes to a state and shows it. */
export function setState(next) {
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
  keepAwake();
}

/** Whether a run is in progress. */
export const isActive = () => state === 'connecting' || state === 'listening' || state === 'finishing';

/** Holds the screen on while listening, and only then. */
export async function keepAwake() {
  const wanted = state === 'listening';
  if (wanted && !wakeLock) {
    // Refused on low battery or in a hidden page: then the screen may go dark, no more.
    wakeLock = await navigator.wakeLock?.request('screen').catch(() => null) ?? null;
    wakeLock?.addEventListener('release', () => { wakeLock = null; });
    if (state !== 'listening') wakeLock?.release();
  } else if (!wanted) {
    wakeLock?.release();
  }
}

/** Lets the stuck wait for last words be given up. */
export function offerToStopWaiting() {
  byId('toggle').disabled = false;
  byId('toggle-text').textContent = 'Stop waiting';
}

/** Shows how loud it is, 0 to 1, and a hint where there is one. */
export function showLevel({ level, hint }) {
  const percent = Math.round(level * 100);
  byId('meter-fill').style.clipPath = `inset(0 ${100 - percent}% 0 0)`;
  byId('meter').setAttribute('aria-valuenow', percent);
  const text = hint ? levelHints[hint] : '';
  if (byId('hint').textContent !== text) byId('hint').textContent = text;
}

/** Shows how far a file is, 0 to 1 or unknown, in words too. */
export function showProgress(fraction, text) {
  byId('progress-box').hidden = false;
  if (fraction === undefined) byId('progress').removeAttribute('value');
  else byId('progress').value = fraction;
  byId('progress-text').textContent = text;
}

/** Takes the progress away. */
export const hideProgress = () => { byId('progress-box').hidden = true; };

/** Remembers the model that hears us, for the line about the server. */
export function showServer(id) {
  if (id) model = id;
}

/** Asks how the server is and how many places it has. */
export async function lookAtServer() {
  const ready = await getReady();
  const dot = byId('server-dot');
  dot.className = `dot ${ready.reachable && ready.ready ? 'good' : 'bad'}`;
  byId('server-text').textContent = !ready.reachable ? 'The server does not answer'
    
    : ready.state === 'full' ? 'Ready, but every place is taken'
    : ready.ready ? `Ready${model ? `, ${model}` : ''}` : `Server: ${ready.state}`;
  byId('number-slots').textContent = ready.free === undefined ? '–'
    : ready.slots === undefined ? String(ready.free) : `${ready.free} of ${ready.slots}`;
}
