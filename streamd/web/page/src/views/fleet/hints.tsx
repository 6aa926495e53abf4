/** What to do next while there are no servers, no rules, or none that match. */
import { addressOf } from "../../wire/api";
import { EmptyState } from "../../ui/basics";
import { useFleet } from "./context";

/** The quickest ways to send samples, with the address of this daemon. */
export function NoServers() {
  const { contract } = useFleet();
  const values = (contract?.features ?? ["cpu_user"]).slice(0, 2).map((feature) => `"${feature}": 12.5`);
  const base = addressOf("").href.replace(/\/$/, "");
  return (
    <EmptyState title="No server has reported yet">
      <p>Send samples in one of these ways; servers appear here as soon as they report.</p>
      <dl class="fleet-ways">
        <dt>Twelve recorded servers, to try it</dt>
        <dd>
          <pre tabIndex={0}>{`streamd replay --url ${base} --shift-to-now --context-rows 288 --limit-rows 6 --speed 600`}</pre>
        </dd>
        <dt>One sample by hand</dt>
        <dd>
          <pre tabIndex={0}>{`curl -X POST ${base}/v1/samples -H 'Content-Type: application/json' -d '
  {"samples": [{"server": "web-01", "time": '$(date +%s)',
                "values": {${values.join(", ")}}}]}'`}</pre>
        </dd>
        <dt>Prometheus, with node_exporter (other agents: docs/agents.md)</dt>
        <dd>
          <pre tabIndex={0}>{`remote_write:
  - url: ${base}/api/v1/write`}</pre>
        </dd>
      </dl>
    </EmptyState>
  );
}

/** Why nothing has a time until its threshold. */
export function NoRules() {
  return (
    <details class="fleet-no-rules">
      <summary>No alert rule gives a threshold, so no time until one is shown.</summary>
      <p>Add a table like this to config.toml, then send SIGHUP to the daemon. docs/alerts.md has all keys.</p>
      <pre tabIndex={0}>{`[alerts.rules.disk_fills]
target = "disk_usage"
above = 90.0
within = "4h"`}</pre>
    </details>
  );
}

export function NoMatch({ onClear }: { onClear: () => void }) {
  return (
    <EmptyState title="No server matches">
      <button type="button" class="button" onClick={onClear}>
        Show all servers
      </button>
    </EmptyState>
  );
}
