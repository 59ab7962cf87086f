"""The command line's way to write a condition."""

import pytest
import torch

from wm_pipelines.flexecontrol.conditions.condition import Condition
from wm_pipelines.media.pictures import save_image


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A working folder with a few pictures."""
    monkeypatch.chdir(tmp_path)
    for name in ("photo.jpg", "layout.png", "mask.png", "a,b=c.png"):
        save_image(torch.rand(3, 8, 8), name)


def test_a_finished_map(here):
    condition = Condition.parse("canny=layout.png")
    assert (condition.type, condition.image) == ("canny", "layout.png")
    assert (condition.source, condition.fit) == ("map", "error")


def test_a_photo(here):
    condition = Condition.parse("canny=photo.jpg,from=photo,fit=crop")
    assert (condition.source, condition.fit) == ("photo", "crop")


def test_every_key(here):
    condition = Condition.parse(
        "seg=layout.png,phrase=red cube,strength=0.7,region=mask.png,start=0,end=0.8,span=2:10,fit=pad,from=map"
    )
    assert (condition.phrase, condition.strength, condition.region) == ("red cube", 0.7, "mask.png")
    assert (condition.start, condition.end, condition.span, condition.fit) == (0, 0.8, (2, 10), "pad")


@pytest.mark.parametrize("quote", ["'", '"'])
def test_quoted_values_hold_commas(here, quote):
    condition = Condition.parse(f"hed={quote}a,b=c.png{quote}, phrase={quote}big, red cube{quote} ,strength= 2")
    assert (condition.type, condition.image) == ("softedge", "a,b=c.png")
    assert (condition.phrase, condition.strength) == ("big, red cube", 2.0)


def test_a_box_as_region(here):
    assert Condition.parse('seg=layout.png,region="0.1,0,.5,1"').region == (0.1, 0, 0.5, 1)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "can't read ''; write TYPE=FILE,KEY=VALUE"),
        ("layout.png", "can't read 'layout.png'"),
        ("canny=", "'canny' has no file"),
        ("=layout.png", "can't read '=layout.png'"),
        ("hedge=layout.png", "unknown condition type 'hedge'; known: canny"),
        ("canny=none.png", "there is no file 'none.png'"),
        ("canny=layout.png,strenght=1", "unknown key 'strenght'; did you mean 'strength'. known: from, fit, phrase"),
        ("canny=layout.png,type=depth", "unknown key 'type'"),
        ("canny=layout.png,fit=crop,fit=pad", "'fit' is given twice"),
        ("canny=layout.png,phrase=", "'phrase' has no value"),
        ("canny=layout.png,phrase=big, red cube", "can't read ' red cube'; .* quote values that hold a comma"),
        ("canny=layout.png,phrase='red", "can't read \"phrase='red\""),
        ("canny=layout.png,", "can't read ''"),
        ("canny=layout.png,strength=much", "strength='much' must be a number"),
        ("canny=layout.png,span=3", "span='3' must be START:END"),
        ("canny=layout.png,from=web", "from='web'; choose from map, photo"),
        ("canny=layout.png,fit=zoom", "fit='zoom'; choose from error"),
        ("canny=layout.png,strength=3", r"strength=3.0; it must lie in \[0, 2\]"),
        ("canny=layout.png,start=.9,end=.1", "start=0.9, end=0.1"),
        ("canny=layout.png,region=none.png", "region of condition 'canny': there is no file 'none.png'"),
        ("canny=layout.png,region='.5,0,.1,1'", "region: box"),
        ("depth=photo.jpg,from=photo", "depth needs a depth map or a loaded estimator"),
    ],
)
def test_mistakes(here, text, message):
    with pytest.raises(ValueError, match=message):
        Condition.parse(text)
