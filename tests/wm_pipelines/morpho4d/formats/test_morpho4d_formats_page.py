"""The page in a browser: its picture against the torch renderer, clicks, hiding, colours, and no request at all."""

import json
import math
import re

import numpy as np
import pytest
import torch

from wm_pipelines.morpho4d.formats.clip import Clip
from wm_pipelines.morpho4d.formats.page import write_page
from wm_pipelines.morpho4d.formats.splats import Splats
from wm_pipelines.morpho4d.gaussians import Cameras, Gaussians
from wm_pipelines.morpho4d.motion import FreeMotion
from wm_pipelines.morpho4d.scene import Scene4D
from wm_pipelines.runtime.random import keyed

SIZE = (48, 64)
BACKGROUND = (0.2, 0.5, 0.9)


def tensor(array):
    return torch.from_numpy(np.asarray(array, dtype=np.float32))


def make_scene(degree=0, count=300, seed=0, up="z"):
    """Three clusters, the second of which moves, before a camera that looks along y (or z, where -y is up)."""
    g = keyed("page", degree, count, seed)
    ids = torch.from_numpy(np.arange(count) % 3)
    centres = tensor([[0, 0.6, 0], [-0.9, 0, 0.3], [0.9, 0.2, -0.2]])
    means = centres[ids] + tensor(g.normal(size=(count, 3)) * 0.22)
    k = (degree + 1) ** 2
    sh = tensor(g.uniform(-0.4, 0.4, (count, k, 3)) / (1 + np.arange(k))[:, None] ** 0.5)
    sh[:, 0] += tensor([[0, 0, 1.0], [1.2, -1, -1], [-1, 1.2, -1]])[ids]
    dynamic = ids == 1
    offsets = torch.zeros(3, int(dynamic.sum()), 3)
    offsets[1:, :, 2] = torch.tensor([0.25, 0.5])[:, None]
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # z up to y down
    if up == "-y":
        means, offsets, turn = means @ turn.T, offsets @ turn.T, torch.eye(3)
    pose = torch.eye(4)
    pose[:3, :3], pose[:3, 3] = turn, torch.tensor([0.05, -0.1, 3.0])
    k = torch.tensor([[60.0, 0, 31], [0, 58, 25], [0, 0, 1]])
    gaussians = Gaussians(
        means=means,
        quats=tensor(g.normal(size=(count, 4))),
        log_scales=tensor(g.uniform(-3.5, -1.8, (count, 3))),
        logit_opacities=tensor(g.uniform(-2, 3, count)),
        sh=sh,
        features=torch.zeros(count, 0),
        object_id=ids,
        is_dynamic=dynamic,
    )
    cameras = Cameras(k[None], pose.expand(1, 3, 4, 4).clone(), SIZE)
    names = {1: "red <b>cube</b>", 2: "ball"}
    return Scene4D(gaussians, FreeMotion(offsets), cameras, 3, 4.0, names, BACKGROUND, up=up)


def shown(scene, path, **options):
    k, pose = scene.cameras.at(0, 0)
    return write_page(Clip.of(scene), path, (k, pose), SIZE, BACKGROUND, scene.dilation, **options)


def psnr(a, b):
    return -10 * math.log10(max(float(((a - b) ** 2).mean()), 1e-12))


def picture(browser, time=0.0, before=""):
    found = browser.ask(f"{before}; viewer.setScale(1); viewer.setTime({time}); viewer.pixels()")
    return tensor(found).reshape(*SIZE, 3).permute(2, 0, 1) / 255


@pytest.mark.parametrize(("degree", "up", "count"), [(0, "z", 300), (1, "z", 120), (3, "-y", 120), (0, "-y", 1500)])
def test_the_picture_is_that_of_the_torch_renderer(browser, tmp_path, degree, up, count):
    scene = make_scene(degree, count, up=up)
    browser.open(shown(scene, tmp_path / "scene.html"))
    for frame in (0, 1, 2, 0.5):
        expected = scene.render(0, [frame], backend="torch").frames[0]
        assert psnr(picture(browser, frame / scene.fps), expected) > 45, frame
    assert psnr(picture(browser, 0.5), scene.render(0, [0], backend="torch").frames[0]) < 35  # the control


def test_a_larger_picture_looks_alike(browser, tmp_path):
    scene = make_scene()
    browser.open(shown(scene, tmp_path / "scene.html"))
    found = browser.ask("viewer.setScale(3); viewer.pixels()")
    large = tensor(found).reshape(3 * SIZE[0], 3 * SIZE[1], 3).permute(2, 0, 1)[None] / 255
    small = torch.nn.functional.avg_pool2d(large, 3)[0]
    assert psnr(small, scene.render(0, [0], backend="torch").frames[0]) > 30


def test_nothing_is_asked_of_a_network_and_nothing_is_said(browser, tmp_path):
    path = shown(make_scene(), tmp_path / "scene.html")
    browser.open(path)
    picture(browser)
    asked = [e["params"]["request"]["url"] for e in browser.events if e.get("method") == "Network.requestWillBeSent"]
    assert [url for url in asked if not url.startswith("data:")] == [path.absolute().as_uri()]
    said = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")
    assert [event for event in browser.events if event.get("method") in said] == []
    text = path.read_text()
    assert not re.search(r"https?://", text) and "default-src 'none'" in text
    blocked = "fetch('https://example.org/').then(() => 'sent', () => 'refused')"
    assert browser.ask(blocked) == "refused"


def place_of(browser, x, y):
    """Where pixel (x, y) of the picture is in the window."""
    box = json.loads(browser.ask("JSON.stringify(document.getElementById('picture').getBoundingClientRect())"))
    return box["left"] + x / SIZE[1] * box["width"], box["top"] + y / SIZE[0] * box["height"]


def test_a_click_names_the_object_that_the_renderer_has_there(browser, tmp_path):
    scene = make_scene()
    browser.open(shown(scene, tmp_path / "scene.html"))
    rendered = scene.render(0, [1], backend="torch")
    picture(browser, 0.25)
    names = {0: "background", 1: "red <b>cube</b>", 2: "ball"}
    g = keyed("clicks")
    tried = set()
    for _ in range(60):
        y, x = int(g.integers(0, SIZE[0])), int(g.integers(0, SIZE[1]))
        alpha, wanted = float(rendered.alpha[0, y, x]), int(rendered.object_ids[0, y, x])
        if abs(alpha - 0.5) < 0.02:
            continue
        found = browser.ask(f"viewer.pick({x + 0.5}, {y + 0.5})")
        assert found == (wanted if alpha >= 0.5 else None)
        tried.add(found)
    assert tried == {None, 0, 1, 2}
    y, x = (rendered.object_ids[0] == 1).nonzero().float().mean(0).round().tolist()
    at = place_of(browser, x + 0.5, y + 0.5)
    for kind in ("mousePressed", "mouseReleased"):
        browser.mouse(kind, *at)
    assert browser.ask("document.getElementById('name').textContent") == names[1]  # as text, not as markup
    assert browser.ask("document.querySelector('#objects li.chosen span').textContent") == names[1]


def test_hidden_objects_are_away_and_painted_ones_have_their_colour(browser, tmp_path):
    scene = make_scene()
    browser.open(shown(scene, tmp_path / "scene.html"))
    without = make_scene()
    without.gaussians.logit_opacities[without.gaussians.object_id == 2] = -30
    expected = without.render(0, [0], backend="torch").frames[0]
    assert psnr(picture(browser, 0, "viewer.hide(2, true)"), expected) > 45
    where = (scene.render(0, [0], backend="torch").object_ids[0] == 1)[None].expand(3, -1, -1)
    painted = picture(browser, 0, "viewer.hide(2, false); viewer.recolour(1, '#0000ff')")
    before = scene.render(0, [0], backend="torch").frames[0]
    r, _, b = painted[where].reshape(3, -1).mean(1)
    assert b > r + 0.3 and before[0][where[0]].mean() > before[2][where[0]].mean() + 0.3
    assert psnr(picture(browser, 0, "viewer.recolour(1, null)"), before) > 45
    browser.ask("document.querySelector('#objects li[data-id=\"2\"] input').click()")
    assert psnr(picture(browser), expected) > 45


def test_dragging_looks_around_the_middle_and_home_brings_back(browser, tmp_path):
    scene = make_scene()
    browser.open(shown(scene, tmp_path / "scene.html"))
    start = picture(browser)
    x, y = place_of(browser, 30, 20)
    browser.mouse("mousePressed", x, y)
    for step in (10, 40, 90):
        browser.mouse("mouseMoved", x + step, y)
    browser.mouse("mouseReleased", x + 90, y)
    turned = picture(browser)
    assert psnr(turned, start) < 25
    there = (turned - tensor(BACKGROUND)[:, None, None]).abs().amax(0) > 0.1
    assert there.float().mean() > 0.1
    browser.ask("document.getElementById('home').click()")
    assert psnr(picture(browser), start) > 60


def test_an_orbit_that_goes_nowhere_is_the_same_picture(browser, tmp_path):
    """A camera that stands upright is found again from yaw, pitch and distance."""
    for up in ("z", "-y"):
        scene = make_scene(up=up)
        browser.open(shown(scene, tmp_path / f"{up}.html"))
        assert psnr(picture(browser, 0, "viewer.lookAround(0, 0, 1)"), picture(browser)) > 60
        expected = scene.render(0, [0], backend="torch").frames[0]
        assert psnr(picture(browser), expected) > 45


def test_time_plays(browser, tmp_path):
    browser.open(shown(make_scene(), tmp_path / "scene.html"))
    browser.ask("document.getElementById('play').click()")
    browser.ask("new Promise(done => setTimeout(done, 300))")
    browser.ask("document.getElementById('play').click()")
    assert 0 < float(browser.ask("document.getElementById('time').value")) <= 0.5
    assert browser.ask("document.getElementById('play').textContent") == "Play"


def test_titles_and_names_are_text(browser, tmp_path):
    scene = make_scene(count=6)
    scene.names = {1: "</script><script>document.title='broken'</script>", 2: "'\"&"}
    path = shown(scene, tmp_path / "scene.html", title='<i>Cubes</i> & "balls" </title><script>1</script>')
    browser.open(path)
    assert browser.ask("document.title") == '<i>Cubes</i> & "balls" </title><script>1</script>'
    assert browser.ask("[...document.querySelectorAll('#objects span')].map(s => s.textContent)")[1:] == [
        scene.names[1],
        scene.names[2],
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": (0, 64)}, "`size` is"),
        ({"size": (48.0, 64)}, "`size` is"),
        ({"background": (0, 0, 2)}, "`background` is"),
        ({"dilation": -1}, "`dilation` is -1"),
        ({"camera": (torch.eye(4), torch.eye(4))}, r"`camera` is of \(4, 4\)"),
        ({"camera": (-torch.eye(3), torch.eye(4))}, "`camera` has a focal length"),
        ({"camera": (torch.eye(3) * math.nan, torch.eye(4))}, "`camera` is of"),
    ],
)
def test_bad_arguments(make_clip, tmp_path, change, message):
    arguments = {"camera": (torch.eye(3), torch.eye(4)), "size": SIZE} | change
    with pytest.raises(ValueError, match=message):
        write_page(make_clip(frames=2), tmp_path / "scene.html", **arguments)
    assert not list(tmp_path.iterdir())


def test_a_clip_whose_looks_change_is_refused(make_clip, tmp_path):
    clip = make_clip(frames=2)
    a, b = clip.frames
    faded = Splats(b.means, b.quats, b.scales, b.opacities / 2, b.sh, b.object_id)
    with pytest.raises(ValueError, match="`clip` has other opacities at frame 1 than at first"):
        write_page(Clip((a, faded), clip.times), tmp_path / "scene.html", (torch.eye(3), torch.eye(4)), SIZE)
