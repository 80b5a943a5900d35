"""What the documentation says of an architecture: the table in docs/models.md."""

from pathlib import Path

DOCUMENT = Path(__file__).parent.parent / "docs" / "models.md"


def documented(architecture: str, *columns: str) -> dict[str, str]:
    """The named cells of an architecture's row."""
    lines = DOCUMENT.read_text().splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
    names = next(row for row in rows if "architecture" in row)
    cells = next(row for row in rows if row[0] == f"`{architecture}`")
    return {column: cells[names.index(column)] for column in columns}
