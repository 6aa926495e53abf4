"""The columns that a week's memory is stored in.

A *period* is an hour: period b has the steps from b * P to (b + 1) * P - 1, where P is the number of steps in an hour.
The mean of a period lies at the place `period % places`, with the number of its period, so that a place which an older
period still has is recognised and need not be emptied. There is one place more than means, so that the next period may
end while a reader copies the means of a week.
"""

from streamd.core.contract import MEMORY_LENGTH
from streamd.core.state.layout import Column

NO_PERIOD = 0
"""What a place without a mean has as its period: new files consist of zeros. Periods are stored plus 1; 32 bits suffice
until the year 491,974."""


def make_memory_columns(features: int, length: int = MEMORY_LENGTH) -> tuple[Column, ...]:
    """Return the columns of a memory store of `length` means."""
    places = length + 1
    return (
        Column("periods", "<u4", (places,)),  # the period of each mean plus 1, or NO_PERIOD; written last
        Column("counts", "<u2", (places,)),  # the number of rows that each mean is made of
        Column("mean_seals", "<u4", (places,)),  # the seal of each mean, as of a row
        Column("means", "<f4", (places, features)),
    )
