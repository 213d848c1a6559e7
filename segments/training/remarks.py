"""What is odd about a training that ended well: figures that chance gives as easily."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

CHANCE_AUC = 0.52  # a model without anything to learn scores .5; of some thousand impressions a lucky one is below this
CATALOGUE_SHARE = 0.1  # at k of a tenth of the catalogue, an order by chance has a recall of a tenth
RECALL = "validation_recall@"


def remarks(record: Mapping[str, Any]) -> list[str]:
    """Sentences for people, about a bundle's record; none where nothing is odd."""
    found = []
    auc = record.get("validation_auc")
    if auc is not None and not auc >= CHANCE_AUC:
        found.append(
            f"validation AUC {auc:.3f} is no better than chance (under {CHANCE_AUC}): the ranking is not learned. "
            "Look at the counts of positives, and at what the features know before an impression"
        )
    for name in record:
        if name.startswith(RECALL) and int(name.removeprefix(RECALL)) > CATALOGUE_SHARE * record["items"]:
            k = int(name.removeprefix(RECALL))
            found.append(
                f"recall@{k} is out of {record['items']:,} items: chance alone finds "
                f"{min(1.0, k / max(1, record['items'])):.0%}, "
                "so this figure says little"
            )
    return found
