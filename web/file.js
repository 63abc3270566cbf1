// Files: what the browser can decode is streamed over the WebSocket like speech, so the words appear while it goes;
// what it cannot decode, or would fill its memory, is posted whole and the server decodes it.

import { toInt16 } from './recording.js';

/** Longest file that is decoded here: decoding in a browser keeps the whole of it as floats. */
const MAX_DECODED_SECONDS = 20 * 60;
const MAX_DECODED_BYTES = 200 * 1024 * 1024;

/** The rate in a WAV or FLAC header, so that decoding does not resample; 48 kHz for all else. */
export function sniffRate(bytes) {
  const tag = (offset, text) => [...text].every((letter, index) => bytes[offset + index] === letter.charCodeAt(0));
  let rate = 0;
  if (bytes.length >= 28 && tag(0, 'RIFF') && tag(8, 'WAVEfmt ')) {
    rate = bytes[24] | (bytes[25] << 8) | (bytes[26] << 16) | (bytes[27] << 24);
  } else if (bytes.length >= 21 && tag(0, 'fLaC')) {
    rate = (bytes[18] << 12) | (bytes[19] << 4) | (bytes[20] >> 4);
  }
  return rate >= 8000 && rate <= 96000 ? rate : 48000;
}

/** Seconds of a media file, or NaN where the browser does not know the format or the length. */
function mediaSeconds(url) {
  return new Promise((resolve) => {
    const element = new Audio();
    element.preload = 'metadata';
    const done = (value) => {
      clearTimeout(timer);
      element.removeAttribute('src');
      resolve(value);
    };
    const timer = setTimeout(() => done(NaN), 5000);
    element.onloadedmetadata = () => done(element.duration);
    element.onerror = () => done(NaN);
    element.src = url;
  });
}

/** `{ samples, rateHz }` of a file, or null where it has to be posted. */
export async function decodeFile(file, url) {
  if (file.size > MAX_DECODED_BYTES) return null;
  const seconds = await mediaSeconds(url);
  if (!(seconds <= MAX_DECODED_SECONDS)) return null;
  const bytes = await file.arrayBuffer();
  const rateHz = sniffRate(new Uint8Array(bytes, 0, Math.min(64, bytes.byteLength)));
  try {
    const audio = await new OfflineAudioContext(1, 1, rateHz).decodeAudioData(bytes);
    const channels = Array.from({ length: audio.numberOfChannels }, (_, index) => audio.getChannelData(index));
    return { samples: toInt16(channels), rateHz };
  } catch {
    return null;
  }
}

/** Posts a file with further fields and gives the server's verbose JSON. `onProgress(fraction)` follows the upload; `signal` ends it.
 *  Rejects with `{ status, code, message }`; a status of 0 is a connection that failed. */
export function postFile(file, { headers, fields, onProgress, signal }) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    form.append('model', 'whisper-1');
    form.append('response_format', 'verbose_json');
    form.append('timestamp_granularities[]', 'word');
    form.append('timestamp_granularities[]', 'segment');
    for (const [name, value] of Object.entries(fields)) form.append(name, value);
    form.append('file', file, file.name);
    // fetch still cannot report upload progress.
    const request = new XMLHttpRequest();
    request.open('POST', new URL('v1/audio/transcriptions', document.baseURI));
    for (const [name, value] of Object.entries(headers)) request.setRequestHeader(name, value);
    request.responseType = 'json';
    request.upload.onprogress = (event) => { if (event.lengthComputable) onProgress(event.loaded / event.total); };
    request.onerror = () => reject({ status: 0 });
    request.onabort = () => reject({ status: 0, aborted: true });
    request.onload = () => {
      if (request.status === 200 && request.response) resolve(request.response);
      else reject({ status: request.status, ...(request.response?.error ?? {}) });
    };
    signal.addEventListener('abort', () => request.abort());
    request.send(form);
  });
}

/** The segments of a verbose JSON answer as finals of the native protocol. */
export function finalsOf(answer) {
  const words = answer.words ?? [];
  const segments = answer.segments ?? [{ start: 0, end: answer.duration ?? 0, text: answer.text ?? '' }];
  return segments.map((segment, index) => ({
    type: 'final',
    utterance: index,
    start: segment.start,
    end: segment.end,
    text: segment.text.trim(),
    formatted: segment.formatted,
    words: words.filter((word) => word.start >= segment.start - 1e-3 && word.start < segment.end),
  })).filter((final) => final.text !== '');
}
