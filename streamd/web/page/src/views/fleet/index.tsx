/** The fleet: all servers at a glance, worst first. */
import { useSignal } from "@preact/signals";
import { useEffect, useMemo, useRef } from "preact/hooks";
import { formatWhole } from "../../format/values";
import { route, updateQuery } from "../../routing";
import { Loading } from "../../ui/basics";
import { useResource } from "../../ui/resource";
import { ViewHead } from "../../ui/view";
import { readRules, readStatus } from "../../wire/calls";
import type { AlertRule, Contract } from "../../wire/types";
import "../../styles/fleet.css";
import { FleetProvider, targetOf, type FleetContext } from "./context";
import { chooseQuantiles } from "./curves";
import { FleetFeed } from "./feed";
import { NoMatch, NoRules, NoServers } from "./hints";
import { FleetList } from "./list";
import { askFor, isNarrowed, readState, writeState, type FleetState } from "./state";
import { Chips, Toolbar } from "./toolbar";

const RULES_SECONDS = 60;
const SETTLE_MS = 1_000;
const NO_RULES: AlertRule[] = [];

export function FleetView() {
  const state = readState(route.value.query);
  const feed = useFeed(state);
  const rules = useResource((signal) => readRules(signal), [], RULES_SECONDS);
  const status = useResource(readStatus, []);
  const contract = status.data?.contract;
  const known = rules.data ?? NO_RULES;
  const fleet = useFleetContext(feed, known, contract, state);
  const summary = feed.rows.summary.value;
  const isEmpty = summary?.total === 0;
  return (
    <FleetProvider value={fleet}>
      <div class="fleet">
        <ViewHead title="Fleet" actions={<Matching feed={feed} state={state} />} />
        {summary !== undefined && !isEmpty && <Chips state={state} summary={summary} />}
        {!isEmpty && <Toolbar state={state} targets={contract?.targets ?? []} rules={known} />}
        {!isEmpty && rules.data?.length === 0 && <NoRules />}
        {feed.refusal.value !== null && (
          <p class="error-note" role="alert">
            {feed.refusal.value}
          </p>
        )}
        <Content feed={feed} state={state} />
      </div>
    </FleetProvider>
  );
}

function Content({ feed, state }: { feed: FleetFeed; state: FleetState }) {
  const active = useSignal(-1);
  const summary = feed.rows.summary.value;
  if (summary === undefined) return feed.refusal.value === null ? <Loading what="servers" /> : null;
  if (summary.total === 0) return <NoServers />;
  if (summary.matching === 0) return <NoMatch onClear={() => updateQuery(writeState(readState({})))} />;
  return (
    <section class="panel fleet-panel" aria-label="List of servers">
      <FleetList count={summary.matching} isGrouped={state.isGrouped} active={active} />
    </section>
  );
}

/** How many match, and whether the order shown is not the newest one. */
function Matching({ feed, state }: { feed: FleetFeed; state: FleetState }) {
  const summary = feed.rows.summary.value;
  const announced = useRef({ answered: -1, text: "" });
  if (summary === undefined) return null;
  const matching = formatWhole(summary.matching);
  const what = state.isGrouped ? `${matching} groups` : `${matching} of ${formatWhole(summary.total)}`;
  // Screen readers hear the number once for each choice, not whenever it moves.
  if (announced.current.answered !== feed.answered.value)
    announced.current = { answered: feed.answered.value, text: `${what} servers match` };
  return (
    <>
      {feed.rows.hasOtherOrder.value && (
        <button type="button" class="button button-quiet" onClick={() => feed.rows.apply()}>
          The order has changed: show it <kbd>u</kbd>
        </button>
      )}
      {(isNarrowed(state) || state.isGrouped) && <span>{what}</span>}
      <span class="visually-hidden" role="status">
        {announced.current.text}
      </span>
    </>
  );
}

function useFeed(state: FleetState): FleetFeed {
  const feed = useMemo(() => new FleetFeed(), []);
  const query = JSON.stringify(askFor(state));
  const isOpen = useRef(false);
  useEffect(() => {
    if (isOpen.current) feed.choose(askFor(state));
    else feed.open(askFor(state));
    isOpen.current = true;
  }, [query]);
  useEffect(() => () => feed.close(), []);
  // A pointer that rests must not keep an old order.
  useEffect(() => {
    const timer = setInterval(() => feed.settleOrder(), SETTLE_MS);
    return () => clearInterval(timer);
  }, []);
  return feed;
}

function useFleetContext(
  feed: FleetFeed,
  rules: AlertRule[],
  contract: Contract | undefined,
  { target, rule }: FleetState,
): FleetContext {
  const fleet = useMemo<FleetContext>(
    () => ({ feed, rules: new Map(rules.map((each) => [each.rule, each])), contract, target, rule }),
    [rules, contract, target, rule],
  );
  useEffect(() => {
    if (contract === undefined) return;
    feed.chooseCurves({
      quantiles: chooseQuantiles(contract.quantiles),
      targetOf: (row) => targetOf(row, fleet),
    });
  }, [fleet]);
  return fleet;
}
