"""Which token of a language model stands for which code."""

import re
from collections.abc import Callable, Mapping

import torch

from wm_pipelines.tokens.pictures import check_codes, check_integers

_CHAMELEON = re.compile(r"IMGIMG([A-J]+)Z")
_DIGITS = str.maketrans("ABCDEFGHIJ", "0123456789")


def chameleon_code(name: str) -> int | None:
    """The code that a token of Chameleon's and Anole's vocabulary is named after; None for one of text.

    The name holds the code's decimal digits, A for 0 to J for 9: "IMGIMGBCDZ" is 123.
    """
    found = _CHAMELEON.fullmatch(name)
    return int(found[1].translate(_DIGITS)) if found else None


class CodeVocabulary:
    """Codes as tokens: code k is the token `ids[k]`.

    Args:
        ids: `(K,)`, integers, 0 or more, each once.

    Raises:
        ValueError: another shape or dtype, no id, a negative one or one that is there twice.

    Example:

        liquid = CodeVocabulary(torch.arange(256_000, 264_192))     # behind Gemma's own tokens
        chameleon = CodeVocabulary.from_names(config.vocabulary_map)
        tokens = liquid.to_tokens(codes.flatten(1))
    """

    def __init__(self, ids: torch.Tensor):
        self.ids = check_integers("ids", ids).cpu()
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"`ids` have shape {tuple(ids.shape)}; they must be (K,)")
        self._sorted, self._codes = self.ids.sort()
        if self._sorted[0] < 0 or (self._sorted[1:] == self._sorted[:-1]).any():
            raise ValueError("`ids` hold a negative token, or one that stands for two codes")

    @classmethod
    def from_names(
        cls, vocabulary: Mapping[str, int], code_of: Callable[[str], int | None] = chameleon_code
    ) -> "CodeVocabulary":
        """The map of a vocabulary whose tokens are named after their codes.

        Args:
            vocabulary: name -> token, as `tokenizer.get_vocab()` gives. code_of: the code in a name, None for text.

        Raises:
            ValueError: no token is named after a code, or the codes are not 0 ... K - 1, each once.
        """
        named = [(code, token) for name, token in vocabulary.items() if (code := code_of(name)) is not None]
        named.sort()
        if not named:
            raise ValueError(f"`vocabulary` has {len(vocabulary)} tokens, and none is named after a code")
        for place, (code, _) in enumerate(named):
            if code != place:
                problem = f"code {code} twice" if code < place else f"no code {place}"
                raise ValueError(f"`vocabulary` has {problem}; codes must be 0 ... {len(named) - 1}, each once")
        return cls(torch.tensor([token for _, token in named]))

    @property
    def num_codes(self) -> int:
        """K."""
        return len(self.ids)

    def to_tokens(self, codes: torch.Tensor) -> torch.Tensor:
        """Tokens, int64, for codes of any shape.

        Raises:
            ValueError: codes that are no integers or lie outside [0, K).
        """
        codes = check_codes(codes, self.num_codes)
        return self.ids.to(codes.device)[codes]

    def to_codes(self, tokens: torch.Tensor) -> torch.Tensor:
        """Codes, int64, for tokens of any shape.

        Raises:
            ValueError: tokens that are no integers, or one that stands for no code; names it.
        """
        tokens = check_integers("tokens", tokens)
        known = self._sorted.to(tokens.device)
        places = torch.searchsorted(known, tokens.contiguous()).clamp(max=self.num_codes - 1)
        strange = tokens[known[places] != tokens]
        if len(strange):
            raise ValueError(f"`tokens` hold {len(strange)} that stand for no code, the first is {int(strange[0])}")
        return self._codes.to(tokens.device)[places]
