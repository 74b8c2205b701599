"""The HTTP service: answers, bounds, errors in JSON, and a model swapped in under load without a wrong answer."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import fitted as small
import pytest

pytest.importorskip("fastapi", reason="serving needs the extra [serve]")
pytest.importorskip("uvicorn", reason="serving needs the extra [serve]")

from fastapi.testclient import TestClient

import genrec
import seqrec
from recbase.serving.service import Bounds, Service
from recbase.serving.web import application

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def data():
    return small.data()


@pytest.fixture(scope="module")
def runs(data, tmp_path_factory):
    """Two runs of different weights."""
    root = tmp_path_factory.mktemp("runs")
    return [small.ranker(data, out=root / f"run{seed}", seed=seed).folder for seed in (0, 1)]


@pytest.fixture
def client(runs):
    with TestClient(application(Service(lambda: seqrec.load(runs[0])))) as found:
        yield found


def test_answers_are_those_of_python(client, runs, data):
    histories = [[str(item) for item in data.item_ids[:3]], [str(data.item_ids[7])], ["odd"], []]
    body = client.post("/recommend", json={"histories": histories, "k": 4}).json()
    model = seqrec.load(runs[0])
    wanted = model.answer(histories=histories, k=4)
    assert [item["item"] for one in body["lists"] for item in one["items"]] == wanted.table["item"].to_list()
    assert [item["title"] for one in body["lists"] for item in one["items"]] == wanted.table["title"].to_list()
    assert [one["popular"] for one in body["lists"]] == [False, False, True, True]
    assert body["unknown"] == ["odd"]
    assert body["version"] == model.version
    assert body["lists"][2]["items"][0]["score"] is None


def test_ids_may_be_numbers_and_filters_hold(client, data):
    first = data.item_ids[:5].to_list()
    question = {"histories": [[data.item_ids[9]]], "k": 9, "only": first, "exclude": [str(first[0])]}
    body = client.post("/recommend", json=question).json()
    assert {item["item"] for item in body["lists"][0]["items"]} == set(first[1:])


def test_facts(client, runs):
    assert client.get("/health").json() == {"status": "ok"}
    about = client.get("/model").json()
    assert about == {"model": "sasrec", "version": seqrec.load(runs[0]).version, "items": 40, "data": "synthetic"}
    assert "/recommend" in client.get("/openapi.json").json()["paths"]


@pytest.mark.parametrize(
    ("question", "code"),
    [
        ({"histories": []}, 422),
        ({"histories": [["a"]], "k": 0}, 422),
        ({"histories": [["a"]], "k": 10**9}, 422),
        ({"histories": [["a"]], "top": 3}, 422),
        ({"histories": "a"}, 422),
        ({"histories": [[None]]}, 422),
        ({"histories": [["odd"]], "strict": True}, 422),
        ({"histories": [["a"]] * 1001}, 422),
        ({"histories": [["a" * 1_000_001]]}, 413),
        ({}, 422),
    ],
)
def test_bad_questions_are_answered_in_json(client, question, code):
    answer = client.post("/recommend", json=question)
    assert answer.status_code == code
    assert answer.json()["detail"]


def test_what_is_no_json_and_has_no_length_is_refused(client):
    assert client.post("/recommend", content=b"\xff{").status_code == 422
    assert client.post("/recommend", content=iter([b"{}"])).status_code == 411
    assert client.get("/nothing").json() == {"detail": "Not Found"}


def test_more_requests_than_may_wait_are_turned_away(runs):
    begun, go_on = threading.Event(), threading.Event()
    service = Service(lambda: seqrec.load(runs[0]))
    answer = service.recommend

    def slowly(*given, **named):
        begun.set()
        go_on.wait(30)
        return answer(*given, **named)

    service.recommend = slowly
    question = {"histories": [["1"]]}
    with TestClient(application(service, Bounds(workers=1, waiting=1))) as client:
        codes = []
        first = threading.Thread(target=lambda: codes.append(client.post("/recommend", json=question).status_code))
        first.start()
        begun.wait(30)
        refused = client.post("/recommend", json=question)
        go_on.set()
        first.join()
        assert (codes, refused.status_code) == ([200], 503)
        assert refused.headers["retry-after"] == "1"
        assert client.post("/recommend", json=question).status_code == 200


def test_a_folder_that_cannot_be_opened_leaves_the_old_model_in_use(data, tmp_path):
    model = small.ranker(data, out=tmp_path / "run")
    with TestClient(application(Service(lambda: seqrec.load(tmp_path / "run")))) as client:
        (tmp_path / "run" / "config.json").rename(tmp_path / "away.json")
        answer = client.post("/reload")
        assert answer.status_code == 409
        assert "the old model stays in use" in answer.json()["detail"]
        assert client.get("/model").json()["version"] == model.version
        (tmp_path / "away.json").rename(tmp_path / "run" / "config.json")
        assert client.post("/reload").status_code == 200


def test_generators_are_served_with_their_beams(data, tmp_path):
    small.generator(data, tmp_path / "cache", out=tmp_path / "run")
    service = Service(lambda: genrec.load(tmp_path / "run"), {"beams": 8})
    with TestClient(application(service)) as client:
        body = client.post("/recommend", json={"histories": [[str(data.item_ids[0])]], "k": 3}).json()
        wanted = genrec.load(tmp_path / "run").recommend(histories=[[data.item_ids[0]]], k=3, beams=8)
        assert [item["item"] for item in body["lists"][0]["items"]] == wanted["item"].to_list()


class Server:
    """``seqrec serve`` as a process."""

    def __init__(self, run, *words):
        command = [sys.executable, "-m", "seqrec.cli", "serve", str(run), "--port", "0", *words]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment, cwd=ROOT)
        line = self.process.stderr.readline()
        found = re.search(r"http://([\d.]+):(\d+)", line)
        assert found, line + self.process.stderr.read()
        self.address = found[1], int(found[2])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def ask(self, path, body=None, connection=None):
        if connection is None:
            with closing(http.client.HTTPConnection(*self.address, timeout=60)) as once:
                return self.ask(path, body, once)
        text = None if body is None else json.dumps(body)
        connection.request(
            "GET" if path in ("/health", "/model") else "POST", path, text or "", {"Content-Type": "application/json"}
        )
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())

    def memory(self):
        return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{self.process.pid}/status").read_text())[1])


def swapped_under_load(runs, tmp_path, swaps, clients=3):
    """Swap the served folder while clients ask; statuses, answers that no version gives, and memory in KiB."""
    import shutil

    live = tmp_path / "live"
    shutil.copytree(runs[0], live)
    models = [seqrec.load(run) for run in runs]
    histories = [[str(item)] for item in range(8)]
    wanted = {one.version: one.recommend(histories=histories, k=5)["item"].to_list() for one in models}
    statuses, wrong, versions, stop, memory = [], [], set(), threading.Event(), []
    with Server(live) as server:

        def ask():
            with closing(http.client.HTTPConnection(*server.address, timeout=60)) as connection:
                while not stop.is_set():
                    status, body = server.ask("/recommend", {"histories": histories, "k": 5}, connection)
                    statuses.append(status)
                    if status == 200:
                        versions.add(body["version"])
                        if [item["item"] for one in body["lists"] for item in one["items"]] != wanted[body["version"]]:
                            wrong.append(body)

        threads = [threading.Thread(target=ask) for _ in range(clients)]
        for thread in threads:
            thread.start()
        for number in range(swaps):
            models[(number + 1) % 2].model.save_pretrained(live)
            statuses.append(server.ask("/reload")[0])
            memory.append(server.memory())
        stop.set()
        for thread in threads:
            thread.join()
    return statuses, wrong, versions, memory


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="memory is read from /proc")
def test_a_model_is_swapped_in_under_load(runs, tmp_path):
    statuses, wrong, versions, _ = swapped_under_load(runs, tmp_path, 4)
    assert set(statuses) == {200}
    assert not wrong
    assert len(versions) == 2


@pytest.mark.slow
def test_a_hundred_models_are_swapped_in_under_load(runs, tmp_path):
    statuses, wrong, versions, memory = swapped_under_load(runs, tmp_path, 100)
    print(f"{len(statuses):,} answers, memory after 10 swaps {memory[9]:,} KiB and after 100 {memory[-1]:,} KiB")
    assert set(statuses) == {200}
    assert not wrong
    assert len(versions) == 2
    assert memory[-1] < 1.1 * memory[9]


def test_a_server_ends_at_a_signal_and_refuses_a_taken_address(runs):
    with Server(runs[0]) as server:
        host, port = server.address
        assert host == "127.0.0.1"
        command = [sys.executable, "-m", "seqrec.cli", "serve", str(runs[0]), "--port", str(port)]
        second = subprocess.run(
            command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}
        )
        assert second.returncode == 1
        assert second.stderr.startswith(f"Error: cannot listen on 127.0.0.1:{port}")
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 143
