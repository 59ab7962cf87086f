"""`wm train diorama-stripes`: the adapter alone trains, and what is written goes back onto the base."""

import torch

from wm_pipelines.adapters.kronecker import load_adapter
from wm_pipelines.hub import embedded
from wm_pipelines.hub.stock import load_model
from wm_pipelines.training import KeyedNoise, Recipe, build


def test_the_adapter_alone_trains_and_goes_back_onto_its_base(tmp_path):
    from diffusers import UNet2DConditionModel

    task = build(Recipe(task="diorama-stripes", steps=1, batch_size=2, options={"length": 2}))
    assert task.data == "Diorama images, train split, 2 scenes of striped solids"
    names = [name for name, _ in task.trainable()]
    assert names and all("kronecker_" in name for name in names)
    loss = task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"]
    assert torch.equal(loss, task.loss([0, 1], 0, KeyedNoise(0, 0))["loss"])
    loss.backward()
    with torch.no_grad():
        for name, parameter in task.trainable():
            if ".kronecker_u." in name:
                assert parameter.grad.abs().max() > 0
                parameter -= 0.02 * parameter.grad.sign()
    task.export(tmp_path / "adapter")
    base = load_model(UNet2DConditionModel, embedded("diorama-sd"), subfolder="unet").eval()
    torch.manual_seed(0)
    x, t, text = torch.randn(1, 4, 16, 16), torch.tensor([500]), torch.randn(1, 77, 128)
    with torch.no_grad():
        plain, wanted = base(x, t, text).sample, task.unet(x, t, text).sample
        found = load_adapter(base, tmp_path / "adapter")(x, t, text).sample
    torch.testing.assert_close(found, wanted, rtol=0, atol=0.02)  # halves on disk
    assert (found - plain).abs().max() > 0.05
