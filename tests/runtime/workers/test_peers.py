"""Tests `streamd/runtime/workers/peers.py`: what was asked of a process that ends fails."""

from typing import cast

import pytest

from streamd.core.errors import StreamdError, UnavailableError
from streamd.runtime.workers.mail import Mail
from streamd.runtime.workers.messages import AskCounts, Hello, decode_message
from streamd.runtime.workers.peers import Peers


class FakeMail:
    """Keeps what is sent."""

    others = (0, 1)

    def __init__(self) -> None:
        self.sent: list[tuple[int, object]] = []
        self.forgotten: list[int] = []

    def send(self, target: int, message: bytes) -> None:
        self.sent.append((target, decode_message(message)))

    def forget(self, target: int) -> None:
        self.forgotten.append(target)


def make_peers(mail: FakeMail, runs: dict[int, int] | None = None) -> Peers:
    return Peers(cast("Mail", mail), 3, runs)


async def test_requests_are_answered_by_their_number() -> None:
    mail = FakeMail()
    peers = make_peers(mail, {0: 0, 1: 0})
    first, second = peers.ask(0, AskCounts), peers.ask(1, AskCounts)
    numbers = [message.number for _, message in mail.sent if isinstance(message, AskCounts)]
    peers.resolve(numbers[1], "counts")
    peers.fail(numbers[0], StreamdError("no"))
    assert await second == "counts"
    with pytest.raises(StreamdError, match="no"):
        await first


async def test_a_process_that_is_away_is_asked_nothing() -> None:
    mail = FakeMail()
    peers = make_peers(mail, {0: 0})
    with pytest.raises(UnavailableError):
        await peers.ask(1, AskCounts)
    peers.tell(Hello(1))
    assert mail.sent == [(0, Hello(1))]


@pytest.mark.parametrize("is_start_first", [False, True])
async def test_requests_to_a_run_fail_when_it_has_ended_or_another_is_there(is_start_first: bool) -> None:
    mail = FakeMail()
    peers = make_peers(mail, {0: 0})
    answer = peers.ask(0, AskCounts)
    if is_start_first:
        assert peers.meet(0, 1)
    else:
        assert peers.lose(0, 0)
    with pytest.raises(UnavailableError):
        await answer
    assert mail.forgotten == [0]
    assert peers.presence.is_here(0) == is_start_first
    assert not peers.lose(0, 0), "a second time, or late"
