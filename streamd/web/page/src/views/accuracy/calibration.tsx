/** For each target, how often the truth lay at or below each quantile, against how often it should. */
import type { TargetAccuracy } from "../../wire/status";

const SIZE = 100;

export function Calibration({ targets }: { targets: Record<string, TargetAccuracy> }) {
  return (
    <ul class="calibrations">
      {Object.entries(targets).map(([target, { below, values }]) => (
        <li key={target}>
          <CalibrationPlot target={target} below={below} />
          <span class="wrap-anywhere">{target}</span>
          {values === 0 && <small class="soft">no value yet</small>}
        </li>
      ))}
    </ul>
  );
}

function CalibrationPlot({ target, below }: { target: string; below: TargetAccuracy["below"] }) {
  const points = listPoints(below);
  const words = points.map(([level, share]) => `quantile ${level}: ${Math.round(share * 100)} %`);
  const label = `${target}: ${words.join(", ") || "no value yet"}`;
  const x = (level: number) => level * SIZE;
  const y = (share: number) => SIZE - share * SIZE;
  return (
    <svg viewBox={`-3 -3 ${SIZE + 6} ${SIZE + 6}`} class="calibration" role="img" aria-label={label}>
      <title>{label}</title>
      <rect x="0" y="0" width={SIZE} height={SIZE} class="calibration-frame" />
      <line x1="0" y1={SIZE} x2={SIZE} y2="0" class="calibration-ideal" />
      <polyline points={points.map(([level, share]) => `${x(level)},${y(share)}`).join(" ")} class="calibration-line" />
      {points.map(([level, share]) => (
        <circle key={level} cx={x(level)} cy={y(share)} r="2.6" class="calibration-point" />
      ))}
    </svg>
  );
}

function listPoints(below: TargetAccuracy["below"]): [level: number, share: number][] {
  return Object.entries(below)
    .flatMap(([level, share]): [number, number][] => (share === null ? [] : [[Number(level), share]]))
    .sort(([first], [second]) => first - second);
}
