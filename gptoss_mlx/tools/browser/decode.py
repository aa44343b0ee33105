"""Bytes of a document -> text, in whatever character set it was written."""

from __future__ import annotations

import codecs
import re

_DECLARED = re.compile(
    rb"<(?:meta\b[^>]{0,200}?charset|\?xml\b[^>]{0,100}?encoding)\s*=\s*[\"']?\s*([\w.:-]{1,40})", re.IGNORECASE
)
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_HEAD = 1024
_KNOWN = {
    "ascii", "utf-8", "utf-16", "utf-16-le", "utf-16-be", "cp866", "cp874", "cp932", "cp949", "koi8-r", "koi8-u",
    "gb2312", "gbk", "gb18030", "big5", "big5hkscs", "shift_jis", "euc_jp", "euc_kr", "iso2022_jp", "mac-roman",
    "mac-cyrillic", "tis-620", *(f"cp{page}" for page in range(1250, 1259)), *(f"iso8859-{n}" for n in range(1, 17)),
}  # fmt: skip
"""What documents may declare, of Python's codecs: others are no character sets, or no longer safe to follow."""
_FALLBACK = "cp1252"
"""What the web means by Latin-1 and by no declaration at all, unless it is valid UTF-8."""


def decode(data: bytes, declared: str | None = None, *, cut: bool = False) -> str:
    """The text of a document; what cannot be decoded becomes U+FFFD.

    The first of these decides: a byte order mark, `declared` (of an HTTP header), what the document says of itself
    in its first 1024 bytes, whether it is valid UTF-8 (of which `cut` may have split the last character). An unknown
    character set counts as none.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return data[len(mark) :].decode(encoding, errors="replace")
    found = _DECLARED.search(data[:_HEAD])
    for label in (declared, found and found[1].decode("ascii")):
        charset = _charset(label)
        if charset is not None:
            return data.decode(charset, errors="replace")
    try:
        return codecs.utf_8_decode(data, "strict", not cut)[0]
    except UnicodeDecodeError:
        return data.decode(_FALLBACK, errors="replace")


def _charset(label: str | None) -> str | None:
    try:
        name = codecs.lookup(label).name if label else None
    except (LookupError, ValueError):
        return None
    if name in ("ascii", "iso8859-1"):
        return _FALLBACK
    return name if name in _KNOWN else None
