// What the browser remembers for the user, and the list of microphones.

import { listMicrophones } from './microphone.js';
import { byId, make } from './view.js';

/** What was remembered under a name; in 'sessionStorage' until the tab is closed. */
export function remembered(name, storage = 'localStorage') {
  try {
    return window[storage].getItem(`waxwing.${name}`) ?? '';
  } catch {
    return ''; // storage is switched off
  }
}

/** Remembers a text under a name. */
export function remember(name, value, storage = 'localStorage') {
  try {
    window[storage].setItem(`waxwing.${name}`, value);
  } catch {
    // Then it is chosen again next time.
  }
}

/** What the user wants of the next run beside its words, as the server's fields are called. */
export function wishes() {
  const fields = {};
  const hotwords = remembered('hotwords').trim();
  if (hotwords !== '') fields.hotwords = hotwords;
  if (remembered('formatted') === 'true') fields.formatted = 'true';
  return fields;
}

/** Shows what was wished for last, and remembers what is wished for now. */
export function showWishes() {
  const [hotwords, formatted] = [byId('hotwords'), byId('formatted')];
  hotwords.value = remembered('hotwords');
  formatted.checked = remembered('formatted') === 'true';
  byId('wishes').open = Object.keys(wishes()).length > 0;
  hotwords.addEventListener('input', () => remember('hotwords', hotwords.value));
  formatted.addEventListener('change', () => remember('formatted', String(formatted.checked)));
}

/** Lists the microphones that may be named, the one in `used` chosen. */
export async function showDevices(used) {
  const devices = await listMicrophones();
  byId('device-box').hidden = devices.length === 0;
  const chosen = used ?? remembered('microphone');
  byId('device').replaceChildren(...devices.map(({ deviceId, label }) => {
    const option = make('option', { text: label, value: deviceId });
    option.selected = deviceId === chosen;
    return option;
  }));
}
