"""Nothing is missing from a reference page: each is held against the code by another way than the one that wrote it."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from types import SimpleNamespace
from typing import Any, get_args

import pytest
import typer

from forebay.cli.app import app
from forebay.config import PREFIX, TABLES, Settings
from forebay.errors import EventError, ForebayError, MissingExtra, PublishError
from forebay.events import Event
from forebay.retrieval import messages
from forebay.retrieval.admission import AdmissionOptions
from forebay.retrieval.engine import EngineLimits
from forebay.retrieval.limits import ServerLimits
from forebay.retrieval.messages import Readiness
from forebay.retrieval.metrics import ServerMetrics
from forebay.segments.training.options import RetrieveOptions, TrainingOptions
from forebay.store.census import Census
from forebay.store.indexwatch import IndexStanding
from forebay.streams.worker.metrics import WorkerMetrics
from forebay.streams.worker.source import Source
from forebay.streams.worker.standing import Report, Standing
from forebay.streams.worker.watchdog import Progress


def _commands(command: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Typer's own tree of commands, as its parser walks it."""
    below = getattr(command, "commands", {})
    for name, child in below.items():
        yield from _commands(child, f"{path} {name}")
    if not below:
        yield path, command


VERBS = dict(_commands(typer.main.get_command(app), "forebay"))


def _classes(cls: type[ForebayError] = ForebayError) -> Iterator[type[ForebayError]]:
    yield cls
    for child in cls.__subclasses__():
        if child.__module__ == "forebay.errors":
            yield from _classes(child)


@pytest.mark.parametrize("path", VERBS)
def test_every_verb_has_its_help_and_every_word_it_takes(path: str, pages: Any) -> None:
    """A section of its own, with the first words of its help, and a row for each argument and option with its
    default."""
    page, verb = pages("cli.md"), VERBS[path]
    assert verb.help.split(".")[0].split("[")[0] in page.section(path).replace("\\", "")
    rows = page.table(path)
    for parameter in verb.params:
        row = next((r for words, r in rows.items() if set(_words(parameter)) & set(re.split(r", | / ", words))), None)
        assert row is not None, f"cli.md has no row for {_words(parameter)} of {path}"
        assert row[3], f"cli.md says nothing about {_words(parameter)} of {path}"
        if parameter.default not in (None, False, ...) and not callable(parameter.default):
            assert f"`{parameter.default}`" == row[2], f"{path} {_words(parameter)}"


def _words(parameter: Any) -> list[str]:
    names = [str(w) for w in parameter.opts]
    return names if names[0].startswith("-") else [str(parameter.metavar or names[0].upper()), names[0].upper()]


def test_what_may_stand_before_a_verb_is_there(pages: Any) -> None:
    """--version and whatever else the parser takes."""
    for parameter in typer.main.get_command(app).params:  # type: ignore[attr-defined]
        assert all(word in pages("cli.md").text for word in parameter.opts)


def test_every_setting_has_its_variable_default_and_meaning(pages: Any) -> None:
    """Field by field of Settings."""
    rows = pages("settings.md").table("Settings")
    for field in fields(Settings):
        assert field.name in rows, f"settings.md has no {field.name}"
        _, variable, default, meaning = rows[field.name]
        assert variable == ("" if field.name in TABLES else f"`{PREFIX}{field.name.upper()}`")
        assert meaning, f"{field.name} has no comment in config.py"
        assert str(field.default if field.default not in (None, ()) else "") in default


@pytest.mark.parametrize("cls", list(_classes()), ids=lambda c: c.__name__)
def test_every_error_has_its_meaning_exit_code_and_remedies(
    cls: type[ForebayError], pages: Any, sources: list[str]
) -> None:
    """Each class of the tree, and each message that its places in the code begin with a plain text."""
    page = pages("errors.md")
    name = cls.__name__
    overview = next(row for words, row in page.table("Errors and remedies").items() if words.startswith(f"[{name}]"))
    assert overview[2] == f"`{cls.exit_code}`"
    said = page.own(name).replace("\\", "")
    assert " ".join((cls.__doc__ or "").split()) in " ".join(said.replace("**", "").split())
    if cls in (EventError, MissingExtra, PublishError):  # their first argument is another one
        return
    begun = [m for text in sources for m in re.findall(rf'\b{name}\(\s*f?"([^"{{\\]+)', text)]
    for words in begun:
        assert words in said, f"errors.md does not have {words!r} under {name}"


def test_every_event_has_its_fields_and_what_they_mean(pages: Any) -> None:
    """Each struct that travels on the topics, each of its fields with a meaning."""
    page = pages("events.md")
    for struct in get_args(Event):
        rows = page.table(struct.__name__)
        assert rows["type"][3] == f"`{struct.__struct_config__.tag}`"
        for field in struct.__struct_fields__:
            assert field in rows, f"events.md has no {field} of {struct.__name__}"
            assert rows[field][3], f"{struct.__name__}.{field} has no comment in events.py"


def test_every_reason_of_a_dead_letter_has_its_row_and_its_remedy(pages: Any, sources: list[str]) -> None:
    """On the page of events, and in the troubleshooting."""
    reasons = {m for text in sources for m in re.findall(r'EventError\(\s*"(\w+)"', text)}
    assert len(reasons) > 8
    rows = pages("events.md").table("Dead letters")
    remedies = pages("troubleshooting.md").section("Dead letters")
    for reason in reasons:
        assert reason in rows and rows[reason][1], f"events.md does not have the reason {reason}"
        assert f"`{reason}`" in remedies, f"troubleshooting.md has no remedy for {reason}"


def test_every_event_of_telemetry_is_there_with_its_details(pages: Any, sources: list[str]) -> None:
    """What `emit` and `later` are called with, wherever they are called."""
    rows, seen = pages("metrics.md").table("Hooks"), set()
    for text in sources:
        for node in ast.walk(ast.parse(text)):
            if not isinstance(node, ast.Call) or ast.unparse(node.func).split(".")[-1] not in ("emit", "later"):
                continue
            if not node.args:
                continue
            name = ast.literal_eval(node.args[0])
            seen.add(name)
            assert name in rows, f"metrics.md has no event {name}: add it to the table in telemetry.py"
            for keyword in node.keywords:
                assert re.search(rf"\b{keyword.arg}\b", rows[name][2]), f"metrics.md: {name} lacks {keyword.arg}"
    assert len(seen) > 4


def test_every_metric_is_there_with_its_kind_and_labels(pages: Any, sources: list[str]) -> None:
    """By what both registries say, and by every name in the code that looks like a metric."""
    rows = pages("metrics.md").table("Prometheus")
    texts = [_server_text(), _worker_text()]
    for text in texts:
        for name, kind in re.findall(r"^# TYPE (forebay_\S+) (\w+)$", text, re.MULTILINE):
            if not name.endswith("_created"):
                assert rows[name][1] == kind, name
        for name, labels in re.findall(
            r"^(forebay_\w+?)(?:_bucket|_count|_sum|_created)?\{(.*?)\} ", text, re.MULTILINE
        ):
            found = {f"`{label}`" for label in re.findall(r'(\w+)="', labels)} - {"`le`"}
            assert found == set((rows.get(name) or rows[f"{name}_total"])[2].split(", ")), name
    named = {m for source in sources for m in re.findall(r'"(forebay_[a-z_]+)"', source)}
    told = {name for name in rows if name.startswith("forebay_")}
    assert len(named) > 25 and named == told, named ^ told


def _server_text() -> str:
    index = IndexStanding(1, 1, 1, 1, 1.0, 1)
    copy = SimpleNamespace(rows=lambda: {"user": 1}, as_of=lambda: 1, index=lambda: index)
    metrics = ServerMetrics(copy, lambda: Readiness(True))
    metrics("request", {"path": "/v1/rank", "status": 200, "seconds": 0.001, "waited": 0.0001})
    metrics("user_read", {"path": "/v1/rank", "seconds": 0.001})
    metrics("lookup_step", {"path": "/v1/rank", "step": "score", "seconds": 0.001})
    metrics("served", {"side": "user", "segment": "recent", "state": "fresh", "seconds": 1.0})
    return metrics.exposed("")[0].decode()


def _worker_text() -> str:
    census = Census(1, {"entities": 1}, {"recent": 1}, {"state": 8})
    standing = Standing(Source("events.user", 0, ""), Progress(1, 1, 1), 1, 1, 1, census)
    stage = SimpleNamespace(name="user", names=("user-0",))
    worker = SimpleNamespace(stage=stage, report=lambda: Report("user", {0: standing}))
    return WorkerMetrics([worker]).exposed("")[0].decode()


def test_every_message_and_limit_of_a_lookup_is_there(pages: Any, sources: list[str]) -> None:
    """Each struct of /v1, each path that the server answers, and how much one request may ask for."""
    page = pages("lookups.md")
    structs = [
        s for s in vars(messages).values() if hasattr(s, "__struct_fields__") and s.__module__ == messages.__name__
    ]
    assert len(structs) > 5
    for struct in structs:
        assert set(struct.__struct_fields__) <= set(page.table(struct.__name__)), struct.__name__
    paths = {m for text in sources for m in re.findall(r'Route\("([^"]+)"', text)}
    assert paths
    for path in paths:
        assert path.replace(":path", "") in page.text, f"lookups.md does not have {path}"
    for field in fields(EngineLimits):
        assert f"{field.default:,}" in page.own("Lookups"), f"lookups.md does not have {field.name}"
    for heading, options in (("Limits of a connection", ServerLimits), ("More than can be answered", AdmissionOptions)):
        rows = page.table(heading)
        for field in fields(options):
            assert rows[field.name][1] == f"`{field.default}`" and rows[field.name][2], field.name


@pytest.mark.parametrize(
    ("heading", "options"), [("`[training]`", TrainingOptions), ("`[training.retrieve]`", RetrieveOptions)]
)
def test_every_option_of_training_has_its_default_and_meaning(heading: str, options: Any, pages: Any) -> None:
    """Field by field, with the default that training would take."""
    rows = pages("spec.md").table(heading)
    for field in fields(options):
        if field.name == "retrieve":  # the table below
            continue
        assert field.name in rows, f"spec.md has no {field.name} under {heading}"
        _, default, meaning = rows[field.name]
        assert meaning, f"{field.name} has no comment in options.py"
        assert default.strip('`"') == (str(field.default).lower() if field.type == "bool" else str(field.default))


def test_the_pages_need_only_what_their_extra_installs() -> None:
    """What fills them imports none of the packages that run the system: the site is built where torch and Kafka are
    not."""
    heavy = ("confluent_kafka", "faiss", "kafka", "numba", "rocksdict", "torch", "xxhash")
    code = "from reference import slots; [fill() for fill in slots.SLOTS.values()]; "
    code += f"print([m for m in {heavy} if m in sys.modules])"
    path = [p for p in sys.path if p]
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path[:0] = {path!r}; {code}"],
        check=True, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.stdout.strip() == "[]"
