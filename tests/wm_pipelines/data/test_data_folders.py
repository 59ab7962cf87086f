"""People's folders: what systems leave in them is not seen, all pictures are, and a name is one class."""

import json
import unicodedata

import pytest
from PIL import Image

from wm_pipelines.cpl.data import FewShotData, Item, read_dataset, read_folders, read_split
from wm_pipelines.data.captioned import CaptionedFolder
from wm_pipelines.data.class_folders import check_names, class_folders, picture_files, read_classes, read_labels
from wm_pipelines.data.tables import find_picture
from wm_pipelines.kadaptation.subspace.run import files_of_classes
from wm_pipelines.media import PICTURE_SUFFIXES

LITTER = (".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4)).save(path)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes with a picture each, in train and test, and what systems add to them."""
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            picture(tmp_path / part / name / "0.png")
        for name in LITTER:
            picture(tmp_path / part / name / "9.png")
    for name in ("._0.png", ".DS_Store", "Thumbs.db", "desktop.ini", "notes.txt"):
        (tmp_path / "train" / "cat" / name).write_bytes(b"x")
    (tmp_path / "train" / "cat" / ".ipynb_checkpoints").mkdir()
    return tmp_path


def test_hidden_entries_are_neither_classes_nor_pictures(folder):
    data = read_folders(folder)
    assert data.class_names == ("cat", "dog")
    assert [(i.path.parent.name, i.path.name, i.label) for i in data.train] == [
        ("cat", "0.png", 0),
        ("dog", "0.png", 1),
    ]
    paths, names = class_folders(folder / "train")
    assert [path.name for path in paths] == ["0.png", "0.png"] and names == ["cat", "dog"]
    assert picture_files([folder / "train" / "cat"]) == [folder / "train" / "cat" / "0.png"]


@pytest.mark.parametrize("suffix", [*PICTURE_SUFFIXES, ".JPG", ".Tif"])
def test_every_picture_counts(folder, suffix):
    (folder / "train" / "cat" / f"1{suffix}").touch()
    assert [i.path.name for i in read_folders(folder).train] == ["0.png", f"1{suffix}", "0.png"]
    assert [path.name for path in class_folders(folder / "train")[0]] == ["0.png", f"1{suffix}", "0.png"]
    (folder / "train" / "cat" / "0.png").unlink()
    assert [i.path.name for i in read_folders(folder).train] == [f"1{suffix}", "0.png"]


READERS = {
    "cpl": read_folders,
    "class_folders": lambda folder: class_folders(folder / "train"),
    "lid": lambda folder: files_of_classes(folder / "train"),
}


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda cat: (cat / "0.png").unlink(), "cat' holds no picture; their names end in .png, .jpg"),
        (lambda cat: (cat / "0.png").rename(cat / "0.txt"), "cat' holds no picture"),
        (lambda cat: picture(cat / "inner" / "1.png"), "cat' holds the folder 'inner'"),
        (lambda cat: (cat / "1.HEIC").touch(), "cat' holds '1.HEIC', which is not read; make it a .png"),
        (lambda cat: (cat / "IMG0001").touch(), "cat' holds 'IMG0001', which is not read"),
        (lambda cat: picture(cat.with_name("dog ") / "0.png"), "class_names has 'dog' and 'dog ', which are one name"),
        (lambda cat: picture(cat.with_name("dog_") / "0.png"), "class_names has 'dog' and 'dog_', which are one name"),
    ],
)
def test_a_folder_that_can_not_be_right(folder, reader, change, message):
    change(folder / "train" / "cat")
    with pytest.raises(ValueError, match=message):
        READERS[reader](folder)


def test_a_root_without_classes_is_an_error(tmp_path):
    for part in ("train", "test"):
        (tmp_path / part / ".ipynb_checkpoints").mkdir(parents=True)
    with pytest.raises(ValueError, match="train has no class folder"):
        read_folders(tmp_path)
    with pytest.raises(ValueError, match="train' has 0 sub-folders"):
        class_folders(tmp_path / "train")
    with pytest.raises(ValueError, match="train' holds no picture"):
        picture_files([tmp_path / "train"])


@pytest.mark.parametrize(
    "names",
    [
        ("red cube", "red cube "),
        ("red cube", "red  cube"),
        ("red cube", "red_cube"),
        ("red cube", "red\u00a0cube"),
        (unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café")),
    ],
)
def test_one_name_is_one_class(names):
    with pytest.raises(ValueError, match="which are one name"):
        check_names(["ant", *names])
    with pytest.raises(ValueError, match="which are one name"):
        read_classes(names, None)
    with pytest.raises(ValueError, match="'ant' more than once"):
        check_names(["ant", "bee", "ant"])
    assert check_names(["red cube", "Red cube", "redcube"]) == ["red cube", "Red cube", "redcube"]


def split(tmp_path, *rows, test=()):
    path = tmp_path / "split.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps({"train": rows, "test": test}).encode() + b"\n\n")
    return path


def test_a_split_with_a_mark_and_spaces(tmp_path):
    data = read_split(split(tmp_path, ["a", 0, "ant "], ["b", 1, "bee"], test=[["c", 0, "ant"]]), tmp_path)
    assert data.class_names == ("ant", "bee") and data.test == (Item(tmp_path / "c", 0),)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([["a", 0, "ant"], ["b", 1.7, "bee"]], r"row 1 of train is \['b', 1.7, 'bee'\]; a label is an integer"),
        ([["a", 0, "ant"], ["b", 1.0, "bee"]], "a label is an integer"),
        ([["a", False, "ant"]], "a label is an integer"),
        ([["a", "0", "ant"]], "a label is an integer"),
        ([["a", 0, 3]], "row 0 of train"),
        ([["a", 0]], "row 0 of train"),
        ([["a", 0, "ant"], ["b", 1, "ant"]], "class_names has 'ant' more than once"),
        ([["a", 0, "red ant"], ["b", 1, "red  ant"]], "'red ant' and 'red  ant', which are one name"),
        ([["a", 0, " "]], "must be non-empty strings"),
        ([], "holds no row"),
    ],
)
def test_a_split_that_can_not_be_right(tmp_path, rows, message):
    with pytest.raises(ValueError, match=f"split.json.*{message}"):
        read_split(split(tmp_path, *rows), tmp_path)


def test_labels_are_integers(tmp_path):
    with pytest.raises(ValueError, match="label 1.7 is no integer"):
        FewShotData("x", ("a", "b"), (Item(tmp_path, 1.7),), ())
    with pytest.raises(ValueError, match="labels has 1.7; a label is an int or a str"):
        read_labels([0, 1.7], ["a", "b"], 2)


def test_lists_of_class_names(tmp_path):
    (tmp_path / "imagenet" / "images" / "train" / "n02").mkdir(parents=True)
    (tmp_path / "imagenet" / "images" / "train" / "n02" / "a.JPEG").touch()
    names = tmp_path / "imagenet" / "classnames.txt"
    names.write_bytes("\ufeffn01 a\u2028b\r\nn02 bee\r\n\r\n".encode())
    data = read_dataset("imagenet", tmp_path)
    assert data.class_names == ("a\u2028b", "bee") and [item.label for item in data.train] == [1]
    names.write_text("n01\n")
    with pytest.raises(ValueError, match="classnames.txt gives 'n01' no name"):
        read_dataset("imagenet", tmp_path)
    names.write_text("n01 a\nn01 b\n")
    with pytest.raises(ValueError, match="classnames.txt: class_names has 'n01' more than once"):
        read_dataset("imagenet", tmp_path)
    (tmp_path / "fgvc_aircraft" / "images").mkdir(parents=True)
    (tmp_path / "fgvc_aircraft" / "variants.txt").write_text("707\n727\n707 \n")
    with pytest.raises(ValueError, match="variants.txt: class_names has '707' more than once"):
        read_dataset("fgvc_aircraft", tmp_path)


def test_captions_keep_what_is_in_them(tmp_path):
    odd = "a\u2028b\x85c\x0cd\te"
    (tmp_path / "anno.txt").write_bytes(f"\ufeff0\t{odd}\r\n\n1\tplain\n   \n".encode())
    found = CaptionedFolder(tmp_path)
    assert found.names == ("0", "1") and found.captions == (odd, "plain")
    (tmp_path / "anno.txt").write_text("0\ta\n\n1 b\n")
    with pytest.raises(ValueError, match="line 3 is not 'id TAB caption'"):
        CaptionedFolder(tmp_path)
    (tmp_path / "anno.txt").write_text("\n\n")
    with pytest.raises(ValueError, match="line 1 is not"):
        CaptionedFolder(tmp_path)


def test_a_name_is_one_file_inside_its_folder(tmp_path):
    for name in ("a.PNG", "b.tiff", "c.jpg", "c.png", "d.e"):
        (tmp_path / "in" / name).parent.mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    (tmp_path / "out.png").touch()
    assert find_picture(tmp_path / "in", "a").name == "a.PNG" and find_picture(tmp_path / "in", "b").name == "b.tiff"
    assert find_picture(tmp_path / "in", "d.e").name == "d.e" and find_picture(tmp_path / "in", "none").name == "none"
    assert find_picture(tmp_path / "in", "c.jpg").name == "c.jpg"
    with pytest.raises(ValueError, match="in has c.png and c.jpg; keep one"):
        find_picture(tmp_path / "in", "c")
    for name in ("../out.png", "../out", str(tmp_path / "out.png"), ""):
        with pytest.raises(ValueError, match="a picture must be a file inside the pictures' folder"):
            find_picture(tmp_path / "in", name)


def test_lists_of_names_stay_inside_the_pictures_folder(tmp_path):
    from wm_pipelines.cpl.data import read_dataset

    folder = tmp_path / "fgvc_aircraft"
    (folder / "images").mkdir(parents=True)
    (folder / "variants.txt").write_text("707\n747\n")
    for part in ("train", "val", "test"):
        (folder / f"images_variant_{part}.txt").write_text("../../secret 707\n")
    with pytest.raises(ValueError, match="images_variant_train.txt: a picture must be a file inside"):
        read_dataset("fgvc_aircraft", tmp_path)
