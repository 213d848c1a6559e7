"""Rows of users that are not all in memory: each is found, and none is ever answered from an older copy."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from forebay.errors import ServerUnavailable
from forebay.segments.bundle import Bundle
from forebay.segments.spec import SIDES, Side
from forebay.segments.state.ids import hash_ids
from forebay.shard import ALL
from forebay.store import rowsocket
from forebay.store.codec import codec_of
from forebay.store.feedingcopy import FeedingCopy
from forebay.store.generation import Generation
from forebay.store.servingcopy import ServingCopy
from forebay.store.sharedcopy import SharedCopy
from forebay.store.vectors import Part

NOW = 1_790_000_000_000
ROOM = 50
USERS = [f"u{n}" for n in range(400)]
Open = Callable[..., ServingCopy]
Written = ServingCopy | FeedingCopy


@pytest.fixture
def opened(bundle: Bundle, tmp_path: Path) -> Iterator[Open]:
    """A copy with room for 50 users, over the same folder each time; the one before it is closed."""
    copies: list[ServingCopy] = []

    def start(room: int = ROOM) -> ServingCopy:
        for copy in copies:
            copy.close()
        generation = Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 1), {})
        copies.append(ServingCopy.open(bundle, generation, tmp_path / "g1", users_in_memory=room))
        copies[-1].load()
        return copies[-1]

    yield start
    copies[-1].close()


def _write(
    copy: ServingCopy | FeedingCopy, bundle: Bundle, ids: Sequence[str], version: int, gone: Sequence[str] = ()
) -> None:
    """Rows whose `last_event` is their version."""
    codec = codec_of(bundle, "user")
    rows = codec.empty(len(ids))
    for slot in codec.segments:
        part = rows["segments"][slot.name]
        part["vector"], part["scale"], part["as_of"], part["last_event"] = version % 127, 1, NOW, version
    puts = [(entity, 0, record) for entity, record in zip(ids, codec.pack(rows, ids), strict=True)]
    copy.write("user", puts, gone, {}, {})


def _version(copy: ServingCopy | SharedCopy, user: str) -> int | None:
    """What is read of a user; its times and its vector are of one version."""
    with copy.read("user", hash_ids([user]), [user]) as row:
        if row.names(np.zeros(1, np.int64)) != [user]:
            return None
        found = int(row.weakest(np.zeros(1, np.int64))[1].min())
        assert row.stored(0)[0].codes[0] == found % 127
        return found


def test_every_user_is_found_with_room_for_a_few(opened: Open, bundle: Bundle) -> None:
    copy = opened()
    _write(copy, bundle, USERS, 7)
    assert copy.rows()["user"] == ROOM
    assert [_version(copy, user) for user in USERS] == [7] * len(USERS)
    assert copy.rows()["user"] == ROOM == len(copy.hot or ())
    assert _version(copy, "nobody") is None
    assert [copy.at_hand("user", user) for user in USERS].count(True) == ROOM


def test_an_update_of_a_user_anywhere_is_what_is_read(opened: Open, bundle: Bundle) -> None:
    """In memory or in the store alone, and gone when it is deleted, in both places."""
    copy = opened()
    _write(copy, bundle, USERS, 1)
    inside, outside = ([u for u in USERS if copy.at_hand("user", u) is there][:5] for there in (True, False))
    _write(copy, bundle, [*inside, *outside], 2)
    assert [_version(copy, user) for user in [*inside, *outside]] == [2] * 10
    _write(copy, bundle, [], 0, [*inside, *outside])
    assert [_version(copy, user) for user in [*inside, *outside]] == [None] * 10
    _write(copy, bundle, [*inside, *outside], 3)
    assert [_version(copy, user) for user in [*inside, *outside]] == [3] * 10


def test_who_is_asked_for_often_comes_into_memory_and_is_so_after_a_restart(opened: Open, bundle: Bundle) -> None:
    copy = opened()
    _write(copy, bundle, USERS, 1)
    often = USERS[300:330]
    for _ in range(5):
        for user in [*often, *USERS[:200:7]]:
            _version(copy, user)
        for user in often:
            _version(copy, user)
    there = [user for user in often if copy.at_hand("user", user)]
    assert len(there) > 25
    copy.keep()
    _write(copy, bundle, often, 2)
    copy = opened()
    assert all(copy.at_hand("user", user) for user in there) and len(copy.hot or ()) == ROOM
    assert [_version(copy, user) for user in often] == [2] * len(often)
    copy = opened(room=10)
    assert len(copy.hot or ()) == 10 and sum(copy.at_hand("user", user) for user in often) == 10
    copy = opened(room=1000)
    assert len(copy.hot or ()) == len(USERS) and all(copy.at_hand("user", user) for user in USERS)


@pytest.mark.parametrize("damage", [b"", b"\x00" * 40, b"not this at all"])
def test_a_damaged_list_of_who_was_in_memory_is_left(
    opened: Open, bundle: Bundle, tmp_path: Path, damage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    copy = opened()
    _write(copy, bundle, USERS, 1)
    copy.keep()
    (tmp_path / "g1.hot").write_bytes(damage)
    copy = opened()
    assert "chosen anew" in caplog.text
    assert len(copy.hot or ()) == ROOM and _version(copy, USERS[-1]) == 1


def test_a_row_that_was_written_while_it_was_read_is_not_taken_in(
    opened: Open, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the two moments at which that can go wrong, this is the one that threads seldom meet."""
    copy = opened()
    _write(copy, bundle, USERS, 1)
    assert copy.store is not None
    read, user = copy.store.rows, next(user for user in USERS if not copy.at_hand("user", user))

    def rows(side: Side, ids: Sequence[str]) -> tuple[Part, list[str]]:
        found = read(side, ids)
        monkeypatch.undo()
        _write(copy, bundle, ids, 2)
        return found

    monkeypatch.setattr(copy.store, "rows", rows)
    assert _version(copy, user) == 1  # it was asked for before the write
    assert [_version(copy, user) for _ in range(3)] == [2] * 3
    assert copy.at_hand("user", user)


def test_a_row_that_was_just_updated_is_never_answered_from_an_older_copy(opened: Open, bundle: Bundle) -> None:
    copy = opened()
    _write(copy, bundle, USERS, 1)
    _hammer(copy, copy, bundle)


def _hammer(copy: ServingCopy | SharedCopy, feeding: Written, bundle: Bundle) -> None:
    """Beside a writer that does nothing else, users come into memory and leave it. What `write` has returned for is the
    least that a read which begins then may find; and no reader sees a version go back."""
    written = dict.fromkeys(USERS, 1)
    stop, failed = threading.Event(), list[str]()

    def read(seed: int) -> None:
        random, seen = np.random.default_rng(seed), dict.fromkeys(USERS, 0)
        while not stop.is_set():
            user = USERS[int(random.zipf(1.2)) % len(USERS)]
            least = max(written[user], seen[user])
            found = _version(copy, user)
            if found is None or found < least:
                failed.append(f"{user}: {found} after {least}")
                stop.set()
            else:
                seen[user] = found

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(3)]
    for reader in readers:
        reader.start()
    random = np.random.default_rng(9)
    for version in range(2, 1200):
        if stop.is_set():
            break
        some = [USERS[i] for i in np.unique(random.zipf(1.2, 6) % len(USERS))]
        _write(feeding, bundle, some, version)
        written.update(dict.fromkeys(some, version))
    stop.set()
    for reader in readers:
        reader.join(60)
    assert failed == []
    assert [_version(copy, user) for user in USERS] == [written[user] for user in USERS]


class Node:
    """A replica's copy, and what another process has of it."""

    def __init__(self, bundle: Bundle, folder: Path, room: int = ROOM) -> None:
        generation = Generation.new("g1", bundle.hash, dict.fromkeys(SIDES, 1), {})
        self.feeding = FeedingCopy.open(bundle, generation, folder / "vectors", folder / "tables", ALL, room)
        self.loaded = self.feeding.load()
        self.feeding.answer()
        self.copy = SharedCopy.open(bundle, generation, folder / "tables", ALL, users_elsewhere=True)

        self._ended = False

    def end(self) -> None:
        """The replica is there no more."""
        if not self._ended:
            self._ended = True
            self.feeding.close()

    def close(self) -> None:
        self.end()
        self.copy.close()


@pytest.fixture
def node(bundle: Bundle, tmp_path: Path) -> Iterator[Callable[..., Node]]:
    """A node over the same folder each time; the one before it is closed."""
    nodes: list[Node] = []

    def start(room: int = ROOM) -> Node:
        while nodes:
            nodes.pop().close()
        nodes.append(Node(bundle, tmp_path, room))
        return nodes[-1]

    yield start
    while nodes:
        nodes.pop().close()


def test_another_process_finds_every_user(node: Callable[..., Node], bundle: Bundle) -> None:
    """Those that are not in the table by asking the replica, which takes in who is asked for often; after a restart
    they are there, whether the table outlasted it or not."""
    there = node()
    _write(there.feeding, bundle, USERS, 7)
    assert there.copy.rows()["user"] == ROOM
    for _ in range(4):
        assert [_version(there.copy, user) for user in USERS[350:380]] == [7] * 30
    assert [_version(there.copy, user) for user in USERS] == [7] * len(USERS)
    assert _version(there.copy, "nobody") is None
    assert sum(there.copy.at_hand("user", user) for user in USERS[350:380]) > 20
    inside = [user for user in USERS if there.copy.at_hand("user", user)]
    assert len(inside) == ROOM
    there.feeding.keep()
    there = node()
    assert there.loaded == 0 and all(there.copy.at_hand("user", user) for user in inside)
    _write(there.feeding, bundle, USERS[340:390], 8, USERS[:3])
    assert [_version(there.copy, user) for user in USERS[335:345]] == [7] * 5 + [8] * 5
    assert _version(there.copy, USERS[0]) is None
    there.feeding._tables["user"].hold(0)  # as if nobody knew what the table has
    there = node()
    assert there.loaded >= ROOM and there.copy.rows()["user"] == ROOM
    assert [_version(there.copy, user) for user in USERS[340:390]] == [8] * 50
    there = node(room=20)
    assert there.copy.rows()["user"] == 20 and [_version(there.copy, u) for u in USERS[340:390]] == [8] * 50


def test_without_the_replica_users_in_memory_are_answered(node: Callable[..., Node], bundle: Bundle) -> None:
    """The others are a ServerUnavailable, and found when it is there again, by the same reader."""
    there = node()
    _write(there.feeding, bundle, USERS, 7)
    inside = next(user for user in USERS if there.copy.at_hand("user", user))
    outside = [user for user in USERS if not there.copy.at_hand("user", user)]
    assert _version(there.copy, outside[0]) == 7
    reader = there.copy
    there.end()
    assert _version(reader, inside) == 7
    with pytest.raises(ServerUnavailable, match=r"not in memory, .*See that the replica"):
        _version(reader, outside[1])
    node()
    assert [_version(reader, user) for user in outside[1:5]] == [7] * 4
    reader.close()


def test_what_is_no_request_ends_its_connection_alone(
    node: Callable[..., Node], bundle: Bundle, tmp_path: Path
) -> None:
    there = node()
    _write(there.feeding, bundle, USERS, 7)
    for junk in (b"\xff" * 8, b"\x08\0\0\0\xff\xff\xff\xff1234", b"\x06\0\0\0\0\0\0\0\xff\xfe", b"\x09"):
        with socket.socket(socket.AF_UNIX) as one:
            one.settimeout(10)
            with rowsocket._named(tmp_path / "tables") as name:
                one.connect(name)
            one.sendall(junk)
            one.shutdown(socket.SHUT_WR)
            with suppress(ConnectionResetError):  # it ended with some of the junk unread
                assert one.recv(10) == b""
    assert _version(there.copy, USERS[-1]) == 7


def test_a_user_who_leaves_memory_under_a_reading_is_found(node: Callable[..., Node], bundle: Bundle) -> None:
    """Whatever is asked of it first, and whatever next."""
    there, first = node(), np.zeros(1, np.int64)
    _write(there.feeding, bundle, USERS, 7)
    copy = there.copy
    inside = [user for user in USERS if copy.at_hand("user", user)]
    with ExitStack() as stack:
        early = [stack.enter_context(copy.read("user", hash_ids([user]), [user])) for user in inside]
        late = [stack.enter_context(copy.read("user", hash_ids([user]), [user])) for user in inside]
        for row in late:
            assert row.weakest(first)[1].min() == 7
        for user in USERS * 3:  # whoever is asked for more often comes in
            if user not in inside:
                _version(copy, user)
        out = [place for place, user in enumerate(inside) if not copy.at_hand("user", user)]
        assert len(out) >= 5
        ways: list[Callable[[Any, str], Any]] = [
            lambda row, user: row.one(user, 0).known,
            lambda row, user: row.names(first) == [user] and row.stored(0)[0].codes[0] == 7,
            lambda row, user: row.served()[1].all(),
            lambda row, user: row.found.all() and not len(row.strangers(first, [user])),
            lambda row, user: row.weakest(first)[1].min() == 7 and row.partition(0) == 0,
        ]
        for place, way in zip(out, cycle(ways), strict=False):
            for row in (early[place], late[place]):
                assert way(row, inside[place])
                assert all(other(row, inside[place]) for other in ways)


def test_another_process_never_reads_an_older_row(node: Callable[..., Node], bundle: Bundle) -> None:
    there = node()
    _write(there.feeding, bundle, USERS, 1)
    _hammer(there.copy, there.feeding, bundle)
