"""Stored GGUF tensors as torch tensors of any dtype."""

import torch
from torch import Tensor

from fathom.checkpoints.gguf_types import pieces
from fathom.checkpoints.mapping import Bytes

PLAIN_DTYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def dequantise(type_name: str, data: Bytes, shape: tuple[int, ...], dtype: torch.dtype | None = None) -> Tensor:
    """The numbers of a stored tensor.

    Args:
        type_name: a GGUF type, as `BlockType.name`.
        data: its bytes in row order, uint8, any shape.
        shape: logical shape; the last axis is the one cut into blocks.
        dtype: wanted dtype; by default the stored one for plain types and float32 for quantised ones.

    Returns:
        Tensor [shape]; a view of `data` where type and dtype are the same plain one.

    Raises:
        UnsupportedTypeError: there is no such GGUF type, or it is not read.

    """
    flat = data.reshape(-1)
    if type_name in PLAIN_DTYPES:
        stored = PLAIN_DTYPES[type_name]
        if flat.ctypes.data % stored.itemsize:
            flat = flat.copy()
        tensor = torch.from_numpy(flat).view(stored).view(shape)
        return tensor if dtype is None else tensor.to(dtype)
    result = torch.empty(shape, dtype=dtype or torch.float32)
    numbers_X = result.view(-1)
    for start, numbers in pieces(type_name, flat):
        numbers_X[start : start + numbers.size] = torch.from_numpy(numbers.reshape(-1))
    return result
