/** How much an interval held, on a line with what it should hold, and how far from it is still as it should be. */
import { formatShare } from "../../format/values";
import { coverageTolerance, judgeCoverage } from "./judgements";

/** The shares that the line shows: this far to both sides of the nominal one. */
const REACH = 0.25;

export function CoverageTrack(props: { share: number | null; nominal: number; forecasts: number; label: string }) {
  const { share, nominal, forecasts, label } = props;
  const { tone } = judgeCoverage(share, nominal, forecasts);
  const low = nominal - REACH;
  const high = Math.min(nominal + REACH, 1);
  const place = (value: number) => `${((Math.min(Math.max(value, low), high) - low) / (high - low)) * 100}%`;
  const tolerance = coverageTolerance(nominal);
  const right = `${100 - parseFloat(place(nominal + tolerance))}%`;
  return (
    <span class={`coverage tone-${tone}`} title={label}>
      <span class="coverage-number">{formatShare(share)}</span>
      <span class="coverage-track" aria-hidden="true">
        <span class="coverage-band" style={{ left: place(nominal - tolerance), right }} />
        <span class="coverage-tick" style={{ left: place(nominal) }} />
        {share !== null && <span class="coverage-dot" style={{ left: place(share) }} />}
      </span>
    </span>
  );
}
