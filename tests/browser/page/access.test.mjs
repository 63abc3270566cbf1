// What everybody needs of a page: names, contrast, keyboard, small screens, rest. And pictures of it for a person to
// look at, in WAXWING_SCREENSHOTS or a temporary folder.

import assert from 'node:assert/strict';
import { mkdir, mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';

import { openPage, startBrowser } from '../support/browser.mjs';
import { startScriptedServer } from '../support/scripted-server.mjs';
import { join16k } from '../support/sounds.mjs';

const SHAPES = {
  light: { colorScheme: 'light' },
  dark: { colorScheme: 'dark' },
  phone: { colorScheme: 'light', viewport: { width: 390, height: 844 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
  'phone-dark': { colorScheme: 'dark', viewport: { width: 320, height: 640 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true },
};

let server;
let folder;

before(async () => {
  server = await startScriptedServer();
  folder = process.env.WAXWING_SCREENSHOTS ?? await mkdtemp(join(tmpdir(), 'waxwing-screenshots-'));
  await mkdir(folder, { recursive: true });
});
after(async () => { await server.stop(); });

for (const [shape, context] of Object.entries(SHAPES)) {
  test(`${shape}: legible, named, inside the screen, while idle, listening and in trouble`, async () => {
    const chromium = await startBrowser({ microphone: await join16k(['0870', '0880'], 0.01), ...context });
    try {
      const { page, state, faults } = await openPage(chromium.browser, server.url);
      await page.waitForFunction(() => document.getElementById('server-text').textContent.includes('scripted'));
      await page.screenshot({ path: join(folder, `${shape}-idle.png`), fullPage: true });
      assert.deepEqual(await page.evaluate(findings), []);

      await page.click('#toggle');
      await state('listening');
      await page.waitForSelector('#log .line', { timeout: 12_000 });
      await page.waitForFunction(() => document.getElementById('partial-open').textContent.includes('disposed'));
      await page.screenshot({ path: join(folder, `${shape}-listening.png`), fullPage: true });
      assert.deepEqual(await page.evaluate(findings), []);
      await page.click('#toggle');
      await state('done');

      await page.click('#events summary');
      await page.click('#code summary');
      Object.assign(server.behaviour, { free: 0, retryAfterMs: 60_000 });
      await page.click('#sample');
      await page.waitForSelector('#alerts .notice');
      await page.click('#clear');
      await page.screenshot({ path: join(folder, `${shape}-trouble.png`), fullPage: true });
      assert.deepEqual(await page.evaluate(findings), []);
      assert.deepEqual(await faults(), []);
    } finally {
      Object.assign(server.behaviour, { free: 3, retryAfterMs: undefined });
      await chromium.stop();
    }
  });
}

test('the whole page is reached by keyboard, in order, and shows where one is', async () => {
  const chromium = await startBrowser();
  try {
    const { page } = await openPage(chromium.browser, server.url);
    const reached = [];
    for (let i = 0; i < 12; i += 1) {
      await page.keyboard.press('Tab');
      reached.push(await page.evaluate(() => {
        const element = document.activeElement;
        if (element === document.body) return 'the end';
        const { outlineStyle, outlineWidth } = getComputedStyle(element);
        if (outlineStyle === 'none' || parseFloat(outlineWidth) < 2) return `no focus ring on ${element.id}`;
        return element.id || element.className || element.tagName;
      }));
    }
    const expected = ['skip', 'toggle', 'sample', 'choose', 'format', 'scroll'];
    assert.deepEqual([...new Set(reached)].filter((id) => expected.includes(id)), expected);
    assert.deepEqual(reached.filter((id) => id.startsWith('no focus')), []);
  } finally {
    await chromium.stop();
  }
});

test('finals are announced, partials are not, and nothing moves for those who asked for rest', async () => {
  const chromium = await startBrowser({ reducedMotion: 'reduce' });
  try {
    const { page, state } = await openPage(chromium.browser, server.url);
    assert.equal(await page.getAttribute('#log', 'aria-live'), 'polite');
    assert.equal(await page.getAttribute('#log', 'role'), 'log');
    assert.equal(await page.evaluate(() => document.getElementById('partial').closest('[aria-live], [role="log"], [role="status"]')), null);
    await page.click('#sample');
    await state('listening');
    assert.equal(await page.innerText('#state-spoken'), 'Listening');
    assert.equal(await page.evaluate(() => document.getAnimations().length), 0);
  } finally {
    await chromium.stop();
  }
});

/** Runs in the page: what a checker of accessibility would say. */
function findings() {
  const found = [];
  const visible = (element) => element.checkVisibility({ visibilityProperty: true }) && element.getClientRects().length > 0;

  for (const element of document.querySelectorAll('button, select, input, a[href], summary, [role="meter"], [role="log"], [role="img"], progress')) {
    if (!visible(element)) continue;
    const label = element.getAttribute('aria-label') || element.labels?.[0]?.textContent || element.textContent;
    if (!label?.trim()) found.push(`no name: ${element.outerHTML.slice(0, 80)}`);
    const { height, width } = element.getBoundingClientRect();
    if (element.matches('button, select') && (height < 24 || width < 24)) found.push(`too small to hit: ${element.id} ${width}×${height}`);
  }
  const ids = [...document.querySelectorAll('[id]')].map((element) => element.id);
  for (const id of ids) if (ids.indexOf(id) !== ids.lastIndexOf(id)) found.push(`id used twice: ${id}`);
  for (const attribute of ['aria-labelledby', 'aria-describedby', 'for']) {
    for (const element of document.querySelectorAll(`[${attribute}]`)) {
      if (!document.getElementById(element.getAttribute(attribute))) found.push(`${attribute} leads nowhere: ${element.getAttribute(attribute)}`);
    }
  }
  if (document.documentElement.lang !== 'en') found.push('no language');
  if (document.querySelectorAll('h1').length !== 1) found.push('not one h1');
  if (document.querySelectorAll('main').length !== 1) found.push('not one main');
  for (const image of document.images) if (!image.hasAttribute('alt')) found.push('image without alt');

  const { scrollWidth, clientWidth } = document.documentElement;
  if (scrollWidth > clientWidth) found.push(`wider than the screen: ${scrollWidth} > ${clientWidth}`);
  for (const element of document.querySelectorAll('main *')) {
    if (!visible(element) || element.closest('pre, .hidden, canvas, svg')) continue;
    const { left, right } = element.getBoundingClientRect();
    if (right > clientWidth + 1 || left < -1) found.push(`outside the screen: ${element.tagName} ${element.id || element.className} ${Math.round(left)}…${Math.round(right)}`);
  }

  // Contrast of text (WCAG 2.2, 1.4.3); disabled controls are exempt there, but not here.
  const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgb = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const luminance = ([r, g, b]) => [r, g, b].map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, index) => sum + value * [0.2126, 0.7152, 0.0722][index], 0);
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const seen = new Set();
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(element) || !visible(element) || element.closest('.hidden, noscript, option')) continue;
    seen.add(element);
    const style = getComputedStyle(element);
    if (parseFloat(style.fontSize) === 0) continue;
    let ground = element;
    while (ground && rgb(getComputedStyle(ground).backgroundColor)[3] < 255) ground = ground.parentElement;
    const a = luminance(rgb(style.color));
    const b = luminance(rgb(getComputedStyle(ground ?? document.body).backgroundColor));
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) found.push(`contrast ${contrast.toFixed(2)}: ${element.tagName} ${element.id || element.className} "${element.textContent.slice(0, 30)}"`);
  }
  return found;
}
