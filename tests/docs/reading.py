"""Reads Markdown, the Makefile and the command line as pure functions of text."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer

# In a console block only the lines behind a prompt are commands; a text block has none.
SHELL_BLOCKS = ("", "sh", "bash", "shell", "console")

_FENCE = re.compile(r"^ {0,3}(```+|~~~+)\s*([\w-]*).*$")
_INLINE = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]\n]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)")
_REFERENCE = re.compile(r"^ {0,3}\[[^\]]+\]:\s*<?(\S+?)>?\s*$", re.MULTILINE)
_PROGRAMS = re.compile(r"^(?:sudo\s+)?(?:\S*/)?(make|gatepost)(?:\s|$)")
_ASSIGNMENT = re.compile(r"^\w+=")

# Typer carries a copy of click whose modules are private; this is click's UsageError.
_UsageError: type[Exception] = typer.BadParameter.__mro__[1]


@dataclass(frozen=True)
class Line:
    """A command as a document shows it."""

    path: str
    number: int
    words: tuple[str, ...]
    fenced: bool = False

    def __str__(self) -> str:
        return f"{self.path}:{self.number}: {' '.join(self.words)}"


def split_blocks(text: str) -> tuple[str, list[tuple[str, int, str]]]:
    """The prose with its fenced blocks blanked, and the blocks as (language, first line, text)."""
    prose: list[str] = []
    blocks: list[tuple[str, int, str]] = []
    fence, language, start = "", "", 0
    inside: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        mark = _FENCE.match(line)
        if fence:
            if mark and mark[1].startswith(fence) and not mark[2]:
                blocks.append((language, start, "\n".join(inside)))
                fence = ""
            else:
                inside.append(line)
            prose.append("")
        elif mark:
            fence, language, start, inside = mark[1], mark[2].lower(), number + 1, []
            prose.append("")
        else:
            prose.append(line)
    return "\n".join(prose), blocks


def _simple_commands(line: str) -> Iterator[list[str]]:
    """The words of each simple command of a shell line: cut at pipes, lists and redirections."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>()")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for token in lexer:
        if set(token) <= set("|&;()"):
            yield words
            words, skip = [], False
        elif set(token) <= set("<>&"):
            skip = True  # the next word is a file
        elif skip:
            skip = False
        else:
            words.append(token)
    yield words


def _commands_of(text: str, path: str, start: int, fenced: bool) -> Iterator[Line]:
    lines = text.splitlines()
    position = 0
    while position < len(lines):
        number, line = start + position, lines[position].strip()
        while line.endswith("\\") and position + 1 < len(lines):
            position += 1
            line = line[:-1] + " " + lines[position].strip()
        position += 1
        line = re.sub(r"^[$#] +", "", line)
        first = line
        while _ASSIGNMENT.match(first) and " " in first:
            first = first.split(" ", 1)[1].lstrip()
        if not _PROGRAMS.match(first) and not re.search(r"(&&|\||;)\s*(make|gatepost)\s", line):
            continue
        try:
            simple = [words for words in _simple_commands(line) if words]
        except ValueError:
            continue  # a sentence with an apostrophe, not a command
        for words in simple:
            while words and (_ASSIGNMENT.match(words[0]) or words[0] == "sudo"):
                words = words[1:]
            if words and words[0].rpartition("/")[2] in ("make", "gatepost"):
                program = words[0].rpartition("/")[2]
                yield Line(path, number, (program, *words[1:]), fenced)


def commands(path: str, text: str) -> list[Line]:
    """Every `make` and `gatepost` command of a document, fenced or in backticks."""
    prose, blocks = split_blocks(text)
    found = []
    for language, start, block in blocks:
        if language == "console":
            block = "\n".join(
                line if line.startswith(("$ ", "# ")) else "" for line in block.splitlines()
            )
        if language in SHELL_BLOCKS:
            found += _commands_of(block, path, start, fenced=True)
    for number, line in enumerate(prose.splitlines(), start=1):
        for span in _INLINE.findall(line):
            if re.match(r"(make|gatepost) ", span):
                found += _commands_of(span, path, number, fenced=False)
    return found


def make_targets(makefile: str) -> set[str]:
    """Targets that a Makefile's help names."""
    return set(re.findall(r"^([a-z][a-z-]*):.*## ", makefile, re.MULTILINE))


def make_fault(words: tuple[str, ...], targets: set[str]) -> str:
    """Why a `make` command can't be run, or ''."""
    named = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
    unknown = [word for word in named if word not in targets]
    return f"no make target {', '.join(unknown)}" if unknown else ""


def command_fault(words: tuple[str, ...], command: Any, complete: bool) -> str:
    """Why a `gatepost` command can't be run, or ''. `command` is typer's (click's) command.

    complete  whether required arguments must be there; prose may mention `gatepost check --json`
    """
    node, arguments = command, list(words[1:])
    named = words[0]
    while hasattr(node, "commands"):
        while arguments and arguments[0].startswith("-"):
            option = arguments.pop(0)
            if option != "--help" and not _has_option(node, option):
                return f"{named} has no option {option}"
        if not arguments:
            return ""
        name = arguments.pop(0)
        if name not in node.commands:
            return f"{named} has no command {name}"
        node, named = node.commands[name], f"{named} {name}"
    if "--help" in arguments:
        arguments.remove("--help")
        complete = False
    return _leaf_fault(node, named, arguments, complete)


def _has_option(node: Any, word: str) -> bool:
    name = word.partition("=")[0]
    return any(name in (*parameter.opts, *parameter.secondary_opts) for parameter in node.params)


def _leaf_fault(node: Any, named: str, arguments: list[str], complete: bool) -> str:
    context = node.make_context(named, [], resilient_parsing=True)
    context.resilient_parsing = False
    parser = node.make_parser(context)
    try:
        given, rest, _ = parser.parse_args(list(arguments))
    except _UsageError as error:
        return f"{named}: {error}"
    if rest:
        return f"{named} takes no {' '.join(rest)}"
    for parameter in node.params:
        if complete and parameter.required and given.get(parameter.name) in (None, ()):
            return f"{named} needs {parameter.name}"
    return ""


def command_names(command: Any, prefix: str = "gatepost") -> list[str]:
    """Every command of the command line, as a person types it; hidden ones left out."""
    names = []
    for name, node in command.commands.items():
        full = f"{prefix} {name}"
        if not node.hidden:
            names += command_names(node, full) if hasattr(node, "commands") else [full]
    return names


def links(text: str) -> list[str]:
    """Targets of all links and images of a document, code left out."""
    prose = _INLINE.sub("", split_blocks(text)[0])
    return _LINK.findall(prose) + _REFERENCE.findall(prose)


def anchors(text: str) -> set[str]:
    """Anchors of a document's headings, as the usual renderers make them."""
    prose = split_blocks(text)[0]
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.+?)\s*#*$", prose, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        number = 0
        while (name := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(name)
    found |= set(re.findall(r"<a\s+(?:id|name)=\"([^\"]+)\"", prose))
    return found
