/** The rules in plain words, and what to write where there is none. */
import { updateQuery } from "../../routing";
import { EmptyState } from "../../ui/basics";
import type { Alert, AlertRule } from "../../wire/types";
import { type CardColumn, CardTable } from "./cards";
import { SeverityBadge } from "./cells";
import { writeFilters } from "./filters";
import { describeDamping, describeQuantile, describeRule, describeServers, findLink } from "./words";

export function AlertRules({ rules, active }: { rules: readonly AlertRule[]; active: Iterable<Alert> }) {
  const counts = countByRule(active);
  const columns: readonly CardColumn<AlertRule>[] = [
    { key: "severity", label: "Severity", cell: (rule) => <SeverityBadge severity={rule.severity} /> },
    { key: "title", label: "Rule", cell: (rule) => <RuleWords rule={rule} /> },
    { key: "servers", label: "Servers", cell: (rule) => <Servers servers={rule.servers} /> },
    { key: "texts", label: "Labels and notes", cell: (rule) => <Texts rule={rule} /> },
    {
      key: "action",
      label: "Active",
      cell: (rule) => <ActiveLink rule={rule.rule} count={counts.get(rule.rule) ?? 0} />,
    },
  ];
  return <CardTable caption="Rules" columns={columns} rows={rules} rowKey={({ rule }) => rule} />;
}

/** The number of active alerts by the name of their rule. */
function countByRule(active: Iterable<Alert>): Map<string, number> {
  const counts = new Map<string, number>();
  for (const { rule } of active) counts.set(rule, (counts.get(rule) ?? 0) + 1);
  return counts;
}

function RuleWords({ rule }: { rule: AlertRule }) {
  return (
    <>
      <span class="alerts-what">{describeRule(rule)}</span>
      <small class="soft">
        {rule.rule}, {describeQuantile(rule)}. {describeDamping(rule)} Needs {rule.min_rows} rows.
      </small>
    </>
  );
}

const SHOWN_SERVERS = 6;

function Servers({ servers }: { servers: readonly string[] }) {
  const rest = servers.length - SHOWN_SERVERS;
  return (
    <span title={servers.join(", ")}>
      {describeServers(rest > 0 && !servers.includes("*") ? servers.slice(0, SHOWN_SERVERS) : servers)}
      {rest > 0 && !servers.includes("*") && ` and ${rest} more`}
    </span>
  );
}

function Texts({ rule }: { rule: AlertRule }) {
  const texts = [...Object.entries(rule.labels), ...Object.entries(rule.annotations)];
  if (texts.length === 0) return null;
  return (
    <ul class="alerts-texts">
      {texts.map(([name, text]) => {
        const href = findLink(text);
        return (
          <li key={name}>
            <span class="soft">{name}:</span>{" "}
            {href === null ? (
              text
            ) : (
              <a href={href} rel="noreferrer" target="_blank">
                {text}
              </a>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function ActiveLink({ rule, count }: { rule: string; count: number }) {
  if (count === 0) return <span class="faint">none</span>;
  return (
    <button
      type="button"
      class="button button-quiet"
      aria-label={`Show the ${count} active alerts of ${rule}`}
      onClick={() => updateQuery(writeFilters({ part: "active", rule, server: "", severity: "", standing: "" }))}
    >
      {count} active
    </button>
  );
}

/** Targets that usually fill up, the best first; the example in the explanation is about one that the model has. */
const LIKELY_TARGETS = ["disk_usage", "mem_used", "cpu_user"];

/** The rule that a reader may begin with. */
export function exampleRule(targets: readonly string[], units: Readonly<Record<string, string>>): string {
  const target = LIKELY_TARGETS.find((each) => targets.includes(each)) ?? targets[0] ?? "disk_usage";
  const above = (units[target] ?? "percent") === "percent" ? "90.0" : "100.0";
  return `[alerts.rules.${target}_high]\ntarget = "${target}"\nabove = ${above}\nwithin = "4h"\nseverity = "warning"\n`;
}

export function NoRules({ targets, units }: { targets: readonly string[]; units: Readonly<Record<string, string>> }) {
  return (
    <EmptyState title="This daemon has no alert rules">
      <p>
        A rule says which threshold a forecast must not cross, and how soon. Write one into <code>config.toml</code>:
      </p>
      <pre tabIndex={0} aria-label="An example of a rule">
        {exampleRule(targets, units)}
      </pre>
      <p>
        Then reload the daemon with <code>systemctl reload streamd</code>, or send it SIGHUP; no restart is needed.{" "}
        <code>streamd alerts check --config config.toml</code> says beforehand what each rule means.
      </p>
    </EmptyState>
  );
}
