"""Window files as former versions wrote them, with the former code: each row twice, and sealed by a CRC-32."""

from pathlib import Path

from streamd.core.contract import ModelContract
from streamd.core.state.directory import Directory
from streamd.core.state.layout import CHECKSUM_KEY, HEADER_BYTES, STATE_MAGIC, Layout
from streamd.core.state.rows import RowReader
from streamd.runtime.state.migration import make_former_layout
from tests.support.former_store import FormerStore
from tests.support.state_files import Values

Samples = list[tuple[str, int, Values, int | None]]
"""A server, a step, values and a status of each sample."""


def layout_of(contract: ModelContract, capacity: int) -> Layout:
    """Return the layout of a former window file."""
    return make_former_layout(list(contract.features), contract.context_length, contract.step_seconds, capacity)


def write_former_file(
    path: Path, contract: ModelContract, capacity: int, samples: Samples, generation: int | None = None
) -> None:
    """Write the file that the former version made of these samples.

    With a generation, that of a still earlier one: 0 had no checks of names and steps, 0 and 1 had no seals.
    """
    layout = layout_of(contract, capacity)
    content = bytearray(layout.nbytes)
    arrays = layout.make_views(content)
    names, rows = Directory(arrays), RowReader(contract.features)
    seeds = [0] * capacity
    store = FormerStore(arrays, seeds, contract.context_length)
    for server, step, values, status in samples:
        if server not in names.slots:
            slot, _ = names.find_slot()
            store.reset(slot)
            names.admit(slot, server, 1_000.0)
            seeds[slot] = int(names.seeds[slot])
        store.write_sample(names.slots[server], step, rows.read_row(values), status)
    content[:HEADER_BYTES] = layout.make_header(identifier="former", sealed=True)
    if generation is not None:
        arrays["open_status"] &= 0xFF if generation else 15
        content = make_early(content[: layout.earlier_sizes[generation]])
    path.write_bytes(content)


def make_early(content: bytearray) -> bytearray:
    """Remove the checksum of the header, and the note that rows have seals."""
    text = content[len(STATE_MAGIC) : HEADER_BYTES].replace(f'"{CHECKSUM_KEY}"'.encode(), b'"former"')
    text = text.replace(b'"sealed": true', b'"former_": 1  ')
    return (content[: len(STATE_MAGIC)] + text)[:HEADER_BYTES] + content[HEADER_BYTES:]
