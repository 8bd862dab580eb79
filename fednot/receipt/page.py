"""A receipt as one HTML page for a file: no script, no network, two plots."""

from __future__ import annotations

from functools import cache

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from fednot.receipt.payload import Receipt
from fednot.receipt.plots import loss_plot, recovery_plot

VERDICTS = {"pass": "PASS", "fail": "FAIL", "not-possible": "NOT POSSIBLE"}  # nosec B105 - verdicts


def page_of(receipt: Receipt) -> str:
    """The HTML page of a receipt, which the caller has verified."""
    chosen = receipt.chosen
    return _template().render(
        receipt=receipt,
        chosen=chosen,
        verification=chosen.verification,
        verdicts=VERDICTS,
        recovery=recovery_plot(receipt),
        losses=loss_plot(chosen.verification),
    )


@cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("fednot.receipt", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
