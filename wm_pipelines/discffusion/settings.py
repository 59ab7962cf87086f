"""How a score is made and an adapter is read: what a checkpoint's record says. Light: no torch."""

from typing import Literal

from pydantic import Field

from wm_pipelines.record import Record

Score = Literal["lse", "dc", "lse+dc"]
Sites = Literal["released", "all"]
Mask = Literal["all", "no_bos", "content"]
HeadWeights = Literal["uniform", "gradient", "learned"]


class DiscffusionConfig(Record):
    """How an adapter was trained to be read; learnt weights of heads are in `head_weights.json` beside it."""

    score: Score = "lse+dc"
    timesteps: int = Field(30, ge=1, description="asked of the authors' table")
    sites: Sites = "released"
    token_mask: Mask = "all"
    cond_only: bool = False
    bias_weight: float = 1.0
    lse_lambda: float = Field(1.0, gt=0)
    head_weights: HeadWeights = "uniform"
