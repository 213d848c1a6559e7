"""Training a bundle: the same fold that serves, replayed to each moment, into the weights of encoders and fusions."""

from forebay.segments.training import early
from forebay.segments.training.options import RetrieveOptions, TrainingOptions
from forebay.segments.training.recipe import RANK_ONLY, add_segment, train, train_segment, untrained, with_teacher

__all__ = [
    "RANK_ONLY",
    "RetrieveOptions",
    "TrainingOptions",
    "add_segment",
    "early",
    "train",
    "train_segment",
    "untrained",
    "with_teacher",
]
