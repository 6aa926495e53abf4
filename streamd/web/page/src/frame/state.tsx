/** The right end of the line at the top: which version serves, how many servers there are, the connection, the zone. */
import { useEffect, useState } from "preact/hooks";
import { formatCount, formatVersion } from "../format/names";
import { zoneName } from "../format/times";
import { Badge } from "../ui/basics";
import { live } from "../wire/live";
import { reach } from "../wire/reach";
import { tokenWanted } from "../wire/session";
import { announceConnection, type ConnectionWords, describeConnection } from "./connection";
import { overview } from "./overview";

/** Changes shorter than this are not announced: a daemon that restarts would make a screen reader chatter. */
const ANNOUNCE_MS = 2_000;

export function TopState() {
  return (
    <div class="top-state">
      <Serving />
      <span class="top-zone" title={`All times are in ${zoneName()}`}>
        {zoneName()}
      </span>
      <ConnectionState />
    </div>
  );
}

function Serving() {
  const known = overview.value;
  if (known === undefined) return null;
  return (
    <>
      <span class="top-servers">{formatCount(known.servers, "server")}</span>
      <span class="top-version" title={`The version ${known.engine} serves, by ${known.backend}`}>
        {formatVersion(known.engine)}
      </span>
    </>
  );
}

function ConnectionState() {
  const nowMs = useCountdown(live.retryAt.value !== null);
  const words = describeConnection({
    connection: live.connection.value,
    reach: reach.value,
    retryAt: live.retryAt.value,
    nowMs,
    refusal: live.refusal.value,
    isTokenWanted: tokenWanted.value !== null,
  });
  return (
    <>
      <Badge tone={words.tone} title={words.detail}>
        {words.words}
      </Badge>
      <Announcement words={words} />
    </>
  );
}

function Announcement({ words }: { words: ConnectionWords }) {
  const text = announceConnection(words);
  const [announced, setAnnounced] = useState("");
  useEffect(() => {
    // The first connection needs no words either.
    if (text === "" || (announced === "" && words.tone === "good")) return;
    const timer = setTimeout(() => setAnnounced(text), ANNOUNCE_MS);
    return () => clearTimeout(timer);
  }, [text]);
  return (
    <span class="visually-hidden" role="status">
      {announced}
    </span>
  );
}

/** The present in milliseconds, moving once a second while something counts down. */
function useCountdown(isCounting: boolean): number {
  const [nowMs, setNowMs] = useState(Date.now());
  useEffect(() => {
    if (!isCounting) return;
    setNowMs(Date.now());
    const timer = setInterval(() => setNowMs(Date.now()), 1_000);
    return () => clearInterval(timer);
  }, [isCounting]);
  return nowMs;
}
