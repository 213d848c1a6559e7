"""What a label finds in a log: how many impressions there are, how many of them are positive, and in words what is
missing."""

from __future__ import annotations

from dataclasses import dataclass

from forebay.segments.history.examples import Examples
from forebay.segments.spec import Label


@dataclass(frozen=True)
class LabelCounts:
    """`impressions` of a log or of a part of it, `positives` among them, and `met`: other events that
    meet `positive`."""

    label: Label
    impressions: int
    positives: int
    met: int

    @classmethod
    def of(cls, label: Label, examples: Examples) -> LabelCounts:
        return cls(label, len(examples), int(examples.labels.sum()), len(examples.met))

    @property
    def both(self) -> bool:
        """Whether there is anything to learn: some positive, and some not."""
        return 0 < self.positives < self.impressions

    @property
    def problem(self) -> str:
        """Why there is nothing to learn, with the conditions and what each matched; empty where `both`."""
        if self.both:
            return ""
        shown = f" ({self.label.impression.text})" if self.label.impression else ""
        positive = f"positive = {self.label.positive.text!r}"
        if not self.impressions:
            return f"no event is an impression{shown}"
        if self.positives:
            return f"all {self.impressions:,} impressions{shown} meet {positive}: nothing is negative"
        elsewhere = f"; {self.met:,} events that are no impression do" if self.met else ""
        return f"none of {self.impressions:,} impressions{shown} meets {positive}{elsewhere}"

    @property
    def remedy(self) -> str:
        if self.met and not self.positives and self.label.within_ms is None:
            return 'Is the outcome an event of its own? [label] within = "30m" joins it to the impression before it'
        if self.met and not self.positives:
            return "A longer `within`? Or compare users, items and what `join` names: nothing follows its impression"
        return "Mend the condition, or give a longer history"
