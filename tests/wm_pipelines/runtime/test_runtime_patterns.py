"""Patterns that people write are read; those that could run for ever are refused before they are matched."""

import re

import pytest

from wm_pipelines.adapters.kronecker import KroneckerConfig
from wm_pipelines.runtime.patterns import MAX_LENGTH, check_pattern

NAMES = [
    f"down_blocks.{n}.attentions.1.transformer_blocks.0.attn{a}.to_{p}" for n in range(9) for a in "12" for p in "qkv"
]


@pytest.mark.parametrize(
    "pattern",
    [
        r".*\.(to_q|to_k|to_v|to_out\.0)$",
        r".*transformer_blocks\.\d+\.(attn1|attn2)\.(to_q|to_k|to_v|to_out\.0)$",
        r"^(?!.*text).*blocks\.\d+\..*attn.*\.to_q",
        r"^(?:.*\.)?layers\.\d+\.self_attn\.(q|v)_proj$",
        "all-linear",
        r".*attn[12].*to_[qk].*",
        "(?i)TO_Q",
        "|".join(re.escape(name) for name in NAMES * 4),
    ],
)
def test_what_people_write_is_read(pattern):
    assert check_pattern(pattern, "target_modules") == pattern
    for name in NAMES:
        re.fullmatch(pattern, name)


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)+$", ".*.*x", ".*(.*)(.*)(.*)!", ".*[a-z].*[a-z].*!", "a?" * 30 + "a" * 30, r"(.*)\1",
     "(a|a)" * 40, "(x{1,1000}){1,1000}", ".*a" * 9, "[", "(" * 5000, "x" * (MAX_LENGTH + 1), "(?P<n>a)(?(n)b|c)", 3,
     None, ["a"]],
)  # fmt: skip
def test_what_could_run_for_ever_is_refused_by_name(pattern):
    with pytest.raises(ValueError, match="`exclude_modules`"):
        check_pattern(pattern, "exclude_modules")


@pytest.mark.parametrize("field", ["target_modules", "exclude_modules"])
def test_a_config_refuses_them_wherever_they_stand(field):
    with pytest.raises(ValueError, match=f"`{field}`"):
        KroneckerConfig(**{field: "(.*)*x"})
    for name in ("shared_sets", "rank_pattern", "alpha_pattern"):
        with pytest.raises(ValueError, match=f"`{name}`"):
            KroneckerConfig(**{name: {"(.*)*x": 1}})


def test_a_config_of_too_many_terms_is_refused_before_anything_is_made():
    with pytest.raises(ValueError, match="`terms` must be at most 16384 .*WM_MAX_ADAPTER_SIZE"):
        KroneckerConfig(terms=10**7)
