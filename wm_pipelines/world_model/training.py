"""Tuning a token model to draw the next picture: codes that change weigh more, and labels may come from a dynamics
model."""

from dataclasses import replace
from typing import Any

import torch

from wm_pipelines.dynamics.annotation.triplets import read_triplets
from wm_pipelines.dynamics.coded import CodedPairs, Recognizer, joined
from wm_pipelines.dynamics.labelling import LEAST_ACCURACY, check_samples, label_pairs, without_cuts
from wm_pipelines.dynamics.layout import Sample
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.dynamics.training import DEFAULTS, DIORAMA, TokenTask, read_pairs
from wm_pipelines.pipeline import AutoWMPipeline
from wm_pipelines.runtime.readers import located
from wm_pipelines.training import KeyedNoise, Recipe
from wm_pipelines.world_model.pipeline import WorldModelPipeline
from wm_pipelines.world_model.weights import ALPHA, RECOGNIZERS, recognition_weights

WORLD_DEFAULTS: dict[str, Any] = {
    **DEFAULTS, "alpha": ALPHA, "recognizer": "vq_l2", "dynamics": None, "unlabelled": None, "unlabelled_length": 8000,
    "held_out": 200, "keep": 0.6, "least_accuracy": LEAST_ACCURACY, "num_action_samples": 0, "triplets": None,
    "below": 0.99,
}  # fmt: skip


class WorldModelTask(TokenTask):
    """The world model: -log p(target | source, action) over the target's codes, each weighed by how far its place
    changed (arXiv 2506.06006, section 3.3), on labelled pairs and on pairs that a dynamics model labelled (its
    equation 1).

    Options beside those of `TokenTask`:
        alpha: of `recognition_weights`; 1 is plain cross-entropy. recognizer: "vq_l2" or "code_change".
        dynamics: checkpoint that labels `unlabelled`, which is as `data`, without looking at its actions; half of what
            is drawn then comes from there. unlabelled_length: pairs of the miniature world. held_out: so many labelled
            pairs are taken out of training to measure the dynamics model. keep: share of the unlabelled pairs that it
            is surest of. least_accuracy: below it nothing is labelled. num_action_samples: 0 takes its likeliest words
            for each pair; N draws N sentences by `seed` of the recipe, and each step learns from one of them.
        triplets: folder that `wm annotate reduce` wrote; half of what is drawn comes from there.
        below: of the pairs of either, those that changed more than this share of them did are left out as scene cuts;
            1 keeps all.
    """

    pipeline_class = WorldModelPipeline
    defaults = WORLD_DEFAULTS

    def __init__(self, recipe: Recipe):
        given = {**WORLD_DEFAULTS, **recipe.options}
        if given["recognizer"] not in RECOGNIZERS:
            raise ValueError(f"options.recognizer is {given['recognizer']!r}; allowed: {', '.join(RECOGNIZERS)}")
        if not 0 <= given["alpha"] <= 1:
            raise ValueError(f"options.alpha is {given['alpha']}; it must lie in [0, 1]")
        if not 0 < given["below"] <= 1:
            raise ValueError(f"options.below is {given['below']}; it must lie in (0, 1]")
        if (given["dynamics"] is None) != (given["unlabelled"] is None):
            raise ValueError("options.dynamics and options.unlabelled go together: who labels, and what")
        if given["triplets"] is not None and given["dynamics"] is not None:
            raise ValueError("options.triplets have their labels; leave out options.dynamics and options.unlabelled")
        with located("options"):
            check_samples(given["num_action_samples"])
        self.seed = recipe.seed
        super().__init__(recipe)
        self.weights = recognition_weights(self.pairs.distances, self.options["alpha"])
        self.labelled = self.length
        if self.options["dynamics"] is not None:
            self._add_labelled()
        if self.options["triplets"] is not None:
            self._add_triplets(self.options["triplets"])

    def recognizer(self) -> Recognizer | None:
        return RECOGNIZERS[self.options["recognizer"]](self.backend.pictures)

    def _add_labelled(self) -> None:
        options = self.options
        if not 0 < options["held_out"] < self.length:
            raise ValueError(f"options.held_out is {options['held_out']}; it must lie between 1 and {self.length - 1}")
        model = AutoWMPipeline.from_pretrained(options["dynamics"])
        if not isinstance(model, DynamicsModelPipeline):
            raise ValueError(f"options.dynamics is a {type(model).__name__}; it must be a dynamics model")
        size = self.backend.layout.size
        more = {**options, "data": options["unlabelled"], "length": options["unlabelled_length"]}
        pairs = read_pairs(more, size, start=self.length if options["data"] == DIORAMA else 0)
        unlabelled = self.coded(pairs, options["cache"] and f"{options['cache']}.unlabelled")
        if options["unlabelled"] == DIORAMA:  # its kinds are those of the true actions
            unlabelled = replace(unlabelled, kinds=("",) * len(unlabelled))
        unlabelled = without_cuts(unlabelled, options["below"])
        cut = self.length - options["held_out"]
        held_out = self.pairs.part(range(cut, self.length))
        keep = max(1, round(options["keep"] * len(unlabelled)))
        found = label_pairs(
            model, unlabelled, held_out, keep, options["least_accuracy"],
            num_action_samples=options["num_action_samples"], seed=self.seed,
        )  # fmt: skip
        self.pairs = self.pairs.part(range(cut))
        self._add(found, f"{len(found)} of {options['unlabelled']} labelled by {options['dynamics']}")

    def _add_triplets(self, folder: str) -> None:
        found = read_triplets(folder, self.backend.pictures)
        if found.source.shape[1:] != self.pairs.source.shape[1:]:
            sizes = [tuple(pairs.source.shape[1:]) for pairs in (found, self.pairs)]
            raise ValueError(f"options.triplets has {sizes[0]} codes a picture, the labelled pairs {sizes[1]}")
        if self.options["recognizer"] == "code_change":
            found = replace(found, distances=(found.source != found.target).float())
        found = without_cuts(found, self.options["below"])
        self._add(found, f"{len(found)} annotated in {folder}")

    def _add(self, found: CodedPairs, what: str) -> None:
        self.labelled, self.length = len(self.pairs), None
        self.pairs = joined(self.pairs, found)
        self.weights = recognition_weights(self.pairs.distances, self.options["alpha"])
        self.data += f"; {what}"

    def index_of(self, index: int, noise: KeyedNoise) -> int:
        """The pair that sample `index` is: each labelled one in turn where there are no others, else drawn, half of
        the labelled ones and half of those that a model labelled."""
        if self.length is not None:
            return index
        rng = noise.generator(index, "pair")
        own = rng.random() < 0.5
        low, high = (0, self.labelled) if own else (self.labelled, len(self.pairs))
        return int(rng.integers(low, high))

    def sample(self, index: int, noise: KeyedNoise) -> tuple[Sample, torch.Tensor | None]:
        index = self.index_of(index, noise)
        action, instruction = self.drawn(index, noise, self.backend.layout.forward_instructions)
        made = self.backend.sequences.forward_sample(
            self.pairs.source[index], action, self.pairs.target[index], instruction
        )
        weights = torch.ones(len(made.completion))
        weights[torch.tensor(made.codes)] = self.weights[index].flatten()
        return made, weights
