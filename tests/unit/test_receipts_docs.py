"""docs/receipts.md: every field of the payload, and ten lines that check a receipt."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from pydantic import BaseModel

from fednot.receipt import payload

GOLDEN = Path(__file__).parent / "golden"
TEXT = (Path(__file__).parents[2] / "docs" / "receipts.md").read_text()


def models() -> list[type[BaseModel]]:
    """The whole first, then its parts as they are declared."""
    found = [
        value
        for value in vars(payload).values()
        if isinstance(value, type) and issubclass(value, payload.Part) and value is not payload.Part
    ]
    return [payload.Receipt, *(each for each in found if each is not payload.Receipt)]


def section_of(model: type[BaseModel]) -> str:
    """What the page is to say of a model."""
    rows = [f"| `{name}` | {field.description} |" for name, field in model.model_fields.items()]
    summary = (model.__doc__ or "").strip()
    return "\n".join([f"### {model.__name__}", "", summary, "", "| field | what it is |"]) + (
        "\n|---|---|\n" + "\n".join(rows) + "\n"
    )


def test_the_page_has_every_field() -> None:
    assert "\n".join(section_of(model) for model in models()) in TEXT


def test_the_ten_lines_check_the_golden_receipt_and_refuse_a_changed_one(tmp_path: Path) -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, flags=re.DOTALL)
    assert len(program.strip().splitlines()) <= 10
    assert set(re.findall(r"^(?:import|from) (\w+)", program, flags=re.MULTILINE)) <= {
        "joserfc",
        "json",
        "sys",
    }
    jws = (GOLDEN / "receipt.jws").read_text()
    changed = tmp_path / "changed.jws"
    changed.write_text(jws[:500] + ("A" if jws[500] != "A" else "B") + jws[501:])

    def run(path: Path) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-c", program, str(path), str(GOLDEN / "receipt-key.pub.pem")]
        return subprocess.run(words, capture_output=True, text=True, cwd=tmp_path)

    told = run(GOLDEN / "receipt.jws")
    assert told.returncode == 0, told.stderr
    assert "job-0123456789ab" in told.stdout
    assert run(changed).returncode != 0
