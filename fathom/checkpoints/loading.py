"""From a checkpoint to a Transformer: built without memory, filled tensor by tensor, every name accounted for."""

import torch
from torch import Tensor

from fathom.checkpoints.checkpoint import Checkpoint
from fathom.checkpoints.tensor_names import ROUTER_BIAS, check_names, parts_of, present_config
from fathom.models.transformer import Transformer


def load_model(checkpoint: Checkpoint, *, dtype: torch.dtype, device: torch.device | str = "cpu") -> Transformer:
    """Build the checkpoint's model with its weights.

    Weights stored in `dtype` stay views of the mapped file on a CPU (but for experts, which are stacked); others are
    converted one tensor at a time. The gates' biases stay float32.

    Raises:
        MismatchError: tensors are missing, unused, or of another shape than the config asks for, by name.

    """
    config = present_config(checkpoint.config, checkpoint.names())
    with torch.device("meta"):
        model = Transformer(config)
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    check_names(checkpoint, config, expected)
    state = {name: _gather(checkpoint, name, shape, dtype, device) for name, shape in expected.items()}
    model.load_state_dict(state, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _gather(
    checkpoint: Checkpoint, name: str, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device | str
) -> Tensor:
    wanted = torch.float32 if name.endswith(ROUTER_BIAS) else dtype
    parts = parts_of(name, shape)
    if parts == [name]:
        return checkpoint.tensor(name, wanted).to(device)
    stacked = torch.empty(shape, dtype=wanted, device=device)
    for index, part in enumerate(parts):
        stacked[index] = checkpoint.tensor(part, wanted)
    return stacked
