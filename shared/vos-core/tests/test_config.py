from pathlib import Path

import pytest
from pydantic import Field, model_validator

from vos_core.config import Config, build_config, option_help, parse_assignments, read_yaml
from vos_core.errors import ConfigError


class Memory(Config):
    every: int = 5
    cap: int | None = None

    @model_validator(mode="after")
    def _room(self) -> "Memory":
        if self.cap is not None and self.cap < self.every:
            raise ValueError("cap must not be below every")
        return self


class Method(Config):
    top: int = 20
    memory: Memory = Memory()


def test_later_layers_win_and_groups_merge() -> None:
    config = build_config(Method, {"memory": {"every": 3}}, parse_assignments(["memory.cap=7", "top=50"]))
    assert config == Method(top=50, memory=Memory(every=3, cap=7))


def test_base_is_kept_where_no_layer_speaks() -> None:
    assert build_config(Method, {"top": 1}, base=Method(memory=Memory(every=9))).memory.every == 9


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        ({"memory": {"evry": 3}}, ["memory.evry", "every"]),
        ({"tpo": 3}, ["tpo", "top"]),
        ({"top": "many"}, ["top", "many"]),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_cure(layer: dict[str, object], words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        build_config(Method, layer)
    assert all(word in str(error.value) for word in words)


def test_values_that_do_not_go_together_are_not_all_listed() -> None:
    with pytest.raises(ConfigError, match=r"^options of 'memory': cap must not be below every.$"):
        build_config(Method, {"memory": {"every": 3, "cap": 2}})
    with pytest.raises(ConfigError, match=r"^cap must not be below every.$"):
        build_config(Memory, {"cap": 2})


def test_configurations_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Method().top = 3  # type: ignore[misc]


@pytest.mark.parametrize("text", ["top", "=3", "a=[1"])
def test_a_malformed_assignment_is_refused(text: str) -> None:
    with pytest.raises(ConfigError):
        parse_assignments([text])


def test_a_key_cannot_be_a_value_and_a_group() -> None:
    with pytest.raises(ConfigError, match=r"a\.b"):
        parse_assignments(["a=1", "a.b=2"])


def test_yaml_files_are_mappings(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("top: 3\n")
    assert read_yaml(path) == {"top": 3}
    path.write_text("")
    assert read_yaml(path) == {}
    for text in ("- 1\n", "a: [1\n"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"c\.yaml"):
            read_yaml(path)
    with pytest.raises(ConfigError, match=r"absent\.yaml"):
        read_yaml(tmp_path / "absent.yaml")


def test_help_of_options_names_their_defaults() -> None:
    class Base(Config):
        size: tuple[int, ...] = Field(default=(480, 600), description="pixels")
        exact: bool = Field(default=True, description="as published")
        rule: str = Field(default="fifo", description="who leaves")
        limit: int | None = Field(default=None, description="most frames")
        gap: int | None = Field(default=None, description="frames between [unset: 5]")
        name: str = Field(description="of the run")

    class Own(Base):
        exact: bool = Field(default=False, description="as published")

    assert option_help(Base, Own) == {
        "size": "pixels [default: [480, 600]]",
        "exact": "as published [default: false]",
        "rule": "who leaves [default: fifo]",
        "limit": "most frames [default: unset]",
        "gap": "frames between [unset: 5]",
        "name": "of the run [required]",
    }
