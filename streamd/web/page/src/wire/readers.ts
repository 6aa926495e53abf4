/** Who reads which frames of the socket. Knows nothing of the socket itself. */
import type { AlertsFrame, FleetFrame, FleetQuery, ForecastFrame, ForecastQuery, ForecastsFrame } from "./types";

/** What one reader wants; in an update, null ends a kind. */
export interface Wanted {
  forecasts?: ForecastQuery | null;
  fleet?: FleetQuery | null;
  alerts?: { servers?: string[]; rules?: string[] } | null;
}

export type Kind = keyof Wanted;
export const KINDS: readonly Kind[] = ["forecasts", "fleet", "alerts"];

export interface Handlers {
  onForecast?: (frame: ForecastFrame) => void;
  onForecasts?: (frame: ForecastsFrame) => void;
  onFleet?: (frame: FleetFrame) => void;
  onAlerts?: (frame: AlertsFrame) => void;
  /** Called when the daemon took the newest query of the fleet; frames that come now belong to it. */
  onFleetSubscribed?: () => void;
  /** Called when the connection stands again, for what was missed. */
  onConnected?: () => void;
  /** Called when this page read too slowly and forecasts were left out; each server's newest one still comes. */
  onLagged?: (dropped: number) => void;
  onError?: (message: string) => void;
}

export interface Reader {
  wanted: Wanted;
  readonly handlers: Handlers;
}

/** The readers. A socket has one choice of each kind, so of several readers the newest one gets it. */
export class Readers {
  private readers: readonly Reader[] = [];

  add(wanted: Wanted, handlers: Handlers): Reader {
    const reader = { wanted, handlers };
    this.readers = [...this.readers, reader];
    return reader;
  }

  remove(reader: Reader): void {
    this.readers = this.readers.filter((each) => each !== reader);
  }

  get all(): readonly Reader[] {
    return this.readers;
  }

  /** The reader that gets the frames of a kind. */
  owner(kind: Kind): Reader | undefined {
    return this.readers.findLast((each) => each.wanted[kind] != null);
  }

  /** The reader that an update of a kind belongs to: the one that has it, else the newest. */
  ownerOfUpdate(kind: Kind): Reader | undefined {
    return this.owner(kind) ?? this.readers.at(-1);
  }
}

/**
 * Holds back the frames of a former choice until the daemon has answered the new one.
 *
 * Without it the frames that were on the way would be taken for those of the new reader.
 */
export class Gate {
  private readonly unanswered: Record<Kind, number> = { forecasts: 0, fleet: 0, alerts: 0 };
  private readonly closedFor: Record<Kind, number> = { forecasts: 0, fleet: 0, alerts: 0 };

  /** Take note of a message; `isOther`: frames of what was wanted before are of no use. */
  noteSent(kind: Kind, isOther: boolean): void {
    this.unanswered[kind] += 1;
    if (isOther) this.closedFor[kind] = this.unanswered[kind];
  }

  noteAnswered(kind: Kind): void {
    this.unanswered[kind] = Math.max(0, this.unanswered[kind] - 1);
    this.closedFor[kind] = Math.max(0, this.closedFor[kind] - 1);
  }

  /** Let everything through: a refused message gets no answer, and the daemon does not say which one it was. */
  open(): void {
    for (const kind of KINDS) this.unanswered[kind] = this.closedFor[kind] = 0;
  }

  isOpen(kind: Kind): boolean {
    return this.closedFor[kind] === 0;
  }
}

/** Whether a query of the fleet differs from another in more than the part of the list that is seen. */
export function isOtherList(one: FleetQuery | null | undefined, other: FleetQuery | null | undefined): boolean {
  const identity = (query: FleetQuery | null | undefined) =>
    JSON.stringify(Object.entries({ ...query, offset: null, limit: null }).sort(([a], [b]) => a.localeCompare(b)));
  return identity(one) !== identity(other);
}
