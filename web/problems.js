// Shows problems, with a countdown where waiting helps, and asks for the key where one is wanted.

import { describe } from './messages.js';
import { notice } from './page.js';
import { access, getModels, keyInFragment } from './server.js';
import { lookAtServer, showServer } from './status.js';
import { byId } from './view.js';

let retryTimer;

/** Takes the last problem away and no longer tries again. */
export function forgetProblem() {
  clearInterval(retryTimer);
  notice.hide();
}

/** Says what happened; where waiting helps, counts down and tries again. */
export function showProblem(problem, again) {
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
    buttons.push({ label: 'Do not wait', run: forgetProblem });
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

function askForKey() {
  access.needed = true;
  byId('key-form').hidden = false;
  byId('key').focus();
}

/** Asks the server whether the key, or none, is good; shows the field where it is not. */
export async function checkKey() {
  const { allowed, models } = await getModels();
  if (models.length > 0) showServer(models[0]);
  if (allowed) {
    byId('key-form').hidden = true;
    if (access.key !== '') access.needed = true;
  } else {
    showProblem({ kind: 'key' });
  }
  await lookAtServer();
  return allowed;
}

/** Takes a key out of the address, so that it stays neither in the history nor in a bookmark. */
export function takeKeyFromAddress() {
  const key = keyInFragment(location.hash);
  if (key === '') return false;
  access.key = key;
  history.replaceState(null, '', location.pathname + location.search);
  return true;
}
