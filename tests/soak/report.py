"""What was tried, how it ended, and what ended as it should not."""

from __future__ import annotations

import json
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path

FAULTS = {
    "lost": "outputs or finished work lost",
    "differs": "bytes that differ from those of an undisturbed run",
    "traceback": "tracebacks",
    "unclear": "failures without one clear line",
    "stuck": "commands that did not end",
}
"""What must not be, by its key in the report."""


@dataclass
class Report:
    """Counts of what was tried; the faults with all that is needed to look into them."""

    seed: int
    begun: float = field(default_factory=time.monotonic)
    tried: dict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    faults: list[dict[str, str]] = field(default_factory=list)

    def count(self, kind: str, outcome: str) -> None:
        """Note one try of a kind and how it ended, in a word or two."""
        self.tried[kind][outcome] += 1

    def fault(self, what: str, kind: str, detail: str) -> None:
        """Note something that must not be: `what` is a key of `FAULTS`."""
        self.faults.append({"what": what, "kind": kind, "detail": detail[-8000:]})
        print(f"FAULT, {FAULTS[what]}: {kind}\n{detail[-3000:]}", flush=True)

    def write(self, path: Path) -> None:
        """Write the counts and the faults as JSON."""
        content = {
            "seed": self.seed,
            "seconds": round(time.monotonic() - self.begun),
            "tried": {kind: dict(sorted(ended.items())) for kind, ended in self._kinds()},
            "faults": {what: [f for f in self.faults if f["what"] == what] for what in FAULTS},
        }
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")

    def __str__(self) -> str:
        lines = []
        for kind, ended in self._kinds():
            outcomes = ", ".join(f"{number} {outcome}" for outcome, number in sorted(ended.items()))
            lines.append(f"{sum(ended.values()):6}  {kind}: {outcomes}")
        total = sum(sum(ended.values()) for ended in self.tried.values())
        minutes = (time.monotonic() - self.begun) / 60
        lines.append(f"{total:6}  tried in {minutes:.0f} minutes, seed {self.seed}")
        found = Counter(fault["what"] for fault in self.faults)
        lines += [f"{found[what]:6}  {words}" for what, words in FAULTS.items()]
        return "\n".join(lines)

    def _kinds(self) -> list[tuple[str, Counter[str]]]:
        return sorted(self.tried.items())
