"""Prometheus' text format, read strictly: what is not exactly as the format has it fails."""

import re
from collections.abc import Mapping
from typing import TypeAlias

Series: TypeAlias = tuple[str, frozenset[tuple[str, str]]]

_LABEL = r'[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\[\\"n])*"'
_SAMPLE = re.compile(rf"([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{{({_LABEL}(?:,{_LABEL})*)\}})? (\S+)")
_PAIR = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\[\\"n])*)"')
_ESCAPES = {r"\\": "\\", r"\"": '"', r"\n": "\n"}


def parse(text: str) -> dict[Series, float]:
    """Every sample by its name and labels."""
    assert text.endswith("\n")
    samples: dict[Series, float] = {}
    declared: dict[str, str] = {}
    for line in text.removesuffix("\n").split("\n"):
        if line.startswith("# HELP "):
            continue
        if line.startswith("# TYPE "):
            name, kind = line.removeprefix("# TYPE ").split(" ")
            assert name not in declared, f"{name} is declared twice"
            declared[name] = kind
            continue
        match = _SAMPLE.fullmatch(line)
        assert match is not None, line
        labels = frozenset((name, _unescape(value)) for name, value in _PAIR.findall(match[2] or ""))
        assert (match[1], labels) not in samples, line
        assert match[1] in declared or re.sub("_(bucket|sum|count)$", "", match[1]) in declared, line
        samples[match[1], labels] = float(match[3])
    return samples


def total(samples: Mapping[Series, float], metric: str, /, **labels: str) -> float:
    """The sum of a metric's samples that have at least these labels."""
    return sum(value for (found, having), value in samples.items() if found == metric and set(labels.items()) <= having)


def _unescape(value: str) -> str:
    return re.sub(r"\\.", lambda match: _ESCAPES[match[0]], value)
