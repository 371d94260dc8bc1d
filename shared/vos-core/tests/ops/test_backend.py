from __future__ import annotations

import threading

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.ops import backend
from vos_core.ops.components import connected_components

CPU = torch.zeros(1)
META = torch.zeros(1, device="meta")


@pytest.fixture(autouse=True)
def _no_choice(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "auto")  # also makes pytest restore what a test sets
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)


def test_auto_takes_the_library_of_the_cpu():
    assert {op: backend.backend_of(op, CPU) for op in backend.OPS} == {
        "topk_readout": "torch",
        "local_attention": "torch",
        "components": "opencv",
        "morphology": "opencv",
        "conv3x3": "winograd",
    }


def test_other_devices_go_through_torch_where_the_op_has_it():
    assert backend.backend_of("morphology", META) == "torch"
    assert backend.backend_of("conv3x3", META) == "torch"
    assert backend.backend_of("components", META) == "opencv"


def test_one_name_sets_the_ops_that_have_it():
    chosen = backend.parse_backends("torch, components=triton")
    everywhere = ("topk_readout", "local_attention", "morphology", "conv3x3")
    assert chosen == {**dict.fromkeys(everywhere, "torch"), "components": "triton"}


def test_variable_function_and_context(monkeypatch):
    monkeypatch.setenv(backend.VARIABLE, "torch")
    assert backend.backend_of("morphology", CPU) == "torch"
    with backend.use_backends("morphology=opencv"):
        assert backend.backend_of("morphology", CPU) == "opencv"
    assert backend.backend_of("morphology", CPU) == "torch"
    backend.set_backends("opencv")
    seen = []
    thread = threading.Thread(target=lambda: seen.append(backend.backend_of("morphology", CPU)))
    thread.start()
    thread.join()
    assert seen == ["opencv"]
    with pytest.raises(UsageError, match="unknown ops backend"):
        backend.set_backends("numpy")
    assert backend.backend_of("morphology", CPU) == "opencv"


def test_triton_on_a_cpu_tensor_is_refused_unless_interpreted(monkeypatch):
    monkeypatch.setattr(backend, "triton_installed", lambda: True)
    with backend.use_backends("components=triton"):
        with pytest.raises(UsageError, match="TRITON_INTERPRET=1"):
            connected_components(torch.ones(1, 1, 4, 4))
        monkeypatch.setenv("TRITON_INTERPRET", "1")
        assert backend.backend_of("components", CPU) == "triton"
        monkeypatch.setattr(backend, "triton_installed", lambda: False)
        with pytest.raises(UsageError, match="not installed"):
            backend.backend_of("components", CPU)


def test_opencv_off_the_cpu_is_refused():
    with backend.use_backends("morphology=opencv"), pytest.raises(UsageError, match="on meta"):
        backend.backend_of("morphology", META)


@pytest.mark.parametrize(
    ("text", "message"),
    [("cuda", "unknown ops backend 'cuda'"), ("blur=torch", "unknown op 'blur'"), ("components=torch", "opencv, triton")],
)
def test_unknown_names_are_refused(text, message):
    with pytest.raises(UsageError, match=message):
        backend.parse_backends(text)
