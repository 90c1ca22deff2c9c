import { TuneError } from "../errors.ts";

/** How a server is asked. */
export interface FetchSettings {
  /** Origin of the hub, without a slash at the end: the one place that the token is sent to. */
  readonly hubUrl: string;
  /** Pause before the first repetition of a failed request, in milliseconds; doubled each time. */
  readonly retryPauseMs: number;
  /** How long a server may send nothing, or next to nothing, in milliseconds. */
  readonly stallMs: number;
}

/** A request that failed, and may be made again: after `waitMs` where the server says when. */
export class Again extends Error {
  readonly waitMs: number | undefined;

  constructor(message: string, options: { readonly waitMs?: number | undefined; readonly cause?: unknown } = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.waitMs = options.waitMs;
  }
}

/** Times that something is tried before it is given up, where nothing came of it. */
export const maxTries = 5;
/** Longest pause that a server's Retry-After is followed for. */
const mostWaitMs = 300_000;
const mostRedirects = 10;
/** What an answer about a model may hold; the longest lists of files have a few megabytes. */
const mostAnswerBytes = 64e6;
/** Slower than this is as good as nothing. */
const leastBytesPerSecond = 1024;

/** Wait before trying again: as long as the server says, or twice as long each time. */
export async function pause(error: unknown, attempt: number, { retryPauseMs }: FetchSettings): Promise<void> {
  const asked = error instanceof Again ? error.waitMs : undefined;
  const waitMs = asked ?? retryPauseMs * 2 ** (attempt - 1);
  if (waitMs > mostWaitMs) throw new Error(`it asks to come back in ${Math.ceil(waitMs / 1000)} seconds`);
  await new Promise((resolve) => setTimeout(resolve, waitMs));
}

/** An answer, and its body, piece by piece. */
export interface Answer {
  readonly response: Response;
  readonly body: AsyncIterable<Uint8Array>;
}

/**
 * Ask once, following redirects. The token goes to the hub's own origin alone, whatever it or another server redirects or
 * links to, and never from https to http.
 * @throws {Again} when the server is not reached, stalls, or answers 408, 429 or 5xx.
 */
export async function ask(
  url: string,
  headers: Readonly<Record<string, string>>,
  settings: FetchSettings,
): Promise<Answer> {
  const stop = new AbortController();
  let at = new URL(url);
  for (let hops = 0; hops <= mostRedirects; hops++) {
    const secure = new Headers(headers);
    if (at.origin !== new URL(settings.hubUrl).origin) secure.delete("authorization");
    const request = fetch(at, { headers: secure, redirect: "manual", signal: stop.signal });
    const response = await within(request, settings.stallMs, stop).catch((error: unknown) => {
      throw error instanceof Again ? error : new Again(reasonOf(error), { cause: error });
    });
    const { status } = response;
    if (status === 408 || status === 429 || status >= 500) {
      stop.abort();
      throw new Again(`it answered ${status}`, { waitMs: retryAfter(response) });
    }
    const location = status >= 300 && status < 400 ? response.headers.get("location") : null;
    if (location === null) return { response, body: pieces(response, settings, stop) };
    await response.body?.cancel();
    const to = new URL(location, at);
    if (!/^https?:$/.test(to.protocol) || (at.protocol === "https:" && to.protocol === "http:")) {
      throw new TuneError("hub-interrupted", `${at.origin} redirects to ${to.protocol}//, which is not followed.`, {
        at: settings.hubUrl,
        fix: "check HF_ENDPOINT, and who answers in its place",
      });
    }
    at = to;
  }
  throw new TuneError("hub-interrupted", `${settings.hubUrl} redirects more than ${mostRedirects} times.`, {
    at: url,
    fix: "check HF_ENDPOINT, and who answers in its place",
  });
}

/**
 * `fetch` for questions with short answers: asked again when the server is busy or gone, with the answer read whole.
 * @throws what the last attempt did.
 */
export function patientFetch(settings: FetchSettings): typeof fetch {
  return async (input, init) => {
    const url = input instanceof Request ? input.url : String(input);
    const headers = Object.fromEntries(new Headers(init?.headers));
    for (let attempt = 1; ; attempt++) {
      try {
        const { response, body } = await ask(url, headers, settings);
        const parts: Uint8Array[] = [];
        let size = 0;
        for await (const part of body) {
          size += part.length;
          if (size > mostAnswerBytes) throw new Error(`the answer is longer than ${mostAnswerBytes / 1e6} MB`);
          parts.push(part);
        }
        const { status, statusText } = response;
        const empty = status === 204 || status === 304;
        return new Response(empty ? null : Buffer.concat(parts), { status, statusText, headers: response.headers });
      } catch (error) {
        if (!(error instanceof Again) || attempt >= maxTries) throw error;
        await pause(error, attempt, settings);
      }
    }
  };
}

/** The body of an answer, as long as it comes. */
async function* pieces(
  response: Response,
  { stallMs }: FetchSettings,
  stop: AbortController,
): AsyncGenerator<Uint8Array> {
  const reader = response.body?.getReader();
  if (reader === undefined) return;
  let since = performance.now();
  let bytes = 0;
  try {
    for (;;) {
      const { done, value } = await within(reader.read(), stallMs, stop);
      if (done) return;
      bytes += value.length;
      const elapsedMs = performance.now() - since;
      if (elapsedMs >= stallMs) {
        if (bytes < (leastBytesPerSecond * elapsedMs) / 1000) throw new Again("it sends next to nothing");
        [since, bytes] = [performance.now(), 0];
      }
      yield value;
    }
  } catch (error) {
    throw error instanceof Again ? error : new Again(reasonOf(error), { cause: error });
  } finally {
    stop.abort(); // whoever stops reading wants no more of it
  }
}

/** What a promise gives, if it does in time; otherwise the request behind it is ended. */
async function within<T>(promise: Promise<T>, stallMs: number, stop: AbortController): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      reject(new Again(`it sent nothing for ${stallMs / 1000} seconds`));
      stop.abort();
    }, stallMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Milliseconds that a server asks to wait: seconds, or a date. RFC 9110, §10.2.3. */
function retryAfter({ headers }: Response): number | undefined {
  const said = headers.get("retry-after")?.trim() ?? "";
  if (/^\d+$/.test(said)) return 1000 * Number(said);
  const date = Date.parse(said);
  return said === "" || Number.isNaN(date) ? undefined : Math.max(0, date - Date.now());
}

/** Why something failed, with what lies behind it. */
export function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  if (!(cause instanceof Error) || error instanceof Again) return error.message;
  return `${error.message} (${cause.message || String("code" in cause ? cause.code : "")})`;
}
