"""What an edit makes DVC run again, and what it leaves: with DVC, on a reproduced project."""

from __future__ import annotations

import re

from tests.conftest import STAGES, Project, Retrained, ran
from tests.edits import edit, edit_nothing, stale


def test_comments_and_docstrings_anywhere_run_nothing_but_digest(unchanged: Project) -> None:
    for folder in ("bert_qa", "stages"):
        for file in (unchanged.folder / folder).rglob("*.py"):
            source = file.read_text(encoding="utf-8")
            edited = edit_nothing(source)
            assert edited != source
            file.write_text(edited, encoding="utf-8")
    assert ran(unchanged.check("dvc", "repro")) == ["digest"]


def test_an_edit_of_the_csv_writer_runs_infer_alone(unchanged: Project) -> None:
    edit(
        unchanged,
        "bert_qa/tables/table.py",
        "            journal.advance(progress)\n",
        "            journal.advance(progress)\n            del answered\n",
    )
    assert ran(unchanged.check("dvc", "repro")) == ["digest", "infer"]
    assert "answer_table" in unchanged.git("diff", "-U0", "--", "digests/infer.json")


def test_an_edit_of_gptq_runs_calibrate_and_what_follows(retrained: Retrained) -> None:
    follows = STAGES[STAGES.index("calibrate") :]
    assert retrained.ran == ["digest", "probe", *follows]
    assert re.findall(r'^\+ +"(\w+)"', retrained.diff, re.MULTILINE) == ["DAMPING"]


def test_another_version_of_a_library_runs_what_imports_it(unchanged: Project) -> None:
    file = unchanged.folder / "requirements.txt"
    text = file.read_text(encoding="utf-8")
    file.write_text(re.sub(r"(?m)^nncf==\S+", "nncf==99.0", text), encoding="utf-8")
    unchanged.check("dvc", "repro", "digest")
    assert stale(unchanged) == {"probe", "calibrate", "train", "export"}


def test_moving_a_function_runs_nothing_but_digest(unchanged: Project) -> None:
    file = unchanged.folder / "bert_qa/quantization/channel_splitting.py"
    text = file.read_text(encoding="utf-8")
    start, end = text.index("def _shares("), text.index("def _split(")
    moved = f"import heapq\n\n\n{text[start:end].rstrip()}\n"
    (unchanged.folder / "bert_qa/shares.py").write_text(moved, encoding="utf-8")
    left = text[:start] + text[end:]
    left = left.replace("import heapq\n", "").replace(
        "from bert_qa.quantization.observing",
        "from bert_qa.shares import _shares\nfrom bert_qa.quantization.observing",
    )
    file.write_text(left, encoding="utf-8")
    assert ran(unchanged.check("dvc", "repro")) == ["digest"]
    assert unchanged.git("diff", "--", "digests") == ""


def test_a_new_knob_of_one_stage_runs_no_other(unchanged: Project) -> None:
    edit(
        unchanged,
        "bert_qa/params.py",
        "    repeats: Count\n",
        "    repeats: Count\n    warm: Count\n",
    )
    edit(unchanged, "params.yaml", "  repeats: 50\n", "  repeats: 50\n  warm: 3\n")
    assert ran(unchanged.check("dvc", "repro")) == ["digest", "check_params"]


def test_a_new_knob_of_quantized_training_leaves_fine_tuning(unchanged: Project) -> None:
    knob = "    distillation_weight: Fraction\n"
    edit(unchanged, "bert_qa/params.py", knob, f"{knob}    warm: Count\n")
    edit(
        unchanged,
        "params.yaml",
        "  distillation_weight: 1.0",
        "  warm: 3\n  distillation_weight: 1.0",
    )
    unchanged.check("dvc", "repro", "digest")
    assert not {"tokenize", "finetune", "teach", "calibrate", "evaluate"} & stale(unchanged)


def test_make_repro_ends_with_what_each_stage_took(unchanged: Project) -> None:
    unchanged.set(infer__max_context_characters=1_999_999)  # which no other test ran with
    said = unchanged.check("python", "scripts/repro.py")
    table = said[said.index("\nstage  ") :].split("\n\n")[0]
    assert re.findall(r"^(\w+) +[\d.]+ +[\d.]+$", table, re.MULTILINE) == [
        "check_params",
        "infer",
        "all",
    ]
    assert "data/output.csv" in said
    assert "seconds" not in unchanged.check("python", "scripts/repro.py")  # nothing ran
    unchanged.set(infer__provider="none")
    done = unchanged.run("python", "scripts/repro.py")
    assert done.returncode != 0
    assert "error: params.yaml: infer.provider: found 'none'" in done.stderr
    assert "seconds" not in done.stdout
