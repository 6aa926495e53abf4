/** The cells of alerts: how one stands, the time until its threshold, its links. */
import { describeThreshold } from "../../format/crossings";
import { showName } from "../../format/names";
import { formatTime, now } from "../../format/times";
import { Badge, type Tone } from "../../ui/basics";
import { linkTo } from "../../routing";
import type { Alert, Severity } from "../../wire/types";
import { standingOf } from "./filters";
import { describeClockTimes, describeLikely, describeRange, findLink } from "./words";

const TONES: Record<Severity, Tone> = { critical: "critical", warning: "warning", info: "info" };

export function SeverityBadge({ severity }: { severity: Severity }) {
  return <Badge tone={TONES[severity] ?? "neutral"}>{severity}</Badge>;
}

/** Such as `critical`, `warning, pending`, `info, silenced`. */
export function StandingBadge({ alert }: { alert: Alert }) {
  const standing = standingOf(alert, now.peek());
  if (standing === "firing") return <SeverityBadge severity={alert.severity} />;
  const title =
    standing === "pending"
      ? "The forecast crosses the threshold, and the rule waits whether the next one does too."
      : "No receiver is notified while the silence holds.";
  return (
    <Badge tone="muted" title={title}>
      {alert.severity}, {standing === "silenced" ? "silenced" : "pending"}
    </Badge>
  );
}

/** What is wrong, by which rule; the rule may have a runbook. */
export function Threshold({ alert }: { alert: Alert }) {
  const links = Object.entries(alert.annotations).flatMap(([name, text]) => {
    const href = findLink(text);
    return href === null ? [] : [{ name, href }];
  });
  const note = alert.annotations["summary"] ?? alert.annotations["description"];
  return (
    <>
      <span class="alerts-what">{describeThreshold(alert)}</span>
      <small class="soft">
        {alert.rule}
        {links.map(({ name, href }) => (
          <>
            {" · "}
            <a key={name} href={href} rel="noreferrer" target="_blank">
              {name === "runbook_url" ? "runbook" : name}
            </a>
          </>
        ))}
      </small>
      {note !== undefined && <small class="soft alerts-note">{note}</small>}
    </>
  );
}

/** The likely time until the threshold, and the range around it. */
export function Until({ alert }: { alert: Alert }) {
  const present = now.value;
  return (
    <span class="alerts-pair" title={describeClockTimes(alert.crosses_at, present)}>
      <strong>{describeLikely(alert.crosses_at, present)}</strong>
      <small class="soft">{describeRange(alert.crosses_at, present)}</small>
    </span>
  );
}

/** The server, as a link to its view of the target that the alert is about. */
export function ServerLink({ alert }: { alert: Alert }) {
  return (
    <a class="alerts-server" href={linkTo("servers", { server: alert.server, target: alert.target })}>
      {showName(alert.server)}
    </a>
  );
}

/** `until 14:30`, for an alert that is silenced. */
export function SilencedUntil({ until }: { until: number }) {
  return <small class="soft">until {formatTime(until, now.peek())}</small>;
}
