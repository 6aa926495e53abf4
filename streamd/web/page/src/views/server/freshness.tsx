/** What is known of a server at a glance: how fresh it is, what fires, and who forecast. */
import type { Tone } from "../../ui/basics";
import { Age, Badge, Time } from "../../ui/basics";
import type { Alert, Condition } from "../../wire/types";
import type { Freshness } from "./condition";
import type { NewestForecast } from "./data";

export const CONDITION_TONES: Record<Condition, Tone> = {
  current: "good",
  pending: "info",
  stale: "warning",
  warming: "info",
};

export function FreshnessLine(props: {
  freshness: Freshness;
  origin: number;
  rows: string;
  forecast: NewestForecast | null;
  alerts: readonly Alert[];
}) {
  const { freshness, origin, rows, forecast, alerts } = props;
  const firing = alerts.filter((alert) => alert.state === "firing");
  return (
    <div class="server-facts" role="status" aria-label="Condition">
      <p class="cluster">
        <Badge tone={CONDITION_TONES[freshness.condition]}>{freshness.condition}</Badge>
        {firing.map((alert) => (
          <Badge key={alert.rule} tone={alert.severity === "info" ? "info" : alert.severity}>
            {alert.rule} fires{alert.silenced_until != null ? ", silenced" : ""}
          </Badge>
        ))}
        <span>
          Newest row <Time at={origin} />, <Age at={origin} />
        </span>
        {forecast !== null && (
          <span>
            Forecast from <Time at={forecast.origin} /> <span class="faint">by {forecast.model}</span>
          </span>
        )}
        <span class="faint">{rows}</span>
      </p>
      {freshness.text !== "" && <p class="server-condition">{freshness.text}</p>}
    </div>
  );
}
