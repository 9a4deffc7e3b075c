"""The import contracts of pyproject.toml catch what they forbid.

They are run over a skeleton of empty modules: once as the design has it, once with violations
planted. `make lint` runs them over the real packages.
"""

from __future__ import annotations

import itertools
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# module -> what it imports, all of it allowed
ALLOWED = {
    "config.site": ["pathlib", "json"],
    "drivers.modbus.tcp": ["asyncio", "config.site", "gateway.core.clock"],
    "safety.kernel": ["config.site", "math"],
    "gateway.core.clock": ["time", "random", "uuid"],
    "gateway.core.table": ["config.site", "gateway.core.clock"],
    "gateway.commands": ["gateway.core.table"],
    "gateway.journal": ["gateway.core.table"],
    "gateway.retain": [],
    "gateway.scan": ["safety.kernel", "gateway.commands", "gateway.journal"],
    "gateway.poll": ["drivers.modbus.tcp", "gateway.journal"],
    "gateway.local": ["gateway.core.table"],
    "gateway.local_server": ["gateway.local", "gateway.journal"],
    "gateway.opcua": ["gateway.core.table"],
    "gateway.field": ["gateway.scan", "gateway.poll", "gateway.local_server"],
    "gateway.mirror": ["gateway.opcua"],
    "gateway.link": ["gateway.local", "gateway.mirror", "sync.store.store"],
    "gateway.supervisor": ["gateway.field", "gateway.link"],
    "gateway.cli.app": ["gateway.supervisor", "cloud.ingest"],
    "sync.wire": ["gateway.core.table", "config.site"],
    "sync.store.store": ["sync.wire", "sqlite3"],
    "cloud.ingest": ["sync.wire", "gateway.core.table", "config.site"],
    "image.build": ["config.site"],
}

# contract id -> imports that break it
PLANTED = {
    "floors": [
        ("gateway.scan", "gateway.poll"),
        ("gateway.commands", "gateway.scan"),
        ("drivers.modbus.tcp", "safety.kernel"),
        ("gateway.core.table", "gateway.journal"),
        ("gateway.field", "gateway.link"),
    ],
    "config": [("config.site", "gateway.core.clock")],
    "safety": [("safety.kernel", "time"), ("safety.kernel", "gateway.core.table")],
    "drivers": [("drivers.modbus.tcp", "gateway.core.table")],
    "sync": [("sync.store.store", "gateway.journal")],
    "cloud": [("cloud.ingest", "sync.store.store"), ("cloud.ingest", "gateway.journal")],
    "image": [("image.build", "sync.wire")],
    "far-side": [("gateway.link", "cloud.ingest")],
    "field": [("gateway.field", "sqlite3"), ("gateway.field", "gateway.mirror")],
    "link": [("gateway.link", "drivers.modbus.tcp"), ("gateway.link", "gateway.scan")],
    "ambient": [
        ("sync.store.store", "time"),
        ("gateway.poll", "uuid"),
        ("drivers.modbus.tcp", "random"),
    ],
}


def skeleton(folder: Path, imports: dict[str, list[str]]) -> None:
    for module, imported in imports.items():
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        path.parent.mkdir(parents=True, exist_ok=True)
        for parent in path.relative_to(folder).parents[:-1]:
            (folder / parent / "__init__.py").touch()
        path.write_text("".join(f"import {name}\n" for name in imported), encoding="utf-8")
    shutil.copy(ROOT / "pyproject.toml", folder)


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache", "--no-logo"],
        cwd=folder,
        env={"PATH": "", "PYTHONPATH": str(folder), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


def contracts() -> dict[str, str]:
    """Contract id -> name."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    return {one["id"]: one["name"] for one in table["tool"]["importlinter"]["contracts"]}


def test_the_design_keeps_every_contract(tmp_path: Path) -> None:
    skeleton(tmp_path, ALLOWED)
    result = lint(tmp_path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert f"{len(contracts())} kept, 0 broken" in result.stdout


def test_planted_imports_break_their_contract(tmp_path: Path) -> None:
    imports = {module: list(imported) for module, imported in ALLOWED.items()}
    for rows in PLANTED.values():
        for module, imported in rows:
            imports[module].append(imported)
    skeleton(tmp_path, imports)
    output = lint(tmp_path).stdout
    # Each broken contract's section begins with its name underlined.
    names = contracts()
    sections = re.split(r"^-{3,}$", output.partition("Broken contracts")[2], flags=re.MULTILINE)
    report = {
        title.strip().splitlines()[-1]: body
        for title, body in itertools.pairwise(sections)
        if title.strip()
    }
    for contract, rows in PLANTED.items():
        assert names[contract] in report, f"{contract} was kept\n{output}"
        for module, imported in rows:
            assert f"{module} -> {imported}" in report[names[contract]], f"{contract}\n{output}"


def test_every_module_of_the_gateway_has_a_floor() -> None:
    """A module that no floor names would be bound by no layer."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    floors = next(
        one for one in table["tool"]["importlinter"]["contracts"] if one["id"] == "floors"
    )
    named = set(re.findall(r"gateway\.\w+", " ".join(floors["layers"])))
    modules = {
        f"gateway.{path.stem}"
        for path in (ROOT / "gateway").iterdir()
        if (path.suffix == ".py" or (path / "__init__.py").exists()) and path.stem != "__init__"
    }
    homeless = sorted(modules - named)
    assert not homeless, f"name a floor for {homeless} in pyproject.toml, [tool.importlinter]"


def test_every_contract_is_planted() -> None:
    assert set(PLANTED) == set(contracts())
