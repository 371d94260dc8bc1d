from __future__ import annotations

from vos_core.baseline.copy import METHOD as COPY
from vos_core.baseline.flow import METHOD as FLOW
from vos_core.run.record import input_sha256, read_run
from vos_core.run.runner import run_method
from vos_core.types import Clip


def test_record_says_all_that_repeats_the_run(make_clip, tmp_path, monkeypatch):
    monkeypatch.setenv("VOS_OPS", "torch")
    clips, out = [make_clip("a"), make_clip("bb")], tmp_path / "out"
    options = {"preset": "ultrafast"}
    first = run_method(FLOW, clips, output=out, options=options, seed=3)
    again = run_method(FLOW, clips, output=out, options=options, seed=3)  # nothing is left to run
    for record in (first, again, read_run(out)):
        assert record.options == options
        assert record.settings["options"].keys() == FLOW.options.keys()
        assert record.settings["options"]["preset"] == "ultrafast"
        rest = {name: record.settings[name] for name in ("precision", "seed", "ops", "palette")}
        assert rest == {"precision": "fp32", "seed": 3, "ops": "torch", "palette": "davis"}
        assert [clip.input_sha256 for clip in record.clips] == [clip.input_sha256 for clip in first.clips]
    one, two = (clip.input_sha256 for clip in first.clips)
    assert one != two
    assert [len(text or "") for text in (one, two)] == [64, 64]
    assert run_method(COPY, clips[:1], output=tmp_path / "copy").clips[0].input_sha256 == one
    with clips[0].frames[-1].open("ab") as file:
        file.write(b"!")
    assert run_method(COPY, clips[:1], output=tmp_path / "changed").clips[0].input_sha256 != one


def test_input_hash_counts_masks_in_folders_of_objects_and_a_common_file_once(tmp_path):
    for path in ("m/1/a.png", "m/1/b.png", "m/2/b.png"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(path)
    objects = Clip("x", annotations={"a": tmp_path / "m", "b": tmp_path / "m"}, mask_kind="objects")
    before = input_sha256(objects)
    (tmp_path / "m/2/b.png").write_text("other")
    assert input_sha256(objects) != before
    table = tmp_path / "all.json"
    table.write_text("{}")
    assert input_sha256(Clip("x", annotations={"a": table, "b": table})) == input_sha256(Clip("x", annotations={"a": table}))
