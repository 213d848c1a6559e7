"""`forebay.attach`: what a team's own module calls."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from forebay.config import Settings, load
from forebay.streams.installation import about, chosen, options_of, workers

if TYPE_CHECKING:
    from forebay.streams.host.stages import Stages
    from forebay.streams.worker.protocol import Worker


def attach(app: Any, settings: Settings | None = None, *, only: str | None = None, slot: str = "0") -> Stages:
    """Run the Intake and both sides of a generation, or `only` one stage (intake, user, item), in a faust app.

        app = faust.App("shop", broker="kafka://localhost:9092")
        forebay.attach(app)

    They start, stop and crash with the app, and connect to Kafka where it does, with its credentials. `settings` are
    those of forebay.toml and the environment when they are not given; of TLS they name the files. `slot` names this
    process: stable over restarts, another one for each process. GET /forebay of the app's web says how they are.

    To be called once, where the app is made. Raises MissingExtra, HookMissing and UsageError; what is wrong with
    settings, broker, bundle or stores is found when the app starts, and ends it by name.
    """
    from forebay.streams.transports.faust.hooks import check

    stages = chosen(only)
    check()
    from forebay.streams.host.connection import cluster_of_app
    from forebay.streams.host.sensor import Told
    from forebay.streams.host.stages import Carried, Stages
    from forebay.streams.host.view import add_views

    known = settings or load({})[0]
    options = options_of(known, slot)

    def make(carried: Carried) -> list[Worker]:
        return workers(known, cluster_of_app(app, known), stages, options, carried)

    service = Stages(app, make, about(known, stages, slot), options)
    app.add_dependency(service)
    app.sensors.add(Told())
    add_views(app, service.status)
    return service
