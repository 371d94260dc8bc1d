import pickle

import pytest

from vos_core.errors import MaskError, MissingExtraError, UsageError, VosError
from vos_core.extras import require


def test_a_message_says_what_was_found_expected_and_to_do() -> None:
    assert str(VosError("a is 3", expected="4", fix="Set a to 4.")) == "a is 3. Expected 4. Set a to 4."
    assert str(VosError("a is 3")) == "a is 3."


def test_errors_cross_process_borders_whole() -> None:
    error = pickle.loads(pickle.dumps(MaskError("x.png is RGB", expected="a palette", fix="Convert it")))
    assert type(error) is MaskError
    assert (error.found, error.expected, error.fix) == ("x.png is RGB", "a palette", "Convert it")


def test_wrong_use_exits_with_2_and_failures_with_1() -> None:
    assert (VosError.exit_code, MaskError.exit_code, UsageError.exit_code) == (1, 1, 2)


def test_an_absent_extra_names_the_command_that_installs_it() -> None:
    assert require("json", extra="video", purpose="test").__name__ == "json"
    with pytest.raises(MissingExtraError, match=r'pip install "vos-core\[video\]"'):
        require("no_such_module_here", extra="video", purpose="write H.264")
