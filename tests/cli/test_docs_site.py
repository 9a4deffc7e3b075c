"""`gatepost docs`: what it writes says what the program does, whatever the names hold."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.testing import CliRunner

from config.model import WatchdogEntry
from config.site import Site
from gateway.cli.app import app
from gateway.cli.docs_diagram import Diagram, Edge
from gateway.cli.docs_document import (
    Block,
    Cell,
    Code,
    Heading,
    Paragraph,
    Table,
    markdown,
    plain_line,
)
from gateway.cli.docs_html import html_page
from gateway.cli.docs_site import number_text, site_document, value_text
from safety import layout
from safety.compile import compile_site
from safety.layout import Program
from tests.cli.hostile import HOSTILE, hostile_site
from tests.safety.sites import make_site

ROOT = Path(__file__).parents[2]
NODE = ROOT / "tests" / "node"
SITES = ROOT / "config" / "sites"


def compiled(site: Site) -> Program:
    program, findings = compile_site(site)
    assert program is not None, findings
    return program


def cell_text(cell: Cell) -> str:
    pieces = cell if isinstance(cell, tuple) else (cell,)
    return ", ".join(plain_line(p.text if isinstance(p, Code) else p) for p in pieces)


# ---------------------------------------------------------------- Markdown


def tokens_of(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(text)


def words(token: Token) -> str:
    """What a reader sees of an inline token."""
    allowed = {"text", "code_inline", "text_special"}
    children = token.children or []
    assert {child.type for child in children} <= allowed, [c.type for c in children]
    return "".join(child.content for child in children)


def tables_of(tokens: list[Token]) -> Iterator[list[list[str]]]:
    rows: list[list[str]] = []
    for token in tokens:
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type == "inline" and rows and token.level >= 4:
            rows[-1].append(words(token))
        elif token.type == "table_close":
            yield rows
            rows = []


def same(shown: str) -> str:
    """Markdown readers drop spaces at the ends of code."""
    return re.sub(r"\s+", " ", shown).strip()


def check_markdown(blocks: list[Block | Diagram]) -> None:
    tokens = tokens_of(markdown(blocks))
    wanted = [block for block in blocks if isinstance(block, Table)]
    found = list(tables_of(tokens))
    assert len(found) == len(wanted)
    for table, rows in zip(wanted, found, strict=True):
        expected = [[plain_line(name) for name in table.head]]
        expected += [[cell_text(cell) for cell in row] for row in table.rows]
        assert [[same(c) for c in row] for row in rows] == [
            [same(c) for c in row] for row in expected
        ]
    kinds = {token.type for token in tokens}
    assert not kinds & {"html_block", "bullet_list_open", "ordered_list_open", "blockquote_open"}
    headings = [
        words(tokens[at + 1]) for at, token in enumerate(tokens) if token.type == "heading_open"
    ]
    wanted_headings = [plain_line(b.text) for b in blocks if isinstance(b, Heading)]
    assert [same(h) for h in headings] == [same(h) for h in wanted_headings]
    fences = [token.content.rstrip("\n") for token in tokens if token.type == "fence"]
    assert fences == [block.mermaid() for block in blocks if isinstance(block, Diagram)]


def test_the_markdown_reads_back_as_it_was_meant() -> None:
    site = hostile_site()
    check_markdown(site_document(site, compiled(site)))


TEXTS = st.text(alphabet=st.sampled_from(list("ab|\\`<>*_[]()!#~&$\"'\n -+=:;%{}.1é\u202e")))


@given(st.lists(TEXTS, min_size=1, max_size=4), TEXTS)
def test_no_text_breaks_out(texts: list[str], title: str) -> None:
    rows = [(text, Code(text), (text, Code(title))) for text in texts]
    blocks: list[Block | Diagram] = [
        Heading(1, f"T{title}"),
        Table((f"A{title}", "B", "C"), tuple(rows)),
        Paragraph(("Text ", title, " and ", Code(title))),
    ]
    check_markdown(blocks)
    page = Page()
    page.feed(html_page(title, blocks))
    page.close()
    assert page.tables == [
        [[plain_line(f"A{title}"), "B", "C"], *[[cell_text(c) for c in row] for row in rows]]
    ]


# ---------------------------------------------------------------- what the tables say


def table_after(
    blocks: list[Block | Diagram], heading: str, number: int = 0
) -> list[dict[str, str]]:
    """The rows of the table so many behind a heading, by the names of the columns."""
    at = next(i for i, b in enumerate(blocks) if isinstance(b, Heading) and b.text == heading)
    found = [block for block in blocks[at:] if isinstance(block, Table)][number]
    return [
        {head: cell_text(cell) for head, cell in zip(found.head, row, strict=True)}
        for row in found.rows
    ]


def test_the_matrix_is_that_of_the_program() -> None:
    site = hostile_site()
    program = compiled(site)
    blocks = site_document(site, program)
    tags = [site.points[index - 1].tag for index in program.outputs]
    shown = {
        (row["Cause"], row["Calls"], tag): row[tag]
        for row in table_after(blocks, "Matrix")
        for tag in tags
        if row[tag]
    }
    expected = {}
    for at, tag in enumerate(tags):
        point = site.points[program.outputs[at] - 1]
        expected["start-up", "", tag] = f"T {value_text(point, float(program.safe[at]))}"
    for effect in program.effects:
        info = program.info[effect["rule"]]
        point = site.points[program.outputs[effect["output"]] - 1]
        rank = "T" if effect["rank"] == layout.RANK_TRIP else "I"
        method = program.strings[effect["level"]]
        key = (info.name, method if info.name != "Control/Lock" else "", point.tag)
        expected[key] = plain_line(f"{rank} {value_text(point, float(effect['value']))}")
    assert expected["Control/Lock", "", "PSU.Limit"] == "I 2.5 A"
    held = {key: text for key, text in shown.items() if text.startswith("H")}
    assert held == {("Stack/Operation: Off", "", "PSU.Current"): "H 0 A"}
    assert {key: text for key, text in shown.items() if key not in held} == {
        key: plain_line(text) for key, text in expected.items()
    }


def test_the_causes_are_those_of_the_program() -> None:
    site = hostile_site()
    program = compiled(site)
    rows = table_after(site_document(site, program), "Causes")
    infos = [info for info in program.info if info.kind in ("trip", "interlock")]
    assert [row["Cause"] for row in rows] == [info.name for info in infos]
    assert rows[0]["Cause"] == "Control/E_Stop"  # first in every matrix
    assert [row["Condition"] for row in rows] == [info.text for info in infos]
    by_name = {row["Cause"]: row for row in rows}
    vote = by_name["Control/Vote"]
    assert (vote["Kind"], vote["Latch"], vote["On bad"]) == ("trip", "yes", "trip")
    assert (vote["On-delay"], vote["Bypass"]) == ("500ms", "up to 1h")
    assert vote["Vote"] == "2oo3, bad channel: a vote"
    lock = by_name["Control/Lock"]
    assert (lock["Kind"], lock["Latch"], lock["On bad"]) == ("interlock", "", "hold")
    assert (lock["Bypass"], lock["Vote"]) == ("no", "")


def test_a_vote_is_shown_as_it_was_compiled_and_the_watchdog_has_its_outputs() -> None:
    effects = {"Fan.Stop": 1}
    controls = {
        "Leak": {"When": "not vote(2, Fan.A, Fan.B, Fan.A)", "Effects": effects},
        "Control/E_Stop": {"When": "Gateway.E_Stop or Controls.Leak", "Effects": effects},
    }
    site = make_site(
        {
            "Fan.A": {"Type": "Digital"},
            "Fan.B": {"Type": "Digital"},
            "Fan.Stop": {"Type": "Digital", "ReadWrite": "RW"},
            "Fan.Beat": {"Type": "Digital", "ReadWrite": "RW"},
        },
        controls=controls,
    )
    watchdog = WatchdogEntry(Outputs=["Fan.Beat"])
    site = replace(site, system=site.system.model_copy(update={"Watchdog": watchdog}))
    blocks = site_document(site, compiled(site))
    stop, leak = table_after(blocks, "Causes")
    assert stop["Cause"] == "Control/E_Stop"  # though it is evaluated behind the other one
    assert leak["Vote"] == "2oo3, bad channel: no vote; bad where it could decide"
    assert "every 1s while scans are healthy, by the watchdog: Fan.Beat" in markdown(blocks)


def test_the_transitions_are_those_of_the_program() -> None:
    site = hostile_site()
    program = compiled(site)
    blocks = site_document(site, program)
    rows = table_after(blocks, "Stack/Operation", 1)
    machine = program.machine_info[0]
    assert [row["No"] for row in rows] == [str(number + 1) for number in range(len(rows))]
    numbered = [row for row in rows if row["By"] != "time"]
    assert len(numbered) == len(machine.transitions)
    for row, way in zip(numbered, machine.transitions, strict=True):
        assert row["From"] == ("any" if way.origin == "*" else plain_line(way.origin))
        assert row["To"] == plain_line(way.target)
        assert row["When"] == way.guard
        asked = (*(["automatic"] if way.automatic else []), *way.askers)
        assert row["By"] == ", ".join(asked)
        assert row["Urgent"] == ("at once" if way.urgent else "")
    timeout = [row for row in rows if row["By"] == "time"]
    assert [(row["To"], row["When"]) for row in timeout] == [("Off", "after 10min")]
    states = table_after(blocks, "Stack/Operation", 0)
    assert [row["State"] for row in states] == ["Off, initial", "_Heat_Up", "Läuft-"]
    assert (states[1]["Shortest"], states[1]["Longest"], states[1]["Then"]) == (
        "5s",
        "10min",
        "Off",
    )
    ramps = table_after(blocks, "Stack/Operation", 2)
    assert [(row["To"], row["Per second"], row["Then stays"]) for row in ramps] == [
        ("40", "0.5", "1min"),
        ("20", "at once", ""),
    ]
    assert ramps[0]["Paused while"] == "Stack.Temperature > 700"


def test_outputs_permissives_alarms_functions_and_points() -> None:
    site = hostile_site()
    program = compiled(site)
    blocks = site_document(site, program)
    outputs = {row["Output"]: row for row in table_after(blocks, "Outputs")}
    assert outputs.keys() == {p.tag for p in site.points if p.is_output}
    assert outputs["PSU.Current"]["Range"] == "0 to 80 A"
    assert outputs["PSU.Limit"]["Safe value"] == "1.5 A"
    assert outputs["Stack.Valve"]["Safe value"] == "0 (Closed|shut)"
    permissive = table_after(blocks, "Permissives")[0]
    assert permissive["Permits setpoints of"] == "PSU.Current, PSU.Limit"
    assert permissive["On bad"] == "ignore"
    alarm = table_after(blocks, "Alarms")[0]
    assert alarm["Limits"] == "Stack.Temperature >= 900 hysteresis 5"
    assert (alarm["Priority"], alarm["On-delay"], alarm["On bad"]) == ("high", "2s", "hold")
    assert alarm["Suppressed while"] == "Stack.T3 < 10"
    assert alarm["Longest shelving"] == "8h"
    assert alarm["Cause"] == alarm["Action"] == alarm["Consequence"] == plain_line(HOSTILE)
    function = table_after(blocks, "Grid functions")[0]
    assert (function["Role"], function["Value"]) == ("Maximum", "30 - Meter.Power")
    assert (function["On bad"], function["While"]) == ("1", "Stack.T2 > 1")
    listed = [
        row["Point"]
        for equipment in dict.fromkeys(point.equipment for point in site.points)
        for row in table_after(blocks, f"Points of {equipment}")
    ]
    assert sorted(listed) == sorted(point.tag for point in site.points)
    assert number_text(float("nan")) == ""


def test_the_hash_is_in_it_and_the_day_is_not() -> None:
    site = hostile_site()
    first = markdown(site_document(site, compiled(site)))
    assert first == markdown(site_document(site, compiled(site)))
    assert f"`{site.hash}`" in first


# ---------------------------------------------------------------- Mermaid

MERMAID_LINES = (
    re.compile(r"stateDiagram-v2"),
    re.compile(r'    state "(?:[A-Za-z0-9_ .,=+/()*]|#\d+;)+" as (?:s\d+|any)'),
    re.compile(r"    \[\*\] --> s\d+"),
    re.compile(r"    (?:s\d+|any) --> s\d+ : (?:[A-Za-z0-9_ .,=+/()*]|#\d+;)+"),
)


def hostile_diagrams() -> list[Diagram]:
    site = hostile_site()
    made = [b for b in site_document(site, compiled(site)) if isinstance(b, Diagram)]
    assert len(made) == 1
    words = [
        "end",
        "state",
        "note",
        "style",
        "classDef x fill:#f00;",
        "[*]",
        "--",
        "%% c",
        "<<fork>>",
    ]
    made += [
        Diagram((word, HOSTILE), 1, (Edge(0, 1, word), Edge(-1, 0, HOSTILE), Edge(1, 1, word)))
        for word in words
    ]
    return made


def test_the_mermaid_has_the_form_that_we_know_to_be_safe() -> None:
    for diagram in hostile_diagrams():
        for line in diagram.mermaid().splitlines():
            assert any(form.fullmatch(line) for form in MERMAID_LINES), line


def test_mermaid_itself_reads_every_diagram_as_it_was_meant() -> None:
    node = shutil.which("node")
    if node is None or not (NODE / "node_modules" / "mermaid").is_dir():
        pytest.fail("the parser of Mermaid is missing: make node-peers")
    diagrams = hostile_diagrams()
    done = subprocess.run(
        [node, str(NODE / "mermaid_parse.mjs")],
        input=json.dumps([diagram.mermaid() for diagram in diagrams]),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    for diagram, read in zip(diagrams, json.loads(done.stdout), strict=True):
        assert "error" not in read, read
        states = {f"s{at}": plain_line(name) for at, name in enumerate(diagram.states)}
        if any(edge.origin < 0 for edge in diagram.edges):
            states["any"] = "any state"
        assert read["states"] == {**states, "root_start": ""}
        ways = [["root_start", f"s{diagram.initial}", ""]]
        for edge in diagram.edges:
            origin = "any" if edge.origin < 0 else f"s{edge.origin}"
            ways.append([origin, f"s{edge.target}", plain_line(edge.label)])
        assert [[a, b, text.strip()] for a, b, text in read["ways"]] == ways


# ---------------------------------------------------------------- HTML


class Page(HTMLParser):
    """Collects tables, and refuses what a page of ours does not hold."""

    TAGS = frozenset(
        "html head meta title style body h1 h2 h3 p nav ul li a div table thead tbody tr th td "
        "code svg defs marker path g rect text".split()
    )

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: list[list[list[str]]] = []
        self.texts: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag in self.TAGS, tag
        for name, value in attrs:
            assert not name.startswith("on"), name
            outside = name in ("src", "href") and not (value or "").startswith("#")
            assert not outside, (name, value)
        if tag == "meta":
            return
        self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and any(tag in ("td", "th") for tag in self.open):
            self.tables[-1][-1][-1] += data
        self.texts.append(data)


def test_the_html_says_the_same_and_needs_nothing() -> None:
    site = hostile_site()
    blocks = site_document(site, compiled(site))
    text = html_page("Site <x>", blocks)
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    assert page.tables == [
        [
            [plain_line(name) for name in block.head],
            *[[cell_text(cell) for cell in row] for row in block.rows],
        ]
        for block in blocks
        if isinstance(block, Table)
    ]
    assert "<script" not in text
    assert text.count("<svg") == 1
    assert set(re.findall(r"https?://[^\s\"<]+", html.unescape(text))) <= {
        "http://www.w3.org/2000/svg",
        "http://e)",  # in the hostile text, as text
    }


def test_every_state_and_way_is_drawn() -> None:
    site = hostile_site()
    diagram = next(b for b in site_document(site, compiled(site)) if isinstance(b, Diagram))
    drawn = diagram.svg()
    assert drawn.count("<rect") == len(diagram.states) + 1  # and any state
    assert drawn.count('class="way"') == len(diagram.edges)
    assert "nan" not in drawn


# ---------------------------------------------------------------- the command


def test_the_command_writes_markdown_and_html(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["docs", str(SITES / "soec-lab")])
    assert run.exit_code == 0
    assert run.stdout.startswith("# Site soec-lab\n")
    out = tmp_path / "site.html"
    done = CliRunner().invoke(app, ["docs", str(SITES / "soec-lab"), "--html", "--out", str(out)])
    assert done.exit_code == 0
    assert out.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    markdown_out = tmp_path / "site.md"
    CliRunner().invoke(app, ["docs", str(SITES / "soec-lab"), "--out", str(markdown_out)])
    assert markdown_out.read_text(encoding="utf-8") == run.stdout


def test_a_site_with_errors_has_no_documentation(tmp_path: Path) -> None:
    from config.findings import SiteError

    run = CliRunner().invoke(app, ["docs", str(ROOT / "tests" / "cases" / "inl")])
    assert isinstance(run.exception, SiteError)
    assert run.stdout == ""
    assert CliRunner().invoke(app, ["docs", str(tmp_path / "none")]).exit_code != 0
