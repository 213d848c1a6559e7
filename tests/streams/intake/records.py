"""Records as producers write them, and as they never should."""

from __future__ import annotations

import json
import random

from forebay.events import Attributes, Behaviour, ItemUpdate, UserProfile, encode

TEXTS = ["a", "Film-Noir", "", "é", "日本", "🎬", " ", "x" * 40]
ODD_TEXTS = ["tab\t", 'quo"te', "back\\slash", "\u2028", "\x7f"]
NUMBERS = [0.0, 1.0, -1.0, 1995.0, 0.5, 3.25, 123456789012.5, 4.005, 0.1, -17.25]
ODD_NUMBERS = [1e-7, 1e22, -0.0, 0.1 + 0.2, 12345678901234567.0]
ODD = 0.04


def event(pick: random.Random) -> Behaviour | UserProfile | ItemUpdate:
    """Any that a publisher takes."""
    user, item = f"u{pick.randrange(50)}", pick.choice(["i1", "a b", "i" * 100])
    time = pick.choice([None, pick.randrange(1, 10**13), pick.randrange(1, 10**13)])
    name = pick.choice([None, f"{pick.getrandbits(128):032x}"])
    if pick.random() < ODD:
        user, item, time, name = "é", "日本", 1 << 52, "é"
    match pick.randrange(4):
        case 0:
            return UserProfile(user, _own(pick), time, name)
        case 1:
            return ItemUpdate(item, _own(pick), time, name)
    value = pick.choice([1.0, 4.005, round(pick.uniform(-99, 99), 3)])
    if pick.random() < ODD:
        value = pick.choice([pick.uniform(-1e6, 1e6), 1e-7, -0.0])
    return Behaviour(user, item, pick.choice(["rate", "view", _text(pick)]), value, time, name, _own(pick), _own(pick))


def canonical(pick: random.Random) -> bytes:
    """As our publisher writes it, or with its keys in another order and white space between them."""
    data = encode(event(pick))
    if pick.random() < 0.3:
        parts = list(json.loads(data).items())
        pick.shuffle(parts)
        space = pick.choice([None, 1, "\t"])
        data = json.dumps(dict(parts), ensure_ascii=pick.random() < 0.1, indent=space).encode()
    return data


def mutated(data: bytes, pick: random.Random) -> bytes:
    """A record with something odd in it: bytes changed, lost, doubled or put in, a piece of JSON in another's place."""
    if pick.random() < 0.4:
        return _changed(data, pick)
    for _ in range(pick.choice([1, 1, 1, 2, 3])):
        place = pick.randrange(len(data) + 1)
        match pick.randrange(6):
            case 0:
                data = data[:place] + bytes([pick.randrange(256)]) + data[place + 1 :]
            case 1:
                data = data[:place] + data[place + pick.randrange(4) :]
            case 2:
                data = data[:place] + data[max(0, place - pick.randrange(30)) :]
            case 3:
                data = data[:place] + pick.choice(PIECES) + data[place:]
            case 4:
                for old in pick.sample(SWAPS, 3):
                    data = data.replace(old, pick.choice(PIECES), 1)
            case _:
                data = data.replace(b"}", b"," + pick.choice(FIELDS) + b"}", 1)
    return data


PIECES = [
    b"null", b"true", b"1.0", b"01", b"-0", b"1e3", b"1.", b".5", b"-", b"[]", b"{}", b'""', b'"\\u0041"', b'"\xff"',
    b'"\xed\xa0\x80"', b"999999", b"1000000", b"999999.9999", b"0.0005", b"1234567890123456", b"123456789012345", b" ",
    b"\n", b"\x00", b",", b":", b'["a"]', b'["a",1]', b'[["a"]]', b'{"a":{}}', b'"tick"', b'"interaction"', b"\xc3\xa9",
    b"\xf4\x90\x80\x80", b"\xc0\x80", b"\x7f", b"4.0004999999999999", b"-5", b"[ ]", b"{ }", b'[ "a" , "b" ]',
]  # fmt: skip
SWAPS = [
    b'"behaviour"', b'"user_profile"', b'"item_update"', b"1.0", b'"a"', b'"rate"', b"1995.0", b'"user"', b'"item"',
    b'"genres"', b'"attributes"', b'"time"', b"{", b"[",
]  # fmt: skip
FIELDS = [
    b'"user":"u2"', b'"extra":1', b'"extra":{"a":[1,2]}', b'"value":1.5', b'"value":"1"', b'"time":5', b'"time":5.0',
    b'"time":-5', b'"time":0', b'"time":9007199254740992', b'"id":""', b'"id":"\x7f"', b'"attributes":{}',
    b'"attributes":{"a":1,"a":2}', b'"item_attributes":{"b":"c"}', b'"type":"tick"', b'"action":"x"', b'"item":"i"',
    b'"attributes":{"' + b"n" * 257 + b'":1}', b'"attributes":{"n":"' + b"v" * 257 + b'"}',
    b'"attributes":{"n":[' + b",".join([b'"a"'] * 65) + b"]}",
    b'"attributes":{' + b",".join(b'"n%d":1' % n for n in range(65)) + b"}",
    b'"attributes":{' + b",".join(b'"n%d":"%s"' % (n, b"v" * 200) for n in range(30)) + b"}",
]  # fmt: skip


def _changed(data: bytes, pick: random.Random) -> bytes:
    """One field more, or another value in one of them: odd, and still JSON for the most part."""
    parts = [(json.dumps(k).encode(), json.dumps(v).encode()) for k, v in json.loads(data).items()]
    place = pick.randrange(len(parts))
    if pick.random() < 0.5:
        parts[place] = (parts[place][0], pick.choice(PIECES))
        return b"{%s}" % b",".join(key + b":" + value for key, value in parts)
    fields = [key + b":" + value for key, value in parts]
    fields.insert(place, pick.choice(FIELDS))
    return b"{%s}" % b",".join(fields)


def _own(pick: random.Random) -> Attributes:
    found: Attributes = {}
    for name in pick.sample(["genres", "year", "a", "é", "type"], pick.randrange(4)):
        match pick.randrange(3):
            case 0:
                found[name] = _text(pick)
            case 1:
                found[name] = pick.choice(ODD_NUMBERS if pick.random() < ODD else NUMBERS)
            case _:
                found[name] = [_text(pick) for _ in range(pick.randrange(4))]
    return found


def _text(pick: random.Random) -> str:
    return pick.choice(ODD_TEXTS if pick.random() < ODD else TEXTS)
