"""Pictures as codes: both ways, alone and together, what stock `VQModel` does beside it, and what is refused."""

import copy

import pytest
import torch

from wm_pipelines.tokens.pictures import PictureTokens


def pictures(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def as_stock(vectors):
    return vectors.permute(0, 3, 1, 2)


@pytest.mark.parametrize(("levels", "height", "width"), [(1, 8, 8), (2, 8, 20), (3, 32, 12), (4, 16, 24)])
def test_a_code_for_each_cell_and_back(make_tokens, levels, height, width):
    tokens = make_tokens(levels)
    codes = tokens.encode(pictures(3, 3, height, width))
    assert tokens.factor == 2 ** (levels - 1) and tokens.num_codes == 48
    assert codes.shape == (3, *tokens.grid(height, width)) == (3, height // tokens.factor, width // tokens.factor)
    assert codes.dtype == torch.int64 and 0 <= codes.min() and codes.max() < 48 and len(codes.unique()) > 5
    decoded = tokens.decode(codes)
    assert decoded.shape == (3, 3, height, width) and decoded.dtype == torch.float32
    assert 0 <= decoded.min() and decoded.max() <= 1 and decoded.std() > 0


def test_one_picture_gives_what_it_gives_among_many(tokens):
    many = pictures(7, 3, 24, 16)
    codes = tokens.encode(many)
    assert torch.equal(codes, torch.cat([tokens.encode(one[None]) for one in many]))
    decoded = tokens.decode(codes)
    assert torch.allclose(decoded, torch.cat([tokens.decode(one[None]) for one in codes]), atol=1e-5)


def test_pictures_are_seen_from_minus_one_to_one(tokens):
    x = pictures(2, 3, 8, 8)
    with torch.no_grad():
        latents = tokens.vq.encode(2 * x - 1).latents
        stock = tokens.vq.decode(latents).sample
        assert torch.equal(tokens.features(x), latents.permute(0, 2, 3, 1))
        assert torch.allclose(tokens.decode(tokens.encode(x)), (stock / 2 + 0.5).clamp(0, 1), atol=1e-5)


def test_features_have_gradients_and_codes_have_none(tokens):
    x = pictures(1, 3, 8, 8).requires_grad_()
    tokens.features(x).square().sum().backward()
    assert x.grad.abs().sum() > 0 and not tokens.encode(x).is_floating_point()


@pytest.mark.parametrize("shape", [(6,), (1, 6), (25, 6), (26, 6), (3, 5, 7, 6), (1500, 6), (0, 6)])
def test_lookup_finds_the_nearest_vector(tokens, shape):
    vectors = 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    distances = (vectors.double()[..., None, :] - tokens.codebook.double()).square().sum(-1)
    codes = tokens.lookup(vectors)
    assert codes.shape == shape[:-1] and torch.equal(codes, distances.argmin(-1))


@pytest.mark.parametrize("away", [0.0, 1000.0])
def test_every_code_is_found_from_its_own_vector(make_tokens, away):
    """Also where the codebook lies far from zero, where the stock quantiser misses its own entries."""
    tokens = make_tokens(codes=256, seed=3)
    tokens.codebook.data.mul_(0.1).add_(away)
    codes = torch.arange(256).reshape(2, 8, 16)
    assert torch.equal(tokens.lookup(tokens.embed(codes)), codes)
    stock = tokens.vq.quantize(as_stock(tokens.embed(codes)))[2][2].reshape(codes.shape)
    assert torch.equal(stock, codes) == (away < 1000)


def test_embed_takes_any_shape_and_integer(tokens):
    codes = torch.randint(0, 48, (2, 3, 4), generator=torch.Generator().manual_seed(0))
    vectors = tokens.embed(codes)
    assert vectors.shape == (2, 3, 4, 6) and torch.equal(vectors[1, 2, 3], tokens.codebook[codes[1, 2, 3]])
    for kind in (torch.uint8, torch.uint16, torch.int32):
        assert torch.equal(tokens.embed(codes.to(kind)), vectors)
        assert torch.equal(tokens.decode(codes.to(kind)), tokens.decode(codes))
    assert tokens.embed(codes[:0]).shape == (0, 3, 4, 6)


def test_distances_of_codes_are_those_of_their_vectors(tokens):
    first, second = (torch.randint(0, 48, (2, 5, 5), generator=torch.Generator().manual_seed(s)) for s in (0, 1))
    found = tokens.code_distances(first, second)
    expected = torch.cdist(tokens.embed(first), tokens.embed(second)).diagonal(dim1=-2, dim2=-1).square()
    assert torch.allclose(found, expected, atol=1e-4) and torch.equal(found, tokens.code_distances(second, first))
    assert torch.equal(found == 0, first == second) and not tokens.code_distances(first, first).any()


@pytest.mark.parametrize(
    "config",
    [
        {"lookup_from_codebook": True},
        {"norm_type": "spatial", "widths": (32,) * 3, "groups": 32},
        {"vq_embed_dim": 3},
    ],
)
def test_other_configurations_decode_alike(make_tokens, config):
    tokens = make_tokens(seed=2, **config)
    x = pictures(2, 3, 16, 8)
    with torch.no_grad():
        stock = tokens.vq.decode(tokens.vq.encode(2 * x - 1).latents).sample
        assert torch.allclose(tokens.decode(tokens.encode(x)), (stock / 2 + 0.5).clamp(0, 1), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_decodes_but_does_not_encode(tokens, dtype):
    half = PictureTokens(copy.deepcopy(tokens.vq).to(dtype))
    x = pictures(16, 3, 32, 32)
    with pytest.raises(ValueError, match=r"`vq` is in torch\.\w+, which changes codes"):
        half.encode(x)
    codes = tokens.encode(x)
    assert torch.allclose(half.decode(codes[:2]), tokens.decode(codes[:2]), atol=0.03)
    with torch.no_grad():  # why: what a half encoder would have said
        flipped = half.lookup(half.vq.encode((2 * x - 1).to(dtype)).latents.permute(0, 2, 3, 1)) != codes
    assert 0.0005 < flipped.float().mean() < 0.06


class TestStock:
    """What `VQModel` does that its callers would not expect; when one of these fails, read `pictures.py` again."""

    def test_its_codes_come_flat(self, tokens):
        latents = as_stock(tokens.features(pictures(2, 3, 8, 12)))
        assert tokens.vq.quantize(latents)[2][2].shape == (2 * 2 * 3,)

    def test_it_takes_any_size_and_returns_another(self, tokens):
        assert tokens.vq(pictures(1, 3, 11, 9)).sample.shape == (1, 3, 8, 8)

    def test_it_quantises_again_unless_told_not_to(self, tokens):
        latents = as_stock(tokens.features(pictures(1, 3, 8, 8)))
        whole, raw = tokens.vq.decode(latents), tokens.vq.decode(latents, force_not_quantize=True)
        assert (whole.sample - raw.sample).abs().max() > 0.01
        assert whole.commit_loss.shape == () and raw.commit_loss.shape == (1,) and not raw.commit_loss.any()

    def test_its_loss_weighs_the_wrong_term(self, tokens):
        """beta = 1/4 belongs to the encoder's term (van den Oord et al.); here the codebook's has it."""
        latents = as_stock(tokens.features(pictures(2, 3, 8, 8))).detach().requires_grad_()
        vq = copy.deepcopy(tokens.vq)
        vq.quantize(latents)[1].backward()
        with torch.no_grad():
            nearest = as_stock(tokens.embed(tokens.lookup(latents.permute(0, 2, 3, 1))))
        encoder = 2 * (latents - nearest) / latents.numel()
        assert torch.allclose(latents.grad, encoder, atol=1e-6)
        codebook = torch.zeros_like(vq.quantize.embedding.weight).index_add_(
            0, tokens.lookup(latents.permute(0, 2, 3, 1)).flatten(), -encoder.permute(0, 2, 3, 1).reshape(-1, 6)
        )
        assert torch.allclose(vq.quantize.embedding.weight.grad, codebook / 4, atol=1e-6)

    def test_its_distances_depend_on_how_many_there_are(self):
        """Up to 25 rows on both sides are subtracted, more are multiplied out."""
        rows = 1000 + torch.randn(26, 8, generator=torch.Generator().manual_seed(0))
        apart = torch.cdist(rows[:1], rows[:1] + 0.01)
        together = torch.cdist(rows, rows + 0.01)[:1, :1]
        assert (apart / together - 1).abs() > 0.5


ONE = torch.full((1, 3, 8, 8), 0.5)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (ONE.numpy(), "`pictures` are a ndarray; they must be a tensor"),
        (ONE[0], r"`pictures` have shape \(3, 8, 8\); they must be \(N, 3, H, W\)"),
        (ONE[:, :1], r"must be \(N, 3, H, W\)"),
        (ONE[:0], r"shape \(0, 3, 8, 8\)"),
        (ONE[..., :6], "`pictures` are 8x6; height and width must be multiples of 4"),
        (ONE[:, :, :3], "3x8"),
        (ONE[..., :0], "8x0"),
        (ONE.double(), "float64; they must be float32"),
        ((255 * ONE).byte(), "uint8"),
        (2 * ONE - 1.01, r"outside \[0, 1\]"),
        (255 * ONE, r"outside \[0, 1\]"),
        (ONE.where(ONE > 0.5, torch.nan), "NaN"),
    ],
)
def test_pictures_that_do_not_fit_are_refused(tokens, bad, message):
    for refuse in (tokens.encode, tokens.features):
        with pytest.raises(ValueError, match=message):
            refuse(bad)


CODES = torch.zeros(1, 2, 2, dtype=torch.int64)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([[[0]]], "`codes` are a list; they must be a tensor"),
        (CODES + 48, r"`codes` lie in 48 \.\.\. 48; there are 0 \.\.\. 47"),
        (CODES - 1, r"-1 \.\.\. -1"),
        (CODES.float(), "float32; they must be integers"),
        (CODES.bool(), "bool; they must be integers"),
    ],
)
def test_codes_that_are_none_are_refused(tokens, bad, message):
    for refuse in (tokens.decode, tokens.embed, lambda codes: tokens.code_distances(CODES, codes)):
        with pytest.raises(ValueError, match=message):
            refuse(bad)


def test_shapes_that_do_not_fit_are_refused(tokens):
    for bad in (CODES[0], CODES[:0], CODES.flatten(1)):
        with pytest.raises(ValueError, match=r"they must be \(N, h, w\)"):
            tokens.decode(bad)
    with pytest.raises(ValueError, match="shapes must agree"):
        tokens.code_distances(CODES, CODES[0])
    with pytest.raises(ValueError, match="their last side must be 6"):
        tokens.lookup(torch.zeros(2, 5))
    with pytest.raises(ValueError, match="NaN or infinity"):
        tokens.lookup(torch.full((2, 6), torch.inf))
    with pytest.raises(ValueError, match="`vq` is a Linear; it must be a diffusers VQModel"):
        PictureTokens(torch.nn.Linear(1, 1))


def test_the_example_runs():
    example = PictureTokens.__doc__.split("Example:")[1]
    names = {}
    exec("import torch\nfrom diffusers import VQModel\nfrom wm_pipelines.tokens.pictures import PictureTokens\n"
         + "\n".join(line[8:] for line in example.splitlines()), names)  # fmt: skip
    assert names["codes"].shape == (2, 8, 12) and names["pictures"].shape == (2, 3, 16, 24)
