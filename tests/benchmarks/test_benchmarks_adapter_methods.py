"""The comparison of adapter methods: equal numbers of parameters, and what the quick run says of each."""

import json


def test_equally_many_parameters(script):
    benchmark, counts = script("adapter_methods"), {}
    for name, config in benchmark.configs(768).items():
        model = benchmark.get_peft_model(benchmark.stack(768), config)
        counts[name] = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert counts["LoRA"] == counts["DoRA"] == 24_576
    assert all(abs(count / counts["LoRA"] - 1) < 0.07 for count in counts.values()), counts


def test_the_quick_run(script, tmp_path, capsys):
    benchmark = script("adapter_methods")
    assert benchmark.main(["--quick", "--repeats", "1", "--out", str(tmp_path / "rows.jsonl")]) == 0
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    assert "| adapters by sample | yes | no | no | no | yes |" in capsys.readouterr().out
    ours = [row for row in rows if row["figure"] == "can" and row["method"] == benchmark.OURS]
    assert len(ours) == len(benchmark.PROBES) and all(row["works"] in (True, None) for row in ours), ours
    kept = {row["method"]: row["kept_of_x_per_layer"] for row in rows if row["figure"] == "size"}
    assert kept[benchmark.OURS] == 0.75 == min(share for name, share in kept.items() if name != "base")
