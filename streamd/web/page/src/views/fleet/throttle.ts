/** Calls that come faster than they should be carried out. */

/** A function that runs at once, then at most once in `ms`; the last of the calls between is carried out at the end. */
export function throttle(run: () => void, ms: number): { call: () => void; cancel: () => void } {
  let timer: number | undefined;
  let isWaiting = false;
  const rest = () => {
    timer = undefined;
    if (!isWaiting) return;
    isWaiting = false;
    call();
  };
  const call = () => {
    if (timer !== undefined) {
      isWaiting = true;
      return;
    }
    timer = window.setTimeout(rest, ms);
    run();
  };
  const cancel = () => {
    clearTimeout(timer);
    timer = undefined;
    isWaiting = false;
  };
  return { call, cancel };
}
