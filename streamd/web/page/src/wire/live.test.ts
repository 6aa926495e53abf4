import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { Live } from "./live";
import { noteAnswer, noteSilence } from "./reach";
import { setToken, tokenWanted } from "./session";
import type { FleetFrame, ForecastFrame } from "./types";

type Message = Record<string, unknown>;

/** A socket whose daemon is the test. */
class FakeSocket {
  static readonly OPEN = 1;
  static all: FakeSocket[] = [];
  readyState = 0;
  sent: Message[] = [];
  onopen: (() => void) | null = null;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number }) => void) | null = null;

  constructor(
    readonly url: URL,
    readonly protocols: string[],
  ) {
    FakeSocket.all.push(this);
  }

  static get last(): FakeSocket {
    const last = FakeSocket.all.at(-1);
    if (last === undefined) throw new Error("no socket was opened");
    return last;
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Message);
  }

  close(): void {
    this.end(1000);
  }

  open(): this {
    this.readyState = FakeSocket.OPEN;
    this.onopen?.();
    return this;
  }

  end(code: number): void {
    this.readyState = 3;
    this.onclose?.({ code });
  }

  receive(frame: Message): void {
    this.onmessage?.({ data: JSON.stringify(frame) });
  }
}

let live: Live;
/** Ends what the tests wanted: each `Live` follows the token of the page. */
let ends: (() => void)[];
let answer: () => Response;
let probes: { method: string; url: string }[];
const forecast = (server: string) => ({ type: "forecast", server });
const fleet = (offset: number) => ({ type: "fleet", offset });
const sentTypes = (socket: FakeSocket) => socket.sent.map((each) => each["type"]);
/** The answers of calls, and what waits for them. */
const settle = () => vi.advanceTimersByTimeAsync(0);

beforeEach(() => {
  vi.useFakeTimers();
  FakeSocket.all = [];
  probes = [];
  answer = () => new Response("", { status: 200 });
  vi.stubGlobal("WebSocket", FakeSocket);
  vi.stubGlobal("fetch", (url: URL, init: RequestInit) => {
    probes.push({ method: init.method ?? "GET", url: url.href });
    return Promise.resolve().then(answer);
  });
  setToken("");
  noteAnswer();
  live = new Live();
  ends = [];
  const subscribe = live.subscribe.bind(live);
  vi.spyOn(live, "subscribe").mockImplementation((...wanted) => {
    const end = subscribe(...wanted);
    ends.push(end);
    return end;
  });
});
afterEach(() => {
  for (const end of ends) end();
  vi.runOnlyPendingTimers();
  setToken("");
  vi.unstubAllGlobals();
  vi.useRealTimers();
});

describe("the connection", () => {
  it("is opened for the first reader, below the address of the page", () => {
    expect(FakeSocket.all).toHaveLength(0);
    live.subscribe({ fleet: {} }, {});
    expect(FakeSocket.last.url.href).toMatch(/^ws:.*\/v1\/forecasts$/);
    expect(live.connection.value).toBe("connecting");
    FakeSocket.last.open();
    expect(live.connection.value).toBe("connected");
    expect(FakeSocket.last.sent).toEqual([{ type: "subscribe-fleet" }]);
  });

  it("offers the token as a protocol, percent-encoded, and never in the address", () => {
    setToken("a b(c)/é");
    live.subscribe({ fleet: {} }, {});
    expect(FakeSocket.last.protocols).toEqual(["streamd", "streamd.token.a%20b%28c%29%2F%C3%A9"]);
    expect(FakeSocket.last.url.href).not.toContain("token");
  });

  it("is opened again when it is lost, and asks for the same", async () => {
    const onConnected = vi.fn();
    live.subscribe({ forecasts: { servers: ["a"] }, alerts: {} }, { onConnected });
    FakeSocket.last.open().end(1006);
    expect(live.connection.value).toBe("lost");
    expect(live.retryAt.value).not.toBeNull();
    await vi.advanceTimersByTimeAsync(400);
    FakeSocket.last.open();
    expect(FakeSocket.all).toHaveLength(2);
    expect(sentTypes(FakeSocket.last)).toEqual(["subscribe", "subscribe-alerts"]);
    expect(onConnected).toHaveBeenCalledTimes(2);
    expect(live.retryAt.value).toBeNull();
  });

  it("is tried again after longer and longer waits, ten seconds or so at most", async () => {
    live.subscribe({ fleet: {} }, {});
    const waits: number[] = [];
    for (let attempt = 0; attempt < 12; attempt += 1) {
      FakeSocket.last.end(1006);
      answer = () => {
        throw new TypeError("Failed to fetch");
      };
      await settle();
      waits.push((live.retryAt.value ?? 0) - Date.now());
      await vi.advanceTimersByTimeAsync(20_000);
    }
    expect(Math.max(...waits)).toBeLessThan(13_000);
    expect(waits[0]).toBeLessThan(400);
    expect(waits.at(-1)).toBeGreaterThan(7_000);
  });

  it("is tried at once when the network is back", async () => {
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open().end(1006);
    await settle();
    window.dispatchEvent(new Event("online"));
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("is tried at once when the daemon answers calls again", async () => {
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open();
    noteSilence();
    FakeSocket.last.end(1006);
    noteAnswer();
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("is made anew if it stood through a silence of the daemon", () => {
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open();
    vi.advanceTimersByTime(1_000);
    noteSilence();
    noteAnswer();
    expect(FakeSocket.all).toHaveLength(2);
    expect(FakeSocket.all[0]?.readyState).toBe(3);
  });

  it("is made anew after the device was asleep", () => {
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open();
    vi.setSystemTime(Date.now() + 600_000);
    vi.advanceTimersByTime(10_000);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("is made anew with another token", () => {
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open();
    setToken("other");
    expect(FakeSocket.all).toHaveLength(2);
    expect(FakeSocket.last.protocols[1]).toBe("streamd.token.other");
  });

  it("ends when no view listens for a while, but not while the reader changes views", () => {
    live.subscribe({ fleet: {} }, {})();
    const end = live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open();
    vi.advanceTimersByTime(5_000);
    expect(FakeSocket.last.readyState).toBe(1);
    end();
    vi.advanceTimersByTime(5_000);
    expect(FakeSocket.last.readyState).toBe(3);
    expect(live.connection.value).toBe("idle");
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("ends while the page is hidden for long, and comes back with it", () => {
    const hidden = vi.spyOn(document, "hidden", "get").mockReturnValue(true);
    live.subscribe({ fleet: {} }, {});
    expect(FakeSocket.all).toHaveLength(0);
    hidden.mockReturnValue(false);
    document.dispatchEvent(new Event("visibilitychange"));
    FakeSocket.last.open();
    hidden.mockReturnValue(true);
    document.dispatchEvent(new Event("visibilitychange"));
    vi.advanceTimersByTime(60_000);
    expect(FakeSocket.last.readyState).toBe(1);
    vi.advanceTimersByTime(61_000);
    expect(FakeSocket.last.readyState).toBe(3);
    hidden.mockReturnValue(false);
    document.dispatchEvent(new Event("visibilitychange"));
    expect(FakeSocket.all).toHaveLength(2);
    hidden.mockRestore();
  });

  it("ignores what a socket reports after it was replaced", () => {
    const onForecast = vi.fn();
    live.subscribe({ forecasts: { servers: ["a"] } }, { onForecast });
    const former = FakeSocket.last.open();
    setToken("other");
    FakeSocket.last.open();
    FakeSocket.last.receive({ type: "subscribed" });
    former.receive(forecast("a"));
    former.onopen?.();
    former.onclose?.({ code: 1006 });
    expect(onForecast).not.toHaveBeenCalled();
    expect(live.connection.value).toBe("connected");
    expect(FakeSocket.all).toHaveLength(2);
  });
});

describe("a socket that is refused", () => {
  it("for its token makes the page ask for one, and is tried again only then", async () => {
    answer = () => new Response('{"message": "the token is not known"}', { status: 401 });
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.end(1006);
    await settle();
    expect([live.connection.value, tokenWanted.value]).toEqual(["refused", "the token is not known"]);
    await vi.advanceTimersByTimeAsync(120_000);
    expect(FakeSocket.all).toHaveLength(1);
    setToken("right");
    FakeSocket.last.open();
    expect(live.connection.value).toBe("connected");
    expect(live.refusal.value).toBeNull();
  });

  it("is tried again when the same token is accepted after all", async () => {
    setToken("mine");
    answer = () => new Response('{"message": "the token is not known"}', { status: 401 });
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.end(1006);
    await settle();
    setToken("mine");
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("because the token was revoked while it stood makes the page ask too", async () => {
    answer = () => new Response('{"message": "the token was revoked"}', { status: 401 });
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.open().end(1008);
    await settle();
    expect(tokenWanted.value).toBe("the token was revoked");
  });

  it("for its scope says so, and is tried again after a while", async () => {
    answer = () => new Response('{"message": "the token lacks the scope subscribe"}', { status: 403 });
    live.subscribe({ fleet: {} }, {});
    FakeSocket.last.end(1006);
    await settle();
    expect([live.connection.value, live.refusal.value]).toEqual(["refused", "the token lacks the scope subscribe"]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(FakeSocket.all).toHaveLength(2);
  });

  it("because a proxy changes the host is found out by a call that has an origin, as the socket has", async () => {
    answer = () =>
      probes.at(-1)?.method === "POST"
        ? new Response('{"message": "Origin is https://ops, expected that of this server"}', { status: 403 })
        : new Response("");
    live.subscribe({ fleet: {} }, {});
    for (let attempt = 0; attempt < 2; attempt += 1) {
      FakeSocket.last.end(1006);
      await vi.advanceTimersByTimeAsync(1_000);
    }
    expect(live.refusal.value).toContain("Origin is https://ops");
  });

  it("though every call is answered is the fault of a proxy", async () => {
    live.subscribe({ fleet: {} }, {});
    for (let attempt = 0; attempt < 3; attempt += 1) {
      FakeSocket.last.end(1006);
      await vi.advanceTimersByTimeAsync(2_000);
    }
    expect(live.refusal.value).toContain("no WebSocket opens");
  });

  it("is not taken for refused while a daemon starts", async () => {
    live.subscribe({ fleet: {} }, {});
    for (let attempt = 0; attempt < 6; attempt += 1) {
      answer = () => {
        throw new TypeError("Failed to fetch");
      };
      FakeSocket.last.end(1006);
      await vi.advanceTimersByTimeAsync(15_000);
    }
    answer = () => new Response("");
    FakeSocket.last.end(1006);
    await settle();
    expect(live.connection.value).toBe("lost");
  });
});

describe("what is wanted", () => {
  it("of each kind is what the newest reader wants, and falls back to the one before", () => {
    const first = vi.fn();
    const second = vi.fn();
    live.subscribe({ fleet: { search: "a" } }, { onFleet: first });
    const socket = FakeSocket.last.open();
    const end = live.subscribe({ fleet: { search: "b" } }, { onFleet: second });
    socket.receive({ type: "subscribed-fleet" });
    socket.receive({ type: "subscribed-fleet" });
    socket.receive(fleet(0));
    expect([first.mock.calls.length, second.mock.calls.length]).toEqual([0, 1]);
    end();
    expect(socket.sent.at(-1)).toEqual({ type: "subscribe-fleet", search: "a" });
    socket.receive({ type: "subscribed-fleet" });
    socket.receive(fleet(0));
    expect([first.mock.calls.length, second.mock.calls.length]).toEqual([1, 1]);
  });

  it("of different kinds is shared between readers", () => {
    const onAlerts = vi.fn();
    const onFleet = vi.fn();
    live.subscribe({ alerts: {} }, { onAlerts });
    live.subscribe({ fleet: {} }, { onFleet });
    const socket = FakeSocket.last.open();
    socket.receive({ type: "subscribed-fleet" });
    socket.receive({ type: "subscribed-alerts" });
    socket.receive({ type: "alerts" });
    socket.receive(fleet(0));
    expect([onAlerts.mock.calls.length, onFleet.mock.calls.length]).toEqual([1, 1]);
  });

  it("gets no frame of the former reader that was on its way", () => {
    const seen: string[] = [];
    const onForecast = (frame: ForecastFrame) => seen.push(frame.server);
    const end = live.subscribe({ forecasts: { servers: ["former"] } }, {});
    const socket = FakeSocket.last.open();
    socket.receive({ type: "subscribed" });
    end();
    live.subscribe({ forecasts: { servers: ["now"] } }, { onForecast });
    socket.receive(forecast("former"));
    socket.receive({ type: "subscribed" });
    socket.receive(forecast("now"));
    expect(seen).toEqual(["now"]);
  });

  it("gets the frames between two scrolls, but none of another search", () => {
    const seen: number[] = [];
    live.subscribe({ fleet: { search: "a", offset: 0 } }, { onFleet: (frame: FleetFrame) => seen.push(frame.offset) });
    const socket = FakeSocket.last.open();
    socket.receive({ type: "subscribed-fleet" });
    live.update({ fleet: { offset: 10, search: "a" } });
    socket.receive(fleet(0));
    socket.receive({ type: "subscribed-fleet" });
    live.update({ fleet: { search: "b" } });
    socket.receive(fleet(10));
    socket.receive({ type: "subscribed-fleet" });
    socket.receive(fleet(0));
    expect(seen).toEqual([0, 0]);
  });

  it("keeps an update through a lost connection", async () => {
    live.subscribe({ fleet: { search: "a" } }, {});
    FakeSocket.last.open();
    live.update({ fleet: { search: "b" }, forecasts: { servers: ["x"] } });
    FakeSocket.last.end(1006);
    await vi.advanceTimersByTimeAsync(400);
    FakeSocket.last.open();
    expect(FakeSocket.last.sent).toMatchObject([
      { type: "subscribe", servers: ["x"] },
      { type: "subscribe-fleet", search: "b" },
    ]);
  });

  it("of a kind that ends is unsubscribed after a while, once, and the socket stays", () => {
    live.subscribe({ fleet: {} }, {});
    const socket = FakeSocket.last.open();
    live.update({ forecasts: { servers: ["x"] } });
    live.update({ forecasts: null });
    expect(sentTypes(socket)).toEqual(["subscribe-fleet", "subscribe"]);
    vi.advanceTimersByTime(5_000);
    expect(socket.sent.at(-1)).toEqual({ type: "unsubscribe", of: ["forecasts"] });
    live.subscribe({ alerts: {} }, {})();
    vi.advanceTimersByTime(5_000);
    expect(socket.sent.at(-1)).toEqual({ type: "unsubscribe", of: ["alerts"] });
    expect(sentTypes(socket)).toEqual([
      "subscribe-fleet",
      "subscribe",
      "unsubscribe",
      "subscribe-alerts",
      "unsubscribe",
    ]);
    expect(FakeSocket.all).toHaveLength(1);
  });

  it("again, soon after it ended, is not unsubscribed", () => {
    live.subscribe({ alerts: {} }, {});
    const socket = FakeSocket.last.open();
    live.subscribe({ fleet: {} }, {})();
    live.subscribe({ fleet: { search: "a" } }, {});
    vi.advanceTimersByTime(5_000);
    expect(sentTypes(socket)).not.toContain("unsubscribe");
  });

  it("that the daemon refuses is reported, and blocks nothing", () => {
    const onError = vi.fn();
    const onFleet = vi.fn();
    live.subscribe({ fleet: { rule: "nothing" } }, { onError, onFleet });
    const socket = FakeSocket.last.open();
    socket.receive({ type: "error", code: "invalid_selection", message: "no such rule" });
    socket.receive(fleet(0));
    expect(onError).toHaveBeenCalledWith("no such rule");
    expect(onFleet).toHaveBeenCalledTimes(1);
  });
});

it("says how many forecasts were left out", () => {
  const onLagged = vi.fn();
  live.subscribe({ forecasts: { servers: ["*"] } }, { onLagged });
  const socket = FakeSocket.last.open();
  socket.receive({ type: "subscribed" });
  socket.receive({ type: "lagged", dropped: 7 });
  expect(onLagged).toHaveBeenCalledWith(7);
});

it("survives a frame that is not JSON, and types that it does not know", () => {
  const onError = vi.fn();
  live.subscribe({ fleet: {} }, { onError });
  const socket = FakeSocket.last.open();
  socket.onmessage?.({ data: "<html>" });
  socket.receive({ type: "something-new" });
  expect(onError).toHaveBeenCalledTimes(1);
});
