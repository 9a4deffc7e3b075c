"""``gatepost templates``: the device models that an instrument file can name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from config.findings import nearest
from gateway.cli.output import CommandFailed, console, counted, print_json
from gateway.cli.site import JsonOption, need_folder

NameArgument = Annotated[
    str | None, typer.Argument(help="Show this template in place of the list.")
]
SiteOption = Annotated[
    Path | None, typer.Option("--site", help="Also the templates in the folder of this site.")
]


def templates(name: NameArgument = None, site: SiteOption = None, json: JsonOption = False) -> None:
    """List device templates, or show what one gives: manual, sources, channels.

    An instrument file takes one by EquipmentTags.Template; docs/templates.md says how.
    """
    from config.template import SHIPPED, SITE_FOLDER, shipped_names, site_names

    files = {found: SHIPPED / f"{found}.json" for found in shipped_names()}
    if site is not None:
        folder = need_folder(site)
        files |= {found: folder / SITE_FOLDER / f"{found}.json" for found in site_names(folder)}
    if name is None:
        _list({found: _content(files[found]) for found in sorted(files)}, json)
    elif name in files:
        _show(name, _content(files[name]), json)
    else:
        hint = nearest(name, files)
        raise CommandFailed(f'there is no template "{name}". {hint} `gatepost templates` lists all')


def _content(path: Path) -> dict[str, Any]:
    from config.model import TemplateFile
    from config.read import Files
    from config.validate import validate

    files = Files(path.parent)
    value = files.json(path.name)
    content, findings = (
        validate(path.name, value, TemplateFile) if value is not None else (None, [])
    )
    if content is None:
        raise CommandFailed("\n".join(str(finding) for finding in files.findings + findings))
    return content.model_dump(exclude_unset=True)


def _list(contents: dict[str, dict[str, Any]], json: bool) -> None:
    if json:
        print_json([{"name": name, **c["TemplateTags"]} for name, c in contents.items()])
        return
    width = max(map(len, contents), default=0)
    out = console()
    for name, content in contents.items():
        tags = content["TemplateTags"]
        channels = content["Channels"].values()
        outputs = sum("W" in channel.get("ReadWrite", "R") for channel in channels)
        out.print(
            f"{name:{width}}  {tags['Kind']}, {tags['Manufacturer']} {tags['Model']}: "
            f"{counted(len(channels), 'channel')}, {counted(outputs, 'output')}"
        )


def _show(name: str, content: dict[str, Any], json: bool) -> None:
    if json:
        print_json({"name": name, **content})
        return
    tags, out = content["TemplateTags"], console()
    out.print(f"{tags['Manufacturer']} {tags['Model']}, {tags['Kind']}")
    for key in ("Manual", "Revision", "Published"):
        if tags.get(key):
            out.print(f"{key}: {tags[key]}")
    for source in tags["Source"]:
        out.print(f"Source: {source}")
    if tags.get("Notes"):
        out.print(f"Notes: {tags['Notes']}")
    equipment = content["EquipmentTags"].items()
    out.print("EquipmentTags: " + ", ".join(f"{key} {value}" for key, value in equipment if value))
    for channel, keys in content["Channels"].items():
        out.print(f"  {channel}: {_channel(keys)}")


def _channel(keys: dict[str, Any]) -> str:
    place = keys.get("RequestText") or f"{keys.get('Type', '')} {keys.get('IOPoint', '')}"
    parts = [place.strip(), keys.get("DataType", "float32"), keys.get("ReadWrite", "R")]
    if keys.get("Units"):
        parts.append(keys["Units"])
    if keys.get("Scalar", 1) != 1:
        parts.append(f"x {keys['Scalar']:g}")
    if keys.get("Minimum") is not None:
        parts.append(f"{keys['Minimum']:g} to {keys.get('Maximum', 0):g}")
    if keys.get("Active") is False:
        parts.append("off until the site switches it on")
    if keys.get("Tags"):
        parts.append(f"tags {' '.join(keys['Tags'])}")
    if keys.get("Description"):
        parts.append(keys["Description"])
    return ", ".join(parts)
