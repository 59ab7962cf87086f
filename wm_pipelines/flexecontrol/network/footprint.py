"""What an adapter costs before anything is run: parameters held, parameters trained, and the memory they need."""

import dataclasses

from diffusers import UNet2DConditionModel

from wm_pipelines.flexecontrol.modeling import FlexEControlModel
from wm_pipelines.flexecontrol.network.decomposition import kronecker_layers


@dataclasses.dataclass(frozen=True)
class Footprint:
    """Counts are parameters; bytes are float32.

    Attributes:
        unet, adapter, image_adapter: parameters held (the last only with a global adapter, which is counted apart).
        optimised: parameters that training of the local adapter moves. decomposed: those in Kronecker factors.
    """

    unet: int
    adapter: int
    image_adapter: int
    optimised: int
    decomposed: int

    @property
    def resident(self) -> int:
        """Parameters of UNet and local adapter together."""
        return self.unet + self.adapter

    @property
    def state_bytes(self) -> int:
        """Gradients and the two Adam moments of what is trained: 12 bytes a parameter."""
        return 12 * self.optimised

    @property
    def predicted_bytes(self) -> int:
        """4 bytes for each resident parameter + `state_bytes`; activations come on top.

        The four memory figures that FlexEControl's paper gives fit this to 0.25 GB, with the parameters it counts as
        trainable in place of those optimised.
        """
        return 4 * self.resident + self.state_bytes

    def __str__(self) -> str:
        share = f"({self.optimised / self.adapter:.1%} of the adapter)"
        return "\n".join(
            [
                f"UNet                      {self.unet:>15,}",
                f"local adapter             {self.adapter:>15,}",
                f"resident                  {self.resident:>15,}",
                f"global adapter (apart)    {self.image_adapter:>15,}",
                f"optimised                 {self.optimised:>15,}  {share}",
                f"  of these factors        {self.decomposed:>15,}",
                f"gradient + Adam, GB       {self.state_bytes / 1e9:>15.2f}",
                f"predicted memory, GB      {self.predicted_bytes / 1e9:>15.2f}  (float32, without activations)",
            ]
        )


def footprint(model: FlexEControlModel, unet: UNet2DConditionModel) -> Footprint:
    """Count `model` on `unet`; both may be on the meta device. Print the result for a table."""
    image_adapter = sum(p.numel() for p in model.global_projection.parameters()) if model.global_projection else 0
    factors = {
        f"{name}.{leaf}": p
        for name, m in kronecker_layers(model)
        for leaf, p in m.named_parameters()
        if "kronecker" in leaf
    }
    return Footprint(
        unet=sum(p.numel() for p in unet.parameters()),
        adapter=sum(p.numel() for p in model.parameters()) - image_adapter,
        image_adapter=image_adapter,
        optimised=sum(p.numel() for p in model.trainable_parameters().values()),
        decomposed=sum(p.numel() for p in factors.values()),
    )
