"""Damaged files for Hypothesis: each must be read, or refused with one line."""

import io
import json
import zipfile
import zlib

from hypothesis import strategies as st

from kdjax.types import UserError

# Sizes that a header may claim.
EXTREMES = (0, 1, 2, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**63 - 1, 2**64 - 1)
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.sampled_from((-1, 0, 1, 10**30, 0.5, 1e308, "", "x", "\x1b[2J"))
    | st.sampled_from((float("nan"), float("inf"))) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def read_or_refused(read, *arguments, **options):
    """What is read, or the one line with which it is refused."""
    try:
        return read(*arguments, **options)
    except UserError as error:
        line = str(error)
        assert line
        # A name in a file may hold a line break, which `cli.fail` folds.
        assert len(line) < 10_000
        return line


@st.composite
def damaged(draw, content):
    """Bytes with up to four edits, which need not keep their number."""
    data = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(1, 16))
        kind = draw(st.sampled_from(("replace", "set", "remove", "insert", "repeat", "cut")))
        if kind == "replace":
            data[at : at + length] = draw(st.binary(min_size=length, max_size=length))
        elif kind == "set":
            size = draw(st.sampled_from((1, 2, 4, 8)))
            value = draw(st.sampled_from(EXTREMES)) % 256**size
            data[at : at + size] = value.to_bytes(size, draw(st.sampled_from(("little", "big"))))
        elif kind == "remove":
            del data[at : at + length]
        elif kind == "insert":
            data[at:at] = draw(st.binary(min_size=1, max_size=length))
        elif kind == "repeat":
            data[at:at] = data[at : at + length] * draw(st.integers(1, 20))
        else:
            del data[at:]
    return bytes(data)


@st.composite
def damaged_archive(draw, content):
    """A zip archive whose damaged member has the right checksum, so that it is looked at."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    chosen = draw(st.sampled_from(sorted(members)))
    match draw(st.sampled_from(("damage", "remove", "rename", "swap"))):
        case "damage":
            members[chosen] = draw(damaged(members[chosen]))
        case "remove":
            del members[chosen]
        case "rename":
            members[draw(st.sampled_from(("x", "../x", "a.npy")))] = members.pop(chosen)
        case "swap":
            other = draw(st.sampled_from(sorted(members)))
            members[chosen], members[other] = members[other], members[chosen]
    file = io.BytesIO()
    kind = draw(st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)))
    with zipfile.ZipFile(file, "w", kind) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


@st.composite
def damaged_png(draw, content):
    """A PNG with a damaged chunk that has the right checksum."""
    chunks, at = [], 8
    while at < len(content):
        size = int.from_bytes(content[at : at + 4], "big")
        chunks.append((content[at + 4 : at + 8], content[at + 8 : at + 8 + size]))
        at += 12 + size
    i = draw(st.integers(0, len(chunks) - 1))
    name, data = chunks[i]
    chunks[i] = (name, draw(damaged(data)))
    parts = [
        len(data).to_bytes(4, "big") + name + data + zlib.crc32(name + data).to_bytes(4, "big")
        for name, data in chunks
    ]
    return content[:8] + b"".join(parts)


def _places(value, path=()):
    yield path
    inner = value.items() if isinstance(value, dict) else ()
    inner = enumerate(value) if isinstance(value, list) else inner
    for key, one in inner:
        yield from _places(one, (*path, key))


@st.composite
def damaged_json(draw, content):
    """JSON of which up to three values are replaced, renamed or missing, or damaged as bytes."""
    if draw(st.integers(0, 4)) == 0:
        return draw(damaged(content))
    whole = {"": json.loads(content)}
    for _ in range(draw(st.integers(1, 3))):
        *outer, key = draw(st.sampled_from([path for path in _places(whole) if path]))
        place = whole
        for part in outer:
            place = place[part]
        kind = draw(st.sampled_from(("replace", "remove", "rename")))
        if kind == "replace" or not outer:
            place[key] = draw(JSON_VALUES)
        elif kind == "remove" or isinstance(place, list):
            del place[key]
        else:
            place[draw(st.text(max_size=5))] = place.pop(key)
    return json.dumps(whole[""]).encode()
