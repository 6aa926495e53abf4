/** Who is notified, in one line: the person on call wants to know whether anybody is notified at all. */
import { formatCount } from "../../format/names";
import type { ReceiverStatus } from "../../wire/status";

export function ReceiversNote({ receivers }: { receivers: readonly ReceiverStatus[] }) {
  if (receivers.length === 0) {
    return (
      <>
        No receiver is set, so alerts show only here. Set <code>alertmanagers</code> or <code>alert_webhook</code> in{" "}
        <code>[alerts]</code> of <code>config.toml</code> to be notified.
      </>
    );
  }
  return <>Sent to {receivers.map(describeReceiver).join(", ")}.</>;
}

/** Such as `am-1:9093`, `webhook (2 alerts wait)`. */
function describeReceiver({ receiver, waiting }: ReceiverStatus): string {
  return waiting === 0 ? receiver : `${receiver} (${formatCount(waiting, "alert waits", "alerts wait")})`;
}
