// What the page asks the server outside a session, and how it shows its key.

/** The key: in memory only, unless the user ticks "keep for this tab". */
export const access = {
  key: '',
  needed: false, // as far as is known
  headers() {
    return this.key === '' ? {} : { Authorization: `Bearer ${this.key}` };
  },
  /** A WebSocket cannot send a header, so the key goes as a subprotocol, which is never logged as an address is. */
  subprotocols() {
    return this.key === '' ? ['waxwing.v1'] : ['waxwing.v1', `key.${base64url(this.key)}`];
  },
};

/** Base64 of the UTF-8 bytes with the letters that a subprotocol may have, without padding. */
export function base64url(text) {
  const bytes = new TextEncoder().encode(text);
  return btoa(String.fromCharCode(...bytes)).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '');
}

/** The key in an address's fragment (`#key=…`), or an empty text. */
export function keyInFragment(fragment) {
  return new URLSearchParams(fragment.replace(/^#/, '')).get('key') ?? '';
}

/** The address of a live session. */
export function streamUrl(base, parameters) {
  const url = new URL('v1/stream', base);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  url.hash = '';
  url.search = new URLSearchParams(parameters).toString();
  return url.href;
}

async function getJson(path, headers) {
  const response = await fetch(new URL(path, document.baseURI), {
    headers, cache: 'no-store', signal: AbortSignal.timeout(5000),
  });
  const body = await response.json().catch(() => null);
  return { status: response.status, body, retryAfter: response.headers.get('retry-after') };
}

/** `{ reachable, state, slots, free, retryAfterMs }` from GET /ready, which needs no key. */
export async function getReady() {
  try {
    const { status, body, retryAfter } = await getJson('ready', {});
    return {
      reachable: true,
      ready: status === 200,
      state: body?.state ?? (status === 200 ? 'ready' : 'unavailable'),
      slots: body?.slots,
      free: body?.free,
      retryAfterMs: body?.retry_after_ms ?? (retryAfter === null ? undefined : Number(retryAfter) * 1000),
    };
  } catch {
    return { reachable: false };
  }
}

/** `{ allowed, models }` from GET /v1/models; `allowed` is false when the server wants a key. */
export async function getModels() {
  try {
    const { status, body } = await getJson('v1/models', access.headers());
    return { allowed: status !== 401 && status !== 403, models: (body?.data ?? []).map((model) => model.id) };
  } catch {
    return { allowed: true, models: [] };
  }
}

/** Why a socket was refused; a browser does not say. `{ kind, retryAfterMs }` with kind one of
 *  'unreachable', 'key', 'full', 'loading', 'draining', 'failed', 'refused'. */
export async function diagnose() {
  const [ready, models] = await Promise.all([getReady(), getModels()]);
  if (!ready.reachable) return { kind: 'unreachable' };
  if (!models.allowed) return { kind: 'key' };
  const retryAfterMs = ready.retryAfterMs || undefined;
  if (/drain|stop/i.test(ready.state)) return { kind: 'draining', retryAfterMs };
  if (/load|start|warm/i.test(ready.state)) return { kind: 'loading', retryAfterMs };
  if (/fail/i.test(ready.state)) return { kind: 'failed', retryAfterMs };
  if (ready.free === 0 || !ready.ready || ready.retryAfterMs > 0) return { kind: 'full', retryAfterMs, slots: ready.slots };
  return { kind: 'refused' };
}
