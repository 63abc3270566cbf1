// What went wrong, in plain words: what happened, and what to do about it.

const seconds = (milliseconds) => Math.max(1, Math.ceil(milliseconds / 1000));

/** `{ title, text, action?, retryMs? }` for a problem of the given kind. An action is a word that the page puts on a
 *  button: 'retry' tries again, 'file' and 'sample' are ways to go on without a microphone. */
export function describe(problem) {
  const { kind } = problem;
  const words = {
    refused_microphone: {
      title: 'The microphone is not allowed',
      text: 'Your browser or system does not let this page use the microphone. Allow it in the site settings (the icon '
        + 'left of the address), then start again. The sample and files work without it.',
      action: 'retry',
    },
    no_microphone: {
      title: 'No microphone found',
      text: 'Plug one in or switch it on, then start again. The sample and files work without it.',
      action: 'retry',
    },
    busy_microphone: {
      title: 'The microphone cannot be opened',
      text: 'Another program may be using it. Close that program or choose another microphone, then start again.',
      action: 'retry',
    },
    insecure: {
      title: 'This page may not use the microphone here',
      text: 'Browsers give the microphone only to pages from https or from this computer. Open the page as '
        + 'http://localhost, or put the server behind https. The sample and files work here too.',
    },
    microphone_gone: {
      title: 'The microphone went away',
      text: 'It was unplugged or taken by another program. What you said up to then is kept.',
      action: 'retry',
    },
    full: {
      title: 'The server is full',
      text: problem.slots ? `All ${problem.slots} places are taken.` : 'All places are taken.',
      action: 'retry',
      retryMs: problem.retryAfterMs ?? 5000,
    },
    loading: {
      title: 'The server is still starting',
      text: 'It answers, but its model is not ready yet.',
      action: 'retry',
      retryMs: problem.retryAfterMs ?? 2000,
    },
    failed: {
      title: 'The server cannot transcribe at the moment',
      text: 'It answers, but its speech engine has failed and is being started again.',
      action: 'retry',
      retryMs: problem.retryAfterMs ?? 5000,
    },
    draining: {
      title: 'The server is stopping',
      text: 'It finishes what is running and takes nothing new. If it is being restarted, it will be back soon.',
      action: 'retry',
      retryMs: problem.retryAfterMs ?? 5000,
    },
    key: {
      title: 'This server asks for a key',
      text: 'Open the address that the server printed when it started (it ends in #key=…), or enter the key here.',
    },
    unreachable: {
      title: 'The server does not answer',
      text: 'It may have been stopped, or the network is down. What has been transcribed is kept.',
      action: 'retry',
    },
    refused: {
      title: 'The server refused the connection',
      text: 'It is running and has room, but did not take the session. A proxy in between may not pass WebSockets.',
      action: 'retry',
    },
    server: {
      title: 'The server ended the session',
      text: problem.message ? `It said: ${problem.message}. What has been transcribed is kept.` : 'What has been transcribed is kept.',
      action: 'retry',
    },
    bad_file: {
      title: 'This file could not be transcribed',
      text: problem.message ? `The server said: ${problem.message}` : 'The server could not read it as audio.',
    },
    no_sample: {
      title: 'The sample could not be played',
      text: 'Your browser could not load or decode it. A file of your own may work.',
    },
  };
  return words[kind] ?? { title: 'Something went wrong', text: problem.message ?? 'The page met an error that it has no words for.', action: 'retry' };
}

/** The words while a lost connection is being made again. */
export function describeReconnect({ reason, wait }) {
  const why = {
    unreachable: 'The connection to the server was lost.',
    full: 'The connection was lost and the server is full.',
    draining: 'The server is restarting.',
    loading: 'The server is starting again.',
  }[reason?.kind] ?? 'The connection was lost.';
  return `${why} Your text is kept, and what you say is sent as soon as it is back. Trying again in ${seconds(wait)} s.`;
}

/** The kind of problem behind an exception of getUserMedia. */
export function microphoneProblem(error) {
  switch (error?.name) {
    case 'InsecureContext':
      return { kind: 'insecure' };
    case 'WorkletUnavailable':
      return { kind: 'unreachable' };
    case 'NotAllowedError':
    case 'SecurityError':
      return { kind: 'refused_microphone' };
    case 'NotFoundError':
    case 'OverconstrainedError':
      return { kind: 'no_microphone' };
    case 'NotReadableError':
    case 'AbortError':
      return { kind: 'busy_microphone' };
    default:
      return { kind: 'unknown', message: error?.message };
  }
}

/** What to say about the level; nothing is a good level. */
export const levelHints = {
  clipping: 'Too loud: the sound is clipped. Move away a little or turn the input down.',
  silence: 'I hear nothing. Is this the right microphone, and is it on?',
  quiet: 'Very quiet. Come closer or turn the input up.',
};
