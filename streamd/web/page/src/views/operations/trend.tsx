/** The last minutes of one number as a line, from zero on. */

const WIDTH = 120;
const HEIGHT = 28;

export function Trend(props: { values: readonly number[]; label: string }) {
  const { values, label } = props;
  if (values.length < 3) return null;
  const top = Math.max(...values, 1e-9);
  const points = values.map((value, index) => {
    const x = (index / (values.length - 1)) * WIDTH;
    return `${x.toFixed(1)},${(HEIGHT - 2 - (value / top) * (HEIGHT - 4)).toFixed(1)}`;
  });
  return (
    <svg class="trend" viewBox={`0 0 ${WIDTH} ${HEIGHT}`} preserveAspectRatio="none" role="img" aria-label={label}>
      <polygon class="trend-area" points={`0,${HEIGHT} ${points.join(" ")} ${WIDTH},${HEIGHT}`} />
      <polyline class="trend-line" points={points.join(" ")} />
    </svg>
  );
}
