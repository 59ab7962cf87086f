"""Pipelines and conditions at test size."""

import pytest


@pytest.fixture
def flex_pipe(tiny_sd, tiny_control):
    """A quiet FlexEControlPipeline; its scheduler is its own, the other components are the session's."""
    from wm_pipelines.flexecontrol.pipeline import FlexEControlPipeline

    scheduler = tiny_sd["scheduler"].from_config(tiny_sd["scheduler"].config)
    pipe = FlexEControlPipeline(**{**tiny_sd, "scheduler": scheduler}, control=tiny_control)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def sample(flex_pipe):
    """`sample(**arguments)`: three seeded steps of `flex_pipe`, pictures as one tensor."""
    import torch

    def run(prompt="a red cube left of a blue sphere", *, seed=0, pipe=flex_pipe, **arguments):
        arguments = {"num_inference_steps": 3, "output_type": "pt", "on_conflict": "ignore", **arguments}
        return pipe(prompt, generator=torch.Generator().manual_seed(seed), **arguments)

    return run
