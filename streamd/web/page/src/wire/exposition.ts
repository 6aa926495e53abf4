/** Reads the Prometheus text format of `metrics`. Strict: a line that is no sample, comment or empty is an error. */

export interface Sample {
  labels: Record<string, string>;
  value: number;
}

/** A cumulative bucket: the upper bound, and the observations up to it. */
export type Bucket = readonly [bound: number, count: number];

const NAME = /^[a-zA-Z_:][a-zA-Z0-9_:]*/;
const LABEL = /^\s*([a-zA-Z_][a-zA-Z0-9_]*)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(,|(?=\}))/;
const VALUE = /^\s+(\S+)(\s+-?\d+)?\s*$/;

/** The samples of one reading, by name. */
export class MetricsReading {
  constructor(private readonly byName: ReadonlyMap<string, readonly Sample[]>) {}

  /** The samples of a name; none if it is unknown. */
  list(name: string): readonly Sample[] {
    return this.byName.get(name) ?? [];
  }

  /** The value of the first sample that has these labels. */
  get(name: string, labels: Record<string, string> = {}): number | undefined {
    const wanted = Object.entries(labels);
    return this.list(name).find((sample) => wanted.every(([label, value]) => sample.labels[label] === value))?.value;
  }

  /** The values of a name by one of its labels, added up over the others. */
  byLabel(name: string, label: string): Map<string, number> {
    const found = new Map<string, number>();
    for (const sample of this.list(name)) {
      const key = sample.labels[label];
      if (key !== undefined) found.set(key, (found.get(key) ?? 0) + sample.value);
    }
    return found;
  }

  /** The samples of some names alone, for readings that are kept. */
  select(names: readonly string[]): MetricsReading {
    return new MetricsReading(new Map(names.map((name) => [name, this.list(name)])));
  }

  /** The cumulative buckets of a histogram, the smallest bound first. */
  buckets(histogram: string): Bucket[] {
    const found = [...this.byLabel(`${histogram}_bucket`, "le")].map(([bound, count]) => [readNumber(bound), count] as const);
    return found.sort(([first], [second]) => first - second);
  }
}

/** Parse a body of `metrics`. Throws an Error that names the line which cannot be read. */
export function parseExposition(text: string): MetricsReading {
  const byName = new Map<string, Sample[]>();
  text.split("\n").forEach((line, index) => {
    if (line === "" || line.startsWith("#")) return;
    const [name, sample] = parseLine(line, index + 1);
    const known = byName.get(name);
    if (known === undefined) byName.set(name, [sample]);
    else known.push(sample);
  });
  return new MetricsReading(byName);
}

function parseLine(line: string, number: number): [string, Sample] {
  const name = NAME.exec(line)?.[0];
  if (name === undefined) throw new Error(`line ${number} of the metrics begins with no name: ${line}`);
  let rest = line.slice(name.length);
  const labels: Record<string, string> = {};
  if (rest.startsWith("{")) {
    rest = rest.slice(1);
    for (let found = LABEL.exec(rest); found !== null; found = LABEL.exec(rest)) {
      labels[found[1] ?? ""] = unescape(found[2] ?? "");
      rest = rest.slice(found[0].length);
    }
    if (!rest.startsWith("}")) throw new Error(`line ${number} of the metrics has labels that cannot be read: ${line}`);
    rest = rest.slice(1);
  }
  const value = readNumber(VALUE.exec(rest)?.[1] ?? "");
  if (Number.isNaN(value) && !/^\s+NaN/.test(rest)) throw new Error(`line ${number} of the metrics has no value: ${line}`);
  return [name, { labels, value }];
}

/** Read a number as the format writes it; NaN if it is none. */
function readNumber(text: string): number {
  if (text === "+Inf" || text === "Inf") return Infinity;
  if (text === "-Inf") return -Infinity;
  return text === "" ? NaN : Number(text);
}

function unescape(text: string): string {
  return text.replace(/\\(.)/g, (_, letter: string) => (letter === "n" ? "\n" : letter));
}
