/** Calls of the wire by HTTP. Addresses are relative to the page, which may lie below any path of a proxy. */
import { noteDaemonTime } from "../format/clock";
import { noteAnswer, noteSilence } from "./reach";
import { noteRefused, token } from "./session";

const READ_TIMEOUT_MS = 30_000;

/** What proxies answer while the daemon behind them is away. */
const AWAY = new Set([502, 504]);

/** An error of the wire, or of the way to the daemon (status 0). */
export class WireError extends Error {
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
  ) {
    super(message);
    this.name = "WireError";
  }

  /** Whether the daemon did not answer at all. */
  get isAway(): boolean {
    return this.status === 0 || AWAY.has(this.status);
  }
}

/** What was thrown as an error of the wire; a defect of the page has the code `page`. */
export function asWireError(thrown: unknown): WireError {
  return thrown instanceof WireError ? thrown : new WireError(0, "page", String(thrown));
}

/** Query parameters; undefined, null and empty values are left out, lists are repeated. */
export type Query = Record<string, string | number | boolean | readonly string[] | null | undefined>;

/** The absolute address of a path of the wire, such as `v1/status`. */
export function addressOf(path: string, query: Query = {}, base: string = document.baseURI): URL {
  const url = new URL(path, new URL("./", base));
  for (const [name, value] of Object.entries(query)) {
    if (value === undefined || value === null || value === "") continue;
    if (typeof value === "object") for (const each of value) url.searchParams.append(name, each);
    else url.searchParams.set(name, String(value));
  }
  return url;
}

/** Read JSON. Throws `WireError`. */
export function getJson<T>(path: string, query: Query = {}, signal?: AbortSignal): Promise<T> {
  return call<T>("GET", addressOf(path, query), undefined, signal);
}

/** Send JSON and read the answer. Throws `WireError`. */
export function postJson<T>(path: string, body: unknown): Promise<T> {
  return call<T>("POST", addressOf(path), body);
}

/** Delete. Resolves to undefined where the answer is empty. Throws `WireError`. */
export function deleteJson<T>(path: string, query: Query = {}): Promise<T> {
  return call<T>("DELETE", addressOf(path, query));
}

/** Read text, such as the metrics. Throws `WireError`. */
export async function getText(path: string, signal?: AbortSignal): Promise<string> {
  return readBody((await request("GET", addressOf(path), undefined, signal)).text());
}

/** Why the daemon refuses a token; null if it takes it. Throws `WireError` if the daemon does not answer. */
export async function findTokenProblem(candidate: string): Promise<string | null> {
  const response = await send("GET", addressOf("v1/status"), undefined, candidate, undefined);
  return response.status === 401 ? (await readError(response)).message : null;
}

async function call<T>(method: string, url: URL, body?: unknown, signal?: AbortSignal): Promise<T> {
  const response = await request(method, url, body, signal);
  return (response.status === 204 ? undefined : await readBody(response.json())) as T;
}

async function request(method: string, url: URL, body: unknown, signal: AbortSignal | undefined): Promise<Response> {
  const used = token.value;
  const response = await send(method, url, body, used, signal);
  if (response.ok) return response;
  const error = await readError(response);
  if (error.status === 401) noteRefused(error.message, used, method !== "GET");
  throw error;
}

async function send(
  method: string,
  url: URL,
  body: unknown,
  secret: string,
  signal: AbortSignal | undefined,
): Promise<Response> {
  const headers: Record<string, string> = { Accept: "application/json" };
  if (secret !== "") headers["Authorization"] = `Bearer ${secret}`;
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const signals = signal === undefined ? [] : [signal];
  if (method === "GET") signals.push(AbortSignal.timeout(READ_TIMEOUT_MS));
  const init: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store" };
  if (body !== undefined) init.body = JSON.stringify(body);
  if (signals.length > 0) init.signal = AbortSignal.any(signals);
  let response: Response;
  try {
    response = await fetch(url, init);
  } catch (error) {
    throw translate(error);
  }
  if (AWAY.has(response.status)) noteSilence();
  else noteAnswer();
  noteDaemonTime(Date.parse(response.headers.get("Date") ?? "") / 1000);
  return response;
}

/** Wait for a body, which may break off. */
async function readBody<T>(body: Promise<T>): Promise<T> {
  try {
    return await body;
  } catch (error) {
    if (error instanceof SyntaxError) throw new WireError(0, "unreadable", "The answer of the daemon is not JSON.");
    throw translate(error);
  }
}

/** The error of a call without an answer; one that the page ended itself stays what it is. */
function translate(error: unknown): unknown {
  if (error instanceof DOMException && error.name === "AbortError") return error;
  noteSilence();
  const isLate = error instanceof DOMException && error.name === "TimeoutError";
  const seconds = READ_TIMEOUT_MS / 1000;
  return isLate
    ? new WireError(0, "timeout", `The daemon did not answer within ${seconds} s.`)
    : new WireError(0, "unreachable", "The daemon does not answer.");
}

async function readError(response: Response): Promise<WireError> {
  let code = "unknown";
  let message = `The daemon answered ${response.status} ${response.statusText}.`;
  if (AWAY.has(response.status)) message = `The daemon does not answer the proxy before it (${response.status}).`;
  try {
    const body = (await response.json()) as { code?: string; message?: string };
    code = body.code ?? code;
    message = body.message ?? message;
  } catch (error) {
    // The page has ended the call while it came: what is left of it says nothing.
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    // Else a proxy between answered in its own form.
  }
  return new WireError(response.status, code, message);
}
