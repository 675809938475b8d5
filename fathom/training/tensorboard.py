"""Event files that TensorBoard shows: the numbers of metrics.jsonl while the run goes on."""

from pathlib import Path

from fathom.data.errors import RecipeError
from fathom.training.evaluation import Evaluation
from fathom.training.metrics import StepMetrics

_NUMBERS = ("loss", "prediction", "balance", "gradient_norm", "learning_rate", "tokens_per_second", "mfu", "cost_usd")


class TensorBoard:
    """Writes into a folder for `tensorboard --logdir`; what an earlier session wrote after `first_step` is hidden.

    Raises RecipeError where the package is missing.
    """

    def __init__(self, folder: Path, first_step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise RecipeError("tensorboard = true needs the package: pip install 'fathom-llm[report]'") from error
        self._writer = SummaryWriter(str(folder), purge_step=first_step or None)

    def step(self, metrics: StepMetrics) -> None:
        """Write one step."""
        for name in _NUMBERS:
            self._scalar(f"train/{name}", getattr(metrics, name), metrics.step)
        for layer, value in metrics.max_violation.items():
            self._scalar(f"MaxVio/layer {layer}", value, metrics.step)

    def evaluation(self, step: int, result: Evaluation) -> None:
        """Write one look at held-out text."""
        self._scalar("held-out/loss", result.loss, step)
        if result.acceptance is not None:
            self._scalar("held-out/second token accepted", result.acceptance, step)

    def close(self) -> None:
        """Flush and close."""
        self._writer.close()

    def _scalar(self, name: str, value: float, step: int) -> None:
        self._writer.add_scalar(name, value, step)
