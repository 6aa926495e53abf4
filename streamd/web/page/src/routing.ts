/** Where the reader is: the view and its state, both in the fragment of the address, so that a link opens them again. */
import { signal } from "@preact/signals";

const VIEWS = ["fleet", "servers", "operations", "accuracy", "alerts"] as const;
export type View = (typeof VIEWS)[number];
export type ViewQuery = Record<string, string>;

export interface Route {
  view: View;
  query: ViewQuery;
}

/** Parse a fragment such as `#/servers?server=web-01`; unknown views are the fleet. */
export function parseHash(hash: string): Route {
  const text = hash.replace(/^#\/?/, "");
  const end = text.indexOf("?");
  const path = end < 0 ? text : text.slice(0, end);
  const query = end < 0 ? "" : text.slice(end + 1);
  const view = VIEWS.find((each) => each === path) ?? "fleet";
  return { view, query: Object.fromEntries(new URLSearchParams(query)) };
}

/** The fragment of a view; empty values are left out. */
export function linkTo(view: View, query: ViewQuery = {}): string {
  const kept = Object.entries(query).filter(([, value]) => value !== "");
  const text = new URLSearchParams(kept).toString();
  return `#/${view}${text === "" ? "" : `?${text}`}`;
}

export const route = signal<Route>(parseHash(location.hash));
window.addEventListener("hashchange", () => (route.value = parseHash(location.hash)));

/** Open a view: a new entry of the history. */
export function navigate(view: View, query: ViewQuery = {}): void {
  location.hash = linkTo(view, query);
}

/** Change the state of this view in place, without a new entry of the history. */
export function updateQuery(change: ViewQuery): void {
  const { view, query } = route.peek();
  const link = linkTo(view, { ...query, ...change });
  if (link === linkTo(view, query)) return;
  history.replaceState(null, "", link);
  route.value = parseHash(link);
}
