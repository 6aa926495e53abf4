/** Moving the focus among parts of the view by keys. */

/** Focus the next (1) or previous (-1) of the elements that match; the first one if none of them has the focus. */
export function moveFocus(parent: HTMLElement | null, selector: string, step: number): void {
  const parts = [...(parent?.querySelectorAll<HTMLElement>(selector) ?? [])];
  const place = parts.findIndex((part) => part === document.activeElement);
  parts[Math.min(Math.max(place + step, 0), parts.length - 1)]?.focus();
}
