/** What is shown as comma-separated values (RFC 4180): one row for each step, times in UTC, numbers as they came. */
import { buildColumns, type TableSource } from "./columns";

/** Write the rows of a stretch of time; all if it is null. */
export function writeCsv(source: TableSource, range: { from: number; to: number } | null): string {
  const { times, columns } = buildColumns(source);
  const lines = [["time", "server", ...columns.map(({ name }) => name)].map(quote).join(",")];
  times.forEach((at, place) => {
    if (range !== null && (at < range.from || at > range.to)) return;
    const cells = columns.map(({ values }) => (values[place] === null ? "" : String(values[place])));
    lines.push([new Date(at * 1000).toISOString(), quote(source.server), ...cells].join(","));
  });
  return lines.join("\r\n") + "\r\n";
}

/** Quote a cell where it must be. A text that a spreadsheet would take for a formula is made plain text. */
function quote(text: string): string {
  const plain = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(plain) ? `"${plain.replaceAll('"', '""')}"` : plain;
}
