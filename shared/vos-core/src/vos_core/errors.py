"""Errors that a user can cause and mend: each says what was found, what was expected and what to do; warnings of a clip."""

from __future__ import annotations


class VosError(Exception):
    """A failure with a cause outside the code; the command line prints it without a traceback.

    Args:
        found: what is wrong, naming the file, video, frame or option.
        expected: what would have been right; may be empty when `found` already says it.
        fix: what the user can do next, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, found: str, *, expected: str = "", fix: str = "") -> None:
        self.found, self.expected, self.fix = found, expected, fix
        super().__init__(str(self))

    def __str__(self) -> str:
        parts = [self.found]
        if self.expected:
            parts.append(f"Expected {self.expected}")
        if self.fix:
            parts.append(self.fix)
        return " ".join(part if part.endswith(("?", "!")) else part.rstrip(".") + "." for part in parts)

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling between worker processes.
        return _rebuild, (type(self), self.found, self.expected, self.fix)


def _rebuild(kind: type[VosError], found: str, expected: str, fix: str) -> VosError:
    return kind(found, expected=expected, fix=fix)


class UsageError(VosError):
    """Wrong use of a command, an option or a public function."""

    exit_code = 2


class ConfigError(UsageError):
    """A configuration value or key that no field accepts."""


class MissingExtraError(UsageError):
    """An optional dependency is needed and absent."""


class FrameError(VosError):
    """A video frame that is missing, unreadable or of another size."""


class MaskError(VosError):
    """A mask that is missing, unreadable, of another size, or not a label map."""


class LayoutError(VosError):
    """A data set folder that is not laid out as its format says."""


class ScoreError(VosError):
    """Truth and prediction that cannot be compared by the chosen protocol."""


class WeightsError(VosError):
    """A checkpoint that cannot be found, downloaded, verified or loaded."""


class OutputError(VosError):
    """A result that cannot be written (read-only folder, full disk)."""


class InterruptError(VosError):
    """Work stopped by Ctrl-C or SIGTERM; what was finished is kept."""

    exit_code = 130  # 128 + SIGINT, as shells expect


class ClipWarning(UserWarning):
    """What a method has to say about the clip at hand, such as an object that it cannot follow.

    The runtime puts it in the clip's record, so that it is shown with the clip's name and kept in `run.json`.
    """
