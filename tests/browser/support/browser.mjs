// Starts Chromium with a fake microphone and watches each page for what must never happen.

import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { chromium } from 'playwright-core';

const FLAGS = [
  '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync', '--autoplay-policy=no-user-gesture-required', '--use-fake-device-for-media-stream',
];

/** A name that leads to this machine without being trusted as it is: pages from there get no microphone. */
export const ELSEWHERE = 'waxwing.test';

/** A browser of its own. `microphone` is a wav file that the fake microphone plays once; `allow: false` refuses it. */
export async function startBrowser({ microphone, allow = true, ...context } = {}) {
  const profile = await mkdtemp(join(tmpdir(), 'waxwing-page-'));
  const args = [...FLAGS, allow ? '--use-fake-ui-for-media-stream' : '--deny-permission-prompts', `--host-resolver-rules=MAP ${ELSEWHERE} 127.0.0.1`];
  if (microphone) args.push(`--use-file-for-fake-audio-capture=${microphone}%noloop`);
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: process.env.CHROMIUM ?? '/usr/bin/chromium', headless: true, args, viewport: { width: 1280, height: 900 }, ...context,
  });
  return {
    browser,
    async stop() {
      await browser.close();
      await rm(profile, { recursive: true, force: true });
    },
  };
}

/** Opens a page at `url` and collects violations of the content policy, errors and requests to elsewhere. */
export async function openPage(browser, url) {
  const page = await browser.newPage();
  const faults = [];
  page.on('pageerror', (error) => faults.push(`error: ${error.message}`));
  page.on('console', (message) => {
    if (/content security policy/i.test(message.text())) faults.push(`policy: ${message.text()}`);
  });
  page.on('request', (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol !== 'blob:' && protocol !== 'data:' && host !== new URL(url).host) faults.push(`elsewhere: ${request.url()}`);
  });
  await page.addInitScript(() => {
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) => window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
  });
  await page.goto(url);
  await page.waitForSelector('body[data-state="idle"]');
  return {
    page,
    /** Everything that went wrong on the page so far. */
    faults: async () => [...faults, ...await page.evaluate(() => window.violations)],
    state: (name, timeout = 15_000) => page.waitForSelector(`body[data-state="${name}"]`, { timeout }),
    lines: () => page.locator('#log .line .text').allInnerTexts(),
  };
}
