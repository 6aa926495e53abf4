/** The cells of a row: what is wrong, the time until the threshold, the picture of the forecast, its age. */
import type { VNode } from "preact";
import { useMemo } from "preact/hooks";
import { showName } from "../../format/names";
import { describeThreshold } from "../../format/crossings";
import { formatTime } from "../../format/times";
import { Badge } from "../../ui/basics";
import type { Crossing, FleetServer } from "../../wire/types";
import { targetOf, thresholdOf, useFleet } from "./context";
import { describeAge, describeUntil, layRange } from "./crossings";
import { listProblems } from "./problems";
import { isGroup, type FleetRow } from "./rows";
import { drawSpark } from "./sparkline";

const WIDTH = 160;
const HEIGHT = 26;

export function Problems({ row }: { row: FleetServer }) {
  const { feed, rules } = useFleet();
  const problems = listProblems(row, rules, feed.present.value);
  if (problems.length === 0) return <span class="faint">nothing</span>;
  const badges = problems.map(({ tone, text, detail, title }) => (
    <Badge key={text} tone={tone} title={`${text}${detail}. ${title}`}>
      <span class="fleet-problem">
        {text}
        <span class="fleet-detail">{detail}</span>
      </span>
    </Badge>
  ));
  return <Folded badges={badges} words={problems.map(({ text, detail }) => text + detail)} />;
}

/** The first badges, as many as there is space for, and the number of the others; `words` says each. */
export function Folded({ badges, words }: { badges: VNode[]; words: string[] }) {
  return (
    <>
      <span class="fleet-badges">
        {badges[0]}
        {badges.length > 1 && <span class="fleet-second">{badges[1]}</span>}
      </span>
      <More className="fleet-wide" words={words.slice(2)} />
      <More className="fleet-narrow" words={words.slice(1)} />
    </>
  );
}

/** How many more there are, and for a tooltip and for screen readers what they are. */
function More({ words, className = "" }: { words: string[]; className?: string }) {
  if (words.length === 0) return null;
  return (
    <span class={`fleet-plus ${className}`} title={words.join("\n")}>
      +{words.length}
      <span class="visually-hidden"> more: {words.join("; ")}</span>
    </span>
  );
}

export function Until(props: {
  crossing: Crossing | null;
  further?: readonly Crossing[];
  origin: number | null;
  /** Targets of which nothing is forecast. */
  unknown?: readonly string[];
}) {
  const { crossing, origin, unknown = [] } = props;
  const { feed, rules, contract, target } = useFleet();
  if (crossing === null) {
    const known = unknown.includes(target) ? "unknown" : "not in sight";
    return <span class="faint">{rules.size === 0 ? "no rule" : known}</span>;
  }
  const { main, clock, note, whole } = describeUntil(crossing, feed.present.value);
  const isLikely = crossing.crosses_at.likely !== null;
  return (
    <div class={`fleet-until tone-${isLikely ? crossing.severity : "muted"}`} title={whole}>
      <span class="fleet-times">
        <strong>{main}</strong>
        {clock !== "" && <span class="fleet-clock soft">{clock}</span>}
        <span class="fleet-note soft">{note}</span>
        <More words={(props.further ?? []).map((each) => describeUntil(each, feed.present.value).whole)} />
      </span>
      {contract !== undefined && (
        <RangeOnAxis
          crossing={crossing}
          start={origin ?? feed.present.peek()}
          length={contract.horizon * contract.step_seconds}
        />
      )}
    </div>
  );
}

/** The range of a crossing on the axis of the forecast. The words beside it say the same, so it is hidden from readers. */
function RangeOnAxis(props: { crossing: Crossing; start: number; length: number }) {
  const bar = layRange(props.crossing.crosses_at, props.start, props.length);
  if (bar === null) return null;
  const percent = (share: number) => `${(share * 100).toFixed(1)}%`;
  return (
    <span class="fleet-axis" aria-hidden="true">
      <span
        class={bar.isOpen ? "fleet-range is-open" : "fleet-range"}
        style={{ left: percent(bar.from), width: percent(Math.max(0.005, bar.to - bar.from)) }}
      />
      {bar.likely !== null && <span class="fleet-likely" style={{ left: percent(bar.likely) }} />}
    </span>
  );
}

/** The forecast of a server, or of that server of a group which is first at its threshold. */
export function Picture({ row }: { row: FleetRow }) {
  const fleet = useFleet();
  const server = isGroup(row) ? row.crossing?.server : row.server;
  const target = targetOf(row, fleet);
  const threshold = thresholdOf(row, target, fleet);
  const curve = server === undefined ? undefined : fleet.feed.curves.of(server).value?.get(target);
  const spark = useMemo(() => curve && drawSpark(curve, WIDTH, HEIGHT, threshold), [curve, threshold]);
  if (server === undefined || (!isGroup(row) && row.forecast_origin === null)) return null;
  const caption = row.crossing === null ? captionOf(row, target) : describeThreshold(row.crossing);
  return (
    <div class="fleet-picture" data-origin={curve?.origin}>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" aria-hidden="true">
        {spark && (
          <>
            <path class="fleet-band" d={spark.band} />
            <path class="fleet-median" d={spark.median} />
            {spark.threshold !== null && (
              <line class="fleet-threshold" x1="0" x2={WIDTH} y1={spark.threshold} y2={spark.threshold} />
            )}
          </>
        )}
      </svg>
      <small class="faint">{isGroup(row) ? `${showName(server)}: ${caption}` : caption}</small>
    </div>
  );
}

/** The target of a picture without a crossing; its picture is empty if it is unknown. */
function captionOf(row: FleetRow, target: string): string {
  return !isGroup(row) && row.unknown.includes(target) ? `${target}: not sent` : target;
}

export function ForecastAge({ at, origin }: { at: number | null; origin: number | null }) {
  const { present } = useFleet().feed;
  if (at === null) return <span class="faint">–</span>;
  const title = `Forecast of ${formatTime(at)}; newest row ended ${origin === null ? "never" : formatTime(origin)}`;
  return <span title={title}>{describeAge(present.value - at).replace("less than", "<")}</span>;
}
