/** Why the daemon refuses the socket: a browser only sees that it was closed, so a plain call finds out. */
import { addressOf } from "./api";
import { noteSilence } from "./reach";
import { noteRefused, token } from "./session";

const PROBE_MS = 10_000;
const BLOCKED = "calls are answered, but no WebSocket opens; a proxy between may not pass them on";
const REFUSALS = new Set([401, 403, 429]);

export interface Refusal {
  status: number;
  message: string;
}

/** The protocols to offer: the token is one of them, since a browser cannot set headers here. */
export function socketProtocols(secret: string): string[] {
  if (secret === "") return ["streamd"];
  const encoded = encodeURIComponent(secret).replace(/[()]/g, (sign) => `%${sign.charCodeAt(0).toString(16)}`);
  return ["streamd", `streamd.token.${encoded}`];
}

/**
 * Find out why a socket did not open, or was closed for its token.
 *
 * `earlier`: how many sockets before this one did not open either, though the daemon would have let them in.
 */
export async function findRefusal(earlier: number): Promise<Refusal | "admitted" | "away"> {
  const used = token.peek();
  try {
    const refusal = (await probe("GET", used)) ?? (earlier > 0 ? await probe("POST", used) : null);
    if (refusal?.status === 401) noteRefused(refusal.message, used, false);
    return refusal ?? (earlier > 1 ? { status: 0, message: BLOCKED } : "admitted");
  } catch {
    noteSilence();
    return "away";
  }
}

/**
 * Begin a call that needs the same rights as the socket, and end it at once.
 *
 * A browser sends `Origin` with a POST, as with the socket, and not with a GET; nothing is posted, since there is no
 * such call.
 */
async function probe(method: "GET" | "POST", used: string): Promise<Refusal | null> {
  const abort = new AbortController();
  const timer = setTimeout(() => abort.abort(), PROBE_MS);
  try {
    const headers: Record<string, string> = used === "" ? {} : { Authorization: `Bearer ${used}` };
    const signal = abort.signal;
    const init: RequestInit = { method, headers, credentials: "same-origin", cache: "no-store", signal };
    const response = await fetch(addressOf("v1/alerts/stream"), init);
    if (!REFUSALS.has(response.status)) return null;
    const { message } = (await response.json().catch(() => ({}))) as { message?: string };
    return { status: response.status, message: message ?? `The daemon answered ${response.status}.` };
  } finally {
    clearTimeout(timer);
    abort.abort(); // the stream of alerts itself is of no use here
  }
}
