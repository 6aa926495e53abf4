/** Notices below the top line: what concerns every view. */
import { now, formatDuration, formatTime } from "../format/times";
import { skew } from "../format/clock";
import { Button } from "../ui/basics";
import { live } from "../wire/live";
import { reach } from "../wire/reach";
import { askForToken, tokenWanted } from "../wire/session";
import { overview } from "./overview";

export function Notices() {
  return (
    <>
      <AwayNotice />
      {live.connection.value === "refused" && tokenWanted.value === null && <RefusedNotice />}
      {overview.value?.draining === true && (
        <div class="notice tone-warning">The daemon is stopping. The page connects again when it is back.</div>
      )}
      {skew.value !== 0 && (
        <div class="notice tone-muted no-print">
          The clock of this device is {formatDuration(Math.abs(skew.value))} {skew.value > 0 ? "behind" : "ahead of"} the
          daemon's. Ages and times until a threshold follow the daemon's.
        </div>
      )}
    </>
  );
}

function AwayNotice() {
  const { isReachable, lastAnswer } = reach.value;
  if (isReachable) return null;
  if (lastAnswer === null) {
    return <div class="notice tone-critical">The daemon does not answer. The page goes on as soon as it does.</div>;
  }
  const age = now.value - skew.value - lastAnswer;
  return (
    <div class="notice tone-critical">
      <strong>The daemon does not answer.</strong>
      <span>
        What you see is from {formatTime(lastAnswer)}
        {age >= 60 && `, ${formatDuration(age)} ago`}. The page goes on as soon as it answers.
      </span>
      <Button onClick={() => live.retryNow()}>Try now</Button>
    </div>
  );
}

function RefusedNotice() {
  const why = live.refusal.value ?? "";
  return (
    <div class="notice tone-warning">
      <span>Nothing here is live: {why}</span>
      <Button onClick={() => askForToken(why)}>Give another token</Button>
    </div>
  );
}
