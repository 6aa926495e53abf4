/** What is drawn beside the series: shaded stretches, thresholds, lines at a time. All positions are canvas pixels. */
import type uPlot from "uplot";
import { isFarThreshold } from "./axes";
import type { ChartSpec, Threshold, TimeMark, TimeSpan } from "./spec";
import type { ChartTheme } from "./theme";

const LABEL_PIXELS = 11;

/** Draw what lies under the series. */
export function drawBackground(plot: uPlot, spec: ChartSpec, theme: ChartTheme): void {
  withClip(plot, () => {
    for (const span of spec.spans ?? []) drawSpan(plot, span, theme);
  });
}

/** Draw what lies over the series. */
export function drawForeground(plot: uPlot, spec: ChartSpec, theme: ChartTheme): void {
  withClip(plot, () => {
    for (const mark of spec.marks ?? []) drawMark(plot, mark, theme);
    for (const threshold of spec.thresholds ?? []) drawThreshold(plot, threshold, theme);
  });
}

function withClip(plot: uPlot, draw: () => void): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
  ctx.clip();
  draw();
  ctx.restore();
}

function drawSpan(plot: uPlot, span: TimeSpan, theme: ChartTheme): void {
  const { ctx, bbox } = plot;
  const left = plot.valToPos(span.from, "x", true);
  const width = plot.valToPos(span.to, "x", true) - left;
  if (left > bbox.left + bbox.width || left + width < bbox.left) return;
  ctx.fillStyle = theme.color(span.color);
  ctx.strokeStyle = theme.color(span.color);
  if (span.kind === "plain") ctx.fillRect(left, bbox.top, Math.max(width, 1), bbox.height);
  else hatch(plot, left, Math.max(width, 2));
  const label = span.label;
  setFont(plot, theme);
  if (label !== "" && ctx.measureText(label).width + 12 < width) {
    ctx.fillStyle = theme.color("--chart-axis");
    ctx.textAlign = "center";
    ctx.textBaseline = "top";
    ctx.fillText(label, left + width / 2, bbox.top + 6 * ratio());
  }
}

/** Lines across, so that missing data are not shown by colour alone. */
function hatch(plot: uPlot, left: number, width: number): void {
  const { ctx, bbox } = plot;
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, bbox.top, width, bbox.height);
  ctx.clip();
  ctx.globalAlpha = 0.25;
  ctx.fillRect(left, bbox.top, width, bbox.height);
  ctx.globalAlpha = 1;
  ctx.lineWidth = ratio();
  ctx.beginPath();
  const step = 7 * ratio();
  const first = Math.floor((left - bbox.height) / step) * step;
  for (let x = first; x < left + width; x += step) {
    ctx.moveTo(x, bbox.top + bbox.height);
    ctx.lineTo(x + bbox.height, bbox.top);
  }
  ctx.stroke();
  ctx.restore();
}

function drawMark(plot: uPlot, mark: TimeMark, theme: ChartTheme): void {
  const { ctx, bbox } = plot;
  const x = Math.round(plot.valToPos(mark.at, "x", true));
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  ctx.strokeStyle = theme.color(mark.color);
  ctx.lineWidth = ratio();
  ctx.setLineDash([]);
  ctx.beginPath();
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
  setFont(plot, theme);
  const isAtBottom = mark.end === "bottom";
  ctx.textBaseline = isAtBottom ? "bottom" : "top";
  const isRight = x + ctx.measureText(mark.label).width + 8 * ratio() > bbox.left + bbox.width;
  ctx.textAlign = isRight ? "right" : "left";
  const place = x + (isRight ? -4 : 4) * ratio();
  const y = isAtBottom ? bbox.top + bbox.height - 3 * ratio() : bbox.top + 2 * ratio();
  writeText(plot, theme, mark.label, place, y, theme.color(isAtBottom ? mark.color : "--chart-axis"));
}

function drawThreshold(plot: uPlot, threshold: Threshold, theme: ChartTheme): void {
  const { ctx, bbox } = plot;
  const { min, max } = plot.scales["y"] ?? {};
  if (typeof min !== "number" || typeof max !== "number") return;
  const isOut = threshold.value > max || threshold.value < min || isFarThreshold(threshold.value, min, max);
  const isUp = threshold.value > max;
  const y = isOut
    ? isUp
      ? bbox.top + 1
      : bbox.top + bbox.height - 1
    : Math.round(plot.valToPos(threshold.value, "y", true));
  ctx.strokeStyle = theme.color(threshold.color);
  ctx.lineWidth = 1.5 * ratio();
  ctx.setLineDash(isOut ? [2 * ratio(), 4 * ratio()] : [6 * ratio(), 3 * ratio()]);
  ctx.beginPath();
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  setFont(plot, theme);
  const text = isOut ? `${isUp ? "↑" : "↓"} ${threshold.label}` : threshold.label;
  const isBelowLine = isOut ? isUp : y - bbox.top < 16 * ratio();
  const gap = (isBelowLine ? 3 : -3) * ratio();
  ctx.textAlign = "left";
  ctx.textBaseline = isBelowLine ? "top" : "bottom";
  const x = bbox.left + 6 * ratio();
  writeText(plot, theme, text, x, y + gap, theme.color(threshold.color));
}

/** Write with a rim in the colour of the ground, so that it can be read over lines. */
function writeText(plot: uPlot, theme: ChartTheme, text: string, x: number, y: number, color: string): void {
  const { ctx } = plot;
  ctx.setLineDash([]);
  ctx.lineWidth = 3 * ratio();
  ctx.lineJoin = "round";
  ctx.strokeStyle = theme.color("--surface");
  ctx.strokeText(text, x, y);
  ctx.fillStyle = color;
  ctx.fillText(text, x, y);
}

function setFont(plot: uPlot, theme: ChartTheme): void {
  plot.ctx.font = theme.font(LABEL_PIXELS * ratio());
}

function ratio(): number {
  return window.devicePixelRatio || 1;
}
