/** Whether a target is sent, and what follows for its forecast and its rules, in words. */
import { isUnknown, type ForecastCurves } from "../../chart/fan";
import { formatDuration, formatTime } from "../../format/times";
import { countMissing, judgeSending, type Column } from "./history";

export interface Note {
  text: string;
  isWarning: boolean;
}

/** What the note is made of; `contextLength` is in steps. */
export interface SendingFacts {
  target: string;
  column: Column;
  forecast: Pick<ForecastCurves, "unknown"> | null;
  contextLength: number;
  stepSeconds: number;
}

/** What to say of the values of a target; null if there is nothing to say. */
export function describeSending(facts: SendingFacts, now: number): Note | null {
  const { target, column, forecast, contextLength, stepSeconds } = facts;
  const sending = judgeSending(column, contextLength);
  if (sending === "never") {
    const effect = forecast === null ? "" : ", so its forecast is unknown, and no rule alerts";
    return { text: `Never sent, or not for ${formatDuration(contextLength * stepSeconds)}${effect}.`, isWarning: true };
  }
  if (isUnknown(forecast, target)) {
    return { text: "Its first value came after the forecast, which does not know it yet.", isWarning: false };
  }
  if (sending === "silent") {
    const last = column.times[column.values.findLastIndex((value) => value !== null)];
    const since = last === undefined ? "" : ` since ${formatTime(last, now)}`;
    return { text: `No value${since}, so the forecast of it means little, and no rule alerts.`, isWarning: true };
  }
  const missing = countMissing(column);
  return missing === 0 ? null : { text: `${missing} of ${column.values.length} values are missing.`, isWarning: false };
}
