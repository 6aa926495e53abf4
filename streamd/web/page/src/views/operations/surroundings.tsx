/** What the daemon runs on and whom it serves: backend, state folder, memory, readers, alerts, access. */
import type { ComponentChildren } from "preact";
import { formatCount } from "../../format/names";
import { formatDuration } from "../../format/times";
import { formatValue, formatWhole } from "../../format/values";
import { Age, Badge, Panel } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import type { Status } from "../../wire/status";
import { formatDelay, formatRate } from "./amounts";
import type { Change } from "./polls";

const BACKENDS: Record<string, string> = {
  tensorrt: "TensorRT",
  "onnxruntime-cuda": "ONNX Runtime on CUDA",
  "onnxruntime-cpu": "ONNX Runtime on the CPU",
};

export function BackendPanel({ status }: { status: Status }) {
  const { backend, precision, fallbacks, backend_details = {} } = status;
  return (
    <Panel title="Backend">
      <dl class="facts">
        <Fact term="In use">{backend === null ? "none yet" : (BACKENDS[backend] ?? backend)}</Fact>
        <Fact term="Precision">{precision ?? "–"}</Fact>
        {Object.entries(backend_details).map(([name, value]) => (
          <Fact key={name} term={name.replaceAll("_", " ")}>
            {String(value)}
          </Fact>
        ))}
      </dl>
      {fallbacks.length > 0 && (
        <>
          <h3>Passed over, the fastest first</h3>
          <dl class="facts">
            {fallbacks.map(({ backend: name, reason }) => (
              <Fact key={name} term={BACKENDS[name] ?? name}>
                {reason}
              </Fact>
            ))}
          </dl>
        </>
      )}
      <Explained
        terms={[
          ["Backend", "A way to run a version. The fastest one that works here is in use."],
          ["Passed over", "Usual on a machine without a GPU. On one with a GPU, the reason says what is missing."],
        ]}
      />
    </Panel>
  );
}

export function StatePanel({ change }: { change: Change }) {
  const { state_folder, memory, accuracy_history, recovered, workers_away } = change.now.status;
  const { metrics } = change.now;
  const found = Number(recovered["servers"] ?? 0);
  return (
    <Panel title="State and memory">
      <dl class="facts">
        <Fact term="State folder">
          <Badge tone={state_folder.problem === null ? "good" : "critical"}>{state_folder.problem ?? "written"}</Badge>
        </Fact>
        <Fact term="Last flush">
          began {formatDuration(state_folder.unsynced_seconds)} ago, took {formatDelay(state_folder.flush_seconds)}
        </Fact>
        <Fact term="Found at start">{formatCount(found, "server")}</Fact>
        <Fact term="Memory">{formatValue(memory.resident_bytes, "bytes")}, mapped state included</Fact>
        <Fact term="Accuracy history">
          {formatCount(accuracy_history.forecasts, "forecast")} of {formatCount(accuracy_history.servers, "server")},{" "}
          {formatWhole(accuracy_history.scored)} scored
          {accuracy_history.left_out > 0 && `; ${formatCount(accuracy_history.left_out, "server")} left out`}
        </Fact>
        <Fact term="Connections">
          {formatWhole(metrics.get("streamd_connections") ?? 0)} open,{" "}
          {formatValue(metrics.get("streamd_pending_bytes") ?? 0, "bytes")} not taken yet
        </Fact>
        {workers_away.length > 0 && <Fact term="Workers away">{workers_away.join(", ")}</Fact>}
      </dl>
      <Explained
        terms={[
          ["Flush", "What was acknowledged survives the end of the process at once. Only a power loss can take what was written since the last flush."],
        ]}
      />
    </Panel>
  );
}

export function ReadersPanel({ change }: { change: Change }) {
  const { subscribers, alerts, access, predict } = change.now.status;
  return (
    <Panel title="Readers and alerts">
      <dl class="facts">
        <Fact term="Subscribers">
          {formatWhole(subscribers.now)}, {formatCount(subscribers.waiting, "forecast")} waiting for them
        </Fact>
        <Fact term="Missed">
          {formatWhole(subscribers.dropped)} forecasts since start,{" "}
          {formatRate(change.rate((poll) => poll.status.subscribers.dropped))}
        </Fact>
        <Fact term="Calls for predictions">
          {formatWhole(predict.calls)} open, {formatCount(predict.waiting, "window")} waiting
        </Fact>
        {alerts !== null && (
          <Fact term="Alert rules">
            {formatWhole(alerts.rules)}; {formatWhole(alerts.firing)} firing, {formatWhole(alerts.pending)} pending;
            evaluated within {formatDelay(alerts.lag_seconds)}
          </Fact>
        )}
        {alerts?.receivers.map(({ receiver, waiting, last_success }) => (
          <Fact key={receiver} term={`Receiver ${receiver}`}>
            {waiting === 0 ? "has all" : `lacks ${formatCount(waiting, "alert")}`};{" "}
            {last_success === null ? "took none yet" : <>took some <Age at={last_success} /></>}
          </Fact>
        ))}
        <RemoteWrite change={change} />
        <Fact term="Access">
          {access.open ? "without a token, but for changes" : `${formatCount(access.tokens, "token")}; each call needs one`}
        </Fact>
        <Refused change={change} />
      </dl>
      <Explained
        terms={[
          ["Subscriber", "A reader to which forecasts are pushed. One that reads too slowly gets the newest forecast of each server, and misses those before."],
          ["Receiver", "Where alerts are sent: an Alertmanager or a webhook of the settings. What it lacks is sent when it is back."],
        ]}
      />
    </Panel>
  );
}

/** Forecasts that go to a store of metrics, if they do. */
function RemoteWrite({ change }: { change: Change }) {
  const { metrics } = change.now;
  const results = metrics.byLabel("streamd_remote_write_requests_total", "result");
  const waiting = metrics.get("streamd_remote_write_waiting");
  if (waiting === undefined || (results.size === 0 && waiting === 0)) return null;
  const words = [...results].map(([result, count]) => `${formatWhole(count)} ${result}`);
  return (
    <Fact term="Remote write">
      {words.join(", ")}; {formatCount(waiting, "server")} waiting
    </Fact>
  );
}

function Refused({ change }: { change: Change }) {
  const counts = [...change.now.metrics.byLabel("streamd_refused_requests_total", "code")];
  const words = counts.filter(([, count]) => count > 0).map(([code, count]) => `${formatWhole(count)} ${code}`);
  return words.length === 0 ? null : <Fact term="Refused calls">{words.join(", ")}, since start</Fact>;
}

function Fact(props: { term: string; children: ComponentChildren }) {
  return (
    <>
      <dt>{props.term}</dt>
      <dd>{props.children}</dd>
    </>
  );
}
