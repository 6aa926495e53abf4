/** The token of this tab. It is sent in headers and as a protocol of the socket; no address, title or log has it. */
import { batch, signal } from "@preact/signals";

const KEY = "streamd-token";

/** The token that calls carry; empty while none is needed or known. Lives as long as the tab. */
export const token = signal(readKept());

/** Why the daemon answers nothing without another token, in its own words; null while it answers. Polling waits. */
export const tokenWanted = signal<string | null>(null);

/** Why the dialog for a token is open; null while it is closed. */
export const tokenDialog = signal<string | null>(null);

/** Open the dialog for a token, for example because an action needs the scope `admin`. */
export function askForToken(why: string): void {
  tokenDialog.value = why;
}

/** Take note that a call with the token `used` was refused with 401. A refused action leaves the rest as it is. */
export function noteRefused(why: string, used: string, isAction: boolean): void {
  if (used !== token.value) return; // another token is in use by now
  batch(() => {
    if (!isAction) tokenWanted.value = why;
    tokenDialog.value = why;
  });
}

/** Use another token from now on; empty: none. */
export function setToken(value: string): void {
  keep(value);
  batch(() => {
    token.value = value;
    tokenWanted.value = null;
    tokenDialog.value = null;
  });
}

function readKept(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return ""; // a browser may forbid storage; the token then lives as long as the page
  }
}

function keep(value: string): void {
  try {
    if (value === "") sessionStorage.removeItem(KEY);
    else sessionStorage.setItem(KEY, value);
  } catch {
    // as above
  }
}
