from __future__ import annotations

import pytest
import torch

from vos_core.errors import UsageError
from vos_core.run.device import torch_device, torch_dtype


def test_names_become_torch_devices():
    assert torch_device("cpu") == torch.device("cpu")
    assert torch_device("cuda:1") == torch.device("cuda", 1)
    with pytest.raises(UsageError, match=r"unknown device 'gpu'.*cuda:<index>"):
        torch_device("gpu")


def test_precisions_become_dtypes_and_fp16_needs_a_gpu():
    found = [torch_dtype("fp32", "cpu"), torch_dtype("bf16", "cpu"), torch_dtype("fp16", "cuda:0")]
    assert found == [torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(UsageError, match="fp16 on a CPU"):
        torch_dtype("fp16", "cpu")
