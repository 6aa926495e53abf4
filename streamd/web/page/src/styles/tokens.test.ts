/** The contrast of text and lines in both themes, by the formula of WCAG 2.2. */
import { describe, expect, it } from "vitest";
import source from "./tokens.css?raw";

type Theme = Record<string, string>;

const css = source.replace(/\/\*.*?\*\//gs, "");

/** The custom properties of a rule `:root`, after the text that comes before it. */
function readTheme(before: string): Theme {
  const place = css.indexOf(before);
  if (place < 0) throw new Error(`expected ${before} in tokens.css`);
  const start = css.indexOf("{", css.indexOf(":root", place));
  const body = css.slice(start + 1, css.indexOf("}", start));
  return Object.fromEntries([...body.matchAll(/--([\w-]+):\s*([^;]+);/g)].map(([, name, value]) => [name, value]));
}

const light = readTheme("");
const dark = { ...light, ...readTheme("@media screen and (prefers-color-scheme: dark)") };
const print = { ...light, ...readTheme("@media print") };

function luminance(colour: string | undefined): number {
  const digits = /^#([0-9a-f]{6})$/.exec(colour ?? "")?.[1];
  if (digits === undefined) throw new Error(`expected a colour as #rrggbb, got ${colour}`);
  const [red, green, blue] = [0, 2, 4].map((place) => {
    const share = Number.parseInt(digits.slice(place, place + 2), 16) / 255;
    return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
  }) as [number, number, number];
  return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
}

function contrast(theme: Theme, one: string, other: string): number {
  const [low, high] = [luminance(theme[one]), luminance(theme[other])].sort((a, b) => a - b) as [number, number];
  return (high + 0.05) / (low + 0.05);
}

const GROUNDS = ["ground", "surface", "raised", "sunken"];
const TONES = ["good", "info", "warning", "critical", "muted"];
const TEXT: [string, string][] = [
  ...["text", "text-soft", "text-faint", "accent", ...TONES].flatMap((text) =>
    GROUNDS.map((ground): [string, string] => [text, ground]),
  ),
  ...TONES.map((tone): [string, string] => [tone, `${tone}-ground`]),
  ["text", "muted-ground"],
  ["on-accent", "accent"],
  ["on-accent", "accent-strong"],
  ["accent-strong", "accent-ground"],
  ["chart-axis", "surface"],
];
const LINES: [string, string][] = [
  ...GROUNDS.map((ground): [string, string] => ["line-strong", ground]),
  ...["history", "median", "past", "threshold", "now", ...[1, 2, 3].map((n) => `series-${n}`)].map(
    (line): [string, string] => [`chart-${line}`, "surface"],
  ),
];

describe.each([
  ["light", light],
  ["dark", dark],
  ["print", print],
])("in the theme %s", (_, theme) => {
  it.each(TEXT)("the text %s can be read on %s", (text, ground) => {
    expect(contrast(theme, text, ground)).toBeGreaterThanOrEqual(4.5);
  });

  it.each(LINES)("the line %s can be seen on %s", (line, ground) => {
    expect(contrast(theme, line, ground)).toBeGreaterThanOrEqual(3);
  });
});

it("the formula finds colours that cannot be read", () => {
  expect(contrast({ one: "#777777", other: "#ffffff" }, "one", "other")).toBeLessThan(4.5);
  expect(contrast({ one: "#000000", other: "#ffffff" }, "one", "other")).toBeCloseTo(21);
});
