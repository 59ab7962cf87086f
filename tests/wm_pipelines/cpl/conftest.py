"""A CPL pipeline at test size and pictures whose classes a linear eye can tell apart."""

import pytest


@pytest.fixture
def cpl_pipe(tiny_clip):
    """A quiet pipeline; its learner is its own and awake, the other components are the session's."""
    import torch

    from wm_pipelines.cpl.modeling import CPLPromptLearner
    from wm_pipelines.cpl.pipeline import CPLPipeline
    from wm_pipelines.runtime.noise import randn

    learner = CPLPromptLearner.from_clip(tiny_clip["clip"], tiny_clip["tokenizer"]).eval()
    with torch.no_grad():  # the net of a 20-dimensional feature has one unit: keep it from sleeping
        learner.meta_net.linear1.bias.fill_(0.5)
        learner.meta_net.linear2.weight.copy_(0.3 * randn((16, 1), "cpl awake"))
    pipe = CPLPipeline(**tiny_clip, prompt_learner=learner.requires_grad_(False))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="session")
def coloured():
    """`coloured(n)`: 3n pictures (3, 32, 32) of three colours with noise, their labels, and the class names."""
    import torch

    from wm_pipelines.runtime.noise import randn

    def make(each=2, key=0):
        tints = torch.tensor([[0.9, 0.1, 0.1], [0.1, 0.8, 0.2], [0.2, 0.2, 0.9]])
        labels = torch.arange(3).repeat(each)
        noise = 0.1 * randn((3 * each, 3, 32, 32), "coloured", key)
        return (tints[labels][:, :, None, None] + noise).clamp(0, 1), labels.tolist(), ["red", "green", "blue"]

    return make
