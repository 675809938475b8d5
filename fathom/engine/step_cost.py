"""What steps take on this machine now: learnt from every step, and used to size the next."""


class StepCost:
    """Seconds of a step by its rows: a line fitted to the steps that only decoded, the recent ones counting most.

    Rows of a prompt are cheaper than those that want logits, and dearer the longer their prompt is already; their cost
    is what steps with prompts took beyond the line.
    """

    _MEMORY = 0.97
    _SLOPE = 0.1  # a further row over the first one, until steps of different sizes were seen
    _HICCUP = 3.0  # times what was expected, at most, that a step may count
    _PROMPT_MEMORY = 0.7

    def __init__(self) -> None:
        self._weight = self._x = self._y = self._xx = self._xy = 0.0
        self._prompt_seconds: float | None = None

    @property
    def known(self) -> bool:
        """Whether any step was seen that only decoded."""
        return self._weight > 0

    @property
    def prompt_seconds(self) -> float | None:
        """What one token of a prompt takes; None before any was seen."""
        return self._prompt_seconds

    def observe(self, rows: int, prompt_tokens: int, seconds: float) -> None:
        """Note a step of so many rows with logits, and so many tokens of prompts."""
        if not prompt_tokens:
            self._observe_rows(rows, seconds)
            return
        base = self.seconds(rows) if self.known and rows else 0.0
        each = max(seconds - base, 0.0) / prompt_tokens
        before = self._prompt_seconds
        if before is None:
            self._prompt_seconds = each
        else:
            each = min(each, self._HICCUP * before)
            self._prompt_seconds = self._PROMPT_MEMORY * before + (1 - self._PROMPT_MEMORY) * each

    def seconds(self, rows: int) -> float:
        """What a step of so many decoding rows takes."""
        slope = self.row_seconds
        return max(self._y / self._weight + slope * (rows - self._x / self._weight), slope)

    @property
    def row_seconds(self) -> float:
        """What one more row takes; never less than a fiftieth of a step of one row."""
        mean_x, mean_y = self._x / self._weight, self._y / self._weight
        spread = self._xx / self._weight - mean_x**2
        assumed = mean_y * self._SLOPE / (1 + self._SLOPE * (mean_x - 1))
        if spread < 0.01:
            return assumed
        slope = (self._xy / self._weight - mean_x * mean_y) / spread
        return max(slope, assumed / (50 * self._SLOPE))

    def prompt_tokens(self, decoding: int, stretch: float) -> int | None:
        """How many tokens of prompts make a step of so many decoding rows `stretch` times as long; None: not known."""
        if not (self.known and decoding and self._prompt_seconds):
            return None
        return int((stretch - 1) * self.seconds(decoding) / self._prompt_seconds)

    def _observe_rows(self, rows: int, seconds: float) -> None:
        if self.known:
            seconds = min(seconds, self._HICCUP * self.seconds(rows))
        keep = self._MEMORY
        self._weight = self._weight * keep + 1
        self._x = self._x * keep + rows
        self._y = self._y * keep + seconds
        self._xx = self._xx * keep + rows * rows
        self._xy = self._xy * keep + rows * seconds
