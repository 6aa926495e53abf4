/** The WebSocket of the page: one connection, which is opened again whenever it is lost, and then asks for the same. */
import { effect, type ReadonlySignal, signal, untracked } from "@preact/signals";
import { addressOf } from "./api";
import { noteAnswer, returns, silentSince } from "./reach";
import { Gate, type Handlers, isOtherList, type Kind, KINDS, type Reader, Readers, type Wanted } from "./readers";
import { findRefusal, socketProtocols } from "./refusal";
import { Retry } from "./retry";
import { token, tokenWanted } from "./session";
import type { AlertsFrame, FleetFrame, ForecastFrame, ForecastsFrame } from "./types";
import { watchWake } from "./wake";

export type { Handlers, Wanted } from "./readers";

/** `refused`: the daemon answers, but does not let this token subscribe; see `refusal`. */
export type Connection = "idle" | "connecting" | "connected" | "lost" | "refused";

const REFUSED_RETRY_MS = 30_000;
/** How long frames of a kind, or the socket, stay when no view wants them: a change of views is shorter. */
const LINGER_MS = 1_000;
/** The close code for a token that is gone. */
const POLICY_VIOLATION = 1008;

const KIND_OF_ANSWER: Record<string, Kind> = {
  subscribed: "forecasts",
  "subscribed-fleet": "fleet",
  "subscribed-alerts": "alerts",
};

interface Frame {
  type: string;
  message?: string;
  dropped?: number;
}

export class Live {
  readonly connection = signal<Connection>("idle");
  /** Why the daemon refuses this socket, in its words. */
  readonly refusal = signal<string | null>(null);

  private readonly retry = new Retry();
  /** When the next attempt to connect begins, in milliseconds of `Date.now()`; null while none is planned. */
  readonly retryAt: ReadonlySignal<number | null> = this.retry.at;
  private readonly readers = new Readers();
  private socket: WebSocket | null = null;
  private gate = new Gate();
  /** The kinds that this socket sends. */
  private sent = new Set<Kind>();
  private openedAt = 0;
  /** The sockets in a row that did not open, though the daemon would have let them in. */
  private unopened = 0;
  private lingerTimer: ReturnType<typeof setTimeout> | undefined;

  constructor() {
    this.followToken();
    // A daemon that answers calls again may let the socket in; and one that stands since before broke unnoticed.
    effect(() => {
      if (returns.value > 0) untracked(() => (this.isStale ? this.renew() : this.retryNow()));
    });
    watchWake({
      onHiddenForLong: () => this.drop(),
      onSeen: () => (this.retry.isPlanned ? this.retryNow() : this.connect()),
      onOnline: () => this.retryNow(),
      onAwake: () => this.isOpen && this.renew(),
    });
  }

  /** Want frames, in place of what earlier readers want of the same kinds; returns a function that ends it. */
  subscribe(wanted: Wanted, handlers: Handlers): () => void {
    const reader = this.readers.add({ ...wanted }, handlers);
    if (this.isOpen) for (const kind of KINDS) if (wanted[kind] != null) this.sendKind(kind, true);
    if (!this.isOpen) this.connect();
    return () => this.end(reader);
  }

  /** Change some kinds of what is wanted, for example when a list is scrolled; null ends a kind. */
  update(change: Wanted): void {
    for (const kind of KINDS) {
      const next = change[kind];
      if (next === undefined) continue;
      const reader = this.readers.ownerOfUpdate(kind);
      if (reader === undefined) continue;
      const former = reader.wanted;
      reader.wanted = { ...former, [kind]: next };
      if (this.isOpen && next !== null) {
        this.sendKind(kind, kind === "fleet" ? isOtherList(former.fleet, reader.wanted.fleet) : true);
      }
    }
    this.endUnwantedSoon();
  }

  /** Try to connect at once, if a connection is wanted and there is none. */
  retryNow(): void {
    if (!this.retry.isPlanned) return;
    this.retry.reset();
    this.connect();
  }

  private get isOpen(): boolean {
    return this.socket?.readyState === WebSocket.OPEN;
  }

  private get isStale(): boolean {
    return this.isOpen && this.openedAt < silentSince();
  }

  private get isWanted(): boolean {
    return this.readers.all.length > 0;
  }

  // ------------------------------------------------------------ the connection
  private followToken(): void {
    let usedToken = token.peek();
    let wasWanted = tokenWanted.peek() !== null;
    effect(() => {
      const isOther = token.value !== usedToken;
      const isAdmitted = wasWanted && tokenWanted.value === null;
      usedToken = token.value;
      wasWanted = tokenWanted.value !== null;
      if (isOther || isAdmitted) untracked(() => this.renew());
    });
  }

  private connect(): void {
    this.retry.cancel();
    if (!this.isWanted || document.hidden || tokenWanted.peek() !== null) return;
    if (this.socket !== null && this.socket.readyState <= WebSocket.OPEN) return;
    if (this.connection.peek() === "idle") this.connection.value = "connecting";
    const url = addressOf("v1/forecasts");
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url, socketProtocols(token.peek()));
    this.socket = socket;
    let wasOpen = false;
    // A socket that was replaced may still report something; it counts no more.
    socket.onopen = () => {
      wasOpen = true;
      if (this.socket === socket) this.greet();
    };
    socket.onmessage = (event) => {
      if (this.socket === socket) this.receive(String(event.data));
    };
    socket.onclose = (event) => {
      // A socket that was refused, or whose token is gone, looks much like one that broke.
      if (this.socket === socket) void this.noteClosed(!wasOpen || event.code === POLICY_VIOLATION);
    };
  }

  private greet(): void {
    this.retry.reset();
    this.openedAt = Date.now();
    this.unopened = 0;
    noteAnswer();
    this.gate = new Gate();
    this.sent = new Set();
    this.connection.value = "connected";
    this.refusal.value = null;
    for (const kind of KINDS) this.sendKind(kind, true);
    for (const reader of this.readers.all) reader.handlers.onConnected?.();
  }

  private async noteClosed(mayBeRefused: boolean): Promise<void> {
    const closed = this.socket;
    this.connection.value = "lost";
    if (!this.isWanted) return this.drop();
    const finding = mayBeRefused ? await findRefusal(this.unopened) : "away";
    if (this.socket !== closed || !this.isWanted) return;
    this.unopened = finding === "admitted" ? this.unopened + 1 : 0;
    if (typeof finding === "string") return this.retry.plan(() => this.connect());
    this.connection.value = "refused";
    this.refusal.value = finding.message;
    // Without a token the page asks for one, and connects when it has it.
    if (finding.status !== 401) this.retry.plan(() => this.connect(), REFUSED_RETRY_MS);
  }

  /** Connect anew, with the token and the wishes of now. */
  private renew(): void {
    this.closeSocket();
    if (this.isWanted) this.connect();
    else this.drop();
  }

  /** End the connection until somebody wants it. */
  private drop(): void {
    this.retry.cancel();
    this.closeSocket();
    this.connection.value = "idle";
    this.refusal.value = null;
  }

  private closeSocket(): void {
    const socket = this.socket;
    this.socket = null;
    this.sent = new Set();
    socket?.close(1000);
  }

  // ------------------------------------------------------------ what is wanted
  private end(reader: Reader): void {
    const owned = KINDS.filter((kind) => this.readers.owner(kind) === reader);
    this.readers.remove(reader);
    if (this.isOpen) for (const kind of owned) this.sendKind(kind, true);
    this.endUnwantedSoon();
  }

  private endUnwantedSoon(): void {
    clearTimeout(this.lingerTimer);
    this.lingerTimer = setTimeout(() => (this.isWanted ? this.endUnwanted() : this.drop()), LINGER_MS);
  }

  private endUnwanted(): void {
    const of = [...this.sent].filter((kind) => this.readers.owner(kind) === undefined);
    if (of.length === 0) return;
    for (const kind of of) this.sent.delete(kind);
    this.send({ type: "unsubscribe", of });
  }

  private sendKind(kind: Kind, isOther: boolean): void {
    const wanted = this.readers.owner(kind)?.wanted;
    if (wanted?.[kind] == null) return;
    this.sent.add(kind);
    this.gate.noteSent(kind, isOther);
    // With the id 0, the latest forecast of each server comes first.
    if (kind === "forecasts") this.send({ type: "subscribe", ...wanted.forecasts, ids: true, last_event_id: 0 });
    else if (kind === "fleet") this.send({ type: "subscribe-fleet", ...wanted.fleet });
    else this.send({ type: "subscribe-alerts", ...wanted.alerts });
  }

  private send(message: object): void {
    this.socket?.send(JSON.stringify(message));
  }

  // ------------------------------------------------------------ frames
  private receive(text: string): void {
    let frame: Frame;
    try {
      frame = JSON.parse(text) as Frame;
    } catch {
      return this.report("A frame of the daemon is not JSON.");
    }
    const answered = KIND_OF_ANSWER[frame.type];
    if (answered !== undefined) this.noteAnswered(answered);
    else if (frame.type === "error") this.report(frame.message ?? "The daemon refused a message.");
    else this.deliver(frame);
  }

  private noteAnswered(kind: Kind): void {
    this.gate.noteAnswered(kind);
    if (kind === "fleet" && this.gate.isOpen(kind)) this.readers.owner(kind)?.handlers.onFleetSubscribed?.();
  }

  private deliver(frame: Frame): void {
    const kind: Kind = frame.type === "fleet" || frame.type === "alerts" ? frame.type : "forecasts";
    const handlers = this.gate.isOpen(kind) ? this.readers.owner(kind)?.handlers : undefined;
    if (frame.type === "forecast") handlers?.onForecast?.(frame as unknown as ForecastFrame);
    else if (frame.type === "forecasts") handlers?.onForecasts?.(frame as unknown as ForecastsFrame);
    else if (frame.type === "fleet") handlers?.onFleet?.(frame as unknown as FleetFrame);
    else if (frame.type === "alerts") handlers?.onAlerts?.(frame as unknown as AlertsFrame);
    else if (frame.type === "lagged") handlers?.onLagged?.(frame.dropped ?? 0);
  }

  private report(message: string): void {
    this.gate.open();
    for (const reader of this.readers.all) reader.handlers.onError?.(message);
  }
}

export const live = new Live();
