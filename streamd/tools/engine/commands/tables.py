"""Text that the repository's commands print: made of values only; nothing here reads files or prints."""

from streamd.repository.collection import CollectionReport
from streamd.repository.listing import Listing, PlanEntry, VersionEntry
from streamd.tools.engine.text_table import align_columns

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_versions(listing: Listing) -> str:
    """Format a line for each version, the newest first, with a mark at the one that serves."""
    rows = [("", "VERSION", "ARCHITECTURE", "SIZE", "PLANS", "STATUS")]
    rows += [
        (
            "*" if entry.serves else "",
            entry.name,
            entry.architecture or "-",
            format_bytes(entry.size_bytes),
            ", ".join(_format_plan(plan) for plan in entry.plans) or "-",
            _format_status(entry),
        )
        for entry in listing.versions
    ]
    if len(rows) == 1:
        return f"{listing.root}: holds no folder named <name>_<YYYYMMDD>_<HHMMSS>"
    lines = [*align_columns(rows), ""]
    lines += [f"{entry.name}: {entry.refused}" for entry in listing.versions if entry.refused]
    serving = listing.serving
    lines.append(f"* serves unless another is pinned ({serving.serves})" if serving else "no version can serve")
    return "\n".join(lines)


def format_version(entry: VersionEntry) -> str:
    """Format all that is known of one version, a fact a line."""
    rows = [
        ("version", entry.name),
        ("status", _format_status(entry)),
        ("architecture", entry.architecture or "-"),
        ("size", format_bytes(entry.size_bytes)),
    ]
    if entry.refused:
        rows.append(("refused", entry.refused))
    rows += [(f"plan {each.plan.precision}", _format_plan_details(each)) for each in entry.plans]
    rows += [("plan not listed", f"{name}: never loaded") for name in entry.unlisted_plans]
    if entry.plans_refused:
        rows.append(("plans refused", entry.plans_refused))
    for precision, verdict in entry.validation.items():
        result = {True: "passed", False: "refused", None: "no verdict"}[verdict.promotable]
        rows.append((f"gate {precision}", "; ".join((result, *verdict.reasons))))
    return "\n".join(align_columns(rows))


def format_collection(done: CollectionReport) -> str:
    """Format what was removed and what was kept, with the reasons."""
    verb = "would remove" if done.dry_run else "removed"
    lines = [f"{verb} {name} ({format_bytes(size)})" for name, size in done.removed.items()]
    lines += [f"{verb} {name}, left behind ({format_bytes(size)})" for name, size in done.leftovers.items()]
    lines += [f"kept {name}: {', '.join(reasons)}" for name, reasons in done.kept.items()]
    lines += [f"left alone {name}: {reason}" for name, reason in done.unjudged.items()]
    lines += [f"failed: {reason}" for reason in done.failed.values()]
    return "\n".join([*lines, f"{'would free' if done.dry_run else 'freed'} {format_bytes(done.freed_bytes)}"])


def format_bytes(size: int) -> str:
    """Format a size for people: 3,334,717 is 3.2 MiB."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def _format_status(entry: VersionEntry) -> str:
    words = ["refused" if entry.refused else "sound"]
    words += [word for word in ("promoted", "previous", "default", "held") if getattr(entry, word)]
    if entry.serves:
        words.append("serves")
    return ", ".join(words)


def _format_plan(entry: PlanEntry) -> str:
    mark = {True: "", False: " (not here)", None: " (?)"}[entry.fits]
    return f"{entry.plan.precision}{mark}"


def _format_plan_details(entry: PlanEntry) -> str:
    plan = entry.plan
    details = (
        f"{plan.path.name}: {plan.gpu} ({plan.compute_capability}), TensorRT {plan.tensorrt}"
        f"{', version-compatible' if plan.version_compatible else ''}, buckets {', '.join(map(str, plan.buckets))}"
    )
    if entry.fits is None:
        return f"{details}; no GPU here to compare with"
    return f"{details}; {'fits' if entry.fits else f'does not run here: {entry.why_not}'}"
