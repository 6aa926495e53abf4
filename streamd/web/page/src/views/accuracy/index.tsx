/** How good the forecasts are, measured live: loss and coverage by target and horizon, drift, versions side by side. */
import "../../styles/accuracy.css";
import { formatVersion } from "../../format/names";
import { round } from "../../format/values";
import { route, updateQuery } from "../../routing";
import { ErrorNote, Loading, Panel, Segmented } from "../../ui/basics";
import { Explained } from "../../ui/explained";
import { useResource } from "../../ui/resource";
import { ViewHead } from "../../ui/view";
import { readStatus } from "../../wire/calls";
import type { Status } from "../../wire/status";
import { Calibration } from "./calibration";
import { ComparisonsPanel } from "./comparisons";
import { describeVersion } from "./judgements";
import { NoScores } from "./noScores";
import { RangeBars, type NamedVersion } from "./rangeBars";
import { SamplingPanel } from "./sampling";
import { TargetsTable } from "./targets";
import { VersionsTable } from "./versionsTable";

const EVERY_SECONDS = 10;

export function AccuracyView() {
  const { data: status, error, reload } = useResource(readStatus, [], EVERY_SECONDS);
  return (
    <>
      <ViewHead title="Accuracy" note="Forecasts of this fleet against what came true." />
      <div class="stack">
        {error !== undefined && error.status !== 0 && <ErrorNote error={error} onRetry={reload} />}
        {status === undefined ? error === undefined && <Loading what="the scores" /> : <Scores status={status} />}
      </div>
    </>
  );
}

function Scores({ status }: { status: Status }) {
  const versions = listVersions(status);
  const chosen = versions.find(({ name }) => name === route.value.query["version"]) ?? versions[0];
  if (chosen === undefined || versions.every(({ scores }) => scores.scored_steps === 0)) return <NoScores status={status} />;
  const { accuracy, contract } = status;
  return (
    <>
      <Panel title="By version">
        <p class="accuracy-summary">
          {formatVersion(chosen.name)}: {describeVersion(chosen.scores, accuracy, contract.step_seconds)}
        </p>
        <VersionsTable versions={versions} serving={status.engine} />
      </Panel>
      <VersionPanels chosen={chosen} versions={versions} stepSeconds={contract.step_seconds} />
      <div class="columns">
        <ComparisonsPanel comparisons={accuracy.comparisons} stepSeconds={contract.step_seconds} />
        <SamplingPanel status={status} />
      </div>
    </>
  );
}

/** What serves first, then the others by name. */
function listVersions(status: Status): NamedVersion[] {
  const versions = Object.entries(status.accuracy.versions).map(([name, scores]) => ({ name, scores }));
  return versions.sort((first, second) => Number(second.name === status.engine) - Number(first.name === status.engine));
}

function VersionPanels(props: { chosen: NamedVersion; versions: NamedVersion[]; stepSeconds: number }) {
  const { chosen, versions, stepSeconds } = props;
  const shown = [chosen, ...versions.filter(({ name }) => name !== chosen.name)].slice(0, 3);
  return (
    <>
      <Panel title="By target" actions={versions.length > 1 && <VersionChoice chosen={chosen} versions={versions} />}>
        <TargetsTable version={chosen.scores} />
        <Explained terms={[...LOSS_TERMS, ...BAND_TERMS]} />
      </Panel>
      <div class="columns">
        <Panel title="Loss by how far ahead">
          <RangeBars versions={shown} training={chosen.scores.training_loss} stepSeconds={stepSeconds} />
          <RangeLegend versions={shown} training={chosen.scores.training_loss} />
          <Explained terms={LOSS_TERMS} />
        </Panel>
        <Panel title="Quantiles against the truth">
          <Calibration targets={chosen.scores.targets} />
          <Explained terms={QUANTILE_TERMS} />
        </Panel>
      </div>
    </>
  );
}

function VersionChoice({ chosen, versions }: { chosen: NamedVersion; versions: readonly NamedVersion[] }) {
  return (
    <Segmented
      label="Version"
      value={chosen.name}
      choices={versions.map(({ name }) => ({ value: name, label: formatVersion(name) }))}
      onChange={(name) => updateQuery({ version: name })}
    />
  );
}

function RangeLegend({ versions, training }: { versions: readonly NamedVersion[]; training: number | null }) {
  return (
    <ul class="range-legend">
      {versions.map(({ name }, index) => (
        <li key={name}>
          <span class={`range-key series-${index + 1}`} aria-hidden="true" /> {formatVersion(name)}
        </li>
      ))}
      {training !== null && (
        <li>
          <span class="range-key-line" aria-hidden="true" /> in training, over the whole horizon: {round(training)}
        </li>
      )}
    </ul>
  );
}

const LOSS_TERMS = [
  ["Loss", "The pinball loss, averaged over the quantiles and divided by the deviation of the series, so that targets compare. Smaller is better; 0 would be a forecast without any error."],
] as const;

const BAND_TERMS = [
  ["Band held", "The share of values that lay inside the band between two quantiles. The tick is the share it should hold, the shaded part how far from it is still as it should be."],
  ["Too narrow", "The truth lies outside more often than the band says: thresholds are crossed without warning more often, too."],
  ["Too wide", "The band is more careful than it had to be: earliest crossing times are too early."],
] as const;

const QUANTILE_TERMS = [
  ["How to read it", "Each point is a quantile: how often the truth lay at or below it (up) against how often it should (right). On the diagonal both agree; below it the forecasts are too high, above it too low."],
  ["A target that is often exactly 0", "lies at or below its low quantiles whenever both are 0, so its points lie far above the diagonal, and nothing is wrong."],
] as const;

