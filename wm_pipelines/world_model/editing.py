"""An editor of diffusers in a world model's place: its pictures are tokenised again for the dynamics model."""

from collections.abc import Sequence

import torch

from wm_pipelines.dynamics.pictures import as_list, check_actions
from wm_pipelines.dynamics.pipeline import DynamicsModelPipeline
from wm_pipelines.media.pictures import Picture, to_tensor
from wm_pipelines.world_model.editors import Editor
from wm_pipelines.world_model.outputs import WorldModelOutput
from wm_pipelines.world_model.pipeline import Verifier, as_images, check_common, check_steps, draw_seeds, say
from wm_pipelines.world_model.selection import Gate, check_verifier, choose, pixel_change, score_pictures


class EditorWorldModel:
    """Draws with an editor, and picks as `WorldModelPipeline` does.

    Args:
        editor: of `editors.Editor`. It is saved and loaded by its own pipeline.

    Changes are counted in pixels, in 16 x 16 cells: `gate.threshold` is the squared difference of a cell's colours.
    """

    def __init__(self, editor: Editor):
        self.editor = editor

    @torch.no_grad()
    def __call__(
        self,
        source: Picture | Sequence[Picture],
        action: str | Sequence[str],
        num_candidates: int = 1,
        verifier: Verifier = None,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        gate: Gate | None = None,
        rescore_pixels: bool = False,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> WorldModelOutput | tuple:
        """As a call of `WorldModelPipeline`; a dynamics model needs `rescore_pixels`, for an editor has no codes.

        Raises:
            ValueError: as there.
        """
        sources = as_list("source", source)
        check_common(num_candidates, output_type)
        check_verifier(verifier, None, rescore_pixels)
        actions = check_actions(action, len(sources))
        seeds = draw_seeds(generator, len(sources))
        before = [to_tensor(picture) for picture in sources]
        if len({picture.shape for picture in before}) > 1:
            raise ValueError(f"`source` has pictures of {sorted({tuple(p.shape[1:]) for p in before})}; give one size")
        source = torch.stack(before)
        rows = zip(before, actions, seeds, strict=True)
        drawn = torch.stack([self.editor.draw(picture, words, seed, num_candidates) for picture, words, seed in rows])
        out = judged(source, drawn, actions, verifier, gate or Gate(threshold=1e-3), output_type)
        return out if return_dict else out.to_tuple()

    def rollout(
        self,
        source: Picture,
        actions: Sequence[str],
        num_candidates: int = 1,
        verifier: Verifier = None,
        generator: torch.Generator | None = None,
        gate: Gate | None = None,
        rescore_pixels: bool = False,
        output_type: str = "pil",
    ) -> list[WorldModelOutput]:
        """One step for each action; each goes on from the picture that the one before chose.

        Raises:
            ValueError: as a call; no action.
        """
        check_steps(actions)
        said, found = check_actions(actions, len(actions)), []
        check_common(num_candidates, output_type)
        how = {"verifier": verifier, "gate": gate, "rescore_pixels": rescore_pixels, "output_type": "pt"}
        for action in said:
            out = self(source, action, num_candidates, generator=generator, **how)
            source = out.images[0][int(out.selected[0])]
            out.images = as_images(out.images[0][None], output_type)
            found.append(out)
        return found


def judged(
    source: torch.Tensor,
    candidates: torch.Tensor,
    actions: Sequence[str],
    verifier: Verifier,
    gate: Gate,
    output_type: str = "pil",
) -> WorldModelOutput:
    """Candidates `(B, N, 3, H, W)` from anywhere, ranked: near copies dropped, margins over the source.

    Args:
        source: `(B, 3, H, W)`, of the candidates' size.

    Raises:
        ValueError: two sizes.
    """
    if source.shape[-2:] != candidates.shape[-2:]:
        sizes = [f"{shape[-2]}x{shape[-1]}" for shape in (source.shape, candidates.shape)]
        raise ValueError(
            f"`source` and `candidates` have different sizes ({', '.join(sizes)}); pass images of one size"
        )
    scores = margins = tokens = None
    if verifier is not None:
        scores, margins = score_pictures(verifier, source, candidates, actions, "pad")
    if isinstance(verifier, DynamicsModelPipeline):
        fitted = verifier.fitted(list(candidates.flatten(0, 1)), "pad", "candidates")
        tokens = verifier.encode(fitted).flatten(1).unflatten(0, candidates.shape[:2])
    change = pixel_change(source, candidates)
    choice = choose(scores, margins, change, gate)
    say(choice, candidates.shape[1], verifier)
    return WorldModelOutput(
        images=as_images(candidates, output_type),
        image_tokens=tokens,
        scores=choice.scores,
        selected=choice.selected,
        margins=choice.margins,
        kept=choice.kept,
        accepted=choice.accepted,
        logprobs=torch.full(choice.kept.shape, torch.nan),
        change=change,
    )
