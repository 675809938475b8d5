"""Steps that must not be taken: a loss or gradient that is not finite, a loss that jumps."""

import math
import statistics
from collections import deque
from collections.abc import Iterable

from fathom.training.errors import DivergedError
from fathom.training.recipe import AnomalySettings

WINDOW = 32


class Watch:
    """Judges every step before its update. `recent` (the last losses) and `skipped` are part of a checkpoint."""

    def __init__(self, settings: AnomalySettings, recent: Iterable[float] = (), skipped: int = 0) -> None:
        self._settings = settings
        self.recent = deque(recent, maxlen=WINDOW)
        self.skipped = skipped

    def judge(self, step: int, rows: range, loss: float, gradient_norm: float) -> str | None:
        """Return None for a step to take, else why it is skipped; raises DivergedError where the recipe says stop."""
        where = f"step {step} (rows {rows.start} to {rows.stop - 1} of the data)"
        policy, why = None, ""
        if not (math.isfinite(loss) and math.isfinite(gradient_norm)):
            policy, why = self._settings.not_finite, f"{where}: loss {loss}, gradient norm {gradient_norm}"
        elif self._jumps(loss):
            policy, why = self._settings.spike, f"{where}: loss {loss:.4g} jumps from {self._median():.4g}"
        if policy is None:
            self.recent.append(loss)
            self.skipped = 0
            return None
        self.skipped += 1
        if policy == "stop" or self.skipped >= self._settings.skips_in_a_row:
            again = f" ({self.skipped} in a row)" if self.skipped > 1 else ""
            raise DivergedError(
                f"{why}{again}. The last checkpoint is sound: look at these rows, lower schedule.peak, "
                "or resume with --set anomalies.not_finite=skip / anomalies.spike=skip"
            )
        return f"{why}; skipped"

    def _jumps(self, loss: float) -> bool:
        return len(self.recent) == WINDOW and loss > self._settings.spike_factor * self._median()

    def _median(self) -> float:
        return statistics.median(self.recent)
