import importlib.util
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session")
def taming():
    """The class VQGAN of `taming_vqgan.py`."""
    spec = importlib.util.spec_from_file_location("taming_vqgan", Path(__file__).with_name("taming_vqgan.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.VQGAN


@pytest.fixture(scope="session")
def make_tokens():
    """`make_tokens(**config)`: a `PictureTokens` with random weights, its codes spread like the encoder's output."""
    from diffusers import VQModel

    from wm_pipelines.tokens.pictures import PictureTokens

    def make(levels=3, codes=48, dim=6, seed=0, widths=(8, 16, 16, 16), groups=4, **config):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            vq = VQModel(
                block_out_channels=widths[:levels],
                down_block_types=("DownEncoderBlock2D",) * levels,
                up_block_types=("UpDecoderBlock2D",) * levels,
                latent_channels=dim,
                norm_num_groups=groups,
                num_vq_embeddings=codes,
                **config,
            ).eval()
            tokens = PictureTokens(vq)
            with torch.no_grad():
                seen = tokens.features(torch.rand(8, 3, 32, 32)).flatten(0, 2)
                tokens.codebook.copy_(seen.mean(0) + seen.std(0) * torch.randn(codes, seen.shape[1]))
        return tokens

    return make


@pytest.fixture(scope="session")
def tokens(make_tokens):
    return make_tokens()
