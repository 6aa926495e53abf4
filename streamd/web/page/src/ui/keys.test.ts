import { afterEach, beforeEach, describe, expect, it, vi } from "vitest";
import { addShortcut, areKeysOn, isTyping, KeyReader, listenToKeys, setKeysOn, type Shortcut } from "./keys";
import { moveIndex } from "./listKeys";

const shortcut = (keys: string): Shortcut => ({ keys, label: keys, run: () => {} });

describe("KeyReader", () => {
  const known = ["/", "g f", "g s", "s"].map(shortcut);
  const read = (...keys: [string, number][]) => {
    const reader = new KeyReader();
    return keys.map(([key, at]) => reader.read(key, at, known)?.keys);
  };

  it("finds single keys", () => expect(read(["/", 0], ["x", 1])).toEqual(["/", undefined]));
  it("finds two keys in a row", () => expect(read(["g", 0], ["s", 900], ["s", 901])).toEqual([undefined, "g s", "s"]));
  it("forgets the first key after a while", () => expect(read(["g", 0], ["s", 2_000])).toEqual([undefined, "s"]));
  it("begins again with the second first key", () => {
    expect(read(["g", 0], ["g", 10], ["f", 20])).toEqual([undefined, undefined, "g f"]);
  });
  it("takes the newest of two with the same keys", () => {
    const newest = shortcut("/");
    expect(new KeyReader().read("/", 0, [...known, newest])).toBe(newest);
  });
});

describe("the keys of the page", () => {
  const run = vi.fn();
  let ends: (() => void)[];
  const press = (target: EventTarget, key: string, more: KeyboardEventInit = {}) => {
    const event = new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more });
    target.dispatchEvent(event);
    return event.defaultPrevented;
  };
  const add = (html: string) => {
    document.body.innerHTML = html;
    return document.body.firstElementChild as HTMLElement;
  };

  beforeEach(() => {
    run.mockClear();
    ends = [addShortcut({ keys: "/", label: "search", run }), listenToKeys()];
  });
  afterEach(() => {
    for (const end of ends) end();
    setKeysOn(true);
    document.body.innerHTML = "";
  });

  it("that are only listed are left to the element that has the focus", () => {
    ends.push(addShortcut({ keys: "Enter", label: "open", run: null }));
    expect(press(document.body, "Enter")).toBe(false);
  });

  it("do something, and keep the browser from doing it too", () => {
    expect(press(document.body, "/")).toBe(true);
    expect(run).toHaveBeenCalledTimes(1);
  });

  it.each(["<input>", "<input type=search>", "<textarea></textarea>", "<select></select>", "<p contenteditable>x</p>"])(
    "do nothing in %s",
    (html) => {
      press(add(html), "/");
      expect(run).not.toHaveBeenCalled();
    },
  );

  it.each(["<button>x</button>", "<input type=checkbox>", "<a href='#'>x</a>"])("work on %s", (html) => {
    press(add(html), "/");
    expect(run).toHaveBeenCalledTimes(1);
  });

  it("do nothing while a dialog is open", () => {
    press(add("<dialog open><button>x</button></dialog>"), "/");
    expect(run).not.toHaveBeenCalled();
  });

  it.each([{ ctrlKey: true }, { metaKey: true }, { altKey: true }])("leave %j to the browser", (more) => {
    expect(press(document.body, "/", more)).toBe(false);
    expect(run).not.toHaveBeenCalled();
  });

  it("do nothing when they are turned off, and the choice is kept", () => {
    setKeysOn(false);
    press(document.body, "/");
    expect(run).not.toHaveBeenCalled();
    expect(localStorage.getItem("streamd-keys-off")).toBe("1");
    expect(areKeysOn.value).toBe(false);
  });

  it("end with what registered them", () => {
    ends[0]?.();
    press(document.body, "/");
    expect(run).not.toHaveBeenCalled();
  });

  it("know that nothing is typed outside of elements", () => expect(isTyping(document)).toBe(false));
});

describe("moveIndex", () => {
  it.each([
    ["j", -1, 5, 0],
    ["j", 4, 5, 4],
    ["k", -1, 5, 4],
    ["k", 0, 5, 0],
    ["ArrowDown", 1, 5, 2],
    ["ArrowUp", 1, 5, 0],
    ["PageDown", -1, 25, 10],
    ["PageDown", 20, 25, 24],
    ["PageUp", 3, 25, 0],
    ["Home", 3, 5, 0],
    ["End", 3, 5, 4],
    ["x", 3, 5, null],
    ["j", 0, 0, null],
  ])("leads %s from %s of %3$s to %4$s", (key, index, count, expected) => {
    expect(moveIndex(key, index, count)).toBe(expected);
  });
});
