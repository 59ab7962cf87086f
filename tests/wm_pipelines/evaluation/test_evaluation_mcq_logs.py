"""What others logged, as rows: samples of lmms-eval, tables of VLMEvalKit, and tables themselves."""

import json
import zipfile

import pytest

from wm_pipelines.evaluation.mcq.items import Item
from wm_pipelines.evaluation.mcq.logs import lmms_eval_rows, logged_row, vlmevalkit_rows
from wm_pipelines.evaluation.mcq.sheets import read_sheet

SIDES = {"A": "left", "B": "right", "C": "not moving"}


def items():
    asked = ["Where does the car go?", "Where does the car go? Look again.", "Where does the bus go?"]
    return [
        Item(source="s", subset="t", id=str(i), question=question, options=SIDES, answer="B", cluster=f"v{i}")
        for i, question in enumerate(asked)
    ]


def shown(item):
    return item.question + "\n" + "\n".join(f"{letter}. {text}" for letter, text in item.options.items()) + "\nAnswer."


def sample(item, reply, doc_id=0, **more):
    return {"doc_id": doc_id, "target": "B", "filtered_resps": [reply], "doc_hash": "x", "input": shown(item)} | more


def samples(tmp_path, records, name="20260101_samples_task_direct.jsonl"):
    path = tmp_path / "model__x" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def test_samples_find_their_items(tmp_path):
    path = samples(tmp_path, [sample(item, reply) for item, reply in zip(items(), ["B", "A.", "?"], strict=True)])
    rows = lmms_eval_rows(path, items())
    assert [row.uid for row in rows] == ["s/t/0", "s/t/1", "s/t/2"]
    assert [row.correct for row in rows] == [True, False, False] and rows[2].letter is None
    assert {(row.model, row.protocol, row.control) for row in rows} == {("model__x", "direct", "full")}
    assert [row.cluster for row in rows] == ["v0", "v1", "v2"] and rows[0].raw == "B"


def test_samples_without_a_data_set(tmp_path):
    records = [sample(items()[0], "right", video={"video_id": "clip"}), sample(items()[2], "B", 7, target="left")]
    rows = lmms_eval_rows(samples(tmp_path, records), model="m")
    assert [(row.uid, row.right, row.correct) for row in rows] == [
        ("task_direct/log/0", ("B",), True),
        ("task_direct/log/7", ("A",), False),
    ]
    assert rows[0].cluster == "clip" and rows[0].model == "m"


def test_a_sample_of_no_item_is_named(tmp_path):
    stranger = Item(source="s", subset="t", id="9", question="Who is it?", options=SIDES, answer="A")
    path = samples(tmp_path, [sample(items()[0], "B"), sample(stranger, "B")])
    with pytest.raises(ValueError, match="line 2: none of the 3 items"):
        lmms_eval_rows(path, items())
    twice = [*items(), Item(source="s", subset="u", id="0", question=items()[0].question, options=SIDES, answer="B")]
    with pytest.raises(ValueError, match="line 1: 2 of the 4 items"):
        lmms_eval_rows(path, twice)


@pytest.mark.parametrize(
    "record",
    [
        {"doc_id": 1},
        [1],
        {"filtered_resps": ["A"]},
        {"doc_id": 1, "filtered_resps": ["A"], "input": "no options"},
        {"doc_id": 1, "filtered_resps": ["A"], "input": "Q\nA. x\nB. y", "target": "z"},
    ],
)
def test_what_is_no_sample(tmp_path, record):
    with pytest.raises(ValueError, match="line 1"):
        lmms_eval_rows(samples(tmp_path, [record]))


def test_a_shifted_reply_is_read_as_it_was_shown():
    item = items()[0]
    for shift in range(3):
        row = logged_row(item, "B", model="m", protocol="direct", control="circular", shift=shift)
        assert row.said == "B" and row.letter == "ABC"[(1 - shift) % 3]
        assert logged_row(item, "right", model="m", protocol="direct", shift=shift).letter == "B"


def test_no_reply_and_a_reply_that_was_cut_off():
    item = items()[0]
    none = logged_row(item, None, model="m", protocol="cot")
    assert not none.answered and none.letter is None and not none.truncated
    assert logged_row(item, "First, let us see where the", model="m", protocol="cot").truncated
    assert not logged_row(item, "I can't say.", model="m", protocol="cot").truncated
    assert not logged_row(item, "so the answer is: B", model="m", protocol="cot").truncated


TABLE = [
    ["index", "video", "question", "A", "B", "C", "answer", "prediction"],
    ["0", "v0", "Where does the car go?", "left", "right", "not moving", "B", "B"],
    ["1", "v1", "Where does the car go? Look again.", "left", "right", "not moving", "B", 'right, I\'d say: "fast"'],
    ["2", "v2", "Where does the bus go?", "left", "right", "not moving", "B", "Failed to obtain answer via API."],
]


def write_tsv(path, table):
    quoted = ["\t".join('"' + cell.replace('"', '""') + '"' for cell in row) for row in table]
    path.write_text("\n".join(quoted) + "\n")


def write_xlsx(path, table):
    """As spreadsheets have it: texts shared, numbers as numbers, empty cells left out, one cell inline."""
    shared = sorted({cell for row in table for cell in row if not cell.isdigit()})
    letters = "ABCDEFGHIJ"
    rows = []
    for y, row in enumerate(table, 1):
        cells = []
        for x, cell in enumerate(row):
            where = f'r="{letters[x]}{y}"'
            if cell == "left":
                cells.append(f'<c {where} t="inlineStr"><is><t>left</t></is></c>')
            elif cell.isdigit():
                cells.append(f"<c {where}><v>{cell}</v></c>")
            elif cell:
                cells.append(f'<c {where} t="s"><v>{shared.index(cell)}</v></c>')
        rows.append(f'<row r="{y}">{"".join(cells)}</row>')
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    texts = "".join(f"<si><r><t>{t[:2]}</t></r><r><t>{t[2:]}</t></r></si>" for t in shared)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/sharedStrings.xml", f"<sst {space}>{texts}</sst>")
        archive.writestr(
            "xl/worksheets/sheet1.xml", f"<worksheet {space}><sheetData>{''.join(rows)}</sheetData></worksheet>"
        )


@pytest.mark.parametrize("suffix", [".tsv", ".xlsx"])
def test_tables_of_vlmevalkit(tmp_path, suffix):
    path = tmp_path / f"Qwen_VLM4D{suffix}"
    (write_tsv if suffix == ".tsv" else write_xlsx)(path, TABLE)
    assert read_sheet(path)[1]["prediction"] == TABLE[2][-1]
    for given in (None, items()):
        rows = vlmevalkit_rows(path, given)
        assert [row.correct for row in rows] == [True, True, False]
        assert [row.answered for row in rows] == [True, True, False]
        assert rows[0].model == "Qwen" and [row.cluster for row in rows] == ["v0", "v1", "v2"]
        assert rows[0].uid == ("s/t/0" if given else "VLM4D/log/0")


def test_options_as_a_list(tmp_path):
    path = tmp_path / "m_d.tsv"
    write_tsv(
        path, [["question", "candidates", "answer", "prediction"], ["Q?", "['(A) up', '(B) down']", "down", "(B)"]]
    )
    assert vlmevalkit_rows(path)[0].correct
    write_tsv(path, [["question", "candidates", "answer", "prediction"], ["Q?", "__import__('os')", "down", "B"]])
    with pytest.raises(ValueError, match="row 1: `candidates`"):
        vlmevalkit_rows(path)


def test_bad_tables(tmp_path):
    path = tmp_path / "m_d.tsv"
    for table, said in (
        ([["question", "A"], ["Q", "x"]], "prediction"),
        ([["question", "prediction"]], "no row"),
        ([["a", "a"], ["x", "y"]], "twice"),
        ([["a"], ["x", "y"]], "2 values for 1"),
        ([["question", "A", "B", "answer", "prediction"], ["Q", "x", "y", "z", "A"]], "row 1"),
    ):
        write_tsv(path, table)
        with pytest.raises(ValueError, match=said):
            vlmevalkit_rows(path)
    with pytest.raises(ValueError, match="suffix"):
        read_sheet(tmp_path / "m.pkl")
    (tmp_path / "x.xlsx").write_bytes(b"PK no zip")
    with pytest.raises(ValueError, match="no readable .xlsx"):
        read_sheet(tmp_path / "x.xlsx")


def test_a_workbook_with_entities_is_refused(tmp_path):
    path = tmp_path / "x.xlsx"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("xl/worksheets/sheet1.xml", '<!DOCTYPE x [<!ENTITY a "b">]><worksheet>&a;</worksheet>')
    with pytest.raises(ValueError, match="entities"):
        read_sheet(path)
