"""What all reports have in common: one self-contained HTML page, its tiles and its legend."""

from html import escape
from pathlib import Path

from qfleet.errors import QfleetError
from qfleet.runs.durable import write_atomically


def page(title: str, style: str, body: str) -> str:
    """The whole page; `style` is CSS and `body` HTML, `title` plain text."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"/>'
        '<meta name="viewport" content="width=device-width, initial-scale=1"/>'
        f"<title>{escape(title)}</title><style>{style}</style></head><body><main>"
        f"{body}</main></body></html>\n"
    )


def style_sheet(name: str) -> str:
    """The text of a style sheet beside this file."""
    return Path(__file__).with_name(name).read_text()


def write_page(text: str, path: Path) -> None:
    """Writes the page to `path`. Raises QfleetError if it cannot be written."""
    try:
        write_atomically(path, text.encode())
    except OSError as error:
        raise QfleetError(f"{path} cannot be written: {error.strerror}") from error


def tile(name: str, value: str, note: str) -> str:
    """A number that is to be seen first."""
    return (
        f'<div class="tile"><div class="name">{escape(name)}</div>'
        f'<div class="value">{escape(value)}</div><div class="note">{escape(note)}</div></div>'
    )


def legend_entry(color: int, dashed: bool, text: str) -> str:
    """A piece of a line, and what it stands for."""
    style = f"line c{color}{' dashed' if dashed else ''}"
    line = f'<svg viewBox="0 0 26 10" aria-hidden="true"><path class="{style}" d="M1 5H25"/></svg>'
    return f"<span>{line}{escape(text)}</span>"
