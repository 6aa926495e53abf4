"""What the repository's commands show on a terminal: text from data, nothing else."""

from collections.abc import Iterator, Sequence

from streamd.repository.collection import Collection
from streamd.repository.listing import Listing, PlanEntry, VersionEntry

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


def format_versions(listing: Listing) -> str:
    """A line a version, the newest first; the one that serves is marked."""
    rows = [("", "VERSION", "ARCHITECTURE", "SIZE", "PLANS", "STATUS")]
    rows += [
        (
            "*" if entry.serves else "",
            entry.name,
            entry.architecture or "-",
            format_bytes(entry.size_bytes),
            ", ".join(_short(plan) for plan in entry.plans) or "-",
            _status(entry),
        )
        for entry in listing.versions
    ]
    if len(rows) == 1:
        return f"{listing.root}: holds no folder named <name>_<YYYYMMDD>_<HHMMSS>"
    lines = [*_aligned(rows), ""]
    lines += [f"{entry.name}: {entry.refused}" for entry in listing.versions if entry.refused]
    serving = listing.serving
    lines.append(f"* serves where none is pinned ({serving.serves})" if serving else "no version can serve")
    return "\n".join(lines)


def format_version(entry: VersionEntry) -> str:
    """All that is known of one version, a fact a line."""
    rows = [
        ("version", entry.name),
        ("status", _status(entry)),
        ("architecture", entry.architecture or "-"),
        ("size", format_bytes(entry.size_bytes)),
    ]
    if entry.refused:
        rows.append(("refused", entry.refused))
    rows += [(f"plan {each.plan.precision}", _long(each)) for each in entry.plans]
    rows += [("plan not listed", f"{name}: never loaded") for name in entry.unlisted_plans]
    if entry.plans_refused:
        rows.append(("plans refused", entry.plans_refused))
    for precision, verdict in entry.validation.items():
        said = {True: "passed", False: "refused", None: "no verdict"}[verdict.promotable]
        rows.append((f"gate {precision}", "; ".join((said, *verdict.reasons))))
    return "\n".join(_aligned(rows))


def format_collection(done: Collection) -> str:
    """What was removed and what stayed, with the reasons."""
    verb = "would remove" if done.dry_run else "removed"
    lines = [f"{verb} {name} ({format_bytes(size)})" for name, size in done.removed.items()]
    lines += [f"{verb} {name}, left behind ({format_bytes(size)})" for name, size in done.leftovers.items()]
    lines += [f"kept {name}: {', '.join(reasons)}" for name, reasons in done.kept.items()]
    lines += [f"left alone {name}: {reason}" for name, reason in done.unjudged.items()]
    lines += [f"failed: {reason}" for reason in done.failed.values()]
    return "\n".join([*lines, f"{'would free' if done.dry_run else 'freed'} {format_bytes(done.freed_bytes)}"])


def format_bytes(size: int) -> str:
    """A size as people read it: 3,334,717 is 3.2 MiB."""
    value, unit = float(size), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{size} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def _status(entry: VersionEntry) -> str:
    words = ["refused" if entry.refused else "sound"]
    words += [word for word in ("promoted", "previous", "default", "held") if getattr(entry, word)]
    if entry.serves:
        words.append("serves")
    return ", ".join(words)


def _short(entry: PlanEntry) -> str:
    mark = {True: "", False: " (not here)", None: " (?)"}[entry.fits]
    return f"{entry.plan.precision}{mark}"


def _long(entry: PlanEntry) -> str:
    plan = entry.plan
    said = (
        f"{plan.path.name}: {plan.gpu} ({plan.compute_capability}), TensorRT {plan.tensorrt}"
        f"{', version-compatible' if plan.version_compatible else ''}, buckets {', '.join(map(str, plan.buckets))}"
    )
    if entry.fits is None:
        return f"{said}; no GPU here to compare with"
    return f"{said}; {'fits' if entry.fits else f'does not run here: {entry.why_not}'}"


def _aligned(rows: Sequence[tuple[str, ...]]) -> Iterator[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        yield "  ".join(padded).rstrip()
