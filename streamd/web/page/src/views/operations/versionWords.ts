/** Versions in words: their gates, and what a change will do. Pure. */
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import { round } from "../../format/values";
import type { Engines, EngineVersion, GateVerdict, Status } from "../../wire/status";

/** What the accuracy gate found, by precision. */
export function describeGate(gate: Record<string, GateVerdict>): string {
  const verdicts = Object.entries(gate).map(([precision, { promotable, reasons }]) => {
    if (promotable === null) return `${precision} was not judged`;
    return promotable ? `${precision} passed` : `${precision} refused${reasons.length > 0 ? `: ${reasons.join(", ")}` : ""}`;
  });
  return verdicts.length > 0 ? verdicts.join("; ") : "only fp32, which needs no gate";
}

/** What a promotion will do, in the order in which it happens. */
export function describePromotion(version: EngineVersion, engines: Engines, status: Status): string[] {
  const isCandidate = engines.candidate === version.version;
  const isWarm = status.previous?.engine === version.version;
  return [
    `${version.version} replaces ${engines.serving}, for all ${formatCount(status.servers, "server")}.`,
    `Its accuracy gate: ${describeGate(version.gate)}.`,
    ...describeLosses(version, status),
    isWarm || isCandidate
      ? `It is loaded already${isCandidate ? " as the candidate" : ""}, so the change takes less than a second. No forecast is lost.`
      : "Its lanes are made and warmed beside the present ones, which takes seconds. Until then nothing changes, and no forecast is lost.",
    ...(isCandidate ? ["The candidate ends: it is what serves then."] : []),
    `${engines.serving} stays warm for ${formatDuration(status.keep_warm_seconds ?? 0)}; a rollback returns to it.`,
    "The promotion is recorded with your reason, and holds after a restart.",
  ];
}

/** How the losses of a version that is to be promoted stand to those of what serves. */
function describeLosses(version: EngineVersion, status: Status): string[] {
  const live = status.accuracy.versions[status.engine];
  if (version.training_loss === null) return ["The loss of its training is not known."];
  const serving = [
    ...(live?.training_loss != null ? [`was ${round(live.training_loss)} in training`] : []),
    ...(live?.loss != null ? [`is ${round(live.loss)} live, on this fleet`] : []),
  ];
  const words = [`Its loss was ${round(version.training_loss)} in training`];
  if (serving.length > 0) words.push(`that of ${status.engine} ${serving.join(" and ")}`);
  const isSame = live !== undefined && live.training_fleets.join() === version.training_fleets.join();
  const fleets = isSame ? "" : " They were trained on different fleets, so the losses do not compare.";
  return [`${words.join("; ")}.${fleets}`];
}

/** What a rollback will do. */
export function describeRollback(engines: Engines, status: Status): string[] {
  const target = engines.previous ?? "the previous version";
  const isWarm = status.previous?.engine === engines.previous;
  return [
    `${target} replaces ${engines.serving}, for all ${formatCount(status.servers, "server")}.`,
    isWarm
      ? "It is still warm, so the change takes less than a second. No forecast is lost."
      : "Its lanes are made and warmed first, which takes seconds. Until then nothing changes, and no forecast is lost.",
    `${engines.serving} stays warm for ${formatDuration(status.keep_warm_seconds ?? 0)}. Another rollback goes one promotion further back.`,
    "The rollback is recorded with your reason, and holds after a restart.",
  ];
}

/** What a candidate will do. */
export function describeCandidate(version: string, share: number, isShadow: boolean, status: Status): string[] {
  const servers = `about ${formatCount(Math.round(share * status.servers), "server")} of ${status.servers}`;
  const replaced = status.candidate === null ? [] : [`It takes the place of the candidate ${status.candidate.version}.`];
  const common = [
    ...replaced,
    "Its lanes are made beside the present ones, and share the machine with them.",
    "A restart of the daemon ends it.",
  ];
  if (isShadow) {
    return [
      `${version} forecasts ${servers}, after what serves has. Its forecasts are only scored: no reader gets them.`,
      "Both versions forecast the same servers at the same times, so their losses compare.",
      ...common,
    ];
  }
  return [
    `${version} forecasts ${servers}, and readers get its forecasts of them. A hash of the names chooses the servers.`,
    "The two versions forecast different servers, so their losses do not compare directly: use a shadow for that.",
    "If its lanes are lost, what serves takes its servers back.",
    ...common,
  ];
}
