/** What happens when another view opens: the focus goes to its heading, and it begins at its top. */
import { useEffect, useRef } from "preact/hooks";
import { navigate, type Route } from "../routing";
import { isTyping } from "../ui/keys";

const MOST_FRAMES = 60;

/** What makes a route another page for the reader: the view, and in that of one server its name. */
export function pageKey({ view, query }: Route): string {
  return view === "servers" ? `${view} ${query["server"] ?? ""}` : view;
}

/** Move the focus to the heading of a page that was opened after the first one. */
export function useFocusOnNavigation(key: string): void {
  const former = useRef(key);
  useEffect(() => {
    if (former.current === key) return;
    former.current = key;
    if (isTyping(document.activeElement)) return; // the search of the new view has the focus already
    const target = document.querySelector<HTMLElement>("main h1") ?? document.getElementById("main");
    target?.focus({ preventScroll: true });
    window.scrollTo(0, 0);
  }, [key]);
}

/** Put the focus into the search field of this view, or open the fleet and its search field. */
export function focusSearch(): void {
  if (hasFocusedSearch()) return;
  navigate("fleet");
  // The field is there once the view is drawn, which takes some frames.
  let frames = 0;
  const focus = () => {
    frames += 1;
    if (!hasFocusedSearch() && frames < MOST_FRAMES) requestAnimationFrame(focus);
  };
  requestAnimationFrame(focus);
}

function hasFocusedSearch(): boolean {
  const field = document.querySelector<HTMLInputElement>('main input[type="search"], main input[role="combobox"]');
  field?.focus();
  field?.select();
  return field !== null;
}
