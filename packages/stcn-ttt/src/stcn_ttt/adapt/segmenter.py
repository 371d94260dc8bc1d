"""The streaming segmenter that adapts to its clip first and forgets what it learned afterwards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence

import torch

from stcn_ttt.adapt.backbone import StcnBackbone
from stcn_ttt.adapt.config import TttConfig
from stcn_ttt.adapt.loop import AdaptReport, Prompts, adapt_network
from stcn_ttt.adapt.pseudo import PseudoMasks
from stcn_ttt.config import SegmenterConfig
from stcn_ttt.model import STCN
from stcn_ttt.segmenter import STCNSegmenter
from vos_core.contract import FrameReader, Precision
from vos_core.errors import UsageError
from vos_core.run.device import torch_device
from vos_core.types import Prompt


class AdaptiveSTCNSegmenter(STCNSegmenter):
    """STCN with test-time training: `adapt` trains a copy of the weights on one clip, `reset` goes back to the offline ones.

    Args:
        network: offline weights; never changed.
        config: how to segment.
        ttt: how to adapt.
        seed: of the sequences drawn.
        device: torch device string.
        precision: of adapting and segmenting.
        probabilities: fill `FrameResult.probs`.
        on_step: told (steps done, steps in all, loss) while adapting.
    """

    def __init__(
        self,
        network: STCN,
        config: SegmenterConfig | None = None,
        *,
        ttt: TttConfig,
        seed: int = 0,
        device: str = "cpu",
        precision: Precision = "fp32",
        probabilities: bool = False,
        on_step: Callable[[int, int, float], None] | None = None,
    ) -> None:
        self.offline, self.ttt, self.seed, self.on_step = network, ttt, seed, on_step
        self.report: AdaptReport | None = None
        self._adapted = False
        super().__init__(network, config, device=device, precision=precision, probabilities=probabilities)

    def adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        """Adapt to a clip, then segment with the adapted weights until `reset`.

        Raises:
            UsageError: no prompts.
            VosError: a frame cannot be read, or the loss is not finite.
        """
        if not prompts:
            raise UsageError("a clip without prompts cannot be adapted to", fix="Give a mask with some frame")
        self.reset()
        with torch.inference_mode(False), torch.enable_grad():  # whatever the caller's mode is
            self._adapt(frames, prompts)

    def _adapt(self, frames: FrameReader, prompts: Mapping[int, Sequence[Prompt]]) -> None:
        place = torch_device(self.device)
        network = copy.deepcopy(self.offline).to(place, memory_format=torch.channels_last)  # type: ignore[call-overload]
        first = min(prompts)

        def propagate(frames: FrameReader, prompts: Prompts, *, stop: int | None) -> PseudoMasks:
            self.load(network)
            masks = PseudoMasks()
            for index in range(first, len(frames) if stop is None else stop):
                masks[index] = self.step(frames.read(index), prompts.get(index, ())).labels
            super(AdaptiveSTCNSegmenter, self).reset()
            return masks

        try:
            self.report = adapt_network(
                network,
                StcnBackbone(network),
                frames,
                prompts,
                config=self.ttt,
                propagate=propagate,
                seed=self.seed,
                name=f"{frames.names[first]}/{len(frames)}",  # the contract gives frames, not the clip's name
                device=place,
                precision=self.precision,
                on_step=self.on_step,
            )
            network.requires_grad_(False)
            self.load(network)
        finally:
            self._adapted = True

    def reset(self) -> None:
        """Forget the clip and what was learned from it."""
        if self._adapted:
            self._adapted = False
            self.load(self.offline)
        else:
            super().reset()
