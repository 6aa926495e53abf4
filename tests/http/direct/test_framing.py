"""Tests `streamd/http/direct/framing.py`: requests come out as they went in, however they were cut."""

from hypothesis import given
from hypothesis import strategies as st

from streamd.http.direct.framing import Framer
from streamd.http.direct.heads import PlainHeads


def make_request(body: bytes, path: str = "/a") -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/msgpack\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


OTHER = [b"GET / HTTP/1.1\r\n\r\n", make_request(b"x", "/b"), b"\x00", make_request(b"y" * 65)]


@given(st.data())
def test_requests_are_cut_out_up_to_the_first_that_is_not_plain(data: st.DataObject) -> None:
    bodies = data.draw(st.lists(st.binary(max_size=64), max_size=4))
    other = data.draw(st.sampled_from([b"", *OTHER]))
    sent = b"".join(map(make_request, bodies)) + other
    cuts = sorted(data.draw(st.sets(st.integers(1, len(sent) - 1), max_size=8))) if len(sent) > 1 else []
    framer = Framer(PlainHeads(["/a"], ["application/msgpack"], 64))
    taken: list[bytes] = []
    received = 0
    for begin, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        framer.add(sent[begin:end])
        received = max(received, end)
        while framer.is_plain and (request := framer.take_request()) is not None:
            assert bytes(request.body) == request.message[request.head.head_bytes :]
            taken.append(bytes(request.body))
        if not framer.is_plain:
            break
        assert framer.held_bytes == received - sum(len(make_request(body)) for body in taken)
    assert taken == bodies[: len(taken)]
    if not other:
        assert taken == bodies
        assert framer.is_plain
    elif received == len(sent):
        assert taken == bodies
        assert not framer.is_plain
    rest = framer.take_all()
    assert b"".join(map(make_request, taken)) + rest == sent[:received], "nothing is lost"
    assert framer.held_bytes == 0
