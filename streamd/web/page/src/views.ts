/** The views of the page, in the order of its navigation. */
import type { ComponentType } from "preact";
import type { View } from "./routing";
import { AccuracyView } from "./views/accuracy";
import { AlertsView } from "./views/alerts";
import { FleetView } from "./views/fleet";
import { OperationsView } from "./views/operations";
import { ServerView } from "./views/server";

export interface ViewEntry {
  view: View;
  label: string;
  /** The second key after `g`. */
  key: string;
  component: ComponentType;
}

export const VIEW_ENTRIES: readonly ViewEntry[] = [
  { view: "fleet", label: "Fleet", key: "f", component: FleetView },
  { view: "servers", label: "Server", key: "s", component: ServerView },
  { view: "alerts", label: "Alerts", key: "l", component: AlertsView },
  { view: "accuracy", label: "Accuracy", key: "a", component: AccuracyView },
  { view: "operations", label: "Operations", key: "o", component: OperationsView },
];
