"""Minari's folder: two processes that want one data set fetch it once."""

import threading
import time
from pathlib import Path
from typing import Any

import minari
import pytest

from support.minari import make_minari_set
from vdt.datasets import minari_folder
from vdt.datasets.minari_folder import find_dataset, get_root

ID = "vdttest/pendulum/random-v0"


def test_a_data_set_that_another_process_has_fetched_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(dataset_id: str) -> None:
        make_minari_set(dataset_id)  # meanwhile, by another flow

    monkeypatch.setattr(minari_folder, "_probe_remote", ask)
    monkeypatch.setattr(minari, "download_dataset", make_minari_set)
    folder = find_dataset(ID)
    assert folder == get_root() / ID / "data" and (folder / "metadata.json").is_file()


def test_two_flows_fetch_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, fetched, found = threading.Barrier(2), list[str](), list[Path]()

    def download(dataset_id: str) -> None:
        fetched.append(dataset_id)
        time.sleep(0.3)
        make_minari_set(dataset_id)

    def ask(dataset_id: str) -> Any:
        asked.wait(60)  # neither begins before both have found that it is missing

    monkeypatch.setattr(minari_folder, "_probe_remote", ask)
    monkeypatch.setattr(minari, "download_dataset", download)
    flows = [threading.Thread(target=lambda: found.append(find_dataset(ID))) for _ in range(2)]
    for flow in flows:
        flow.start()
    for flow in flows:
        flow.join()
    assert fetched == [ID]
    assert found == [get_root() / ID / "data"] * 2 and found[0].is_dir()
    assert list(minari.list_local_datasets()) == [ID], "the lock's file is no data set"
