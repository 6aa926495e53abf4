/** How two versions compare that forecast the same servers at the same times, in words. Pure. */
import type { Tone } from "../ui/basics";
import type { ComparisonStatus, PairedLoss } from "../wire/status";
import { formatCount } from "./names";

/** With fewer forecasts, scores say little: the values of one forecast depend on each other. */
export const FEW_FORECASTS = 30;

export type Standing = "better" | "worse" | "unclear" | "early";

/** How a version stands against another one, for a badge. */
export const STANDINGS: Record<Standing, { tone: Tone; words: string }> = {
  better: { tone: "good", words: "better" },
  worse: { tone: "warning", words: "worse" },
  unclear: { tone: "neutral", words: "no difference proved" },
  early: { tone: "muted", words: "too early to judge" },
};

/** Whether the second version is better than the first: beyond two standard errors, over enough forecasts. */
export function judge({ forecasts, difference, standard_error }: PairedLoss): Standing {
  if (forecasts < FEW_FORECASTS || difference === null || standard_error === null) return "early";
  if (Math.abs(difference) <= 2 * standard_error) return "unclear";
  return difference < 0 ? "better" : "worse";
}

/** The comparison of two versions, turned so that `second` is the second one; undefined if there is none. */
export function findComparison(
  comparisons: readonly ComparisonStatus[],
  first: string,
  second: string,
): PairedLoss | undefined {
  const found = comparisons.find((each) => each.first === first && each.second === second);
  if (found !== undefined) return found;
  const turned = comparisons.find((each) => each.first === second && each.second === first);
  if (turned === undefined) return undefined;
  return {
    forecasts: turned.forecasts,
    first_loss: turned.second_loss,
    second_loss: turned.first_loss,
    difference: turned.difference === null ? null : -turned.difference,
    standard_error: turned.standard_error,
  };
}

/** The comparison of a candidate with what serves, in a sentence. */
export function describeComparison(pair: PairedLoss): string {
  const { forecasts, first_loss, difference, standard_error } = pair;
  const standing = judge(pair);
  if (forecasts === 0 || difference === null || first_loss === null || first_loss <= 0) {
    return "No forecast of both versions has come true yet.";
  }
  const digits = Math.abs(difference) < 0.0995 * first_loss ? 1 : 0;
  const percent = (part: number) => `${((Math.abs(part) / first_loss) * 100).toFixed(digits)} %`;
  const error = standard_error === null ? "" : ` ± ${percent(2 * standard_error)}`;
  const change = `${percent(difference)}${error} ${difference < 0 ? "lower" : "higher"}`;
  const over = `over ${formatCount(forecasts, "forecast")} that both made of the same servers at the same times`;
  if (standing === "early") return `Too early: so far its loss is ${change} ${over}; ${FEW_FORECASTS} are needed.`;
  if (standing === "unclear") return `No difference is proved: its loss is ${change} ${over}.`;
  return `It is ${standing}: its loss is ${change} ${over}.`;
}
