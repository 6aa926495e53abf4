import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { skew } from "../format/clock";
import { addressOf, deleteJson, findTokenProblem, getJson, getText, postJson, WireError } from "./api";
import { noteAnswer, reach, returns } from "./reach";
import { setToken, token, tokenDialog, tokenWanted } from "./session";

type Answer = () => Response | Promise<Response>;
let answer: Answer;
const calls: { url: URL; init: RequestInit }[] = [];

const json = (status: number, body: unknown, headers: Record<string, string> = {}) =>
  new Response(JSON.stringify(body), { status, headers });
const refuse = (message: string) => json(401, { type: "error", code: "unauthorized", message });
const header = (place: number, name: string) => new Headers(calls[place]?.init.headers).get(name);

beforeEach(() => {
  calls.length = 0;
  setToken("");
  noteAnswer();
  vi.stubGlobal("fetch", (url: URL, init: RequestInit) => {
    calls.push({ url, init });
    return Promise.resolve().then(answer);
  });
});
afterEach(() => vi.unstubAllGlobals());

describe("addressOf", () => {
  it.each([
    ["http://host/", "http://host/v1/status"],
    ["http://host/index.html", "http://host/v1/status"],
    ["https://host/ops/streamd/", "https://host/ops/streamd/v1/status"],
    ["https://host/ops/streamd/index.html?x=1#/fleet", "https://host/ops/streamd/v1/status"],
  ])("stays below the page at %s", (base, expected) => expect(addressOf("v1/status", {}, base).href).toBe(expected));

  it("encodes names, repeats lists, and leaves empty values out", () =>
    expect(addressOf("v1/servers", { server: "a&b/../c", rule: ["x", "y"], state: "", limit: undefined }).search).toBe(
      "?server=a%26b%2F..%2Fc&rule=x&rule=y",
    ));
});

describe("a call", () => {
  it("reads JSON", async () => {
    answer = () => json(200, { engine: "patch" });
    expect(await getJson("v1/status")).toEqual({ engine: "patch" });
  });

  it("sends JSON", async () => {
    answer = () => json(200, {});
    await postJson("v1/engines/promote", { why: "less loss" });
    expect(calls[0]?.init).toMatchObject({ method: "POST", body: '{"why":"less loss"}' });
    expect(header(0, "Content-Type")).toBe("application/json");
  });

  it("resolves to nothing for an empty answer", async () => {
    answer = () => new Response(null, { status: 204 });
    expect(await deleteJson("v1/silences/7")).toBeUndefined();
  });

  it("carries the token in a header, and never in the address", async () => {
    answer = () => json(200, {});
    setToken("streamd_secret");
    await getJson("v1/status");
    expect(header(0, "Authorization")).toBe("Bearer streamd_secret");
    expect(calls[0]?.url.href).not.toContain("secret");
  });

  it("throws the error of the daemon in its words", async () => {
    answer = () => json(409, { type: "error", code: "reload_refused", message: "the version serves already" });
    await expect(postJson("v1/engines/promote", {})).rejects.toMatchObject({
      status: 409,
      code: "reload_refused",
      message: "the version serves already",
    });
  });

  it("throws for an answer that is not of the daemon", async () => {
    answer = () => new Response("<html>Bad gateway</html>", { status: 502 });
    const error = await getJson("v1/status").catch((thrown: unknown) => thrown);
    expect(error).toBeInstanceOf(WireError);
    expect((error as WireError).isAway).toBe(true);
    expect(reach.value.isReachable).toBe(false);
  });

  it("says that an answer is not JSON", async () => {
    answer = () => new Response("<html>Log in first</html>");
    await expect(getJson("v1/status")).rejects.toMatchObject({ code: "unreadable" });
  });

  it("says that the daemon does not answer, and notes when it does again", async () => {
    answer = () => Promise.reject(new TypeError("Failed to fetch"));
    await expect(getText("metrics")).rejects.toMatchObject({ status: 0, code: "unreachable" });
    expect(reach.value.isReachable).toBe(false);
    const before = returns.value;
    answer = () => new Response("up 1");
    expect(await getText("metrics")).toBe("up 1");
    expect(reach.value.isReachable).toBe(true);
    expect(returns.value).toBe(before + 1);
  });

  it("that the page ends itself is no silence of the daemon", async () => {
    answer = () => Promise.reject(new DOMException("ended", "AbortError"));
    await expect(getJson("v1/status")).rejects.toMatchObject({ name: "AbortError" });
    expect(reach.value.isReachable).toBe(true);
  });

  it("takes the clock of the daemon from its answers", async () => {
    const at = new Date(Date.now() + 600_000).toUTCString();
    answer = () => json(200, {}, { Date: at });
    await getJson("v1/status");
    expect(skew.value).toBeGreaterThan(590);
    answer = () => json(200, {}, { Date: new Date().toUTCString() });
    await getJson("v1/status");
    expect(skew.value).toBe(0);
  });
});

describe("without the right token", () => {
  it("the page asks for one, in the words of the daemon", async () => {
    answer = () => refuse("this call needs a token");
    await expect(getJson("v1/status")).rejects.toMatchObject({ status: 401 });
    expect([tokenWanted.value, tokenDialog.value]).toEqual(["this call needs a token", "this call needs a token"]);
  });

  it("a refusal that breaks off, because the page ends the call, does not hide the words of the daemon", async () => {
    answer = () => refuse("the token has expired");
    await expect(getJson("v1/status")).rejects.toThrow();
    const broken = refuse("");
    broken.json = () => Promise.reject(new DOMException("ended", "AbortError"));
    answer = () => broken;
    await expect(getJson("v1/status")).rejects.toThrow("ended");
    expect(tokenWanted.value).toBe("the token has expired");
  });

  it("a refused action leaves the rest of the page as it is", async () => {
    answer = () => refuse("this call needs a token with the scope admin");
    await expect(postJson("v1/engines/rollback", {})).rejects.toMatchObject({ status: 401 });
    expect([tokenWanted.value, tokenDialog.value]).toEqual([null, "this call needs a token with the scope admin"]);
  });

  it("an answer to the former token asks for nothing", async () => {
    setToken("old");
    answer = () => {
      setToken("new");
      return refuse("the token is not known");
    };
    await expect(getJson("v1/status")).rejects.toMatchObject({ status: 401 });
    expect([token.value, tokenWanted.value]).toEqual(["new", null]);
  });

  it("a token is tried before it is used", async () => {
    answer = () => refuse("the token is not known to this daemon");
    expect(await findTokenProblem("wrong")).toBe("the token is not known to this daemon");
    expect(header(0, "Authorization")).toBe("Bearer wrong");
    expect([token.value, tokenWanted.value]).toEqual(["", null]);
    answer = () => json(403, { message: "the token 'feeder' does not have the scope read" });
    expect(await findTokenProblem("feeder")).toBeNull();
  });
});

it("forgets a token", () => {
  setToken("streamd_secret");
  expect(sessionStorage.getItem("streamd-token")).toBe("streamd_secret");
  setToken("");
  expect(sessionStorage.length).toBe(0);
});
