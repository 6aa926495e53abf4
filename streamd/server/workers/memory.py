"""The shared memory of a daemon of several processes, as its settings size it."""

from streamd.core.state.directory import VOLATILE_DIRECTORY_COLUMNS
from streamd.core.state.layout import Column
from streamd.core.state.window_columns import make_volatile_columns
from streamd.runtime.workers.block import SharedBlock, make_block
from streamd.runtime.workers.doorbell import Doorbell
from streamd.runtime.workers.mail import Mail
from streamd.server.config import Config
from streamd.server.workers.plan import PartPlan

COLUMNS = (
    *make_volatile_columns(),
    *VOLATILE_DIRECTORY_COLUMNS,
    Column("received", "<f8"),  # when the row arrived that made the latest forecast due (monotonic seconds), or NaN
)


def make_memory(config: Config) -> int:
    """Make the shared memory of a daemon; returns its descriptor."""
    return make_block(COLUMNS, config.state.max_servers, config.server.workers)


def open_memory(plan: PartPlan, config: Config) -> tuple[SharedBlock, Mail]:
    """Return the shared memory of a daemon, and the mail of one process of it."""
    block = SharedBlock(plan.block, COLUMNS, config.state.max_servers, plan.workers)
    return block, Mail(block, plan.number, [Doorbell(descriptor) for descriptor in plan.bells])
