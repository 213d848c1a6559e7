"""Vectors of peers.py into a Redis: a key is an id, a value the vector's bytes in `form`.

python redis_fill.py '{"port": …, "form": "int8" | "float16", …}'
"""

from __future__ import annotations

import json
import sys

import numpy as np
import redis
import vectors

FILL = 10_000


def main() -> int:
    given = json.loads(sys.argv[1])
    client = redis.Redis(port=given["port"])
    for letter, codes in zip("ui", vectors.codes(given), strict=True):
        if given["form"] == "float16":
            codes = (codes * np.float32(vectors.SCALE)).astype(np.float16)
        for first in range(0, len(codes), FILL):
            part = codes[first : first + FILL]
            client.mset({f"{letter}{first + n}": row.tobytes() for n, row in enumerate(part)})
    return 0


if __name__ == "__main__":
    sys.exit(main())
