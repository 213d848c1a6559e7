"""Settings: file < environment < flag, with the origin of each, and errors that name where a bad one stands."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from forebay.config import Settings, load
from forebay.errors import ConfigError
from forebay.served import index_options
from forebay.store.indexkeeper import IndexOptions
from forebay.streams.intake.breaker import BreakerOptions
from forebay.streams.intake.pausing import breaker_options


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text('port = 1000\nbootstrap = "file:1"\ngeneration = "of-file"\n')
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory without a forebay.toml."""
    monkeypatch.chdir(tmp_path)


def test_nothing_given_is_the_defaults() -> None:
    """And says so of each."""
    settings, origins = load({}, environment={})
    assert settings == Settings()
    assert origins == {f.name: "default" for f in fields(Settings)}


def test_a_flag_beats_the_environment_which_beats_the_file(file: Path) -> None:
    """Three settings, each given once more than the one before."""
    environment = {"FOREBAY_PORT": "2000", "FOREBAY_BOOTSTRAP": "environment:1", "PORT": "9"}
    settings, origins = load({"port": 3000, "host": None}, file=file, environment=environment)
    assert (settings.port, settings.bootstrap, settings.generation) == (3000, "environment:1", "of-file")
    assert settings.host == Settings().host
    assert origins["port"] == "flag"
    assert origins["bootstrap"] == "FOREBAY_BOOTSTRAP"
    assert origins["generation"] == str(file)
    assert origins["host"] == "default"


def test_values_have_their_types(file: Path) -> None:
    """The environment has only texts: numbers and paths are made of them."""
    environment = {
        "FOREBAY_PARTITIONS": "12", "FOREBAY_STATE_DIR": "/fast", "FOREBAY_LATE_AFTER": "30d",
        "FOREBAY_INTAKE_MEMORY_MB": "512",
    }  # fmt: skip
    settings, _ = load({}, environment=environment)
    assert settings.partitions == 12 and settings.state_dir == Path("/fast")
    assert settings.late_after == "30d" and settings.intake_memory_mb == 512
    given, _ = load({"data_dir": Path("/data")}, environment={})
    assert given.data_dir == Path("/data")


def test_the_file_is_named_by_flag_then_variable_then_found(file: Path, tmp_path: Path) -> None:
    """forebay.toml in the working directory is the last resort."""
    (tmp_path / "forebay.toml").write_text("port = 4000\n")
    (tmp_path / "other.toml").write_text("port = 5000\n")
    variable = {"FOREBAY_CONFIG": str(tmp_path / "other.toml")}
    assert load({}, file=file, environment=variable)[0].port == 1000
    assert load({}, environment=variable)[0].port == 5000
    settings, origins = load({}, environment={})
    assert settings.port == 4000 and origins["port"] == "forebay.toml"


def test_the_process_environment_is_read_unless_another_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """As any command does."""
    monkeypatch.setenv("FOREBAY_PORT", "6000")
    assert load({})[0].port == 6000
    assert load({}, environment={})[0].port == Settings().port


def test_directories_follow_the_data_directory() -> None:
    """Unless they are named; each generation has its own, and all of them share the Intake's."""
    settings = Settings(data_dir=Path("/d"), generation="g7")
    assert settings.bundles == Path("/d/bundles")
    assert settings.generation_dir == Path("/d/generations/g7")
    assert settings.state == Path("/d/state/g7") and settings.vectors == Path("/d/vectors/g7")
    assert settings.intake == Settings(data_dir=Path("/d"), generation="g8").intake == Path("/d/state/@intake")
    moved = Settings(data_dir=Path("/d"), state_dir=Path("/s"), vectors_dir=Path("/v"))
    assert moved.state == Path("/s/g1") and moved.vectors == Path("/v/g1") and moved.intake == Path("/s/@intake")


def test_an_unknown_setting_is_refused_where_it_stands(file: Path) -> None:
    """In the file, the environment and the flags: a misspelled one would be silently without effect."""
    file.write_text("prot = 1\n")
    for arguments, where in (
        ({"flags": {}, "file": file, "environment": {}}, str(file)),
        ({"flags": {}, "environment": {"FOREBAY_PROT": "1"}}, "FOREBAY_PROT"),
        ({"flags": {"prot": 1}, "environment": {}}, "flag"),
    ):
        with pytest.raises(ConfigError, match="unknown setting 'prot'") as caught:
            load(**arguments)  # type: ignore[arg-type]
        assert caught.value.where == where and "bootstrap" in caught.value.do and caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "many", "0", "65536", "-1", "80.5"])
def test_a_number_out_of_range_is_refused(text: str) -> None:
    """With the range and the variable."""
    with pytest.raises(ConfigError, match="port is not a number from 1 to 65535") as caught:
        load({}, environment={"FOREBAY_PORT": text})
    assert caught.value.where == "FOREBAY_PORT" and caught.value.do


def test_the_number_of_users_in_memory_may_be_large_and_0() -> None:
    for text, wanted in (("0", 0), ("25000000", 25_000_000)):
        assert load({}, environment={"FOREBAY_USERS_IN_MEMORY": text})[0].users_in_memory == wanted
    with pytest.raises(ConfigError, match="users_in_memory is not a number from 0 to 2147483648"):
        load({}, environment={"FOREBAY_USERS_IN_MEMORY": "-1"})


@pytest.mark.parametrize("line", ['port = "{}"', '[server]\npassword = "{}"', 'host = ["{}"]', '[port]\nkey = "{}"'])
def test_a_value_that_is_refused_is_not_repeated(line: str, file: Path) -> None:
    """A password under a wrong name, or a table where an address belongs, must not reach a log."""
    file.write_text(line.format("hunter2-canary"))
    with pytest.raises(ConfigError) as caught:
        load({}, file=file, environment={})
    assert "canary" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        load({}, environment={"FOREBAY_PORT": "hunter2-canary"})
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    "line", ["port = 80.5", "port = true", "port = [80]", "host = 5", "data_dir = 5", "host = ['a']", "late_after = 24"]
)
def test_a_value_of_another_type_is_refused(line: str, file: Path) -> None:
    """TOML has types, and a number is no text: nothing is guessed."""
    file.write_text(line)
    with pytest.raises(ConfigError) as caught:
        load({}, file=file, environment={})
    expected = "is not a number" if line.startswith("port") else "is not a text"
    assert expected in caught.value.what and caught.value.where == str(file) and caught.value.do


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    """Missing, or no TOML; a forebay.toml that nobody named may be missing."""
    with pytest.raises(ConfigError, match="no such file") as caught:
        load({}, environment={"FOREBAY_CONFIG": str(tmp_path / "none.toml")})
    assert caught.value.where == str(tmp_path / "none.toml") and "FOREBAY_CONFIG" in caught.value.do
    (tmp_path / "forebay.toml").write_bytes(b"port = \xff")
    with pytest.raises(ConfigError, match="not a TOML file") as caught:
        load({}, environment={})
    assert caught.value.where == "forebay.toml" and caught.value.do


def test_when_a_source_stands_still_is_a_setting() -> None:
    """On by default, and off where it says so."""
    assert breaker_options(Settings()) == BreakerOptions()
    given = {
        "pause_above": "12.5 %", "pause_records": "10", "pause_window": "1m", "pause_retry": "5m",
        "pause_retry_most": "10s",
    }  # fmt: skip
    found = breaker_options(load({}, environment={f"FOREBAY_{n.upper()}": v for n, v in given.items()})[0])
    assert found == BreakerOptions(0.125, 10, 60.0, 10, 300.0, 300.0)
    assert breaker_options(Settings(pause_above="off")) is None


@pytest.mark.parametrize(
    "settings",
    [Settings(pause_above=text) for text in ("", "50", "0%", "100%", "-1%", "never", "nan%")]
    + [Settings(pause_window="x"), Settings(pause_retry="0s"), Settings(pause_retry_most="2d")],
)
def test_a_share_or_a_time_that_cannot_be_is_refused(settings: Settings) -> None:
    """By its name."""
    with pytest.raises(ConfigError, match="pause_"):
        breaker_options(settings)


def test_the_recall_of_the_index_is_a_setting() -> None:
    assert index_options(Settings()) == IndexOptions(recall=0.98)
    assert index_options(Settings(index_recall="99.5 %")).recall == pytest.approx(0.995)


@pytest.mark.parametrize("text", ["", "98", "0.98", "49%", "100%", "-98%"])
def test_a_recall_that_cannot_be_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no recall"):
        index_options(Settings(index_recall=text))
