"""The captions that the rule parser is measured on, how they are scored, and the half that it reads right."""

import pytest


@pytest.fixture
def bench(script):
    return script("comclip_parser")


def test_both_halves_hold_75_captions_of_ten_phenomena_in_their_own_words(bench):
    kinds = []
    for half in bench.HALVES:
        rows = bench.captions(half)
        assert len(rows) == 75
        kinds.append(dict.fromkeys(row["phenomenon"] for row in rows))
        for row in rows:
            said = row["caption"].lower().replace("'", " '")
            assert all(word in said for entity in row["entities"] for name in entity for word in name.split()), row
            ends = [end for subject, _, object in row["relations"] for end in (subject, object) if end is not None]
            assert all(0 <= end < len(row["entities"]) for end in ends), row
    assert list(kinds[0]) == list(kinds[1]) and len(kinds[0]) == 10
    ours, theirs = ({row["caption"] for row in bench.captions(half)} for half in bench.HALVES)
    assert not ours & theirs


def test_f1_counts_entities_with_attributes_and_relations(bench):
    from wm_pipelines.text.parsed import Entity, ParsedText, Relation

    row = {"caption": "", "entities": [["red", "big", "car"], ["kitchen table"]], "relations": [[0, "on", 1]]}
    parsed = ParsedText(
        (Entity("a", "car", ("big", "red")), Entity("b", "table", ("kitchen",))), (Relation("r", "a", "on", "b"),)
    )
    assert bench.f1([row], lambda text: parsed) == 1
    turned = ParsedText(parsed.entities, (Relation("r", "b", "on", "a"),))
    assert bench.f1([row], lambda text: turned) == pytest.approx(2 * 2 / 6)
    plain = ParsedText((Entity("a", "car"), Entity("b", "table", ("kitchen",))))
    assert bench.f1([row], lambda text: plain) == pytest.approx(2 * 1 / 5)


def test_the_rule_parser_keeps_what_it_reads_right(bench):
    seen, unseen = (bench.scores(half, bench.parse) for half in ("seen", "unseen"))
    assert min(seen.values()) == 1.0
    assert unseen["overall"] >= bench.OVERALL and min(unseen.values()) >= bench.EACH


def test_a_claim_that_does_not_hold_is_said(bench):
    rows = [
        {"half": "unseen", "parser": "rules", "phenomenon": name, "f1": value}
        for name, value in (("overall", 0.95), ("passives", 0.79))
    ]
    assert bench.claims(rows)["holds"] is False
    rows[1]["f1"] = 0.8
    assert bench.claims(rows)["holds"] is True
