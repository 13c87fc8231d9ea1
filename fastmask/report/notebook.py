"""A bar of progress in a Jupyter notebook: HTML that is replaced in place, without widgets."""

from __future__ import annotations

import sys
import time
from typing import Any

SECONDS_BETWEEN = 0.2


class Notebook:
    """The output of a notebook's cell, as a place for bars."""


def notebook() -> Notebook | None:
    """Return the notebook that this runs in; None where it runs elsewhere. Imports nothing."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return Notebook() if hasattr(shell, "kernel") else None


class NotebookBar:
    """One bar, with the methods of rich's ``Progress`` that ``progress.Progress`` calls."""

    def add_task(self, _: str, **fields: Any) -> int:
        """Say what the bar counts: total, completed, unit, figures."""
        self._fields, self._handle, self._shown = fields, None, 0.0
        return 0

    def start(self) -> None:
        """Show it."""
        from IPython.display import HTML, display

        self._handle = display(HTML(self._html()), display_id=True)

    def update(self, _: int, **fields: Any) -> None:
        """Change what is shown, now and then."""
        self._fields |= fields
        if time.monotonic() - self._shown >= SECONDS_BETWEEN:
            self._draw()

    def stop(self) -> None:
        """Show the last numbers."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import HTML

        self._shown = time.monotonic()
        if self._handle is not None:
            self._handle.update(HTML(self._html()))

    def _html(self) -> str:
        done, total, unit, figures = (self._fields[name] for name in ("completed", "total", "unit", "figures"))
        of = "" if total is None else f" of {total:,}"
        length = "" if total is None else f' max="{max(total, 1)}" value="{done}"'
        return f"<progress{length}></progress> {done:,}{of} {unit} {figures}"
