/** One row of the list: a server, a group of servers, or a place that is not loaded yet. */
import type { ReadonlySignal } from "@preact/signals";
import { showName } from "../../format/names";
import { formatWhole } from "../../format/values";
import { linkTo } from "../../routing";
import { Badge, type Tone } from "../../ui/basics";
import type { FleetGroup, FleetServer } from "../../wire/types";
import { Folded, ForecastAge, Picture, Problems, Until } from "./cells";
import { useFleet } from "./context";
import { linkOfGroup } from "./opening";
import { isGroup } from "./rows";

export const ROW_ID = "fleet-row-";

export function Row(props: { index: number; height: number; active: ReadonlySignal<number> }) {
  const { index, height } = props;
  const row = useFleet().feed.rows.place(index).value;
  const isActive = props.active.value === index;
  return (
    <div
      role="row"
      id={`${ROW_ID}${index}`}
      class={`fleet-row fleet-columns${isActive ? " is-active" : ""}`}
      aria-rowindex={index + 2 /* the head is the first row */}
      aria-selected={isActive}
      data-index={index}
      style={{ transform: `translateY(${index * height}px)`, height: `${height}px` }}
    >
      {row === undefined ? <Placeholder /> : isGroup(row) ? <GroupCells row={row} /> : <ServerCells row={row} />}
    </div>
  );
}

function Placeholder() {
  return (
    <div role="gridcell" class="fleet-name">
      <span class="fleet-placeholder">loading …</span>
    </div>
  );
}

function ServerCells({ row }: { row: FleetServer }) {
  const fleet = useFleet();
  const target = row.crossing?.target ?? fleet.target;
  return (
    <>
      <div role="gridcell" class="fleet-name">
        <a href={linkTo("servers", { server: row.server, target })} tabIndex={-1} title={showName(row.server)}>
          {showName(row.server)}
        </a>
      </div>
      <div role="gridcell" class="fleet-wrong">
        <Problems row={row} />
      </div>
      <div role="gridcell" class="fleet-when">
        <Until crossing={row.crossing} further={row.further} origin={row.forecast_origin} unknown={row.unknown} />
      </div>
      <div role="gridcell" class="fleet-curve">
        <Picture row={row} />
      </div>
      <div role="gridcell" class="fleet-age">
        <ForecastAge at={row.forecast_origin} origin={row.origin} />
      </div>
    </>
  );
}

function GroupCells({ row }: { row: FleetGroup }) {
  return (
    <>
      <div role="gridcell" class="fleet-name">
        <a href={linkOfGroup(row.prefix)} tabIndex={-1} title={`The servers of the group ${showName(row.prefix)}*`}>
          {showName(row.prefix)}*
        </a>
      </div>
      <div role="gridcell" class="fleet-wrong">
        <Counts row={row} />
      </div>
      <div role="gridcell" class="fleet-when">
        <Until crossing={row.crossing} origin={null} />
      </div>
      <div role="gridcell" class="fleet-curve">
        <Picture row={row} />
      </div>
      <div role="gridcell" class="fleet-age">
        {formatWhole(row.servers)}
      </div>
    </>
  );
}

function Counts({ row }: { row: FleetGroup }) {
  const counts: { tone: Tone; count: number; what: string }[] = [
    { tone: "critical", count: row.firing, what: "firing" },
    { tone: "warning", count: row.stale, what: "stale" },
    { tone: "info", count: row.warming, what: "warming" },
    { tone: "info", count: row.pending, what: "without a forecast" },
  ];
  const wrong = counts.filter(({ count }) => count > 0);
  if (wrong.length === 0) return <span class="faint">nothing</span>;
  const badges = wrong.map(({ tone, count, what }) => (
    <Badge key={what} tone={tone}>
      {formatWhole(count)} {what}
    </Badge>
  ));
  return <Folded badges={badges} words={wrong.map(({ count, what }) => `${count} ${what}`)} />;
}
