"""A call before it is sent and after it is answered: what Client and AsyncClient say and understand alike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, NoReturn, TypeVar
from urllib.parse import quote

import msgspec

from forebay.errors import (
    BadRequest,
    DeadlineExceeded,
    ForebayError,
    GenerationUnavailable,
    Overloaded,
    ServerUnavailable,
    Unauthorized,
    WrongShard,
)
from forebay.retrieval.http1 import DO, AnswerReader, UnreadableAnswer
from forebay.retrieval.messages import (
    MSGPACK,
    BatchRequest,
    BatchResponse,
    EntityResponse,
    ErrorBody,
    ExplainRequest,
    RankRequest,
    RankResponse,
    Readiness,
    RetrieveRequest,
    WrongShardBody,
)

T = TypeVar("T")

_ERRORS: dict[str, type[ForebayError]] = {
    "bad_request": BadRequest,
    "not_found": BadRequest,
    "too_large": BadRequest,
    "generation_unavailable": GenerationUnavailable,
    "deadline_exceeded": DeadlineExceeded,
    "overloaded": Overloaded,
    "unauthorized": Unauthorized,
}
_ENCODER = msgspec.msgpack.Encoder()


@dataclass(frozen=True, slots=True)
class Call(Generic[T]):
    """One question. `user` is whose it is, None where it is nobody's; `body` is msgpack, None for a GET."""

    target: str
    answer: type[T]
    user: str | None = None
    body: bytes | None = None


class NotReady(Exception):
    """A 503 with `error`: not now, and maybe in `retry_after_s`, where the server says so."""

    def __init__(self, error: ForebayError, retry_after_s: float | None) -> None:
        super().__init__(str(error))
        self.error, self.retry_after_s = error, retry_after_s


def rank_request(
    user: str, candidates: Sequence[str], k: int, generation: str | None, explain: bool, filter: str,
    boost: Mapping[str, float], exclude_seen: bool, deny: Sequence[str], allow: Sequence[str] | None,
) -> RankRequest:  # fmt: skip
    """Of whatever sequences a caller has. Raises BadRequest where one is a single text, whose letters would be ids."""
    return RankRequest(
        user, _ids("candidates", candidates), k, generation, explain, filter, dict(boost), exclude_seen,
        _ids("deny", deny), None if allow is None else _ids("allow", allow),
    )  # fmt: skip


def retrieve_request(
    user: str, k: int, deny: Sequence[str], generation: str | None, explain: bool, filter: str,
    boost: Mapping[str, float], exclude_seen: bool, allow: Sequence[str] | None,
) -> RetrieveRequest:  # fmt: skip
    """As `rank_request`."""
    return RetrieveRequest(
        user, k, _ids("deny", deny), generation, explain, filter, dict(boost), exclude_seen,
        None if allow is None else _ids("allow", allow),
    )  # fmt: skip


def rank(request: RankRequest) -> Call[RankResponse]:
    return _asked("/v1/rank", RankResponse, request.user, request)


def retrieve(request: RetrieveRequest) -> Call[RankResponse]:
    return _asked("/v1/retrieve", RankResponse, request.user, request)


def explain(user: str, items: Sequence[str], generation: str | None) -> Call[RankResponse]:
    return _asked("/v1/explain", RankResponse, user, ExplainRequest(user, _ids("items", items), generation))


def batch(requests: Sequence[RankRequest]) -> Call[BatchResponse]:
    """Of its first user, where they are several."""
    user = requests[0].user if requests else None
    return _asked("/v1/batch", BatchResponse, user, BatchRequest(list(requests)))


def entity(side: Literal["user", "item"], id: str, vectors: bool) -> Call[EntityResponse]:
    path = f"/v1/entities/{side}/{quote(id, safe='')}"
    return Call(path + "?vectors=true" if vectors else path, EntityResponse, id if side == "user" else None)


READY = Call("/ready", Readiness)


def answered(call: Call[T], answer: AnswerReader, where: str) -> T:
    """What an answer says, of the server at `where`. Raises the error that it stands for, and NotReady."""
    status = answer.status
    if status != 200 and not (status == 503 and call.answer is Readiness):
        _refused(status, answer, where)
    media = answer.headers.get(b"content-type", b"")
    if media and b"msgpack" not in media:
        raise UnreadableAnswer(f"the answer is {media[:40].decode('latin-1')}", where=where, do=DO)
    try:
        return msgspec.msgpack.decode(answer.body, type=call.answer)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UnreadableAnswer(f"the answer cannot be read: {error}", where=where, do=DO) from None


def _refused(status: int, answer: AnswerReader, where: str) -> NoReturn:
    try:
        body = msgspec.msgpack.decode(answer.body, type=ErrorBody)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):  # something in between answered
        do = "Is this the address of a lookup server, and what stands before it?"
        body = ErrorBody("internal", f"status {status} from something that is not a Forebay server", do)
    if body.error == "wrong_shard":
        told = msgspec.msgpack.decode(answer.body, type=WrongShardBody)
        raise WrongShard(told.message, where=where, do=told.do, shard=told.shard)
    error = _ERRORS.get(body.error, ServerUnavailable)(body.message, where=where, do=body.do)
    if status == 503 and not isinstance(error, Overloaded):
        raise NotReady(error, _retry_after_s(answer.headers))
    raise error


def _retry_after_s(headers: Mapping[bytes, bytes]) -> float | None:
    """Whole seconds; a date is nothing that a server of ours sends."""
    text = headers.get(b"retry-after", b"")
    return float(text) if text.isdigit() and len(text) < 6 else None


def _asked(target: str, answer: type[T], user: str | None, body: msgspec.Struct) -> Call[T]:
    try:
        return Call(target, answer, user, _ENCODER.encode(body))
    except (UnicodeEncodeError, TypeError, OverflowError) as error:
        raise BadRequest(f"the request cannot be sent: {error}", do="Send ids as text, in UTF-8") from None


def request_lines(token: str) -> tuple[str, str]:
    """The headers of each GET and of each POST, as `request_head` wants them."""
    lines = f"accept: {MSGPACK}\r\n" + (f"authorization: Bearer {token}\r\n" if token else "")
    return lines, lines + f"content-type: {MSGPACK}\r\n"


def _ids(name: str, given: Sequence[str]) -> list[str]:
    if isinstance(given, str):
        raise BadRequest(f"{name} is one text, {given[:40]!r}", do="Give a list of ids")
    return list(given)
