// The page against a server that says a fixed text and fails when told to.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { after, before, beforeEach, test } from 'node:test';

import { ELSEWHERE, openPage, startBrowser } from '../support/browser.mjs';
import { SENTENCES, startScriptedServer } from '../support/scripted-server.mjs';
import { clipPath, join16k } from '../support/sounds.mjs';

const SAMPLE = fileURLToPath(new URL('../../../web/sample.flac', import.meta.url));
const TEXT = SENTENCES.map((words) => words.map((word) => word.word).join(' '));

let chromium;
let server;
let open; // the page of the running test

before(async () => { chromium = await startBrowser({ microphone: await join16k(['0870', '0880'], 0.01), acceptDownloads: true }); });
after(async () => { await chromium?.stop(); });
beforeEach(async (context) => {
  server = await startScriptedServer();
  open = undefined;
  context.after(async () => {
    if (open) {
      assert.deepEqual(await open.faults(), []);
      await open.page.close();
    }
    await server.stop();
  });
});

const visit = async (url = server.url) => {
  open = await openPage(chromium.browser, url);
  return open;
};

/** Puts the two sentences on the page in the quickest way. */
const transcribe = async () => {
  const before = await open.page.locator('#log .line').count();
  await open.page.setInputFiles('#file', SAMPLE);
  await open.page.waitForFunction((count) => document.querySelectorAll('#log .line').length === count, before + 2);
  await open.state('done');
};

test('the microphone is heard live: dim partials, solid finals, delays, last words', async () => {
  const { page, state, lines } = await visit();
  await page.click('#toggle');
  await state('listening');
  await page.waitForSelector('#partial:not([hidden]) #partial-stable:not(:empty)');
  assert.match(await page.innerText('#partial'), /^0:00\s+and mister/);
  const meter = await page.waitForFunction(() => Number(document.getElementById('meter').getAttribute('aria-valuenow')) > 20);
  assert.ok(meter);
  assert.equal(await page.locator('#device option').count() > 0, true);
  await page.waitForSelector('#log .line');
  assert.deepEqual(await lines(), [TEXT[0]]);
  await page.waitForFunction(() => document.getElementById('partial-open').textContent.includes('man'));
  await page.click('#toggle');
  await state('done');
  assert.deepEqual(await lines(), TEXT);
  const [session] = server.sessions;
  assert.equal(session.query.get('encoding'), 's16le');
  assert.equal(session.query.get('sample_rate'), await page.evaluate(() => String(new AudioContext().sampleRate)));
  assert.deepEqual(session.protocols, ['waxwing.v1']);
  assert.deepEqual(session.texts, ['{"type":"stop"}']);
  assert.match(await page.innerText('#number-final'), /^\d+\.\d s$/);
  assert.match(await page.innerText('#number-lag'), /^\d+ ms$/);
  assert.equal(await page.innerText('#number-slots'), '3 of 4');
  assert.equal(await page.locator('#log .line .delay').count(), 2);
});

test('the space key starts and stops, but not inside a field', async () => {
  const { page, state } = await visit();
  await page.focus('#format');
  await page.keyboard.press('Space');
  await page.keyboard.press('Escape');
  assert.equal(await page.getAttribute('body', 'data-state'), 'idle');
  await page.evaluate(() => document.activeElement.blur());
  await page.keyboard.press('Space');
  await state('listening');
  await page.keyboard.press('Space');
  await state('done');
});

test('the sample works without a microphone, and the picture follows it', async () => {
  const { page, state, lines } = await visit();
  const blank = await page.evaluate(() => document.getElementById('picture').toDataURL());
  await page.click('#sample');
  await state('done', 20_000);
  assert.deepEqual(await lines(), TEXT);
  assert.notEqual(await page.evaluate(() => document.getElementById('picture').toDataURL()), blank);
  assert.equal(server.sessions[0].query.get('sample_rate'), '16000');
  assert.ok(Math.abs(server.sessions[0].bytes / 32_000 - 10.09) < 0.01);
});

test('a dropped file is streamed with progress, faster than it was spoken', async () => {
  const { page, state, lines } = await visit();
  const wav = await readFile(clipPath('0870'));
  const began = Date.now();
  await page.evaluate((base64) => {
    const data = new DataTransfer();
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    data.items.add(new File([bytes], 'speech.wav', { type: 'audio/wav' }));
    for (const type of ['dragenter', 'dragover', 'drop']) window.dispatchEvent(new DragEvent(type, { dataTransfer: data, bubbles: true, cancelable: true }));
  }, wav.toString('base64'));
  await state('done');
  assert.ok(Date.now() - began < 6000);
  assert.deepEqual(await lines(), [TEXT[0]]);
  assert.equal(server.sessions[0].bytes, wav.length - 44);
  assert.equal(await page.isVisible('#drop'), false);
});

test('a file that only the server can decode is posted', async () => {
  const { page, state, lines } = await visit();
  await page.setInputFiles('#file', { name: 'speech.xyz', mimeType: 'application/octet-stream', buffer: Buffer.from('not a sound') });
  await state('done');
  assert.deepEqual(await lines(), TEXT);
  assert.equal(server.sessions.length, 0);
});

test('what the server says about a bad file is shown', async () => {
  server.behaviour.transcription = { status: 400, body: { error: { message: 'this is text, not audio', code: 'invalid_audio' } } };
  const { page, state } = await visit();
  await page.setInputFiles('#file', { name: 'text.wav', mimeType: 'audio/wav', buffer: Buffer.from('hello') });
  await state('done');
  assert.match(await page.innerText('#alerts'), /this is text, not audio/);
});

test('a full server is said in words, with a countdown, and tried again', async () => {
  Object.assign(server.behaviour, { free: 0, retryAfterMs: 2000 });
  const { page, state, lines } = await visit();
  await page.click('#sample');
  await page.waitForSelector('#alerts .notice');
  assert.match(await page.innerText('#alerts'), /server is full.*All 4 places are taken.*Trying again in [12] s/s);
  assert.equal(await page.getAttribute('body', 'data-state'), 'idle');
  server.behaviour.free = 1;
  server.behaviour.retryAfterMs = undefined;
  await state('listening');
  assert.equal(await page.locator('#alerts .notice').count(), 0);
  await page.click('#toggle');
  await state('done');
  assert.ok((await lines()).length <= 1);
});

test('a lost connection keeps the text and goes on where the finals ended', async () => {
  Object.assign(server.behaviour, { dropAtSeconds: 8.6, refuseAfterDrop: true });
  const { page, state } = await visit();
  await page.click('#sample');
  await page.waitForSelector('#alerts .notice.quiet', { timeout: 15_000 });
  assert.match(await page.innerText('#alerts'), /Connection lost.*text is kept/s);
  assert.equal(await page.locator('#log .line').count(), 1);
  server.behaviour.refuse = false;
  await state('done', 20_000);
  const [first, second] = server.sessions;
  assert.ok(first.bytes / 32_000 >= 8.6);
  // Everything after the first final was sent again, to the end of the sample.
  const resumedAt = 10.09 - second.bytes / 32_000;
  assert.ok(Math.abs(resumedAt - (SENTENCES[0].at(-1).end + 0.1)) < 0.05, `resumed at ${resumedAt}`);
  assert.equal(await page.locator('#alerts .notice').count(), 0);
});

test('an error that trying again cannot help is said and not tried again', async () => {
  server.behaviour.error = { code: 'unknown_model', message: 'unknown model `x`', retryable: false };
  const { page } = await visit();
  await page.click('#sample');
  await page.waitForSelector('#alerts .notice');
  assert.match(await page.innerText('#alerts'), /ended the session.*unknown model/s);
  assert.equal(server.sessions.length, 1);
});

test('a warning is shown and the session goes on', async () => {
  server.behaviour.warning = 'this is only a warning';
  const { page, state } = await visit();
  await page.click('#sample');
  await page.waitForSelector('.toast');
  assert.match(await page.innerText('#toasts'), /only a warning/);
  assert.equal(await page.getAttribute('body', 'data-state'), 'listening');
  await page.click('#toggle');
  await state('done');
});

test('a server that never finishes can be left, and the text stays', async () => {
  server.behaviour.deaf = true;
  const { page, state, lines } = await visit();
  await page.click('#sample');
  await state('listening');
  await page.waitForFunction(() => document.getElementById('partial-stable').textContent.includes('mister'));
  await page.click('#toggle');
  await state('finishing');
  assert.equal(await page.isDisabled('#toggle'), true);
  await page.waitForFunction(() => document.getElementById('toggle-text').textContent === 'Stop waiting');
  await page.click('#toggle');
  await state('done');
  assert.match((await lines())[0], /^and mister/);
});

test('a key in the fragment is used and leaves the address', async () => {
  server.behaviour.key = 'secret-ü';
  const { page, lines } = await visit(`${server.url}#key=${encodeURIComponent('secret-ü')}`);
  assert.equal(page.url(), server.url);
  await page.waitForFunction(() => document.getElementById('server-text').textContent.includes('scripted'));
  assert.equal(await page.isVisible('#key-form'), false);
  await transcribe();
  assert.deepEqual(await lines(), TEXT);
  assert.deepEqual(server.sessions[0].protocols, ['waxwing.v1', `key.${Buffer.from('secret-ü').toString('base64url')}`]);
  assert.equal(await page.evaluate(() => JSON.stringify([{ ...localStorage }, { ...sessionStorage }])), '[{},{}]');
  await page.click('#code summary');
  // The browser tells the page of an opened box a little later.
  await page.waitForFunction(() => document.getElementById('code-text').textContent.includes('WAXWING_KEY'));
  assert.doesNotMatch(await page.innerText('#code-text'), /secret/);
});

test('without the key it is asked for, and a wrong one is refused', async () => {
  server.behaviour.key = 'right';
  const { page, state } = await visit();
  await page.waitForSelector('#key-form:not([hidden])');
  await page.fill('#key', 'wrong');
  await page.click('#key-form button');
  await page.waitForTimeout(300);
  assert.equal(await page.isVisible('#key-form'), true);
  await page.fill('#key', 'right');
  await page.click('#key-form button');
  await page.waitForSelector('#key-form', { state: 'hidden' });
  await page.click('#sample');
  await state('listening');
  await page.click('#toggle');
  await state('done');
});

test('a line can be heard again, and its words light up', async () => {
  const { page } = await visit();
  await transcribe();
  await page.click('#log .line .text');
  await page.waitForSelector('#log .line.playing .spoken');
  await page.click('#log .line button.time');
  await page.waitForSelector('#log .line.playing', { state: 'detached' });
});

test('the transcript is saved in every format, copied, cleared and brought back', async () => {
  const { page, lines } = await visit();
  await chromium.browser.grantPermissions(['clipboard-read', 'clipboard-write', 'microphone'], { origin: new URL(server.url).origin });
  await transcribe();
  for (const [format, expected] of [['txt', /^and mister .*\nhe was .*\n$/], ['srt', /^1\n00:00:00,350 -->/], ['vtt', /^WEBVTT\n\n00:00:00\.350/], ['json', /^\{\n {2}"text": "and mister/]]) {
    await page.selectOption('#format', format);
    const [download] = await Promise.all([page.waitForEvent('download'), page.click('#save')]);
    assert.match(download.suggestedFilename(), new RegExp(`^waxwing-[\\d-]+\\.${format}$`));
    assert.match(await readFile(await download.path(), 'utf8'), expected);
  }
  await page.selectOption('#format', 'txt');
  await page.click('#copy');
  assert.equal(await page.evaluate(() => navigator.clipboard.readText()), `${TEXT.join('\n')}\n`);
  await page.click('#clear');
  assert.deepEqual(await lines(), []);
  assert.equal(await page.isDisabled('#save'), true);
  await page.click('.toast button');
  assert.deepEqual(await lines(), TEXT);
});

test('raw events are shown and copied', async () => {
  const { page } = await visit();
  await chromium.browser.grantPermissions(['clipboard-read', 'clipboard-write', 'microphone'], { origin: new URL(server.url).origin });
  await page.click('#events summary');
  await transcribe();
  await page.waitForFunction(() => document.getElementById('events-text').textContent.includes('"type":"done"'));
  await page.click('#events-copy');
  const copied = await page.evaluate(() => navigator.clipboard.readText());
  assert.match(copied, /^→ GET \/v1\/stream\?encoding=s16le/);
  assert.match(copied, /→ \{"type":"stop"\}\n(.*\n)*← \{"type":"done"/);
});

test('the view follows the newest line only for a reader who is there', async () => {
  const { page } = await visit();
  await transcribe();
  await transcribe();
  await page.evaluate(() => {
    const scroll = document.getElementById('scroll');
    scroll.style.minHeight = '0';
    scroll.style.maxHeight = '70px';
    scroll.scrollTop = scroll.scrollHeight;
  });
  await page.evaluate(() => { document.getElementById('scroll').scrollTop = 0; });
  await page.waitForSelector('#newest:not([hidden])');
  await transcribe();
  assert.equal(await page.evaluate(() => document.getElementById('scroll').scrollTop), 0);
  await page.click('#newest');
  await transcribe();
  assert.ok(await page.evaluate(() => {
    const { scrollHeight, scrollTop, clientHeight } = document.getElementById('scroll');
    return scrollHeight - scrollTop - clientHeight <= 2;
  }));
});

test('a refused microphone is said in words, and the sample still works', async () => {
  const other = await startBrowser({ allow: false });
  try {
    const { page, state, faults } = await openPage(other.browser, server.url);
    await page.click('#toggle');
    await page.waitForSelector('#alerts .notice');
    assert.match(await page.innerText('#alerts'), /microphone is not allowed/);
    assert.equal(await page.getAttribute('body', 'data-state'), 'idle');
    await page.click('#sample');
    await state('listening');
    assert.equal(await page.locator('#alerts .notice').count(), 0);
    assert.deepEqual(await faults(), []);
  } finally {
    await other.stop();
  }
});

test('an insecure page says why there is no microphone, and copies all the same', async () => {
  const { page, state } = await visit(server.url.replace('127.0.0.1', ELSEWHERE));
  assert.equal(await page.evaluate(() => window.isSecureContext), false);
  await page.click('#toggle');
  await page.waitForSelector('#alerts .notice');
  assert.match(await page.innerText('#alerts'), /https or from this computer/);
  await page.click('#sample');
  await state('done', 20_000);
  await page.click('#copy');
  assert.match(await page.innerText('#toasts'), /copied/);
});

test('a server that is gone is said in words', async () => {
  const { page } = await visit();
  await server.stop();
  await page.click('#toggle');
  await page.waitForSelector('#alerts .notice');
  assert.match(await page.innerText('#alerts'), /does not answer/);
  server = await startScriptedServer();
});

test('what is wished for goes with the next run, and is remembered', async () => {
  const { page } = await visit();
  await page.click('#wishes summary');
  await page.fill('#hotwords', 'Ada Lovelace, waxwing');
  await page.check('#formatted');
  await transcribe();
  const { query } = server.sessions.at(-1);
  assert.equal(query.get('hotwords'), 'Ada Lovelace, waxwing');
  assert.equal(query.get('formatted'), 'true');
  await page.reload();
  assert.equal(await page.inputValue('#hotwords'), 'Ada Lovelace, waxwing');
  assert.equal(await page.isChecked('#formatted'), true);
  await page.fill('#hotwords', '');
  await page.uncheck('#formatted');
  await transcribe();
  const plain = server.sessions.at(-1).query;
  assert.equal(plain.has('hotwords') || plain.has('formatted'), false);
});
