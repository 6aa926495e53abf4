"""A result as a table for people and as JSON for programs. Formats; judges nothing."""

import time
from dataclasses import asdict
from typing import Any

from streamd.tools.loadtest.errors import Exit
from streamd.tools.loadtest.ledger import LedgerCount
from streamd.tools.loadtest.result import ReplayResult
from streamd.tools.loadtest.terminal import Terminal, format_milliseconds, format_thousands
from streamd.tools.loadtest.verdict import Latency, ReplayVerdict


def choose_exit(result: ReplayResult) -> Exit:
    """Choose the exit status of a result."""
    if result.is_interrupted:
        return Exit.INTERRUPTED
    if result.faults:
        return Exit.LOST
    return Exit.NOTHING if result.nothing_verified else Exit.COMPLETE


def build_replay_report(result: ReplayResult) -> dict[str, Any]:
    """Build the JSON report of a result; latencies in ms, rates a second."""
    plan = result.plan
    return {
        "finished": round(time.time(), 3),
        "exit": int(choose_exit(result)),
        "complete": choose_exit(result) is Exit.COMPLETE,
        "faults": result.faults,
        "notes": result.notes,
        "daemon": _report_daemon(result),
        "fleet": {
            "servers": len(plan.fleet.servers),
            "steps": plan.fleet.steps,
            "fill_rows": plan.count_rows()[0],
            "measured_rows": plan.count_rows()[1],
        },
        "wire": _report_wire(result),
        "samples": _report_samples(result),
        "forecasts": _report_forecasts(result.whole),
        "measured": {
            **_report_forecasts(result.measured),
            "began": round(result.stream_began, 3),
            "seconds": round(result.stream_seconds, 3),
            "rows_per_second": _compute_rate(result.measured_rows, result),
            "forecasts_per_second": _compute_rate(result.measured.received, result),
        },
        "fill_seconds": round(result.fill_seconds, 3),
        "latency_ms": {"ack": _report_latency(result.acks), "forecast": _report_latency(result.measured.latency)},
        "subscribers": [asdict(one) for one in result.whole.subscribers],
    }


def format_replay_table(result: ReplayResult, terminal: Terminal) -> list[str]:
    """Format a result as lines to print."""
    found = build_replay_report(result)
    lines = [terminal.draw_rule("replay"), *terminal.format_pairs(_list_setup(found))]
    lines += [terminal.draw_rule("samples"), *terminal.format_pairs(_list_samples(found["samples"]))]
    lines += [terminal.draw_rule("forecasts"), *_format_forecasts(found, terminal)]
    lines += [terminal.draw_rule("latency"), *_format_latencies(found["latency_ms"], terminal)]
    lines += [f"  {terminal.dim('note')}  {note}" for note in result.notes]
    return [*lines, terminal.draw_rule(), _format_verdict(result, terminal)]


def _report_daemon(result: ReplayResult) -> dict[str, Any]:
    status, rows = result.status, result.daemon_rows
    return {
        "url": result.setup.wire.base_url,
        "engine": status.engine,
        "backend": status.backend,
        "precision": status.precision,
        "rows": {name: getattr(rows, name) for name in rows.__struct_fields__},
        "restarted": result.has_restarted,
        "gone": result.has_lost_daemon,
    }


def _report_wire(result: ReplayResult) -> dict[str, Any]:
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


def _report_samples(result: ReplayResult) -> dict[str, Any]:
    total = result.ledger.sum_count
    return {
        "sent": total(LedgerCount.SAMPLES_SENT),
        "acked": total(LedgerCount.SAMPLES_ACCEPTED) + total(LedgerCount.SAMPLES_REJECTED),
        "accepted": total(LedgerCount.SAMPLES_ACCEPTED),
        "rejected": total(LedgerCount.SAMPLES_REJECTED),
        "rejected_by_code": dict(result.outcome.rejected_by_code),
        "first_rejections": dict(result.outcome.first_rejections),
        "unacked": result.outcome.unanswered_samples,
        "frames": total(LedgerCount.FRAMES_SENT),
        "frames_resent": total(LedgerCount.FRAMES_RESENT),
        "throttled": total(LedgerCount.THROTTLED),
        "reconnects": total(LedgerCount.RECONNECTS),
    }


def _report_forecasts(verdict: ReplayVerdict) -> dict[str, int]:
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


def _report_latency(latency: Latency) -> dict[str, float | int | None]:
    return {
        "count": latency.count,
        "p50": latency.p50_ms,
        "p95": latency.p95_ms,
        "p99": latency.p99_ms,
        "max": latency.max_ms,
    }


def _compute_rate(count: int, result: ReplayResult) -> float | None:
    return round(count / result.stream_seconds, 1) if result.stream_seconds else None


def _list_setup(found: dict[str, Any]) -> list[tuple[str, str]]:
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
            "  ".join([f"{measured['seconds']:.1f} s", *(f"{format_thousands(n)} {u}" for n, u in speeds)]),
        ),
    ]


def _list_samples(samples: dict[str, Any]) -> list[tuple[str, str]]:
    codes = ", ".join(f"{code} {count:,}" for code, count in sorted(samples["rejected_by_code"].items()))
    rows = [
        ("sent", format_thousands(samples["sent"])),
        ("acked", format_thousands(samples["acked"])),
        ("rejected", format_thousands(samples["rejected"]) + (f"  ({codes})" if codes else "")),
        ("unacked", format_thousands(samples["unacked"])),
    ]
    extra = ("frames_resent", "throttled", "reconnects")
    return rows + [(name.replace("_", " "), format_thousands(samples[name])) for name in extra if samples[name]]


def _format_forecasts(found: dict[str, Any], terminal: Terminal) -> list[str]:
    whole, measured = found["forecasts"], found["measured"]
    lines = [terminal.dim(f"  {'':<24}{'measured':>12}{'whole run':>12}")]
    for name in whole:
        wrong = name in ("missing", "duplicated", "quantiles_out_of_order", "context_wrong") and whole[name]
        line = (
            f"  {name.replace('_', ' '):<24}{format_thousands(measured[name]):>12}{format_thousands(whole[name]):>12}"
        )
        lines.append(terminal.paint_bad(line) if wrong else line)
    return lines


def _format_latencies(latency: dict[str, Any], terminal: Terminal) -> list[str]:
    names = ("p50", "p95", "p99", "max")
    lines = [terminal.dim(f"  {'':<24}" + "".join(f"{name:>12}" for name in names) + f"{'count':>12}")]
    for kind, title in (("ack", "sample to ack"), ("forecast", "sample to forecast")):
        cells = "".join(f"{format_milliseconds(latency[kind][name]):>12}" for name in names)
        lines.append(f"  {title:<24}{cells}{format_thousands(latency[kind]['count']):>12}")
    return lines


def _format_verdict(result: ReplayResult, terminal: Terminal) -> str:
    due = result.whole
    sums = f"due {due.expected:,} = received {due.received:,} + superseded {due.superseded:,}"
    if due.interrupted:
        sums += f" + interrupted {due.interrupted:,}"
    if due.lagged:
        sums += f" + lagged {due.lagged:,}"
    if result.is_interrupted:
        return f"{terminal.paint_bad('stopped')}  before the end; {sums} so far"
    if result.faults:
        faults = ", ".join(f"{count:,} {name.replace('_', ' ')}" for name, count in result.faults.items())
        return f"{terminal.paint_bad('LOST')}  {faults}  ({sums})"
    if result.nothing_verified:
        return f"{terminal.paint_bad('NOTHING VERIFIED')}  {result.nothing_verified}"
    verdict = f"{terminal.paint_good('complete')}  {_format_verified(result, sums)}"
    rejected, sent = (
        result.ledger.sum_count(LedgerCount.SAMPLES_REJECTED),
        result.ledger.sum_count(LedgerCount.SAMPLES_SENT),
    )
    return verdict + (terminal.paint_bad(f"; {rejected:,} of {sent:,} samples were rejected") if rejected else "")


def _format_verified(result: ReplayResult, sums: str) -> str:
    if not result.setup.subscribers:
        accepted = result.ledger.sum_count(LedgerCount.SAMPLES_ACCEPTED)
        return f"{accepted:,} samples accepted and kept; no subscriber, so no forecast was verified"
    return f"{sums}; nothing missing, duplicated or out of order"
