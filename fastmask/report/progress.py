"""A training run's progress: a live line on a terminal, a plain line now and then otherwise."""

from __future__ import annotations

import time
from collections.abc import Callable

SECONDS_BETWEEN_LINES = 15.0
SECONDS_BETWEEN_UPDATES = 0.2
RECENT = 20
"""Steps over which the loss that is shown is averaged, about."""


class Progress:
    """Loss, real tokens/s and time left.

    Args:
        steps, first_step: of the run, and where this process begins.
        say: shows one plain line.
        show: shows a line that the next one takes the place of; None where there is no terminal.
    """

    def __init__(self, steps: int, first_step: int, say: Callable[[str], None], show: Callable[[str], None] | None):
        self.steps, self.first_step, self._say, self._show = steps, first_step, say, show
        self.tokens, self.loss = 0, 0.0
        self._began = self._shown = time.monotonic()

    def update(self, step: int, loss: float, tokens: int) -> None:
        """Step number ``step`` is done, with so many real tokens over all ranks."""
        done = step + 1 - self.first_step
        self.tokens += tokens
        self.loss += (loss - self.loss) / min(done, RECENT)
        now = time.monotonic()
        interval = SECONDS_BETWEEN_LINES if self._show is None else SECONDS_BETWEEN_UPDATES
        if now - self._shown >= interval:
            self._shown = now
            left = (self.steps - step - 1) * (now - self._began) / done
            figures = f"loss {self.loss:.4f}, {self.rate:,.0f} tokens/s, {_left(left)}"
            (self._show or self._say)(f"step {step + 1:,} of {self.steps:,}: {figures}")

    @property
    def rate(self) -> float:
        """Real tokens a second since the process began to train, measurements and checkpoints included."""
        return self.tokens / max(time.monotonic() - self._began, 1e-9)


def _left(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d} left" if hours else f"{minutes}:{seconds:02d} left"
