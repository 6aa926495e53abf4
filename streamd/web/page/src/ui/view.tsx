/** The head of a view: its title, which is also that of the tab, and the actions beside it. */
import { signal } from "@preact/signals";
import type { ComponentChildren } from "preact";
import { useEffect } from "preact/hooks";

/** The title of the view that is open. */
export const viewTitle = signal("");

/** The title of the tab: what fires comes first, since narrow tabs show little. */
export function composeTitle(title: string, firing: number): string {
  const name = title === "" ? "streamd" : `${title} · streamd`;
  return firing > 0 ? `(${firing}) ${name}` : name;
}

/** One for each view. The heading gets the focus upon navigation. */
export function ViewHead(props: { title: string; note?: ComponentChildren; actions?: ComponentChildren }) {
  useEffect(() => {
    viewTitle.value = props.title;
    return () => {
      viewTitle.value = "";
    };
  }, [props.title]);
  return (
    <header class="view-head">
      <div>
        <h1 tabIndex={-1}>{props.title}</h1>
        {props.note !== undefined && <p>{props.note}</p>}
      </div>
      {props.actions !== undefined && <div class="view-head-actions">{props.actions}</div>}
    </header>
  );
}
