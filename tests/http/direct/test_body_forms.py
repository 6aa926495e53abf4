"""Tests `streamd/http/direct/body_forms.py`: bodies of a known form give the windows that decoding gives, or none."""

from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from streamd.core.contract import ModelContract
from streamd.http.direct.body_forms import MAX_FORMS, BodyForms, ViewedTensor
from streamd.http.direct.framing import PlainRequest
from streamd.http.direct.heads import PlainHead
from streamd.http.wire.tensors import make_wire_tensor
from streamd.inference.lane import Inputs
from tests.support.naive_inputs import CONTRACT, CONTRACTS, MEMORY_CONTRACT, Given, make_full_inputs

HEAD = b"POST / HTTP/1.1\r\n\r\n"


class Call(msgspec.Struct):
    inputs: dict[str, ViewedTensor]


def make_request(body: bytes) -> PlainRequest:
    head = PlainHead(
        path="/", head_bytes=len(HEAD), body_bytes=len(body), host="h", content_type="c", authorization=None
    )
    return PlainRequest(head, HEAD + body)


def pack(inputs: Given, **more: Any) -> bytes:
    return msgspec.msgpack.encode({"inputs": {name: make_wire_tensor(array) for name, array in inputs.items()}, **more})


def learn(forms: BodyForms, body: bytes) -> None:
    request = make_request(body)
    forms.learn(request, msgspec.msgpack.decode(request.body, type=Call).inputs)


def draw_inputs(seed: int, windows: int, batched: bool, contract: ModelContract = CONTRACT) -> Given:
    random = np.random.default_rng(seed)
    arrays = {
        name: random.permutation(array.reshape(-1)).reshape(array.shape)
        for name, array in make_full_inputs(windows, contract).items()
    }
    return arrays if batched else {name: array[0] for name, array in arrays.items()}


@given(st.integers(1, 3), st.booleans(), st.sampled_from(CONTRACTS), st.sampled_from(CONTRACTS), st.data())
def test_windows_are_found_as_they_were_sent(
    windows: int, batched: bool, sent: ModelContract, served: ModelContract, data: st.DataObject
) -> None:
    windows = windows if batched else 1
    order = data.draw(st.permutations(sorted(sent.input_shapes)))
    forms = BodyForms(MEMORY_CONTRACT)
    first, second = (draw_inputs(seed, windows, batched, sent) for seed in (1, 2))
    learn(forms, pack({name: first[name] for name in order}))
    found = forms.find_windows(make_request(pack({name: second[name] for name in order})))
    assert found is not None
    assert (found.windows, found.batched, found.is_checked) == (windows, batched, False)
    inputs = Inputs.allocate(served, windows + 1)
    begin = data.draw(st.integers(0, windows - 1))
    found.fill(begin, windows - begin, inputs, 1)
    for name, buffer in inputs.view_first(windows + 1).items():
        shape = windows, *served.input_shapes[name]
        expected = second[name].reshape(shape) if name in second else np.full(shape, np.nan)
        np.testing.assert_array_equal(buffer[1 : 1 + windows - begin], expected[begin:])
        assert not buffer[0].any()
        assert not buffer[1 + windows - begin :].any()


@given(st.data())
def test_a_body_that_differs_outside_of_its_tensors_has_no_known_form(data: st.DataObject) -> None:
    forms = BodyForms(CONTRACT)
    body = pack(make_full_inputs(1))
    learn(forms, body)
    place = data.draw(st.integers(0, len(body) - 1))
    changed = bytearray(body)
    changed[place] ^= data.draw(st.integers(1, 255))
    found = forms.find_windows(make_request(bytes(changed)))
    tensors = msgspec.msgpack.decode(body, type=Call).inputs
    is_inside = any(0 <= place - body.index(bytes(tensor.data)) < len(tensor.data) for tensor in tensors.values())
    assert (found is not None) == is_inside


@pytest.mark.parametrize("change", ["type", "missing"])
def test_other_types_and_missing_inputs_are_not_remembered(change: str) -> None:
    forms, inputs = BodyForms(CONTRACT), make_full_inputs(1)
    if change == "type":
        inputs["encoder_cont"] = inputs["encoder_cont"].astype(np.float64)
    else:
        del inputs["encoder_cat"]
    learn(forms, pack(inputs))
    assert forms.is_known(make_request(pack(inputs)))
    assert forms.find_windows(make_request(pack(inputs))) is None


def test_the_number_of_forms_is_bounded() -> None:
    forms = BodyForms(CONTRACT)
    for number in range(3 * MAX_FORMS):
        learn(forms, pack(make_full_inputs(1), more="x" * number))
    assert len(forms._forms) <= MAX_FORMS
