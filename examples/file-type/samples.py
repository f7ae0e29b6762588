"""Files of known type: written from fragments, generated with the standard library, or collected from the Python
installation and the packages that are installed anyway. Names of types are magika's. The same machine always gives
the same files: everything random is seeded, everything collected is sorted.
"""

from __future__ import annotations

import base64
import bz2
import csv
import difflib
import email.message
import functools
import gzip
import io
import itertools
import json
import lzma
import marshal
import math
import pickle
import plistlib
import random
import re
import sqlite3
import struct
import sysconfig
import tarfile
import wave
import zipfile
import zlib
from collections.abc import Callable, Iterator
from importlib.util import MAGIC_NUMBER
from pathlib import Path

import numpy as np
from written import WRITTEN

WORDS = [
    "account",
    "archive",
    "badge",
    "basket",
    "battery",
    "border",
    "branch",
    "bridge",
    "bucket",
    "buffer",
    "cabin",
    "camera",
    "cargo",
    "castle",
    "channel",
    "charge",
    "circle",
    "client",
    "cluster",
    "column",
    "copper",
    "corner",
    "cotton",
    "counter",
    "credit",
    "cursor",
    "danger",
    "device",
    "dinner",
    "doctor",
    "driver",
    "engine",
    "entry",
    "export",
    "fabric",
    "factor",
    "farmer",
    "filter",
    "finger",
    "forest",
    "frame",
    "garden",
    "gateway",
    "ginger",
    "globe",
    "hammer",
    "handle",
    "harbor",
    "header",
    "helper",
    "hidden",
    "index",
    "insect",
    "island",
    "jacket",
    "kernel",
    "kitchen",
    "ladder",
    "lantern",
    "leader",
    "ledger",
    "lemon",
    "letter",
    "license",
    "manner",
    "marble",
    "market",
    "master",
    "matrix",
    "meadow",
    "member",
    "metal",
    "minute",
    "mirror",
    "module",
    "motor",
    "needle",
    "network",
    "number",
    "object",
    "office",
    "option",
    "orange",
    "order",
    "oven",
    "packet",
    "panel",
    "parcel",
    "parser",
    "pencil",
    "people",
    "pepper",
    "planet",
    "pocket",
    "policy",
    "portal",
    "profile",
    "quarter",
    "query",
    "queue",
    "rabbit",
    "record",
    "region",
    "remote",
    "report",
    "resource",
    "river",
    "rocket",
    "sample",
    "sensor",
    "server",
    "shadow",
    "signal",
    "silver",
    "socket",
    "source",
    "spring",
    "station",
    "stream",
    "summer",
    "supply",
    "switch",
    "table",
    "target",
    "ticket",
    "timber",
    "token",
    "trader",
    "travel",
    "tunnel",
    "update",
    "valley",
    "vector",
    "vendor",
    "vessel",
    "village",
    "volume",
    "wagon",
    "water",
    "window",
    "winter",
    "worker",
    "yellow",
    "zone",
]


def samples(per_type: int, *, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """`(type, content)`; at most `per_type` of each type, in a fixed order."""
    for kind, make in sorted(MAKERS.items()):
        for i in range(per_type):
            yield kind, make(random.Random(f"{seed} {kind} {i}"))
    for kind, patterns in sorted(COLLECTED.items()):
        for content in collected(patterns, per_type):
            yield kind, content


def word(rng: random.Random) -> str:
    return rng.choice(WORDS)


def sentence(rng: random.Random) -> str:
    text = " ".join(word(rng) for _ in range(rng.randint(5, 14)))
    return f"The {text}{rng.choice(('.', '.', '?', '; see below.'))}"


def prose(rng: random.Random, paragraphs: int = 3) -> str:
    return "\n\n".join(" ".join(sentence(rng) for _ in range(rng.randint(2, 6))) for _ in range(paragraphs))


def written(rng: random.Random, *, kind: str) -> bytes:
    """A source file from the fragments of its language."""
    head, fragments = WRITTEN[kind]
    parts = [filled(fragment, rng) for fragment in rng.choices(fragments, k=rng.randint(3, 9))]
    return (filled(head, rng) + "".join(parts)).encode()


def filled(fragment: str, rng: random.Random) -> str:
    names = {key: word(rng) for key in "abc"}
    names |= {key.upper(): name.capitalize() for key, name in names.items()}
    names |= {key: str(rng.randint(2, 99)) for key in "nm"}
    return re.sub(r"\$([abcABCnm])", lambda match: names[match[1]], fragment)


def records(rng: random.Random, count: int) -> list[dict[str, object]]:
    keys = rng.sample(WORDS, 5)
    return [
        {keys[0]: i, keys[1]: word(rng), keys[2]: rng.random() < 0.5, keys[3]: round(rng.uniform(0, 99), 3), keys[4]: sentence(rng)}
        for i in range(count)
    ]  # fmt: skip


def table(rng: random.Random, *, delimiter: str) -> bytes:
    rows = records(rng, rng.randint(15, 60))
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0])[:4], delimiter=delimiter, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def json_text(rng: random.Random) -> bytes:
    value = {"version": rng.randint(1, 9), word(rng): records(rng, rng.randint(2, 9)), "name": word(rng)}
    return json.dumps(value, indent=rng.choice((None, 2, 4))).encode()


def json_lines(rng: random.Random) -> bytes:
    return "".join(json.dumps(r) + "\n" for r in records(rng, rng.randint(5, 30))).encode()


def notebook(rng: random.Random) -> bytes:
    cells = [
        {"cell_type": "code", "execution_count": i, "metadata": {}, "outputs": [], "source": [f"{word(rng)} = {i}\n"]}
        for i in range(rng.randint(2, 8))
    ]
    meta = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    return json.dumps({"cells": cells, "metadata": meta, "nbformat": 4, "nbformat_minor": 5}, indent=1).encode()


def xml_text(rng: random.Random) -> bytes:
    def element(depth: int) -> str:
        tag, pad = word(rng), "  " * depth
        if depth > 3 or rng.random() < 0.3:
            return f'{pad}<{tag} id="{rng.randint(1, 999)}">{word(rng)}</{tag}>\n'
        return f"{pad}<{tag}>\n{''.join(element(depth + 1) for _ in range(rng.randint(2, 5)))}{pad}</{tag}>\n"

    return f'<?xml version="1.0" encoding="UTF-8"?>\n<!-- {word(rng)} -->\n<root>\n{element(0)}{element(0)}</root>\n'.encode()


def html(rng: random.Random) -> bytes:
    items = "".join(f'<li><a href="/{word(rng)}.html">{sentence(rng)}</a></li>\n' for _ in range(rng.randint(3, 9)))
    return (
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{word(rng)}</title>\n'
        f'<link rel="stylesheet" href="{word(rng)}.css">\n</head>\n<body>\n<h1>{word(rng)}</h1>\n'
        f'<div class="{word(rng)}">\n<p>{prose(rng, 1)}</p>\n<ul>\n{items}</ul>\n</div>\n</body>\n</html>\n'
    ).encode()


def svg(rng: random.Random) -> bytes:
    shapes = "".join(
        f'  <path d="M{rng.randint(0, 99)} {rng.randint(0, 99)} L{rng.randint(0, 99)} {rng.randint(0, 99)} Z" fill="#{rng.randrange(2**24):06x}"/>\n'
        for _ in range(rng.randint(4, 20))
    )
    return f'<svg xmlns="http://www.w3.org/2000/svg" width="100" height="100" viewBox="0 0 100 100">\n{shapes}</svg>\n'.encode()


def markdown(rng: random.Random) -> bytes:
    parts = [f"# {word(rng).capitalize()} {word(rng)}\n\n{prose(rng, 1)}\n"]
    for _ in range(rng.randint(2, 5)):
        items = "".join(f"- **{word(rng)}**: [{word(rng)}](https://example.com/{word(rng)})\n" for _ in range(3))
        parts.append(
            f"\n## {word(rng).capitalize()}\n\n{sentence(rng)}\n\n{items}\n```sh\npip install {word(rng)}\n```\n"
        )
    return "".join(parts).encode()


def mail(rng: random.Random) -> bytes:
    message = email.message.EmailMessage()
    message["From"] = f"{word(rng)}@example.com"
    message["To"] = f"{word(rng)}@example.org"
    message["Subject"] = sentence(rng)
    message["Message-ID"] = f"<{rng.randrange(10**12)}@example.com>"
    message["Date"] = "Mon, 05 Jan 2026 10:00:00 +0000"
    message.set_content(prose(rng, 2))
    return bytes(message)


def diff(rng: random.Random) -> bytes:
    before = written(rng, kind=rng.choice(("c", "go", "java", "ruby"))).decode().splitlines(keepends=True)
    after = [line for line in before if rng.random() > 0.1] + [f"// {sentence(rng)}\n"]
    name = word(rng)
    return "".join(difflib.unified_diff(before, after, f"a/{name}.c", f"b/{name}.c")).encode()


def calendar(rng: random.Random) -> bytes:
    events = "".join(
        f"BEGIN:VEVENT\r\nUID:{rng.randrange(10**9)}@example.com\r\nDTSTAMP:20260105T100000Z\r\nDTSTART:202601{rng.randint(10, 28)}T090000Z\r\nSUMMARY:{sentence(rng)}\r\nEND:VEVENT\r\n"
        for _ in range(rng.randint(1, 6))
    )
    return f"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//{word(rng)}//EN\r\n{events}END:VCALENDAR\r\n".encode()


def subtitles(rng: random.Random, *, web: bool) -> bytes:
    mark = "." if web else ","
    lines = []
    for i in range(1, rng.randint(8, 30)):
        number = "" if web else f"{i}\n"
        lines.append(
            f"{number}00:{i:02d}:01{mark}{rng.randint(100, 999)} --> 00:{i:02d}:04{mark}000\n{sentence(rng)}\n\n"
        )
    return (("WEBVTT\n\n" if web else "") + "".join(lines)).encode()


def pem(rng: random.Random) -> bytes:
    body = base64.encodebytes(b"\x30\x82" + rng.randbytes(rng.randint(500, 1200))).replace(b"\n", b"")
    lines = b"\n".join(body[i : i + 64] for i in range(0, len(body), 64))
    name = rng.choice((b"CERTIFICATE", b"RSA PRIVATE KEY", b"PUBLIC KEY"))
    return b"-----BEGIN " + name + b"-----\n" + lines + b"\n-----END " + name + b"-----\n"


def translation(rng: random.Random) -> bytes:
    head = 'msgid ""\nmsgstr ""\n"Project-Id-Version: 1\\n"\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
    return (head + "".join(f'#: {word(rng)}.c:{rng.randint(1, 999)}\nmsgid "{sentence(rng)}"\nmsgstr "{sentence(rng)}"\n\n' for _ in range(12))).encode()  # fmt: skip


def playlist(rng: random.Random) -> bytes:
    return ("#EXTM3U\n" + "".join(f"#EXTINF:{rng.randint(60, 400)},{word(rng)} - {word(rng)}\nmusic/{word(rng)}.mp3\n" for _ in range(15))).encode()  # fmt: skip


def property_list(rng: random.Random, *, binary: bool) -> bytes:
    value = {r[next(iter(r))].__str__(): r for r in records(rng, rng.randint(4, 12))}
    return plistlib.dumps(value, fmt=plistlib.FMT_BINARY if binary else plistlib.FMT_XML)


def content(rng: random.Random) -> bytes:
    """Something to put into an archive."""
    return rng.choice((json_text, html, markdown, lambda r: prose(r).encode(), lambda r: r.randbytes(3000)))(rng)


def zip_archive(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", rng.choice((zipfile.ZIP_DEFLATED, zipfile.ZIP_STORED))) as archive:
        for _ in range(rng.randint(1, 6)):
            info = zipfile.ZipInfo(f"{word(rng)}/{word(rng)}{rng.randrange(10**6)}.dat", (2026, 1, 5, 10, 0, 0))
            archive.writestr(info, content(rng), archive.compression)
    return out.getvalue()


def java_archive(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        names = [
            "META-INF/",
            "META-INF/MANIFEST.MF",
            *(f"com/example/{word(rng)}{i}.class" for i in range(rng.randint(3, 9))),
        ]
        for name in names:
            body = (
                b"Manifest-Version: 1.0\r\n\r\n"
                if name.endswith("MF")
                else b"\xca\xfe\xba\xbe\0\0\0\x34" + rng.randbytes(800)
            )
            archive.writestr(zipfile.ZipInfo(name, (2026, 1, 5, 10, 0, 0)), b"" if name.endswith("/") else body)
    return out.getvalue()


def tar_archive(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for _ in range(rng.randint(1, 6)):
            body = content(rng)
            info = tarfile.TarInfo(f"{word(rng)}/{word(rng)}.txt")
            info.size = len(body)
            archive.addfile(info, io.BytesIO(body))
    return out.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def pixels(rng: random.Random, width: int, height: int) -> np.ndarray:
    """A smooth colour picture, uint8 of shape (height, width, 3)."""
    y, x = np.mgrid[0:height, 0:width]
    waves = [np.sin(x / rng.uniform(3, 30) + y / rng.uniform(3, 30) + rng.uniform(0, 6)) for _ in range(3)]
    return (np.stack(waves, -1) * 120 + 128).astype(np.uint8)


def png(rng: random.Random) -> bytes:
    width, height = rng.randint(16, 120), rng.randint(16, 120)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels(rng, width, height))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def gif(rng: random.Random) -> bytes:
    width, height = rng.randint(8, 60), rng.randint(8, 60)
    palette = rng.randbytes(3 * 128)
    # LZW without compression: 7-bit codes, with a clear code before the table could grow.
    bits = "".join(
        format(c, "08b")[::-1] for c in itertools.chain.from_iterable((128, *pair) for pair in zip(*[iter(rng.choices(range(128), k=width * height // 100 * 100))] * 100, strict=False))
    ) + format(129, "08b")[::-1]  # fmt: skip
    data = bytes(int(bits[i : i + 8][::-1], 2) for i in range(0, len(bits), 8))
    blocks = b"".join(bytes([len(data[i : i + 255])]) + data[i : i + 255] for i in range(0, len(data), 255))
    size = struct.pack("<HH", width, height)
    return b"GIF89a" + size + b"\xf6\0\0" + palette + b"\x2c\0\0\0\0" + size + b"\0\x07" + blocks + b"\0\x3b"


def bmp(rng: random.Random) -> bytes:
    width, height = 4 * rng.randint(4, 30), rng.randint(16, 100)
    data = pixels(rng, width, height).tobytes()
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(data), 2835, 2835, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(data), 0, 0, 54) + info + data


def icon(rng: random.Random) -> bytes:
    image = png(rng)
    return struct.pack("<HHH", 0, 1, 1) + struct.pack("<BBBBHHII", 32, 32, 0, 0, 1, 32, len(image), 22) + image


def wav(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(rng.choice((1, 2)))
        sound.setsampwidth(2)
        sound.setframerate(rng.choice((8000, 22050, 44100)))
        step = rng.uniform(0.01, 0.3)
        samples_ = [int(12000 * math.sin(i * step) + rng.gauss(0, 300)) for i in range(2 * rng.randint(800, 4000))]
        sound.writeframes(struct.pack(f"<{len(samples_)}h", *samples_))
    return out.getvalue()


def midi(rng: random.Random) -> bytes:
    notes = b"".join(
        bytes([rng.randint(0, 96), 0x90, n := rng.randint(40, 80), 90, 96, 0x80, n, 0])
        for _ in range(rng.randint(30, 200))
    )
    track = b"\0\xff\x51\x03\x07\xa1\x20" + notes + b"\0\xff\x2f\0"
    return b"MThd" + struct.pack(">IHHH", 6, 0, 1, 480) + b"MTrk" + struct.pack(">I", len(track)) + track


def pdf(rng: random.Random) -> bytes:
    text = f"BT /F1 12 Tf 72 720 Td ({sentence(rng)}) Tj ET\n".encode() * rng.randint(1, 20)
    stream = zlib.compress(text + rng.randbytes(600))
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R /Resources << /Font << /F1 5 0 R >> >> >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n" % len(stream) + stream + b"\nendstream",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
    ]
    out, offsets = b"%PDF-1.4\n%\xe2\xe3\xcf\xd3\n", []
    for i, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n" % i + body + b"\nendobj\n"
    table_ = b"".join(b"%010d 00000 n \n" % o for o in offsets)
    tail = b"trailer\n<< /Size 6 /Root 1 0 R >>\nstartxref\n%d\n%%%%EOF\n" % len(out)
    return out + b"xref\n0 6\n0000000000 65535 f \n" + table_ + tail


def rich_text(rng: random.Random) -> bytes:
    body = "\\par\n".join(f"{{\\b {word(rng)}}} {sentence(rng)}" for _ in range(12))
    return f"{{\\rtf1\\ansi\\deff0{{\\fonttbl{{\\f0 Times New Roman;}}}}\n\\f0\\fs24 {body}\\par\n}}\n".encode()


def postscript(rng: random.Random) -> bytes:
    lines = "".join(f"{rng.randint(0, 500)} {rng.randint(0, 700)} moveto ({word(rng)}) show\n" for _ in range(20))
    return f"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 612 792\n%%EndComments\n/Times-Roman findfont 12 scalefont setfont\n{lines}showpage\n%%EOF\n".encode()


def database(rng: random.Random) -> bytes:
    connection = sqlite3.connect(":memory:")
    name = word(rng)
    connection.execute(f"CREATE TABLE {name}_log (id INTEGER PRIMARY KEY, label TEXT, value REAL)")
    connection.executemany(
        f"INSERT INTO {name}_log (label, value) VALUES (?, ?)",
        [(sentence(rng), rng.random()) for _ in range(rng.randint(5, 60))],
    )
    connection.commit()
    try:
        return connection.serialize()
    finally:
        connection.close()


def array(rng: random.Random) -> np.ndarray:
    kind = rng.choice((np.float32, np.int64, np.float64))
    return (
        np.random.default_rng(rng.randrange(2**32)).normal(0, 50, (rng.randint(5, 60), rng.randint(2, 9))).astype(kind)
    )


def npy(rng: random.Random) -> bytes:
    out = io.BytesIO()
    np.save(out, array(rng))
    return out.getvalue()


def npz(rng: random.Random) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in rng.sample(WORDS, 3):
            archive.writestr(zipfile.ZipInfo(f"{name}.npy"), npy(rng))
    return out.getvalue()


def bytecode(rng: random.Random) -> bytes:
    source = "\n".join(
        f"def {word(rng)}_{i}({word(rng)}_x, y={rng.randint(1, 9)}):\n    '''{sentence(rng)}'''\n    return [{word(rng)}_x * y for {word(rng)}_x in range(y)]"
        for i in range(rng.randint(3, 12))
    )
    # Version 2 has no references: how often an object is used must not change the bytes.
    return (
        MAGIC_NUMBER
        + struct.pack("<III", 0, 1767607200, len(source))
        + marshal.dumps(compile(source, f"{word(rng)}.py", "exec"), 2)
    )


COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": functools.partial(gzip.compress, mtime=0),
    "bzip": bz2.compress,
    "xz": lzma.compress,
    "zlibstream": zlib.compress,
}
MAKERS: dict[str, Callable[[random.Random], bytes]] = {
    **{kind: functools.partial(written, kind=kind) for kind in WRITTEN},
    **{kind: (lambda rng, pack=pack: pack(content(rng) + content(rng))) for kind, pack in COMPRESSED.items()},
    "applebplist": functools.partial(property_list, binary=True),
    "appleplist": functools.partial(property_list, binary=False),
    "bmp": bmp,
    "csv": functools.partial(table, delimiter=","),
    "diff": diff,
    "eml": mail,
    "gif": gif,
    "html": html,
    "ico": icon,
    "ics": calendar,
    "ipynb": notebook,
    "jar": java_archive,
    "json": json_text,
    "jsonl": json_lines,
    "m3u": playlist,
    "markdown": markdown,
    "midi": midi,
    "npy": npy,
    "npz": npz,
    "pdf": pdf,
    "pem": pem,
    "pickle": lambda rng: pickle.dumps(records(rng, rng.randint(3, 20)), protocol=4),
    "png": png,
    "po": translation,
    "postscript": postscript,
    "pythonbytecode": bytecode,
    "rtf": rich_text,
    "sqlite": database,
    "srt": functools.partial(subtitles, web=False),
    "svg": svg,
    "tar": tar_archive,
    "tsv": functools.partial(table, delimiter="\t"),
    "txt": lambda rng: prose(rng, rng.randint(3, 9)).encode(),
    "vtt": functools.partial(subtitles, web=True),
    "wav": wav,
    "xml": xml_text,
    "zip": zip_archive,
}

#: Kinds that are better found than made: (folder of the installation, pattern).
COLLECTED = {
    "elf": (("platstdlib", "lib-dynload/*.so"), ("platlib", "numpy/**/*.so"), ("platlib", "sklearn/**/*.so")),
    "python": (("stdlib", "[a-z]*.py"), ("platlib", "numpy/lib/*.py")),
    "rst": (("platlib", "numpy/**/*.rst"), ("platlib", "sklearn/**/*.rst")),
    "onnx": (("platlib", "onnx/backend/test/data/node/*/model.onnx"),),
    "proto": (("platlib", "onnx/*.proto"),),
}  # fmt: skip


def collected(patterns: tuple[tuple[str, str], ...], limit: int) -> Iterator[bytes]:
    """Up to `limit` files, spread evenly over what is found; only files that hold enough to tell."""
    found = []
    for root, pattern in patterns:
        folder = Path(sysconfig.get_path(root))
        found += sorted(p for p in folder.glob(pattern) if 300 < p.stat().st_size < 8_000_000)
    for path in found[:: max(1, len(found) // limit)][:limit]:
        yield path.read_bytes()
