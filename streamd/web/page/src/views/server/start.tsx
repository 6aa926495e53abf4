/** No server is chosen yet: the search, and those that need attention first. */
import { useRef } from "preact/hooks";
import { linkTo } from "../../routing";
import { Badge, ErrorNote, Loading, Panel } from "../../ui/basics";
import { useShortcut } from "../../ui/keys";
import { useResource } from "../../ui/resource";
import { DataTable } from "../../ui/table";
import { ViewHead } from "../../ui/view";
import { getJson } from "../../wire/api";
import { showName } from "../../format/names";
import { describeThreshold } from "../../format/crossings";
import { now } from "../../format/times";
import type { Crossing, FleetServer } from "../../wire/types";
import { CONDITION_TONES } from "./freshness";
import { describeCrossing } from "./crossings";
import { moveFocus } from "./focus";
import { Picker } from "./picker";

const WORST = 15;

export function ServerStart() {
  const worst = useResource(
    (signal) => getJson<{ servers: FleetServer[]; total: number }>("v1/fleet", { limit: WORST }, signal),
    [],
    30,
  );
  const rows = worst.data?.servers ?? [];
  const list = useRef<HTMLDivElement>(null);
  useShortcut("j", "next server", () => moveFocus(list.current, ".server-name", 1));
  useShortcut("k", "previous server", () => moveFocus(list.current, ".server-name", -1));
  return (
    <div class="stack" ref={list}>
      <ViewHead title="Server" note="Choose a server, to see its history and its forecast." />
      <Picker server="" />
      <Panel title="Worst first">
        {worst.error !== undefined && <ErrorNote error={worst.error} onRetry={worst.reload} />}
        {worst.data === undefined && worst.isLoading && <Loading what="servers" />}
        {worst.data !== undefined && (
          <DataTable
            caption="Servers, worst first"
            rows={rows}
            rowKey={({ server }) => server}
            empty={<p class="soft">No server has reported yet.</p>}
            columns={[
              { key: "server", label: "Server", cell: ServerLink },
              { key: "condition", label: "Condition", cell: ServerCondition },
              { key: "ahead", label: "What lies ahead", cell: ({ crossing }) => describeAhead(crossing, now.value) },
            ]}
          />
        )}
      </Panel>
    </div>
  );
}

function ServerLink({ server }: FleetServer) {
  return (
    <a class="server-name" href={linkTo("servers", { server })}>
      {showName(server)}
    </a>
  );
}

function ServerCondition({ condition, alerts }: FleetServer) {
  const firing = alerts.filter(({ state, silenced_until }) => state === "firing" && silenced_until === null);
  return (
    <span class="cluster">
      <Badge tone={CONDITION_TONES[condition]}>{condition}</Badge>
      {firing.map(({ rule, severity }) => (
        <Badge key={rule} tone={severity}>
          {rule} fires
        </Badge>
      ))}
    </span>
  );
}

function describeAhead(crossing: Crossing | null, present: number): string {
  if (crossing === null) return "no threshold within the forecast";
  return `${describeThreshold(crossing)}: ${describeCrossing(crossing.crosses_at, present)}`;
}
