"""A result as a table for people and as JSON for programs. Draws and formats; judges nothing."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Any

from streamd.tools.loadtest.errors import Exit
from streamd.tools.loadtest.ledger import LedgerCount
from streamd.tools.loadtest.result import ReplayResult
from streamd.tools.loadtest.terminal import Terminal, milliseconds, thousands
from streamd.tools.loadtest.verdict import Latency, ReplayVerdict


def exit_of(result: ReplayResult) -> Exit:
    """The exit status that a result deserves."""
    if result.interrupted:
        return Exit.INTERRUPTED
    if result.faults:
        return Exit.LOST
    return Exit.NOTHING if result.nothing else Exit.COMPLETE


def as_json(result: ReplayResult) -> dict[str, Any]:
    """The whole result; latencies in ms, rates a second."""
    plan = result.plan
    return {
        "finished": round(time.time(), 3),
        "exit": int(exit_of(result)),
        "complete": exit_of(result) is Exit.COMPLETE,
        "faults": result.faults,
        "notes": result.notes,
        "daemon": _daemon(result),
        "fleet": {
            "servers": len(plan.fleet.servers),
            "steps": plan.fleet.steps,
            "fill_rows": plan.rows()[0],
            "measured_rows": plan.rows()[1],
        },
        "wire": _wire(result),
        "samples": _sample_counts(result),
        "forecasts": _forecasts(result.whole),
        "measured": {
            **_forecasts(result.measured),
            "began": round(result.stream_began, 3),
            "seconds": round(result.stream_seconds, 3),
            "rows_per_second": _rate(result.measured_rows, result),
            "forecasts_per_second": _rate(result.measured.received, result),
        },
        "fill_seconds": round(result.fill_seconds, 3),
        "latency_ms": {"ack": _latency(result.acks), "forecast": _latency(result.measured.latency)},
        "subscribers": [asdict(one) for one in result.whole.subscribers],
    }


def as_table(result: ReplayResult, terminal: Terminal) -> list[str]:
    """Lines to print."""
    found = as_json(result)
    lines = [terminal.rule("replay"), *terminal.pairs(_what(found))]
    lines += [terminal.rule("samples"), *terminal.pairs(_samples(found["samples"]))]
    lines += [terminal.rule("forecasts"), *_forecast_columns(found, terminal)]
    lines += [terminal.rule("latency"), *_latency_columns(found["latency_ms"], terminal)]
    lines += [f"  {terminal.dim('note')}  {note}" for note in result.notes]
    return [*lines, terminal.rule(), _last_line(result, terminal)]


def _daemon(result: ReplayResult) -> dict[str, Any]:
    status, rows = result.status, result.daemon_rows
    return {
        "url": result.setup.wire.base_url,
        "engine": status.engine,
        "backend": status.backend,
        "precision": status.precision,
        "rows": {name: getattr(rows, name) for name in rows.__struct_fields__},
        "restarted": result.restarted,
        "gone": result.gone,
    }


def _wire(result: ReplayResult) -> dict[str, Any]:
    plan, wire = result.plan, result.setup.wire
    return {
        "transport": wire.transport,
        "encoding": wire.encoding.value,
        "form": wire.form.value,
        "connections": plan.connections,
        "samples_a_frame": plan.samples_a_frame,
        "samples_a_row": plan.parts,
        "rate": plan.pace.rate,
        "speed": plan.pace.speed,
    }


def _sample_counts(result: ReplayResult) -> dict[str, Any]:
    total = result.ledger.total
    return {
        "sent": total(LedgerCount.SAMPLES_SENT),
        "acked": total(LedgerCount.SAMPLES_ACCEPTED) + total(LedgerCount.SAMPLES_REJECTED),
        "accepted": total(LedgerCount.SAMPLES_ACCEPTED),
        "rejected": total(LedgerCount.SAMPLES_REJECTED),
        "rejected_by_code": dict(result.outcome.rejected_by_code),
        "first_rejections": dict(result.outcome.first_rejections),
        "unacked": result.outcome.unanswered,
        "frames": total(LedgerCount.FRAMES_SENT),
        "frames_resent": total(LedgerCount.FRAMES_RESENT),
        "throttled": total(LedgerCount.THROTTLED),
        "reconnects": total(LedgerCount.RECONNECTS),
    }


def _forecasts(verdict: ReplayVerdict) -> dict[str, int]:
    readers = verdict.subscribers
    return {
        "expected": verdict.expected,
        "received": verdict.received,
        "superseded": verdict.superseded,
        "lagged": verdict.lagged,
        "interrupted": verdict.interrupted,
        "missing": verdict.missing + sum(one.missed for one in readers),
        "duplicated": sum(one.duplicated for one in readers),
        "quantiles_out_of_order": sum(one.disordered for one in readers),
        "context_wrong": sum(one.context_wrong for one in readers),
        "unexpected": sum(one.unexpected for one in readers),
    }


def _latency(latency: Latency) -> dict[str, float | int | None]:
    return {
        "count": latency.count,
        "p50": latency.p50_ms,
        "p95": latency.p95_ms,
        "p99": latency.p99_ms,
        "max": latency.max_ms,
    }


def _rate(count: int, result: ReplayResult) -> float | None:
    return round(count / result.stream_seconds, 1) if result.stream_seconds else None


def _what(found: dict[str, Any]) -> list[tuple[str, str]]:
    daemon, fleet, wire, measured = found["daemon"], found["fleet"], found["wire"], found["measured"]
    pace = "as fast as acks allow"
    if wire["rate"]:
        pace = f"{wire['rate']:g} rows/s, open loop"
    elif wire["speed"]:
        pace = f"{wire['speed']:g} times real time, open loop"
    names = ("url", "engine", "backend", "precision")
    speeds = (measured["rows_per_second"], "rows/s"), (measured["forecasts_per_second"], "forecasts/s")
    rows = f"{fleet['fill_rows']:,} rows to fill, then {fleet['measured_rows']:,}"
    return [
        ("daemon", "  ".join(daemon[name] for name in names if daemon[name])),
        ("fleet", f"{fleet['servers']:,} servers, {rows}"),
        ("pace", f"{pace}; {wire['connections']} connections, {wire['samples_a_frame']} samples a frame"),
        ("wire", f"{wire['transport']}, {wire['encoding']}, {wire['form']}"),
        (
            "measured",
            "  ".join([f"{measured['seconds']:.1f} s", *(f"{thousands(n)} {u}" for n, u in speeds)]),
        ),
    ]


def _samples(samples: dict[str, Any]) -> list[tuple[str, str]]:
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(samples["rejected_by_code"].items()))
    rows = [
        ("sent", thousands(samples["sent"])),
        ("acked", thousands(samples["acked"])),
        ("rejected", thousands(samples["rejected"]) + (f"  ({codes})" if codes else "")),
        ("unacked", thousands(samples["unacked"])),
    ]
    extra = ("frames_resent", "throttled", "reconnects")
    return rows + [(name.replace("_", " "), thousands(samples[name])) for name in extra if samples[name]]


def _forecast_columns(found: dict[str, Any], terminal: Terminal) -> list[str]:
    whole, measured = found["forecasts"], found["measured"]
    lines = [terminal.dim(f"  {'':<24}{'measured':>12}{'whole run':>12}")]
    for name in whole:
        wrong = name in ("missing", "duplicated", "quantiles_out_of_order", "context_wrong") and whole[name]
        line = f"  {name.replace('_', ' '):<24}{thousands(measured[name]):>12}{thousands(whole[name]):>12}"
        lines.append(terminal.bad(line) if wrong else line)
    return lines


def _latency_columns(latency: dict[str, Any], terminal: Terminal) -> list[str]:
    names = ("p50", "p95", "p99", "max")
    lines = [terminal.dim(f"  {'':<24}" + "".join(f"{name:>12}" for name in names) + f"{'count':>12}")]
    for kind, title in (("ack", "sample to ack"), ("forecast", "sample to forecast")):
        cells = "".join(f"{milliseconds(latency[kind][name]):>12}" for name in names)
        lines.append(f"  {title:<24}{cells}{thousands(latency[kind]['count']):>12}")
    return lines


def _last_line(result: ReplayResult, terminal: Terminal) -> str:
    due = result.whole
    sum_up = f"due {due.expected:,} = received {due.received:,} + superseded {due.superseded:,}"
    if due.interrupted:
        sum_up += f" + interrupted {due.interrupted:,}"
    if due.lagged:
        sum_up += f" + lagged {due.lagged:,}"
    if result.interrupted:
        return f"{terminal.bad('stopped')}  before the end; {sum_up} so far"
    if result.faults:
        faults = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in result.faults.items())
        return f"{terminal.bad('LOST')}  {faults}  ({sum_up})"
    if result.nothing:
        return f"{terminal.bad('NOTHING VERIFIED')}  {result.nothing}"
    verdict = f"{terminal.good('complete')}  {_verified(result, sum_up)}"
    rejected, sent = result.ledger.total(LedgerCount.SAMPLES_REJECTED), result.ledger.total(LedgerCount.SAMPLES_SENT)
    return verdict + (terminal.bad(f"; {rejected:,} of {sent:,} samples were rejected") if rejected else "")


def _verified(result: ReplayResult, sum_up: str) -> str:
    if not result.setup.subscribers:
        accepted = result.ledger.total(LedgerCount.SAMPLES_ACCEPTED)
        return f"{accepted:,} samples accepted and kept; no subscriber, so no forecast was verified"
    return f"{sum_up}; nothing missing, duplicated or out of order"
