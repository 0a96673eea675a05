"""Metaflow's cards of this project: the report's, and where the viewer of cards answers."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from metaflow.plugins import CARDS
from metaflow.plugins.cards.card_modules.card import MetaflowCard

from vdt.system.home import home

REPORT_CARD = "vdt_report"  # type of the report's card
HOST = "127.0.0.1"  # of Metaflow's viewer, which answers all hosts otherwise
NOTHING = "<!DOCTYPE html><p>Trials of a search have no report of their own: that of the search has them all.</p>"


class ReportCard(MetaflowCard):
    """Card that is the report's HTML file: figures inside, no request to any host."""

    type = REPORT_CARD

    def render(self, task: Any) -> str:
        """Return the page of a task with the artifact `report_path`, of its Markdown file."""
        path = task["report_path"].data
        return Path(path).with_suffix(".html").read_text(encoding="utf-8") if path else NOTHING


CARDS.append(ReportCard)  # every process that deals with cards imports the flow file, and this with it


def enter_cards_folder() -> None:
    """Change to the home folder: Metaflow looks for cards below the current one, whatever its datastore's root is."""
    os.chdir(home())


def prepare_viewing(action: str) -> None:
    """Prepare Metaflow's commands for cards (`card ACTION`), called from any folder."""
    if action in ("view", "list", "server") and home().is_dir():
        enter_cards_folder()
    if action == "server":
        serve_here_only()


def serve_here_only() -> None:
    """Bind Metaflow's `card server` to this machine."""
    from metaflow.plugins.cards import card_server

    class Server(card_server.ThreadingHTTPServer):
        def __init__(self, address: tuple[str, int], handler: Any) -> None:
            super().__init__((HOST, address[1]), handler)

    card_server.ThreadingHTTPServer = Server
