"""Run every notebook in this folder and write its outputs in place: `make notebook`."""

import os
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).parent
# What changes with every run and tells a reader nothing.
PASSING = ("execution", "collapsed", "scrolled")


def execute(file: Path) -> None:
    """Run one notebook from top to bottom in a fresh kernel, in its own folder; it must not fail."""
    notebook = nbformat.read(file, as_version=4)
    NotebookClient(
        notebook,
        timeout=600,
        kernel_name="python3",
        coalesce_streams=True,
        resources={"metadata": {"path": str(FOLDER)}},
    ).execute()
    for cell in notebook.cells:
        for key in PASSING:
            cell.metadata.pop(key, None)
        if cell.cell_type == "code":  # libraries' messages name folders of this machine
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"}}
    nbformat.write(notebook, file)


def main() -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    named = [Path(name) for name in sys.argv[1:]]
    for file in named or sorted(FOLDER.glob("*.ipynb")):
        execute(file)
        print(f"executed {file.name}")


if __name__ == "__main__":
    main()
