/** The loss by how far ahead a forecast looks: a bar for each version, and the loss of training as a line. */
import type { VersionAccuracy } from "../../wire/status";
import { describeRange } from "./judgements";

export interface NamedVersion {
  name: string;
  scores: VersionAccuracy;
}

export function RangeBars(props: { versions: readonly NamedVersion[]; training: number | null; stepSeconds: number }) {
  const { versions, training, stepSeconds } = props;
  const ranges = versions[0]?.scores.by_range ?? [];
  const losses = versions.flatMap(({ scores }) => scores.by_range.map(({ loss }) => loss ?? 0));
  const top = Math.max(...losses, training ?? 0) * 1.15 || 1;
  const heightOf = (loss: number) => `${(loss / top) * 100}%`;
  return (
    <div>
      <div class="range-plot">
        {ranges.map(({ steps }, index) => (
          <div key={steps} class="range">
            {versions.map(({ name, scores }, series) => {
              const loss = scores.by_range[index]?.loss ?? null;
              return (
                <span
                  key={name}
                  class={`range-bar series-${series + 1}`}
                  style={{ height: heightOf(loss ?? 0) }}
                  title={name}
                >
                  <span class="range-value">{loss === null ? "–" : loss.toFixed(3)}</span>
                </span>
              );
            })}
          </div>
        ))}
        {training !== null && <span class="range-line" style={{ bottom: heightOf(training) }} />}
      </div>
      <div class="range-labels">
        {ranges.map(({ steps }) => (
          <span key={steps} title={`steps ${steps}`}>
            {describeRange(steps, stepSeconds)}
          </span>
        ))}
      </div>
    </div>
  );
}
