import { render } from "preact";
import { act } from "preact/test-utils";
import { afterEach, beforeEach, expect, it, vi } from "vitest";
import { noteAnswer, noteSilence } from "../wire/reach";
import { setToken, tokenWanted } from "../wire/session";
import { Segmented } from "./basics";
import { Boundary } from "./boundary";
import { type Resource, useResource } from "./resource";
import { composeTitle, ViewHead, viewTitle } from "./view";

let root: HTMLElement;
const show = (node: preact.ComponentChild) => act(() => render(node, root));

beforeEach(() => {
  vi.useFakeTimers();
  root = document.body.appendChild(document.createElement("div"));
});
afterEach(async () => {
  await show(null);
  root.remove();
  setToken("");
  noteAnswer();
  vi.useRealTimers();
});

it("a view that throws shows what happened", async () => {
  const quiet = vi.spyOn(console, "error").mockImplementation(() => {});
  let isBroken = true;
  const View = () => {
    if (isBroken) throw new Error("no such target");
    return <p>all is well</p>;
  };
  await show(
    <Boundary what="the view Fleet">
      <View />
    </Boundary>,
  );
  expect(root.textContent).toContain("The view Fleet could not be drawn");
  expect(root.textContent).toContain("no such target");
  isBroken = false;
  await act(() => root.querySelector("button")?.click());
  expect(root.textContent).toBe("all is well");
  quiet.mockRestore();
});

it("the title of the tab is that of the view, and what fires comes first", async () => {
  await show(<ViewHead title="db-07" />);
  expect(viewTitle.value).toBe("db-07");
  expect(composeTitle("db-07", 2)).toBe("(2) db-07 · streamd");
  await show(null);
  expect(composeTitle(viewTitle.value, 0)).toBe("streamd");
});

it("two groups of choices with the same label do not disturb each other", async () => {
  const choices = [
    { value: "a", label: "A" },
    { value: "b", label: "B" },
  ] as const;
  const group = <Segmented label="Sort" value="a" choices={choices} onChange={() => {}} />;
  await show([group, <Segmented label="Sort" value="b" choices={choices} onChange={() => {}} />]);
  expect([...root.querySelectorAll("input")].map((input) => input.checked)).toEqual([true, false, false, true]);
});

const EVERY = 5;
let seen: Resource<string>;
let load: (name: string, signal: AbortSignal) => Promise<string>;

function Reader({ name, every = EVERY }: { name: string; every?: number }) {
  seen = useResource((signal) => load(name, signal), [name], every);
  return <p>{seen.data}</p>;
}
const later = (ms: number) => act(() => vi.advanceTimersByTimeAsync(ms) as unknown as Promise<void>);

it("a resource is read again and again, and keeps its data when a reading fails", async () => {
  let count = 0;
  load = async () => `turn ${(count += 1)}`;
  await show(<Reader name="a" />);
  await later(0);
  expect(seen).toMatchObject({ data: "turn 1", error: undefined, isLoading: false });
  await later(EVERY * 1000);
  expect(seen.data).toBe("turn 2");
  load = () => Promise.reject(new Error("broken"));
  await later(EVERY * 1000);
  expect(seen.data).toBe("turn 2");
  expect(seen.error?.message).toContain("broken");
  load = async () => `turn ${(count += 1)}`;
  await later(EVERY * 1000);
  expect(seen.data).toBe("turn 2"); // after a failure it waits longer
  await later(EVERY * 1000);
  expect(seen).toMatchObject({ data: "turn 3", error: undefined });
});

it("a resource never shows the data of other choices", async () => {
  load = async (name) => name;
  await show(<Reader name="a" />);
  await later(0);
  load = () => new Promise(() => {});
  await show(<Reader name="b" />);
  expect(seen).toMatchObject({ data: undefined, isLoading: true });
});

it("a resource ends the reading of former choices", async () => {
  const signals: AbortSignal[] = [];
  load = (_, signal) => {
    signals.push(signal);
    return new Promise(() => {});
  };
  await show(<Reader name="a" />);
  await show(<Reader name="b" />);
  await show(null);
  expect(signals.map((signal) => signal.aborted)).toEqual([true, true]);
});

it("a resource that failed is read again at once when the daemon is back", async () => {
  load = () => Promise.reject(new Error("away"));
  await show(<Reader name="a" every={0} />);
  await later(0);
  noteSilence();
  load = async () => "back";
  await act(() => noteAnswer());
  await later(0);
  expect(seen).toMatchObject({ data: "back", error: undefined });
});

it("a resource waits while the daemon wants a token, and drops the data of the former one", async () => {
  const asked = vi.fn(async () => "data");
  load = asked;
  await show(<Reader name="a" />);
  await later(0);
  await act(() => {
    tokenWanted.value = "revoked";
  });
  await later(60_000);
  expect(asked).toHaveBeenCalledTimes(1);
  await act(() => setToken("other"));
  expect(seen.data).toBeUndefined();
  await later(0);
  expect(asked).toHaveBeenCalledTimes(2);
});

it("a resource is not read while the tab is hidden, and at once when it is seen", async () => {
  const asked = vi.fn(async () => "data");
  load = asked;
  await show(<Reader name="a" />);
  await later(0);
  const hidden = vi.spyOn(document, "hidden", "get").mockReturnValue(true);
  await later(60_000);
  expect(asked).toHaveBeenCalledTimes(1);
  hidden.mockReturnValue(false);
  document.dispatchEvent(new Event("visibilitychange"));
  await later(0);
  expect(asked).toHaveBeenCalledTimes(2);
  hidden.mockRestore();
});
