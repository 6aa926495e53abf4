"""Tests `streamd/runtime/workers/requests.py` and `errors.py`: answers, failures, and errors that cross processes."""

import pytest

from streamd.core.errors import NoCapacityError, StreamdError, TooOldError, UnavailableError
from streamd.runtime.workers.errors import describe_error, restore_error
from streamd.runtime.workers.requests import Requests


async def test_an_answer_reaches_the_one_who_asked() -> None:
    requests = Requests()
    (one, first), (other, second) = requests.begin(0), requests.begin(1)
    requests.resolve(other, "second")
    requests.resolve(one, "first")
    assert (await first, await second) == ("first", "second")
    requests.resolve(one, "again")  # nobody waits any more


async def test_requests_to_a_process_that_is_gone_fail() -> None:
    requests = Requests()
    (_, lost), (number, other) = requests.begin(0), requests.begin(1)
    requests.fail_all(0, UnavailableError("gone"))
    with pytest.raises(UnavailableError, match="gone"):
        await lost
    requests.resolve(number, "here")
    assert await other == "here"


async def test_numbers_of_a_former_process_are_not_used_again() -> None:
    assert abs(Requests().begin(0)[0] - Requests().begin(0)[0]) > 1_000


@pytest.mark.parametrize("error", [TooOldError("late"), NoCapacityError("full"), UnavailableError("away")])
def test_an_error_keeps_its_class_and_text(error: StreamdError) -> None:
    restored = restore_error(*describe_error(error))
    assert (type(restored), str(restored)) == (type(error), str(error))
