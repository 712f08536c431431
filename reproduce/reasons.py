"""Why cells differ from the paper's: reasons.yaml, written by hand, checked against the tables."""

from pathlib import Path

from gfnlite.arguments import shown

from .reading import BadInput, read_yaml
from .verdict import DIFFERS, settle

KINDS = ("explained: ", "open: ")


def read(path: Path) -> dict[str, dict[str, dict[str, str]]]:
    """{task: {method: {column or "row": text}}}; a file that is not there has no entries.

    Raises:
        BadInput: for anything of another shape, or a text that neither explains nor is open.
    """
    data = read_yaml(path) if path.exists() else None
    entries = _mapping(path, "the file", data)
    for task, methods in entries.items():
        entries[task] = _mapping(path, task, methods)
        for method, cells in entries[task].items():
            entries[task][method] = _mapping(path, f"{task} {method}", cells)
            for cell, text in entries[task][method].items():
                if not isinstance(text, str) or not text.startswith(KINDS):
                    raise BadInput(
                        f"{path.name}: {task} {method} {cell}: {shown(text)} must start with "
                        f"{' or '.join(map(repr, KINDS))}"
                    )
    return entries


def check_tasks(entries: dict, tasks) -> None:
    """Refuse entries of tasks without a table.

    Raises:
        BadInput: naming the task and those there are.
    """
    for task in entries:
        if task not in tasks:
            known = ", ".join(sorted(tasks)) or "none yet"
            raise BadInput(f"reasons.yaml: task {task!r} has no results; allowed: {known}")


def apply(task: str, rows: list[dict], entries: dict[str, dict[str, str]]) -> None:
    """Put the reasons of a task into its judged rows of the full profile.

    Raises:
        BadInput: for a row or a column that the table has not, or a cell that does not differ.
    """
    full = {row["method"]: row for row in rows if row["profile"] == "full" and row["verdicts"]}
    for method, texts in entries.items():
        if method not in full:
            raise BadInput(
                f"reasons.yaml: {task} has no row {method!r}; allowed: {', '.join(full)}"
            )
        row = full[method]
        cells = row["verdicts"]
        different = {name: c for name, c in cells.items() if c["verdict"] in DIFFERS}
        # "row" first: a column of its own says more.
        for name, text in sorted(texts.items(), key=lambda item: item[0] != "row"):
            if name != "row" and name not in cells:
                allowed = ", ".join(("row", *cells))
                raise BadInput(
                    f"reasons.yaml: {task} {method} has no column {name!r}; allowed: {allowed}"
                )
            chosen = different if name == "row" else {name: different.get(name)}
            if not different or None in chosen.values():
                raise BadInput(
                    f"reasons.yaml: {task} {method} {name} does not differ from the paper: "
                    "take the entry out"
                )
            for cell in chosen.values():
                cell["reason"] = text
        if texts:
            settle(row)


def _mapping(path: Path, where: str, data) -> dict:
    if data is None:
        return {}
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise BadInput(f"{path.name}: {where} must be a mapping of names")
    return data
