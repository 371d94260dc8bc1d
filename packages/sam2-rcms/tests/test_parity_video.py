"""Videos and interactive sessions against the goldens, call by call; one runner serves both kinds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sam2_cases import case_frames, check, clip_labels, clip_rgb, cut, golden_arrays, golden_network, same_frames

from sam2_rcms.config import PredictorConfig
from sam2_rcms.predictor import VideoPredictor
from vos_core.config import build_config
from vos_core.testing import golden_cases

pytestmark = pytest.mark.parity
MEMORY_CUT = 1


@pytest.mark.parametrize("case", golden_cases("sam2-rcms", "video", "interactive"))
def test_video(case):
    if case["crc_array"] is not None and not same_frames(case, case_frames(case)):
        pytest.skip("another JPEG decoder")
    Runner(case).run()


class Runner:
    """Executes the calls of a case and compares what each returns and leaves behind."""

    def __init__(self, case):
        self.case, self.gold = case, golden_arrays(case["file"])
        self.compared = set()
        config = build_config(PredictorConfig, {**case["options"], "image_size": case["image_size"]})
        self.predictor = VideoPredictor(golden_network(case), config)
        self.state = self.predictor.init_state([clip_rgb(clip, index) for clip, index in case["frames"]])
        assert list(self.state.size) == case["video_size"]
        self.ids = []

    def run(self):
        for op in self.case["ops"]:
            getattr(self, op["op"])(op)
        if self.case["object_ids_array"] is not None:
            self.exact(self.case["object_ids_array"], self.ids)
        left = set(self.gold) - self.compared - {self.case["crc_array"], "names"}
        assert not left, f"golden arrays that nothing was compared with: {sorted(left)}"

    def add_mask(self, op):
        mask = op["mask"]
        if mask["type"] == "annotation":
            assert mask["foreground"] == "nonzero"
            array = clip_labels(mask["clip"], mask["index"]) > 0
        else:
            array = np.zeros(self.case["video_size"], bool)
            array[slice(*mask["rows"]), slice(*mask["cols"])] = True
        self.returned(op, self.predictor.add_new_mask(self.state, op["frame"], op["obj_id"], array))

    def add_points(self, op):
        out = self.predictor.add_new_points_or_box(
            self.state, op["frame"], op["obj_id"], op["points"], op["labels"], clear_old_points=op["clear_old_points"]
        )
        self.returned(op, out)

    def add_box(self, op):
        out = self.predictor.add_new_points_or_box(
            self.state, op["frame"], op["obj_id"], box=op["box"], clear_old_points=op["clear_old_points"]
        )
        self.returned(op, out)

    def clear_prompts(self, op):
        self.returned(op, self.predictor.clear_all_prompts_in_frame(self.state, op["frame"], op["obj_id"]))

    def remove_object(self, op):
        ids, changed = self.predictor.remove_object(self.state, op["obj_id"])
        if op["store"] is None:
            return
        self.exact(op["store"]["ids"], ids)
        changed = sorted(changed, key=lambda item: item[0])
        self.exact(op["store"]["upd_frames"], [frame for frame, _ in changed])
        for place, (_, logits) in enumerate(changed):
            self.compare(op["store"]["upd_logits"], cut(logits, self.case["slices"]["returned"]), "returned", row=place)

    def returned(self, op, out):
        frame, ids, logits = out
        assert frame == op["frame"]
        if op["store"] is not None:
            self.exact(op["store"]["ids"], ids)
            self.compare(op["store"]["logits"], cut(logits, self.case["slices"]["returned"]), "returned")

    def propagate(self, op):
        results = sorted(
            self.predictor.propagate_in_video(self.state, op["start_frame"], op["max_frames"], reverse=op["reverse"]),
            key=lambda item: item[0],
        )
        if op["store"] is None:
            return
        prefix, cuts = op["store"]["prefix"], self.case["slices"]
        self.ids = self.state.obj_ids
        self.exact(prefix + "out_frames", [frame for frame, _, _ in results])
        video = torch.stack([logits for _, _, logits in results])
        self.compare(prefix + "out_stride8", np.stack([cut(logits, cuts["out_stride8"]) for logits in video]), "out_stride8")
        self.compare(prefix + "out_mean", video.mean((2, 3, 4)), "out_mean")
        self.compare(prefix + "out_area", (video > 0).sum((2, 3, 4)), "out_area")
        for place, memory in enumerate(self.state.objects.values()):
            self.object(f"{prefix}o{place}_", memory)

    def object(self, prefix, memory):
        records = dict(sorted({**memory.tracked, **memory.cond}.items()))
        cuts = self.case["slices"]
        self.exact(prefix + "frames", list(records))
        self.exact(prefix + "cond", list(memory.cond))
        gone = memory.rcms.disappeared_at
        self.exact(prefix + "disappear_frame", -1 if gone is None else gone)
        self.exact(prefix + "iou_n", [len(record.ious) for record in records.values()])
        self.compare(prefix + "score", [record.score for record in records.values()], "score")
        self.compare(prefix + "iou_max", [float(record.ious.max()) for record in records.values()], "iou_max")
        self.compare(prefix + "quality", [record.quality for record in records.values()], "quality")
        self.compare(prefix + "low", np.stack([cut(record.low[0], cuts["low"]) for record in records.values()]), "low")
        self.compare(prefix + "ptr", torch.stack([record.pointer for record in records.values()]), "ptr")
        stored = {frame: record.memory.float() for frame, record in records.items() if record.memory is not None}
        self.exact(prefix + "mem_frames", list(stored))
        self.compare(prefix + "mem", np.stack([cut(memory, cuts["mem"]) for memory in stored.values()]), "mem")
        self.compare(prefix + "mem_mean", [float(memory.mean()) for memory in stored.values()], "mem_mean")
        self.compare(prefix + "mem_std", [float(memory.std()) for memory in stored.values()], "mem_std")

    def exact(self, name, found):
        self.compared.add(name)
        np.testing.assert_array_equal(np.asarray(found), self.gold[name], err_msg=name)

    def compare(self, name, found, kind, *, row=None):
        """Compare an array, its first entries more strictly where the case says so."""
        self.compared.add(name)
        found = np.asarray(found)
        gold = self.gold[name] if row is None else self.gold[name][row]
        tol = self.case["tol"]
        early = tol["early_frames"] if kind != "returned" else 0
        if early:
            check(found[:early], gold[:early], tol["arrays"], kind, label=f"{name} (early)", factor=tol["early_factor"])
        check(found, gold, tol["arrays"], kind, label=name)
