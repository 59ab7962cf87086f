"""In which order pictures, words and marks follow one another for a token model, and what that makes of a sample."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from pydantic import Field, model_validator

from wm_pipelines.record import Record
from wm_pipelines.tokens.vocabulary import CodeVocabulary

PICTURES = ("source", "target")


class Piece(Record):
    """One of: `text` with fields {action}, {instruction}, {rows}, {columns}; a `token` by its name; a `picture`."""

    text: str | None = None
    token: str | None = None
    picture: Literal["source", "target"] | None = None

    @model_validator(mode="after")
    def _one(self) -> "Piece":
        if sum(value is not None for value in (self.text, self.token, self.picture)) != 1:
            raise ValueError(f"a piece has exactly one of text, token and picture, got {self.model_dump()}")
        return self


class Layout(Record):
    """What a checkpoint says of its sequences; kept in its `model_index.json`.

    `forward` leads to the target's codes (arXiv 2506.06006, the world model), `inverse` to the action (the dynamics
    model). A completion ends with `stop`. Evaluation uses the first instruction of a list, training draws one.
    """

    size: tuple[int, int] = Field(description="height and width of the pictures, pixels")
    begin: list[Piece] = Field(default_factory=list, description="before a picture's codes")
    row_end: list[Piece] = Field(default_factory=list, description="after each row of codes")
    end: list[Piece] = Field(default_factory=list, description="after a picture's codes")
    stop: str = Field(description="token that ends a completion")
    forward: list[Piece]
    inverse: list[Piece]
    unconditional: list[Piece] | None = Field(None, description="`forward` without its words, for guidance")
    forward_instructions: list[str] = Field(default_factory=lambda: [""], min_length=1)
    inverse_instructions: list[str] = Field(default_factory=lambda: [""], min_length=1)
    first_code: int | None = Field(None, ge=0, description="token of code 0; None: tokens are named after codes")
    pad_colour: tuple[int, int, int] = Field((122, 116, 104), description="RGB, for resize='pad'")

    @model_validator(mode="after")
    def _pictures(self) -> "Layout":
        wanted = {"forward": ["source"], "unconditional": ["source"], "inverse": ["source", "target"]}
        for name, names in wanted.items():
            pieces = getattr(self, name)
            if pieces is not None and [p.picture for p in pieces if p.picture] != names:
                raise ValueError(f"{name} must have the pictures {', '.join(names)}, in this order and once")
        return self


@dataclass(frozen=True)
class Sample:
    """One sequence: `prompt`, then `completion`, of which `codes` says where a picture's codes are."""

    prompt: list[int]
    completion: list[int]
    codes: list[bool]


class Sequences:
    """Makes tokens of pictures' codes and words, by a layout.

    Args:
        layout: the order. tokenizer: of the words; `token` pieces are names of its vocabulary. codes: which token
            stands for which code.

    Raises:
        ValueError: a token that the tokenizer doesn't have.
    """

    def __init__(self, layout: Layout, tokenizer: Any, codes: CodeVocabulary):
        self.layout, self.tokenizer, self.codes = layout, tokenizer, codes
        self.stop = self.token(layout.stop)
        for piece in (*layout.begin, *layout.row_end, *layout.end, *layout.forward, *layout.inverse):
            if piece.token is not None:
                self.token(piece.token)

    def token(self, name: str) -> int:
        """The number of a token that the layout names.

        Raises:
            ValueError: the tokenizer doesn't have it.
        """
        found = self.tokenizer.get_vocab().get(name)
        if found is None:
            raise ValueError(f"`layout` names the token {name!r}, which the tokenizer doesn't have")
        return found

    def words(self, text: str) -> list[int]:
        """Tokens of plain text, without any mark before or behind."""
        return list(self.tokenizer(text, add_special_tokens=False).input_ids) if text else []

    def _pieces(
        self, pieces: Sequence[Piece], pictures: Mapping[str, torch.Tensor], fields: Mapping[str, Any]
    ) -> list[int]:
        out: list[int] = []
        for piece in pieces:
            if piece.text is not None:
                out += self.words(piece.text.format(**fields))
            elif piece.token is not None:
                out.append(self.token(piece.token))
            else:
                codes = pictures[piece.picture]
                out += [*self.begin(codes.shape), *self.body(codes), *self.end]
        return out

    def begin(self, grid: Sequence[int]) -> list[int]:
        """What stands before a picture of `grid` (rows, columns)."""
        return self._pieces(self.layout.begin, {}, {"rows": grid[0], "columns": grid[1]})

    def body(self, codes: torch.Tensor) -> list[int]:
        """A picture's codes `(h, w)`, row by row, each row with its end."""
        end = self.row_end
        return [token for row in self.codes.to_tokens(codes).tolist() for token in (*row, *end)]

    @property
    def row_end(self) -> list[int]:
        return self._pieces(self.layout.row_end, {}, {})

    @property
    def end(self) -> list[int]:
        return self._pieces(self.layout.end, {}, {})

    def forward_prompt(self, source: torch.Tensor, action: str, instruction: str | None = None) -> list[int]:
        """Up to the first code of the target; `instruction` None is the first of the layout's."""
        fields = {"action": action, "instruction": self._said(instruction, self.layout.forward_instructions)}
        return self._pieces(self.layout.forward, {"source": source}, fields) + self.begin(source.shape)

    def unconditional_prompt(self, source: torch.Tensor) -> list[int]:
        """`forward_prompt` without words.

        Raises:
            ValueError: the layout has none.
        """
        if self.layout.unconditional is None:
            raise ValueError("`guidance_scale` needs a checkpoint whose layout has `unconditional`; this one has none")
        return self._pieces(self.layout.unconditional, {"source": source}, {}) + self.begin(source.shape)

    def forward_completion(self, target: torch.Tensor) -> tuple[list[int], list[bool]]:
        """Tokens of the target behind its begin, and which of them are codes."""
        marks = len(self.row_end)
        codes = [flag for _ in range(target.shape[0]) for flag in [True] * target.shape[1] + [False] * marks]
        rest = [*self.end, self.stop]
        return [*self.body(target), *rest], codes + [False] * len(rest)

    def inverse_head(self, source: torch.Tensor, instruction: str | None = None) -> list[int]:
        """The part of the inverse prompt that no target changes: up to the target's first code."""
        pieces, _ = self._split()
        return self._pieces(pieces, {"source": source}, self._inverse_fields(instruction)) + self.begin(source.shape)

    def inverse_tail(self, target: torch.Tensor, instruction: str | None = None) -> list[int]:
        """From the target's first code to the action."""
        _, pieces = self._split()
        return [*self.body(target), *self.end, *self._pieces(pieces, {}, self._inverse_fields(instruction))]

    def inverse_completion(self, action: str) -> list[int]:
        """Tokens of the action, and the stop."""
        return [*self.words(action), self.stop]

    def forward_sample(
        self, source: torch.Tensor, action: str, target: torch.Tensor, instruction: str | None = None
    ) -> Sample:
        """A training sequence of the world model."""
        completion, codes = self.forward_completion(target)
        return Sample(self.forward_prompt(source, action, instruction), completion, codes)

    def inverse_sample(
        self, source: torch.Tensor, action: str, target: torch.Tensor, instruction: str | None = None
    ) -> Sample:
        """A training sequence of the dynamics model."""
        prompt = [*self.inverse_head(source, instruction), *self.inverse_tail(target, instruction)]
        completion = self.inverse_completion(action)
        return Sample(prompt, completion, [False] * len(completion))

    def _split(self) -> tuple[list[Piece], list[Piece]]:
        at = next(n for n, piece in enumerate(self.layout.inverse) if piece.picture == "target")
        return self.layout.inverse[:at], self.layout.inverse[at + 1 :]

    def _inverse_fields(self, instruction: str | None) -> dict[str, str]:
        return {"instruction": self._said(instruction, self.layout.inverse_instructions)}

    @staticmethod
    def _said(instruction: str | None, known: Sequence[str]) -> str:
        return known[0] if instruction is None else instruction
