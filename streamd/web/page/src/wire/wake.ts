/** Notices when the page is hidden for long, is seen again, and when the device was asleep or away from the network. */

/** A hidden page costs the daemon nothing after this. */
const HIDDEN_MS = 120_000;
const CHECK_MS = 10_000;
/** A device whose timers stood still that long was asleep. The daemon may have dropped a socket without its notice. */
const ASLEEP_MS = 45_000;

export interface WakeHandlers {
  onHiddenForLong: () => void;
  onSeen: () => void;
  onOnline: () => void;
  onAwake: () => void;
}

/** Watch for as long as the page is open. */
export function watchWake(handlers: WakeHandlers): void {
  let hiddenTimer: ReturnType<typeof setTimeout> | undefined;
  document.addEventListener("visibilitychange", () => {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = setTimeout(handlers.onHiddenForLong, HIDDEN_MS);
    else handlers.onSeen();
  });
  window.addEventListener("online", handlers.onOnline);
  let checked = Date.now();
  setInterval(() => {
    const wasAsleep = Date.now() - checked > ASLEEP_MS;
    checked = Date.now();
    if (wasAsleep && !document.hidden) handlers.onAwake();
  }, CHECK_MS);
}
