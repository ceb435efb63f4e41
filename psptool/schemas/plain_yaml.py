"""Plain YAML: the files that users write, read without tags, anchors and aliases, and up to a size."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from psptool.common.errors import PspError, cannot_read
from psptool.common.paths import read_text


def read_yaml(path: Path, fix: str = "Check the path and its permissions.") -> dict[str, Any]:
    """The mapping in a YAML file of up to `MAX_YAML` bytes; tags, anchors and aliases are refused.

    Args:
        path: The file.
        fix: What the user can do if it cannot be read.

    Raises:
        PspError: The file cannot be read, is too large, is not plain YAML, or is not a mapping.
    """
    try:
        text = read_text(path, MAX_YAML)
    except (OSError, UnicodeDecodeError) as error:
        raise cannot_read(path, error, fix) from error
    try:
        values = load_yaml(text)
    except NOT_PLAIN as error:
        raise PspError(
            f"{path}: not plain YAML: {yaml_problem(error)}", fix="Write key: value lines only."
        ) from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise PspError(f"{path}: not a mapping", found=type(values).__name__, expected="key: value lines")
    return values


def read_packaged(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file of the package, read by libyaml if PyYAML has it, which takes a tenth of the time.

    These files mean the same to both loaders.
    """
    loader = getattr(yaml, "CSafeLoader", _Loader)
    values: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), loader)
    return values


MAX_YAML = 200_000
"""Largest YAML file, in bytes; it takes 2 s to read. A run's configuration has 10,000."""
_LONGEST_NUMBER = 40
NOT_PLAIN = (yaml.YAMLError, RecursionError, ValueError)
"""Errors of `load_yaml`."""


class _Loader(yaml.SafeLoader):
    """YAML 1.2 for booleans and numbers, which are decimal: ``off`` is a string, 1e-3 a number and 010 ten, unlike in
    YAML 1.1.

    Without tags, anchors and aliases: a file of 700 bytes can mean a mapping of millions of keys, or one that
    contains itself.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [
            (tag, pattern)
            for tag, pattern in resolvers
            if not tag.endswith(("bool", "int", "float", "timestamp", "merge", "value"))
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose the next node, unless it has a tag, is named by an anchor, or is an alias."""
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        if event.anchor is not None:
            what = "alias" if isinstance(event, yaml.AliasEvent) else "anchor"
            raise yaml.composer.ComposerError(
                None, None, f"found {what} {event.anchor!r:.40}", event.start_mark
            )
        if getattr(event, "tag", None) is not None:
            raise yaml.composer.ComposerError(None, None, f"found tag {event.tag!r:.60}", event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        """A mapping with scalar keys and without repeated ones, of which YAML would take the last."""
        seen = set[Any]()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.constructor.ConstructorError(
                    None, None, f"found a {key.id} as a key, expected a word or number", key.start_mark
                )
            value = self.construct_object(key)
            if value in seen or key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"found the key {key.value!r:.60} twice", key.start_mark
                )
            seen |= {value, key.value}  # 1 and 01 are one key, and so are 1 and "1"
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: Any) -> Any:
        """An integer of up to 40 characters; the time for a longer one grows with the square of its length."""
        if len(node.value) > _LONGEST_NUMBER:
            raise yaml.constructor.ConstructorError(
                None, None, f"found an integer of {len(node.value)} characters", node.start_mark
            )
        return int(node.value)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"(?:true|True|false|False)$"), list("tTfF")
)
# The resolver added first wins: integers stay integers.
_Loader.add_implicit_resolver("tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[-+]?\.(?:inf|Inf)|\.(?:nan|NaN))$"),
    list("-+.0123456789"),
)


class _Dumper(yaml.SafeDumper):
    """Quotes texts that either version of YAML reads as another type, such as 1e3 and 08."""

    yaml_implicit_resolvers = {  # noqa: RUF012
        first: resolvers + _Loader.yaml_implicit_resolvers.get(first, [])
        for first, resolvers in yaml.SafeDumper.yaml_implicit_resolvers.items()
    }


def load_yaml(text: str) -> Any:
    """The value of YAML text; errors as in `NOT_PLAIN`."""
    return yaml.load(text, _Loader)


def dump_yaml(values: Any, **options: Any) -> str:
    """YAML text that `load_yaml` reads as ``values``; ``options`` are those of `yaml.dump`."""
    text: str = yaml.dump(values, Dumper=_Dumper, **options)
    return text


def yaml_problem(error: BaseException) -> str:
    """The reason of an error in `NOT_PLAIN`, on one line."""
    return "nested too deep" if isinstance(error, RecursionError) else " ".join(str(error).split())
