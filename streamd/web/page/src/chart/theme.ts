/** Colours of charts: canvas knows no custom properties, so they are read from the style of the page. */
import type { ColorName } from "./spec";

/** The colours that hold now, as the element sees them. Read again when the theme of the system changes. */
export class ChartTheme {
  private known = new Map<string, string>();

  constructor(private readonly element: HTMLElement) {}

  /** The colour of a custom property; grey if the style sheet lacks it. */
  color(name: ColorName): string {
    let value = this.known.get(name);
    if (value === undefined) {
      value = getComputedStyle(this.element).getPropertyValue(name).trim() || "#888";
      this.known.set(name, value);
    }
    return value;
  }

  /** The font of the page at a size. */
  font(pixels: number): string {
    return `${pixels}px ${getComputedStyle(this.element).fontFamily || "system-ui, sans-serif"}`;
  }

  /** Forget what was read. */
  forget(): void {
    this.known.clear();
  }
}

/** Call when colours may have changed: the theme of the system, or print. Returns a function that ends it. */
export function watchTheme(onChange: () => void): () => void {
  const media = ["(prefers-color-scheme: dark)", "(forced-colors: active)", "print"].map((query) => matchMedia(query));
  for (const each of media) each.addEventListener("change", onChange);
  return () => {
    for (const each of media) each.removeEventListener("change", onChange);
  };
}
