import pytest
import torch

from wm_pipelines.diorama.judge import DioramaJudge
from wm_pipelines.diorama.scene import COLOURS, SHAPES


@pytest.fixture(scope="module")
def judge():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DioramaJudge(channels=(8, 8, 16)).eval()


def test_it_says_a_colour_and_a_shape_for_every_pixel(judge):
    out = judge(torch.rand(2, 3, 12, 20, generator=torch.Generator().manual_seed(1)))
    assert out.colour.shape == (2, 1 + len(COLOURS), 12, 20) and out.shape.shape == (2, len(SHAPES), 12, 20)
    assert torch.isfinite(out.colour).all() and out.colour.std() > 0


@torch.no_grad()
def test_a_picture_is_judged_alone_as_in_a_batch(judge):
    pictures = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    together = judge(pictures)
    for i in range(3):
        alone = judge(pictures[i : i + 1])
        torch.testing.assert_close(alone.colour[0], together.colour[i], atol=1e-5, rtol=1e-5)


def test_saving_and_loading_keeps_it(judge, tmp_path):
    judge.save_pretrained(tmp_path)
    again = DioramaJudge.from_pretrained(tmp_path)
    assert again.config.channels == [8, 8, 16] or tuple(again.config.channels) == (8, 8, 16)
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(judge(x).colour, again(x).colour)


def test_the_published_size_stays_under_its_limit():
    with torch.device("meta"):
        parameters = sum(p.numel() for p in DioramaJudge().parameters())
    assert parameters * 2 <= 1.5e6


@pytest.mark.parametrize("shape", [(3, 8, 8), (1, 1, 8, 8), (1, 3, 8, 10), (1, 3, 9, 8)])
def test_pictures_of_other_shapes_are_refused(judge, shape):
    with pytest.raises(ValueError, match="`pictures`"):
        judge(torch.zeros(shape))


def test_it_learns_to_tell_colour_and_place():
    """A few steps on one picture: the logits follow the labels, so gradients reach every layer."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = DioramaJudge(channels=(8, 8, 8))
    picture = torch.zeros(1, 3, 8, 8)
    picture[:, 0, :, 4:] = 1.0
    target = torch.zeros(1, 8, 8, dtype=torch.long)
    target[..., 4:] = 3
    optimiser = torch.optim.Adam(net.parameters(), 0.02)
    for _ in range(25):
        optimiser.zero_grad()
        out = net(picture)
        loss = torch.nn.functional.cross_entropy(out.colour, target) + out.shape.square().mean()
        loss.backward()
        optimiser.step()
    assert all(p.grad is not None for p in net.parameters())
    assert (net(picture).colour.argmax(1) == target).float().mean() > 0.95
