"""The decisions of a pursuit, round by round (spec section 4.2; paper, Algorithm 1)."""

from __future__ import annotations

import random
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from object_pursuit.config import NetworkConfig
from object_pursuit.fit import FitOptions, FitResult, Fitter, Rehearsal, fit_object
from object_pursuit.model import CodeNetwork, Coeffnet, Hypernet, Singlenet
from object_pursuit.pursuit.options import PursuitOptions
from object_pursuit.pursuit.records import Round, RoundLog
from object_pursuit.pursuit.reidentify import best_code, reid_batches, score_codes
from object_pursuit.pursuit.store import FileNames, PursuitState, PursuitStore
from object_pursuit.samples import ObjectImages
from object_pursuit.weights import code_files, load_backbone, load_hypernet, read_code_weights
from vos_core.contract import Precision
from vos_core.errors import UsageError, VosError
from vos_core.training.checkpoint import seed_everything

Phase = Literal["reid", "check1", "base", "check2"]
_PHASES: tuple[Phase, ...] = ("reid", "check1", "base", "check2")
_TARGET_BYTES = 128 * 2**20
"""Remembered weights that are held in memory while a new base is learned; at the published size a code's take 21.7 MB."""


@dataclass(slots=True)
class StartPoint:
    """What a pursuit begins with.

    Args:
        config: of the networks.
        hypernet: loaded or untrained.
        encoder: shared encoder; None where it is generated.
        encoder_trainable: whether new bases train it, until the first check freezes it for good; False if it was loaded.
        bases: codes `(K, z_dim)`, or None.
        objects: codes of known objects `(n, z_dim)`; None = the bases.
    """

    config: NetworkConfig
    hypernet: Hypernet
    encoder: nn.Module | None
    encoder_trainable: bool = True
    bases: Tensor | None = None
    objects: Tensor | None = None


@dataclass(slots=True)
class _Fits:
    """What the phases of one round came to."""

    qualities: dict[str, float] = field(default_factory=dict)
    epochs: dict[str, int] = field(default_factory=dict)

    def add(self, phase: Phase, result: FitResult) -> float:
        self.qualities[phase], self.epochs[phase] = result.quality, result.epochs
        return result.quality


class Pursuit:
    """A stream of objects over a growing space of codes; one instance runs, or goes on with, the pursuit of one folder.

    Args:
        start: networks and codes; a resumed run takes them from the folder.
        stream: names of the objects in the order they are met.
        open_data: returns the images of an object by its name.
        options: of the pursuit.
        out: folder of the pursuit.
        names: of code files.
        save_interval: keep a snapshot before every round that this divides; 0 = none.
        on_error: `stop` raises an error of a round, so that the next run repeats it; `skip` records it as failed and goes on.
        resume: go on with what the folder holds, or begin anew.
        device: torch device string.
        precision: of segmentation.
        tell: called with each line of the log.

    Raises:
        UsageError: the folder holds a pursuit with other options or another stream.
        WeightsError: a file in the folder that cannot be read.
    """

    def __init__(
        self,
        start: StartPoint,
        stream: Sequence[str],
        open_data: Callable[[str], ObjectImages],
        *,
        options: PursuitOptions,
        out: Path,
        names: FileNames = "pth",
        save_interval: int = 0,
        on_error: Literal["stop", "skip"] = "stop",
        resume: bool = True,
        device: str = "cpu",
        precision: Precision = "fp32",
        tell: Callable[[str], None] | None = None,
    ) -> None:
        self.options, self.open_data, self.on_error, self.save_interval = options, open_data, on_error, save_interval
        self.device, self.precision = device, precision
        self.hypernet, self.encoder = start.hypernet, start.encoder
        self.store, self.log = PursuitStore(out, names=names), RoundLog(out, tell)
        self._frozen_encoder = not start.encoder_trainable
        told = {**options.model_dump(mode="json"), "network": start.config.model_dump(mode="json"), "names": names}
        found = self.store.state() if resume else None
        if found is None:
            self.state = self._begin(start, tuple(stream), told)
        else:
            self._same(found, tuple(stream), told)
            self.state = found
            self._restore()
        self.hypernet.to(device)
        if self.encoder is not None:
            self.encoder.to(device)
        self.hypernet.requires_grad_(False)
        self._set_encoder()

    def run(self, *, rounds: int | None = None) -> list[Round]:
        """Run the rest of the stream, or so many rounds of it, and return all rounds that are done.

        Raises:
            VosError: a round failed and `on_error` is `stop`; rounds before it are kept.
        """
        last = len(self.state.stream) if rounds is None else min(len(self.state.stream), self.state.round + rounds)
        while self.state.round < last:
            self._run_round(self.state.round + 1)
        return self.log.read()

    def _begin(self, start: StartPoint, stream: tuple[str, ...], told: dict[str, object]) -> PursuitState:
        self.store.state_file.unlink(missing_ok=True)
        for name in ("z_info.json", "base_info.json"):
            (self.store.out / name).unlink(missing_ok=True)
        self.store.begin()
        self.hypernet.to(self.device)
        bases = start.bases if start.bases is not None else torch.zeros(0, self.hypernet.z_dim)
        objects = start.objects if start.objects is not None else bases
        for codes, write in ((bases, self.store.write_base), (objects, self.store.write_object)):
            if codes.shape[1] != self.hypernet.z_dim:
                raise UsageError(
                    f"codes have {codes.shape[1]} numbers", expected=f"{self.hypernet.z_dim}, as the hypernetwork takes"
                )
            for index, code in enumerate(codes):
                write(index, code, self._generate(code))
        state = PursuitState(
            round=0,
            initial=len(objects),
            objects=len(objects),
            bases=len(bases),
            stream=stream,
            options=told,
            encoder_trainable=start.encoder_trainable,
            hypernet_file=self.store.write_hypernet(self.hypernet, 0),
            backbone_file=None if self.encoder is None else self.store.write_backbone(self.encoder, 0),
            buffers_file=None if self.encoder is None else self.store.write_buffers(self.encoder, 0),
        )
        self.log.say(f"begin: {len(stream)} rounds, {len(objects)} objects and {len(bases)} bases known, tau {self.options.tau}")
        state = state.model_copy(update={"log_bytes": self.log.position()})
        self.store.commit(state)
        return state

    def _same(self, found: PursuitState, stream: tuple[str, ...], told: dict[str, object]) -> None:
        changed = sorted(key for key in told if found.options.get(key) != told[key])
        if found.stream != stream:
            changed.append("the stream of objects")
        if changed:
            raise UsageError(
                f"{self.store.out} holds a pursuit with other settings ({', '.join(changed)})",
                fix="Repeat those settings, choose another --out, or pass --no-resume to begin anew",
            )

    def _restore(self) -> None:
        """Take over the folder's state: networks of the last accepted object, running statistics of the last round."""
        state = self.state
        self.store.publish(state)
        self.log.cut(rounds=state.round, position=state.log_bytes)
        self._reload()
        if self.encoder is not None and state.buffers_file is not None:
            self.store.read_buffers(self.encoder, state.buffers_file)
        self._frozen_encoder = not state.encoder_trainable

    def _reload(self) -> None:
        load_hypernet(self.hypernet, self.store.checkpoint / self.state.hypernet_file)
        if self.encoder is not None and self.state.backbone_file is not None:
            load_backbone(self.encoder, self.store.checkpoint / self.state.backbone_file)

    def _run_round(self, number: int) -> None:
        name, begun = self.state.stream[number - 1], time.perf_counter()
        if self.save_interval and number % self.save_interval == 0:
            self.store.snapshot(number, self.hypernet, self.encoder)
        self.log.say(f"round {number}: {name}")
        try:
            record = self._decide(number, name)
        except (VosError, RuntimeError, ValueError, OSError) as error:
            self.log.note(traceback.format_exc().rstrip())
            if self.on_error == "stop":
                if isinstance(error, VosError):
                    raise
                raise VosError(
                    f"round {number} ({name}) failed: {error}", fix=f"See {self.log.text}; --on-error skip goes on without it"
                ) from error
            self.log.say(f"  {error}")
            self._roll_back()
            record = Round(number, name, name, "failed", error=str(error))
        self._commit(replace(record, seconds=time.perf_counter() - begun))

    def _decide(self, number: int, name: str) -> Round:
        """Run the phases of one round; networks and code files are as decided afterwards, the state is not yet."""
        data, fits = self.open_data(name), _Fits()
        bases = self.store.read_bases()
        record = Round(number, name, data.name, "seen")
        quality, matched = self._reidentify(number, data)
        record = replace(record, reid=quality, matched=matched)
        if quality is not None and quality > self.options.tau:
            return record
        tau = self.options.tau
        if bases is not None:
            network = self._fit_coefficients(number, "check1", data, bases, fits)
            record = replace(record, first=fits.qualities["check1"], epochs=dict(fits.epochs))
            if fits.qualities["check1"] >= tau:
                return self._accept(replace(record, verdict="expressed"), network)
        fresh = self._fit_base(number, data, fits)
        record = replace(record, base=fits.qualities["base"], epochs=dict(fits.epochs))
        if fits.qualities["base"] < tau:
            self._roll_back()
            return replace(record, verdict="discarded")
        if bases is not None:
            network = self._fit_coefficients(number, "check2", data, bases, fits)
            record = replace(record, second=fits.qualities["check2"], epochs=dict(fits.epochs))
            if fits.qualities["check2"] >= tau:
                return self._accept(replace(record, verdict="redundant"), network)
        return self._accept(replace(record, verdict="new_base"), fresh)

    def _reidentify(self, number: int, data: ObjectImages) -> tuple[float | None, str | None]:
        """Return the best Dice among codes of this run and that code's file."""
        files = code_files(self.store.zs)[self.state.initial :]
        if not files:
            return None, None
        self._seed(number, "reid")
        batches = reid_batches(len(data), self.options.val_share, self.options.reid_batch)
        scores = score_codes(
            torch.stack([self.store.read_code(path) for path in files]),
            data,
            batches,
            self.hypernet,
            self.encoder,
            dropout=self.options.dropout,
            device=self.device,
            precision=self.precision,
        )
        best = best_code(scores)
        self.log.say(f"  re-identification: {scores[best]:.4f} by {files[best].name}")
        return scores[best], files[best].name

    def _fit_coefficients(self, number: int, phase: Phase, data: ObjectImages, bases: Tensor, fits: _Fits) -> Coeffnet:
        self._seed(number, phase)
        self.hypernet.requires_grad_(False)
        self._frozen_encoder = True  # for good: the original never unfreezes it again
        self._set_encoder()
        network = Coeffnet(self.hypernet, self.encoder, bases=bases, dropout=self.options.dropout)
        quality = fits.add(phase, self._fit(network, self.options.coefficient_fit(second=phase == "check2"), phase, data))
        self.log.say(f"  {phase}: {quality:.4f} by {len(bases)} bases after {fits.epochs[phase]} epochs")
        return network

    def _fit_base(self, number: int, data: ObjectImages, fits: _Fits) -> Singlenet:
        self._seed(number, "base")
        self.hypernet.requires_grad_(True)
        self._set_encoder()
        network = Singlenet(self.hypernet, self.encoder, dropout=self.options.dropout)
        files = code_files(self.store.zs)
        rehearsal = None
        if files:
            codes = torch.stack([self.store.read_code(path) for path in files]).to(self.device)
            drawn = random.Random(_phase_seed(self.options.seed, number, "base"))
            rehearsal = Rehearsal(codes, self._targets(files), rng=drawn)
        quality = fits.add("base", self._fit(network, self.options.base_fit(), "base", data, rehearsal))
        self.hypernet.requires_grad_(False)
        self.log.say(f"  base: {quality:.4f} after {fits.epochs['base']} epochs, {len(files)} codes remembered")
        return network

    def _fit(
        self,
        network: CodeNetwork,
        options: FitOptions,
        phase: Phase,
        data: ObjectImages,
        rehearsal: Rehearsal | None = None,
    ) -> FitResult:
        network.to(self.device)
        fitter = Fitter(network, options, rehearsal=rehearsal, device=self.device, precision=self.precision)
        folder = {"check1": "coeff_pursuit", "base": "base_update", "check2": "check_express"}[phase]
        return fit_object(fitter, data, folder=self.store.out / "explored_objects" / f"obj_{self.state.objects}" / folder)

    def _accept(self, record: Round, network: CodeNetwork) -> Round:
        code = network.code().detach()
        weights = self._generate(code)
        written = self.store.write_object(self.state.objects, code, weights)
        base = None
        if record.verdict == "new_base":
            base = self.store.write_base(self.state.bases, code, weights).name
        return replace(record, z_file=written.name, base_file=base)

    def _roll_back(self) -> None:
        """Return to the networks of the last accepted object and freeze both."""
        self._reload()
        self._frozen_encoder = True
        self.hypernet.requires_grad_(False)
        self._set_encoder()

    def _commit(self, record: Round) -> None:
        state, number = self.state, record.round
        place = (state.objects, state.bases)
        changed = record.verdict in ("redundant", "new_base")
        objects = state.objects + record.accepted
        bases = state.bases + (record.verdict == "new_base")
        record = replace(record, objects=objects, bases=bases)
        entry = {"index": place[0], "data_dir": record.data_dir, "z_file": record.z_file}
        base_entry = {"index": place[1], "data_dir": record.data_dir, "base_file": record.base_file, "z_file": record.z_file}
        self.log.say(f"  {record.verdict}: {objects} objects, {bases} bases")
        self.log.add(record)
        update: Mapping[str, object] = {
            "round": number,
            "objects": objects,
            "bases": bases,
            "encoder_trainable": not self._frozen_encoder,
            "z_info": (*state.z_info, entry) if record.accepted else state.z_info,
            "base_info": (*state.base_info, base_entry) if record.verdict == "new_base" else state.base_info,
            "hypernet_file": self.store.write_hypernet(self.hypernet, number) if changed else state.hypernet_file,
            "log_bytes": self.log.position(),
        }
        if self.encoder is not None:
            # An accepted object saves the encoder with its statistics; they are what a later discard returns to.
            update = {
                **update,
                "backbone_file": self.store.write_backbone(self.encoder, number) if record.accepted else state.backbone_file,
                "buffers_file": self.store.write_buffers(self.encoder, number),
            }
        self.state = state.model_copy(update=dict(update))
        self.store.commit(self.state)

    def _targets(self, files: Sequence[Path]) -> list[Callable[[], Mapping[str, Tensor]]]:
        """Return what each code generated when it was saved: read once where all are small, else whenever it is rehearsed."""
        if sum(path.stat().st_size for path in files) > _TARGET_BYTES:
            return [partial(self._remembered, path) for path in files]
        held = [self._remembered(path) for path in files]
        return [partial(held.__getitem__, place) for place in range(len(held))]

    def _remembered(self, path: Path) -> Mapping[str, Tensor]:
        weights = read_code_weights(path)
        if weights is None:
            raise VosError(f"{path} holds no generated weights", fix="Begin the pursuit anew")
        return weights

    @torch.no_grad()
    def _generate(self, code: Tensor) -> dict[str, Tensor]:
        return self.hypernet(code.to(self.device))

    def _set_encoder(self) -> None:
        if self.encoder is not None:
            self.encoder.requires_grad_(not self._frozen_encoder)

    def _seed(self, number: int, phase: Phase) -> None:
        seed_everything(_phase_seed(self.options.seed, number, phase))


def _phase_seed(seed: int, number: int, phase: Phase) -> int:
    """Return a seed of its own for each phase of each round, so that no phase shifts the random numbers of another."""
    return int(np.random.SeedSequence((seed, number, _PHASES.index(phase))).generate_state(1)[0])
