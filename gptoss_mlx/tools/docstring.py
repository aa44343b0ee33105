"""What a docstring says of a function and of each of its parameters, in the styles of Google, NumPy and reST."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

PARAMETERS = {"args", "arguments", "parameters", "params", "keyword args", "keyword arguments", "other parameters"}
SECTIONS = PARAMETERS | {
    "attributes", "example", "examples", "note", "notes", "raises", "references", "return", "returns", "see also",
    "todo", "warning", "warnings", "warns", "yield", "yields",
}  # fmt: skip
GOOGLE_PARAMETER = re.compile(r"\*{0,2}(\w+)\s*(?:\(.*?\))?\s*:\s*(.*)")
NUMPY_PARAMETERS = re.compile(r"(\*{0,2}\w+(?:\s*,\s*\*{0,2}\w+)*)\s*(?::.*)?")
REST_PARAMETER = re.compile(r":(?:param|parameter|arg|argument|key|keyword)\s+(?:[^:]*\s)?\*{0,2}(\w+)\s*:\s*(.*)")
REST_FIELD = re.compile(r":\w+[^:]*:(\s|$)")


@dataclass
class Docstring:
    """The text before the first section, and the parameters' descriptions, each on one line."""

    description: str = ""
    parameters: dict[str, str] = field(default_factory=dict)


def read_docstring(text: str | None) -> Docstring:
    """Read a docstring of any style; what is no section is description."""
    lines = inspect.cleandoc(text or "").split("\n")
    result = Docstring()
    for title, body in _sections(lines):
        if title is None:
            result.description = "\n".join(body).strip()
        elif title == ":":
            result.parameters |= _rest_parameters(body)
        elif title in PARAMETERS:
            result.parameters |= _parameters(body)
    return result


def _sections(lines: list[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Title and lines of each section: None for the text before the first, a colon for reST's fields."""
    title: str | None = None
    body: list[str] = []
    rest = iter(range(len(lines)))
    for i in rest:
        opened = _opened(lines, i)
        if opened is None or (opened == ":" and title == ":"):
            body.append(lines[i])
            continue
        yield title, body
        title, body = opened, []
        if opened == ":":
            body = [lines[i]]
        elif _is_underline(lines, i + 1):
            next(rest)
    yield title, body


def _opened(lines: list[str], i: int) -> str | None:
    """The title of the section that line i opens, if it does."""
    line = lines[i].rstrip()
    if REST_FIELD.match(line):
        return ":"
    if _is_underline(lines, i + 1) and line.lower() in SECTIONS:
        return line.lower()
    return line[:-1].lower() if line.endswith(":") and line[:-1].lower() in SECTIONS else None


def _is_underline(lines: list[str], i: int) -> bool:
    return i < len(lines) and re.fullmatch(r"-{3,}\s*", lines[i]) is not None


def _parameters(body: list[str]) -> dict[str, str]:
    """The parameters of a section: indented and with a colon as Google does, or names on the margin as NumPy does."""
    margin = min((_indent(line) for line in body if line.strip()), default=0)
    result: dict[str, list[str]] = {}
    names: list[str] = []
    for line in body:
        if line.strip() and _indent(line) == margin:
            names, first = _google(line.strip()) if margin else _numpy(line.strip())
            result |= {name: [first] for name in names}
        else:
            for name in names:
                result[name].append(line)
    return {name: " ".join(" ".join(told).split()) for name, told in result.items()}


def _google(line: str) -> tuple[list[str], str]:
    match = GOOGLE_PARAMETER.fullmatch(line)
    return ([match[1]], match[2]) if match else ([], "")


def _numpy(line: str) -> tuple[list[str], str]:
    match = NUMPY_PARAMETERS.fullmatch(line)
    return ([name.strip(" *") for name in match[1].split(",")], "") if match else ([], "")


def _rest_parameters(body: list[str]) -> dict[str, str]:
    result: dict[str, str] = {}
    name = None
    for line in body:
        if match := REST_PARAMETER.fullmatch(line):
            name, result[match[1]] = match[1], match[2]
        elif REST_FIELD.match(line):
            name = None
        elif name is not None:
            result[name] += f" {line}"
    return {name: " ".join(told.split()) for name, told in result.items()}


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())
