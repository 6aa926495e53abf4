/** What is wrong, in words, with what to do; one calm line where nothing is. */
import { Badge } from "../../ui/basics";
import type { Change } from "./polls";
import { findProblems } from "./problems";

export function ProblemsPanel({ change }: { change: Change }) {
  const problems = findProblems(change);
  if (problems.length === 0) {
    return (
      <p class="calm">
        <Badge tone="good">Nothing is wrong</Badge>
      </p>
    );
  }
  return (
    <ul class="problems" aria-label="Problems">
      {problems.map(({ tone, title, detail, remedy }) => (
        <li key={title} class={`tone-${tone}`}>
          <Badge tone={tone}>{tone === "critical" ? "Critical" : "Warning"}</Badge>
          <div>
            <strong>{title}.</strong>
            {detail !== undefined && <span class="wrap-anywhere"> {detail}.</span>} <span>{remedy}</span>
          </div>
        </li>
      ))}
    </ul>
  );
}
