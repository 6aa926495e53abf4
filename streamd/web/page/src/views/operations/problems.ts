/** What is wrong with a daemon, the worst first: found in its status and in what happened lately. Pure. */
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import { formatWhole } from "../../format/values";
import type { Counts, Status } from "../../wire/status";
import { formatPart, formatRate } from "./amounts";
import type { Change } from "./polls";

export interface Problem {
  tone: "critical" | "warning";
  title: string;
  remedy: string;
  /** The daemon's own words, or the figures. */
  detail?: string;
}

type Finder = (status: Status, change: Change) => Problem | undefined;

const FINDERS: readonly Finder[] = [
  findStopping,
  findNoLane,
  findStall,
  findUnwritableState,
  findPassedOver,
  findFailedChange,
  findLostLanes,
  findCandidateWithoutLane,
  findAwayWorkers,
  findDeviceRestarts,
  findFullCapacity,
  findFailedRows,
  findSupersededRows,
  findSlowSubscribers,
  findRejectedSamples,
  findRowsAhead,
  findLateAlerts,
  findAwayReceiver,
  findUnwritableHistory,
  findRejectedFiles,
  findDamage,
];

/** Return the problems, critical ones first. */
export function findProblems(change: Change): Problem[] {
  const found = FINDERS.map((find) => find(change.now.status, change)).filter((each) => each !== undefined);
  return [...found.filter((each) => each.tone === "critical"), ...found.filter((each) => each.tone === "warning")];
}

function critical(title: string, remedy: string, detail?: string | null): Problem {
  return { tone: "critical", title, remedy, ...(detail ? { detail } : {}) };
}

function warning(title: string, remedy: string, detail?: string | null): Problem {
  return { tone: "warning", title, remedy, ...(detail ? { detail } : {}) };
}

// ---------------------------------------------------------------- no forecasts
function findStopping({ draining }: Status) {
  if (draining) return critical("The daemon is stopping", "It finishes what it has begun, and takes nothing new.");
}

function findNoLane({ ready, draining, lanes_lost }: Status) {
  if (ready || draining) return;
  const remedy = "Samples are still kept. See the runbook StreamdNotReady.";
  return critical("No lane works, so there are no forecasts", remedy, lanes_lost.at(-1));
}

function findStall({ stall }: Status) {
  if (stall) return critical("The lanes are stuck", "Work waits, and no batch ends. See the runbook StreamdWorkStuck.", stall);
}

function findUnwritableState({ state_folder }: Status) {
  if (state_folder.problem === null) return;
  const remedy = "New samples are refused until it can. See the runbook StreamdStorage.";
  return critical("The state folder cannot be written", remedy, state_folder.problem);
}

// ---------------------------------------------------------------- less than there should be
function findPassedOver({ passed_over = [] }: Status) {
  if (passed_over.length === 0) return;
  const reasons = passed_over.map((each) => `${each.name}: ${each.reason}`);
  return warning("A version that should serve cannot", "Repair or remove it, then reload.", reasons.join("; "));
}

function findFailedChange({ reload }: Status) {
  if (reload?.state !== "failed") return;
  return warning("The last change of the version failed", "It changed nothing. Repair the cause, then try again.", reload.error);
}

function findLostLanes({ lanes_lost, ready }: Status) {
  if (!ready || lanes_lost.length === 0) return;
  const title = `${formatCount(lanes_lost.length, "lane")} lost since this version began to serve`;
  const remedy = "Lost lanes are made anew. If it happens again, see the runbook StreamdLaneLost.";
  return warning(title, remedy, lanes_lost.at(-1));
}

function findCandidateWithoutLane({ candidate }: Status) {
  if (candidate === null || candidate.lanes > 0) return;
  const remedy = "The version that serves forecasts its servers. End the candidate, or start it again.";
  return warning("The candidate has no lane", remedy, candidate.lanes_lost.at(-1));
}

function findAwayWorkers({ workers_away }: Status) {
  if (workers_away.length === 0) return;
  const title = `Being started again: ${workers_away.map((number) => `worker ${number}`).join(", ")}`;
  return warning(title, "Its connections were lost; senders connect again.");
}

function findDeviceRestarts({ device_restarts }: Status) {
  if (device_restarts === 0) return;
  const title = `${formatCount(device_restarts, "restart")} in the last hour because of a lost GPU`;
  return warning(title, "See the runbook StreamdRestarts.");
}

function findFullCapacity({ servers, capacity }: Status) {
  if (servers <= 0.9 * capacity) return;
  const title = `${formatWhole(servers)} of at most ${formatWhole(capacity)} servers`;
  return warning(title, "Raise max_servers in the settings, and restart.");
}

// ---------------------------------------------------------------- work that is lost
function findFailedRows(_: Status, change: Change) {
  const rate = change.rate((poll) => poll.status.rows["failed"]);
  if (!rate) return;
  const remedy = "The log names the server and the reason. See the runbook StreamdRowsFailed.";
  return warning("Forecasts fail", remedy, formatRate(rate));
}

/** Replaced rows are a problem if they are more than a few, and more than a small share of those that were due. */
function findSupersededRows(_: Status, change: Change) {
  const replaced = change.increase((poll) => poll.status.rows["superseded"]) ?? 0;
  const due = change.increase((poll) => poll.status.rows["due"]) ?? 0;
  if (replaced < 10 || replaced / due < 0.02) return;
  const remedy = "Usual while history is sent; else the lanes are at their limit. See the runbook StreamdRowsSuperseded.";
  const detail = `${formatPart(replaced / due)} of the rows that were due`;
  return warning("Newer rows come before the forecasts of older ones", remedy, detail);
}

function findSlowSubscribers(_: Status, change: Change) {
  const missed = change.rate((poll) => poll.status.subscribers.dropped);
  if (!missed) return;
  return warning("A subscriber reads too slowly", "It misses forecasts, and gets newer ones.", `${formatRate(missed)} missed`);
}

function findRejectedSamples(_: Status, change: Change) {
  const count = ({ samples }: Status) => addUp(samples.rejected) + addUp(samples.refused_frames);
  const rate = change.rate((poll) => count(poll.status));
  if (!rate) return;
  const { rejected, refused_frames } = change.now.status.samples;
  const codes = [...new Set([...Object.keys(rejected), ...Object.keys(refused_frames)])].join(", ");
  return warning("Samples are rejected", "The table of samples has the reasons.", `${formatRate(rate)}; since start: ${codes}`);
}

// ---------------------------------------------------------------- around it
function findRowsAhead({ ahead }: Status) {
  if (ahead.servers === 0) return;
  const names = ahead.first.map((each) => `${each.server}: ${formatDuration(each.seconds)} ahead`);
  const remedy = "Set the clock of the sender, or of this machine. See the runbook StreamdClockWrong.";
  return warning(`${formatCount(ahead.servers, "server")} sent rows from the future`, remedy, names.join("; "));
}

function findLateAlerts({ alerts }: Status) {
  if (alerts === null) return;
  if (alerts.failures > 0) {
    const detail = `${formatCount(alerts.failures, "failure")} since start`;
    return warning("Alerts could not be evaluated or stored", "The log has the reason.", detail);
  }
  if (alerts.lag_seconds <= 10) return;
  const detail = `${formatDuration(alerts.lag_seconds)} behind`;
  return warning("Alert rules are evaluated late", "The machine is too busy, or there are too many rules.", detail);
}

/** A receiver that lacks alerts is a problem if it took none for a minute. */
function findAwayReceiver({ alerts }: Status, { now }: Change) {
  const isAway = (success: number | null) => success === null || now.at - success > 60;
  const away = alerts?.receivers.find((each) => each.waiting > 0 && isAway(each.last_success));
  if (away === undefined) return;
  const remedy = "The log has the reason. See the runbook StreamdAlertsNotDelivered.";
  return warning(`${away.receiver} does not take alerts`, remedy, `${formatCount(away.waiting, "alert")} waiting`);
}

function findUnwritableHistory({ accuracy_history }: Status) {
  if (accuracy_history.problem === null) return;
  return warning("The accuracy history cannot be written", "Forecasts go on.", accuracy_history.problem);
}

function findRejectedFiles({ access }: Status) {
  if (access.rejected_files.length === 0) return;
  const remedy = "What held before still holds. See the runbook StreamdAccessFileRejected.";
  return warning("A file of tokens or of TLS cannot be used", remedy, access.rejected_files.join(", "));
}

const DAMAGE: Record<string, string> = {
  unreadable: "servers could not be read",
  unreadable_forecasts: "forecasts could not be read",
  lost_rows: "rows are missing",
  damaged_log_bytes: "bytes of the log of points are damaged",
};

function findDamage({ recovered }: Status) {
  const found = Object.entries(DAMAGE).flatMap(([key, words]) => {
    const count = Number(recovered[key] ?? 0);
    return count > 0 ? [`${formatWhole(count)} ${words}`] : [];
  });
  const setAside = recovered["set_aside"];
  if (Array.isArray(setAside) && setAside.length > 0) found.push(`${formatCount(setAside.length, "file")} set aside`);
  if (found.length === 0) return;
  const remedy = "All else was kept. See the runbook StreamdStateDamaged.";
  return warning("The last start found damage in the state folder", remedy, found.join("; "));
}

/** The sum of all counts. */
export function addUp(counts: Counts): number {
  return Object.values(counts).reduce((sum, count) => sum + count, 0);
}
