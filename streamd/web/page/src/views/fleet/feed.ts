/**
 * What the view shows, kept current over the WebSocket: the part of the ranked list around the reader, and the
 * forecasts of the servers in view.
 */
import { batch, computed, signal } from "@preact/signals";
import { globOfName } from "../../format/names";
import { now } from "../../format/times";
import { live } from "../../wire/live";
import type { FleetFrame, FleetQuery } from "../../wire/types";
import { LoadedCurves } from "./curves";
import { Hold } from "./hold";
import { isGroup, LoadedRows, type FleetRow } from "./rows";
import { throttle } from "./throttle";
import { pageOf, type RowRange } from "./windowing";

/** How forecasts are asked for; null while the contract of the model is not known. */
export interface CurveChoice {
  quantiles: number[];
  targetOf: (row: FleetRow) => string;
}

const PAGE_MS = 100;
const FORECASTS_MS = 500;
const FIRST_RANGE: RowRange = { first: 0, end: 40 };
/** Forecasts gather for so long: each frame costs the daemon and the page more than what is in it. */
const INTERVAL_SECONDS = 1;
/** Every fourth step is enough for a picture of this size. */
const EVERY = 4;
const NOTHING = { servers: new Set<string>(), targets: new Set<string>() };

export class FleetFeed {
  readonly rows = new LoadedRows();
  readonly curves = new LoadedCurves();
  readonly hold = new Hold();
  /** The daemon's refusal of a query, in its words. */
  readonly refusal = signal<string | null>(null);
  /** The number of queries that were answered: the list goes back to its top with each. */
  readonly answered = signal(0);
  /** The present in steps of ten seconds, so that ages do not draw the rows each second. */
  readonly present = computed(() => Math.floor(now.value / 10) * 10);
  private query: FleetQuery = {};
  private range = FIRST_RANGE;
  /** Whether the rows are still those of the former query. */
  private isAwaiting = true;
  private curveChoice: CurveChoice | null = null;
  private asked = NOTHING;
  private stop: (() => void) | null = null;
  private page = throttle(() => live.update({ fleet: this.wholeQuery() }), PAGE_MS);
  private forecasts = throttle(() => this.askForecasts(), FORECASTS_MS);

  /** Begin; call `close` in the end. */
  open(query: FleetQuery): void {
    this.query = query;
    this.asked = NOTHING;
    this.stop = live.subscribe(
      { fleet: this.wholeQuery() },
      {
        onFleet: (frame) => this.take(frame),
        onForecasts: (frame) => batch(() => this.curves.takeBatch(frame)),
        onError: (message) => (this.refusal.value = message),
      },
    );
  }

  close(): void {
    this.page.cancel();
    this.forecasts.cancel();
    this.stop?.();
    this.stop = null;
  }

  /** Ask for other servers; the former ones stay in view until the answer comes. */
  choose(query: FleetQuery): void {
    this.query = query;
    this.range = FIRST_RANGE;
    this.isAwaiting = true;
    this.refusal.value = null;
    this.page.cancel();
    this.page.call();
  }

  /** Say which rows are in view, or nearly. */
  show(range: RowRange): void {
    const former = pageOf(this.range);
    this.range = range;
    this.rows.keepNear(range);
    const next = pageOf(range);
    if (former.offset !== next.offset || former.limit !== next.limit) this.page.call();
    this.forecasts.call();
  }

  /** Say which curves are drawn. */
  chooseCurves(choice: CurveChoice): void {
    this.curveChoice = choice;
    this.asked = NOTHING;
    this.forecasts.call();
  }

  /** Show the newest order if nothing keeps the former one. */
  settleOrder(): void {
    if (this.rows.hasOtherOrder.peek() && !this.hold.isHeld(performance.now())) this.rows.apply();
  }

  private wholeQuery(): FleetQuery {
    return { ...this.query, ...pageOf(this.range) };
  }

  private take(frame: FleetFrame): void {
    batch(() => {
      const isFirst = this.isAwaiting;
      if (isFirst) {
        this.rows.reset();
        this.refusal.value = null;
      }
      this.isAwaiting = false;
      const lacks = this.rows.take(frame, !isFirst && this.hold.isHeld(performance.now()));
      if (isFirst) this.answered.value += 1;
      if (lacks) this.page.call();
    });
    this.forecasts.call();
  }

  /** Subscribe to the forecasts in view, unless those that are subscribed already have them all. */
  private askForecasts(): void {
    const choice = this.curveChoice;
    if (choice === null) return;
    const servers = new Set<string>();
    const targets = new Set<string>();
    for (const row of this.rows.inRange(this.range)) {
      const server = isGroup(row) ? row.crossing?.server : row.server;
      if (server === undefined) continue;
      servers.add(server);
      targets.add(choice.targetOf(row));
    }
    if (servers.size === 0 || this.hasAsked(servers, targets)) return;
    this.asked = { servers, targets };
    for (const server of servers) this.curves.of(server);
    this.curves.keep(servers);
    const wanted = { servers: [...servers].map(globOfName), targets: [...targets], quantiles: choice.quantiles };
    live.update({ forecasts: { ...wanted, every: EVERY, batch: true, interval_seconds: INTERVAL_SECONDS } });
  }

  /** Whether the subscription has all of these, and not much more: each new one sends all forecasts again. */
  private hasAsked(servers: ReadonlySet<string>, targets: ReadonlySet<string>): boolean {
    return (
      [...servers].every((server) => this.asked.servers.has(server)) &&
      [...targets].every((target) => this.asked.targets.has(target)) &&
      this.asked.servers.size <= 2 * servers.size + 20
    );
  }
}
