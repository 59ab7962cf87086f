"""Files of the authors' release, made from the table of their keys, as scenes; and the counts of their parts."""

import math
import pickle

import pytest
import torch

from wm_pipelines import Scene4D
from wm_pipelines.morpho4d.convert import convert, read_heads, read_scene
from wm_pipelines.morpho4d.formats.export import export
from wm_pipelines.morpho4d.heads import FEATURES, WIDTHS, make_head
from wm_pipelines.morpho4d.quaternions import matrices, unit

STILL, MOVING, FRAMES, NODES, K = 7, 6, 4, 5, 3
SIZE = (24, 40)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1000 * seed + sum(shape)))


def leaf(count, degree, seed):
    rest = 3 * ((degree + 1) ** 2 - 1)
    widths = {"_xyz": 3, "_rotation": 4, "_scaling": 3, "_opacity": 1, "_features_dc": 3, "_features_rest": rest}
    found = {name: draw(count, width, seed=seed + n) for n, (name, width) in enumerate(widths.items())}
    return found | {"max_scale": torch.tensor(0.1), "min_scale": torch.tensor(0.0)}


def tables(degree=1):
    """What each file holds."""
    still = leaf(STILL, degree, 1) | {"_semantic_feature": draw(STILL, FEATURES)}
    moving = leaf(MOVING, degree, 9) | {
        "_skinning_weight": 0.1 * draw(MOVING, K),
        "_dynamic_logit": draw(MOVING, 1),
        "attach_ind": torch.arange(MOVING) % NODES,
        "ref_time": torch.arange(MOVING) % FRAMES,
        "leaf_local_flag": torch.tensor(True),
        "w_correction_flag": torch.tensor(True),
        "max_sph_order": torch.tensor(degree),
        "scf._node_xyz": 0.3 * draw(FRAMES, NODES, 3),
        "scf._node_rotation": draw(FRAMES, NODES, 4),
        "scf._node_semantic_feature": draw(1, NODES, FEATURES),
        "scf._node_sigma_logit": draw(NODES, 1),
        "scf.topo_knn_ind": torch.stack([(torch.arange(NODES) + n) % NODES for n in range(K)], 1),
        "scf.topo_knn_mask": torch.ones(NODES, K, dtype=torch.bool),
        "scf.max_sigma": torch.tensor(0.5),
        "scf.skinning_k": torch.tensor(K),
        "scf.spatial_unit": torch.tensor(0.05),
    }
    moving["scf.topo_knn_mask"][2, 1] = False
    cameras = {
        "rel_focal": torch.tensor(1.7),
        "q_wc": draw(FRAMES, 4),
        "t_wc": draw(FRAMES, 3),
        "cxcy_ratio": torch.tensor([0.5, 0.45]),
    }
    heads = head_table("sam2", "langseg")
    return {"s_model": still, "d_model": moving, "s_model_cam": cameras, "semantic_heads": heads}


def head_table(*names):
    found = {}
    for name in names:
        for key, value in make_head(WIDTHS[name]).tensors().items():
            n, kind = key.split(".")
            found[f"semantic_heads.{name}_decoder.model.{2 * int(n)}.{kind}"] = value
    return found


def write(folder, made):
    folder.mkdir(exist_ok=True)
    for name, table in made.items():
        torch.save(table, folder / f"finetune_{name}.pth")
    return folder


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_static_gaussians_have_the_authors_activations(tmp_path, degree):
    made = tables(degree)
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    still, posed = made["s_model"], scene.at(0)
    assert len(scene) == STILL + MOVING and scene.gaussians.sh_degree == degree
    assert torch.allclose(posed.scales[:STILL], 0.1 * still["_scaling"].sigmoid(), atol=1e-7)
    assert torch.allclose(posed.opacities[:STILL], still["_opacity"].sigmoid()[:, 0])
    assert torch.equal(posed.means[:STILL], still["_xyz"])
    if degree:  # three numbers of a coefficient lie together
        assert torch.equal(posed.sh[:STILL, 1], still["_features_rest"][:, :3])
        assert torch.equal(posed.sh[:STILL, 2, 0], still["_features_rest"][:, 3])


@pytest.mark.parametrize("local", [True, False])
def test_moving_gaussians_rest_where_their_node_says(tmp_path, local):
    made = tables()
    d = made["d_model"]
    d["leaf_local_flag"] = torch.tensor(local)
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    for i in range(MOVING):
        t, a = int(d["ref_time"][i]), int(d["attach_ind"][i])
        mean, turn = d["_xyz"][i], matrices(unit(d["_rotation"][i]))
        if local:
            node = matrices(unit(d["scf._node_rotation"][t, a]))
            mean, turn = node @ mean + d["scf._node_xyz"][t, a], node @ turn
        posed = scene.at(t)
        assert torch.allclose(posed.means[STILL + i], mean, atol=1e-5)
        assert torch.allclose(matrices(posed.quats[STILL + i]), turn, atol=1e-5)


def test_skinning_follows_the_authors_formula(tmp_path):
    made = tables()
    d = made["d_model"]
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    sigma = 0.5 * d["scf._node_sigma_logit"].sigmoid()[:, 0]
    for i in range(MOVING):
        t, a = int(d["ref_time"][i]), int(d["attach_ind"][i])
        mean = scene.gaussians.means[STILL + i]
        raw = []
        for k in range(K):
            node = int(d["scf.topo_knn_ind"][a, k])
            apart = float((mean - d["scf._node_xyz"][t, node]).square().sum())
            plain = math.exp(-apart / (2 * float(sigma[node]) ** 2)) * float(d["scf.topo_knn_mask"][a, k])
            raw.append(abs(plain + float(d["_skinning_weight"][i, k])))
        wanted = torch.tensor(raw) / sum(raw)
        assert torch.allclose(scene.motion.skin_weight[i], wanted, atol=1e-5)
        nodes = d["scf._node_semantic_feature"][0, d["scf.topo_knn_ind"][a]]
        assert torch.allclose(scene.gaussians.features[STILL + i], wanted @ nodes, atol=1e-4)


def test_a_field_of_three_radii_is_turned_by_its_own_rotation(tmp_path):
    made = tables()
    d = made["d_model"]
    d["w_correction_flag"] = torch.tensor(False)
    d["scf._node_sigma_logit"] = draw(NODES, 3)
    d["scf._sk_rotation"] = draw(FRAMES, NODES, 4)
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    sigma = 0.5 * d["scf._node_sigma_logit"].sigmoid()
    for i in range(MOVING):
        t, nodes = int(d["ref_time"][i]), d["scf.topo_knn_ind"][int(d["attach_ind"][i])]
        turn = matrices(unit(d["scf._sk_rotation"][t, nodes]))
        apart = scene.gaussians.means[STILL + i] - d["scf._node_xyz"][t, nodes]
        raw = torch.exp(-0.5 * ((turn.mT @ apart[..., None]).squeeze(-1) / sigma[nodes]).square().sum(-1))
        raw = raw * d["scf.topo_knn_mask"][int(d["attach_ind"][i])]
        wanted = raw / raw.sum() if raw.sum() > 1e-6 else torch.tensor([1.0, 0.0, 0.0])
        assert torch.allclose(scene.motion.skin_weight[i], wanted, atol=1e-4)


def test_nodes_that_move_as_one_body_carry_everything_as_one_body(tmp_path):
    made = tables()
    d = made["d_model"]
    turn, shift = unit(draw(FRAMES, 4, seed=5)), draw(FRAMES, 3, seed=6)
    first = 0.3 * draw(NODES, 3)
    d["scf._node_xyz"] = torch.stack([first @ matrices(q).T + s for q, s in zip(turn, shift, strict=True)])
    d["scf._node_rotation"] = turn[:, None].expand(-1, NODES, -1).clone()
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    at = [scene.at(t).means[STILL:] for t in range(FRAMES)]
    for t in range(1, FRAMES):
        assert torch.allclose(torch.pdist(at[t]), torch.pdist(at[0]), atol=1e-4)
        carried = (at[0] - shift[0]) @ matrices(turn[0]) @ matrices(turn[t]).T + shift[t]
        assert torch.allclose(at[t], carried, atol=1e-4)


def test_cameras_go_from_world_to_camera(tmp_path):
    made = tables()
    c = made["s_model_cam"]
    scene = read_scene(write(tmp_path / "run", made), SIZE)
    k = scene.cameras.K[0]
    assert k[0, 0] == k[1, 1] == pytest.approx(1.7 / 2 * 24)
    assert (float(k[0, 2]), float(k[1, 2])) == pytest.approx((20, 0.45 * 24))
    for t in range(FRAMES):
        point = torch.tensor([0.1, -0.2, 1.5])
        world = matrices(unit(c["q_wc"][t])) @ point + c["t_wc"][t]
        pose = scene.cameras.T_cw[0, t]
        assert torch.allclose(pose[:3, :3] @ world + pose[:3, 3], point, atol=1e-5)
    assert scene.up == "-y" and scene.unit == "unknown"
    assert scene.render(0, [0, 1.5]).frames.shape == (2, 3, 24, 40)


def test_the_command_saves_a_scene_with_its_heads(tmp_path, wm):
    made = tables()
    run = write(tmp_path / "run", made)
    said = wm("convert", "morpho4d", run, tmp_path / "out", "--size", 24, 40)
    assert said.startswith(f"{STILL + MOVING} Gaussians, ")
    scene, plain = Scene4D.from_pretrained(tmp_path / "out"), read_scene(run, SIZE)
    assert torch.equal(scene.at(2.0).means, plain.at(2.0).means) and list(scene.heads) == ["sam2", "langseg"]
    features = plain.gaussians.features
    assert scene.heads["langseg"](features).shape == (STILL + MOVING, 512)
    layers = made["semantic_heads"]
    hidden = features
    for n in (0, 2, 4):
        name = f"semantic_heads.sam2_decoder.model.{n}"
        hidden = hidden @ layers[f"{name}.weight"].T + layers[f"{name}.bias"]
        hidden = hidden.relu() if n < 4 else hidden
    assert torch.allclose(scene.heads["sam2"](features), hidden, atol=1e-4)
    (run / "finetune_d_model.pth").unlink()
    with pytest.raises(ValueError, match="does not exist"):
        convert(run, tmp_path / "no", SIZE)
    assert not (tmp_path / "no").exists()


class Evil:
    def __reduce__(self):
        return (exec, ("raise SystemExit('run')",))


@pytest.mark.parametrize(
    "file, change, complaint",
    [
        ("s_model", lambda t: t.pop("_semantic_feature"), "lacks '_semantic_feature'"),
        ("s_model", lambda t: t.update(_xyz=draw(STILL, 2)), r"'_xyz' is \(7, 2\); it must be \(any, 3\)"),
        ("s_model", lambda t: t.update(_features_rest=draw(STILL, 7)), "`_features_rest` has 7"),
        ("s_model", lambda t: t.update(max_scale=torch.tensor(0.0)), "scales are from 0 to 0"),
        ("s_model", lambda t: t["_xyz"].fill_(torch.nan), "`means` has"),
        ("d_model", lambda t: t.pop("scf.topo_knn_ind"), "lacks 'scf.topo_knn_ind'"),
        ("d_model", lambda t: t["attach_ind"].fill_(NODES), "`attach_ind` has numbers outside 0 to 4"),
        ("d_model", lambda t: t["scf.topo_knn_ind"].fill_(-1), "`topo_knn_ind` has numbers outside"),
        ("d_model", lambda t: t.update({"scf._node_rotation": draw(2, NODES, 4)}), "scf._node_rotation"),
        ("d_model", lambda t: t.update({"nn_fusion": torch.tensor(2)}), "`nn_fusion` is set"),
        ("d_model", lambda t: t.update(_skinning_weight=draw(MOVING, 2)), "nodes have 3 each"),
        ("s_model", lambda t: t.update(max_scale=draw(3)), "'max_scale' has 3 numbers; it must be one"),
        ("d_model", lambda t: t.pop("scf.max_sigma"), "'scf.max_sigma' has 0 numbers"),
        ("d_model", lambda t: t.update(leaf_local_flag=torch.ones(2)), "'leaf_local_flag' has 2 numbers"),
        ("d_model", lambda t: t.update({"scf._node_sigma_logit": draw(NODES, 2)}), "must be .5, 1."),
        ("s_model_cam", lambda t: t.pop("rel_focal"), "lacks 'rel_focal'"),
        ("s_model_cam", lambda t: t.update(t_wc=draw(2, 3)), r"'t_wc' is \(2, 3\)"),
        ("semantic_heads", lambda t: t.update(other=draw(2)), "'other', which is no layer"),
        ("semantic_heads", lambda t: t.popitem(), "langseg"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, file, change, complaint):
    made = tables()
    change(made[file])
    with pytest.raises(ValueError, match=complaint):
        read_scene(write(tmp_path / "run", made), SIZE)


def test_nothing_in_a_file_is_run(tmp_path):
    run = write(tmp_path / "run", tables())
    (run / "finetune_s_model.pth").write_bytes(pickle.dumps({"_xyz": Evil()}))
    with pytest.raises(ValueError, match="not a plain torch file"):
        read_scene(run, SIZE)


# --- counts of the release -------------------------------------------------------------------------------------------


def test_heads_have_the_parameters_of_the_release():
    heads = {name: make_head(widths) for name, widths in WIDTHS.items()}
    counts = {name: head.parameters for name, head in heads.items()}
    assert counts == {"sam2": 43_456, "langseg": 175_040, "internvideo": 2_143_552}
    assert sum(counts.values()) == 2_362_048
    flat = [make_head(widths[-1:]).parameters for widths in WIDTHS.values()]
    assert flat == [8_448, 16_896, 46_464]


def test_a_head_of_convolutions_is_read_as_one_of_layers(tmp_path):
    layer = {"weight": draw(256, 32, 1, 1), "bias": draw(256)}
    torch.save({f"sam2_decoder.model.0.{kind}": value for kind, value in layer.items()}, tmp_path / "h.pth")
    assert read_heads(tmp_path / "h.pth")["sam2"].parameters == 8_448


def test_gaussians_and_nodes_have_the_numbers_of_the_release():
    made = tables()

    def width(file, names):
        return sum(made[file][name].flatten(1).shape[1] for name in names)

    common = ["_xyz", "_rotation", "_scaling", "_opacity", "_features_dc", "_features_rest"]
    still = width("s_model", [*common, "_semantic_feature"])
    moving = width("d_model", [*common, "_skinning_weight", "_dynamic_logit"])
    assert still == 55 and moving == 24 + K
    node = sum(made["d_model"][f"scf.{name}"].numel() for name in ("_node_xyz", "_node_rotation"))
    node += sum(made["d_model"][f"scf.{name}"].numel() for name in ("_node_semantic_feature", "_node_sigma_logit"))
    assert node == NODES * (7 * FRAMES + 33)
    assert 50_000 * still == 2_750_000 and 50_000 * (moving - K + 10) == 1_700_000


@pytest.mark.parametrize("degree, width", [(0, 68), (1, 104), (2, 164), (3, 248)])
def test_a_ply_has_the_bytes_of_its_floats(tmp_path, degree, width):
    scene = read_scene(write(tmp_path / "run", tables(degree)), SIZE)
    export(scene, tmp_path / "moment.ply", [0])
    data = (tmp_path / "moment.ply").read_bytes()
    assert len(data.split(b"end_header\n", 1)[1]) == width * len(scene)
