"""Rebuilds `lens_core/data/reference.txt.bz2`, byte for byte, from unpacked Debian packages.

The bundled reference must be prose that we may ship, of several kinds, because
the averages of a lens are taken over it: fiction and dialogue, dictionary
entries with their examples, ancient narrative in modern English, a programming
tutorial, and technical and statistical documentation. Sources and licences are
in `lens_core/data/LICENSES.md`, with the versions that give this exact file.

    apt-get download wordnet-base r-cran-janeaustenr sword-text-web \\
        rust-doc python3.11-doc sqlite3-doc python-sklearn-doc
    for f in *.deb; do dpkg -x "$f" "unpacked/${f%%_*}"; done
    python tools/make_reference_text.py unpacked/*

Each source is cut in passages of whole consecutive paragraphs; passages at even
distances are taken until the source's share is full, and all of them are put in
the order of their hashes. Takes a few seconds; only the standard library.
"""

from __future__ import annotations

import bz2
import hashlib
import html.parser
import re
import struct
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

OUTPUT = Path(__file__).parent.parent / "lens_core" / "data" / "reference.txt.bz2"
PASSAGE = 1600  # characters: long enough that few chunks cross two passages
PROSE = re.compile(r"""["'“‘(]?[A-Z].*[.!?]["'”’)]*""", re.DOTALL)
INDECENT = re.compile("offens|dysphem|slur|dispara|deroga|vulgar|obscen|racis|rape|sex|penis")
LETTERS = re.compile(r"[A-Za-z ,.;'’]")


def prose(paragraphs: Iterator[str]) -> Iterator[str]:
    """The paragraphs that are whole sentences, with white space made single spaces."""
    seen = set()
    for paragraph in paragraphs:
        text = " ".join(paragraph.split())
        wordy = len(LETTERS.findall(text)) > 0.95 * len(text)
        if 120 <= len(text) <= 2400 and wordy and PROSE.fullmatch(text) and text not in seen:
            seen.add(text)
            yield text


def austen(package: Path) -> Iterator[str]:
    """Jane Austen's novels: R character vectors of printed lines, a compressed object each."""
    database = (package / "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb").read_bytes()
    start = 0
    while start < len(database):
        stream = zlib.decompressobj()
        novel = stream.decompress(database[start + 4 :])  # four bytes of length go before each
        start = len(database) - len(stream.unused_data)
        lines = []
        at = novel.index(b"\x00\x04\x00\x09")  # the first string of the vector
        while novel[at : at + 4] == b"\x00\x04\x00\x09":
            (size,) = struct.unpack(">i", novel[at + 4 : at + 8])
            lines.append(novel[at + 8 : at + 8 + size].decode())
            at += 8 + size
        yield from "\n".join(lines).replace("--", " -- ").replace("_", "").split("\n\n")


def wordnet(package: Path) -> Iterator[str]:
    """Dictionary entries that come with an example, eight neighbours to a paragraph.

    Entries that WordNet marks as belonging to a usage domain (`;u`: slang,
    slurs, obscenity) or describes as offensive are left out, with some others.
    """
    for part in ("noun", "verb", "adj", "adv"):
        entries = []
        data = package / "usr/share/wordnet" / f"data.{part}"
        for line in data.read_text("utf-8").replace("`", "'").splitlines():
            fields, _, gloss = line.partition(" | ")
            if line.startswith(" ") or '"' not in gloss or " ;u " in fields:
                continue
            if INDECENT.search(line):
                continue
            _, _, _, count, *words = fields.split(" ")
            lemmas = [re.sub(r"\(.*\)", "", word) for word in words[: 2 * int(count, 16) : 2]]
            entry = f"{', '.join(lemmas).replace('_', ' ')}: {gloss.strip()}."
            entries.append(entry[0].upper() + entry[1:])
        for start in range(0, len(entries), 8):
            yield " ".join(entries[start : start + 8])


def world_english_bible(package: Path) -> Iterator[str]:
    """Narrative and letters in modern English: one compressed OSIS text a book."""
    folder = package / "usr/share/sword/modules/texts/ztext/engWEB2015eb"
    for testament in ("ot", "nt"):
        index = (folder / f"{testament}.bzs").read_bytes()
        blocks = (folder / f"{testament}.bzz").read_bytes()
        for start, size, _ in struct.iter_unpack("<III", index):
            book = zlib.decompress(blocks[start : start + size]).decode() if size else ""
            book = re.sub(r"<(note|title)\b.*?</\1>", "", book, flags=re.DOTALL)
            for paragraph in re.split(r'<div [^>]*type="x-p"/>|<lg\b|<chapter\b', book):
                words = " ".join(re.sub(r"<[^>]*>|^[^<]*>", " ", paragraph).split())
                yield re.sub(r"(?<=[“‘(]) | (?=[,.;:?!”’)])", "", words)


class Paragraphs(html.parser.HTMLParser):
    """Collects the text of the `p` elements of a page."""

    BREAKS = frozenset({"p", "pre", "div", "ul", "ol", "li", "table", "blockquote", "script"})

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.inside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in self.BREAKS:
            self.inside = tag == "p"
            if self.inside:
                self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.BREAKS:
            self.inside = False

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.found[-1] += data


def pages(folder: str, pattern: str) -> Callable[[Path], Iterator[str]]:
    """A source with paragraphs in HTML files."""

    def read(package: Path) -> Iterator[str]:
        for page in sorted((package / folder).glob(pattern)):
            parser = Paragraphs()
            parser.feed(page.read_text("utf-8"))
            yield from parser.found

    return read


def restructured(folder: str, *patterns: str) -> Callable[[Path], Iterator[str]]:
    """A source with (unindented) paragraphs in reStructuredText files."""

    def plain(text: str) -> str:
        text = re.sub(r"\s*\[[\w#*]+\]_", "", text)
        text = re.sub(r":[\w:+-]+:`[~!]?([^`<]+?)(\s*<[^`]*>)?`", r"\1", text)
        text = re.sub(r"``(.+?)``", r"\1", text, flags=re.DOTALL)
        text = re.sub(r"`([^`<]+?)(\s*<[^`]*>)?`_{0,2}", r"\1", text)
        return re.sub(r"(?<!\w)(\*\*?)([^*]+)\1", r"\2", text).replace("\\ ", "")

    def read(package: Path) -> Iterator[str]:
        for pattern in patterns:
            for page in sorted((package / folder).glob(pattern)):
                for block in re.split(r"\n\s*\n", page.read_text("utf-8")):
                    if not re.search(r"^[\s.*\-#+|=]|^\d|:math:|sphx_", block):
                        yield plain(block)

    return read


SOURCES: dict[str, tuple[int, Callable[[Path], Iterator[str]]]] = {
    "r-cran-janeaustenr": (150_000, austen),
    "wordnet-base": (150_000, wordnet),
    "sword-text-web": (60_000, world_english_bible),
    "rust-doc": (80_000, pages("usr/share/doc/rust-doc/html/book", "ch[0-9]*.html")),
    "python3.11-doc": (
        80_000,
        restructured(
            "usr/share/doc/python3.11/html/_sources",
            "tutorial/*.txt",
            "faq/*.txt",
            "howto/*.txt",
            "whatsnew/3.*.txt",
        ),
    ),
    "sqlite3-doc": (70_000, pages("usr/share/doc/sqlite3", "*.html")),
    "python-sklearn-doc": (
        60_000,
        restructured("usr/share/doc/python-sklearn-doc/html/_sources", "modules/*.txt"),
    ),
}


def passages(paragraphs: Iterator[str], share: int) -> list[str]:
    """Passages at even distances, `share` characters in all."""
    found = [""]
    for paragraph in paragraphs:
        found[-1] += paragraph + "\n\n"
        if len(found[-1]) >= PASSAGE:
            found.append("")
    found.pop()
    if sum(map(len, found)) < share:
        raise SystemExit(f"only {sum(map(len, found))} of {share} characters")
    wanted = share * len(found) // sum(map(len, found))
    return [found[i * len(found) // wanted] for i in range(wanted)]


def main(folders: list[Path]) -> None:
    packages = {folder.name: folder for folder in folders}
    missing = sorted(SOURCES.keys() - packages.keys())
    if missing:
        raise SystemExit(f"unpacked packages missing: {', '.join(missing)}")
    chosen = [
        passage
        for name, (share, read) in SOURCES.items()
        for passage in passages(prose(read(packages[name])), share)
    ]
    chosen.sort(key=lambda passage: hashlib.sha256(passage.encode()).digest())
    text = "".join(chosen).encode()
    OUTPUT.write_bytes(bz2.compress(text))
    print(f"{OUTPUT}: {len(text)} bytes of text, sha256 {hashlib.sha256(text).hexdigest()}")


if __name__ == "__main__":
    main([Path(argument) for argument in sys.argv[1:]])
