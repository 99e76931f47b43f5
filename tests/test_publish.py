"Publishing: the real client of the hub, and a small hub on this machine."

import base64
import hashlib
import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import urlsplit

import pytest
import torch
import yaml
from huggingface_hub import HfApi, ModelCard, RepoUrl
from torch.testing import assert_close

from gud_nb.basis import Pixel
from gud_nb.data import digits
from gud_nb.diffusion import LinearDiffusion
from gud_nb.model import ScoreModel, fit_law
from gud_nb.network import MLP
from gud_nb.recipe import vp
from gud_nb.sampler import ImageNoise
from gud_nb.saved import from_pretrained, model_card
from gud_nb.schedule import LinearBeta

NAME, SHA = "user/digits", "0" * 40


def small_model():
    "A Gaussian law of digits and a network that adds nothing yet."
    d, basis = LinearDiffusion(vp(), LinearBeta()), Pixel((1, 8, 8))
    model = ScoreModel(MLP((1, 8, 8), width=8), d, basis, fit_law(d, basis, digits().x))
    model.about = {"data": "digits", "steps": 0}
    return model.eval()


class Hub(BaseHTTPRequestHandler):
    "What pushing and loading want of a hub: the files are in `server.files`."

    def log_message(self, *args):
        "Say nothing."

    def answer(self, body, **headers):
        "Send JSON, or bytes as they are."
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(200)
        for name, value in {"Content-Length": len(raw), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(raw)

    def do_POST(self):
        "A repository is made, files are announced, a commit is sent."
        raw = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path, base = urlsplit(self.path).path, f"http://{self.headers['Host']}"
        self.server.seen.append(path)
        if path == "/api/repos/create":
            self.server.made.append(json.loads(raw))
            return self.answer({"url": f"{base}/{NAME}"})
        if path == "/api/validate-yaml":  # the front matter of README.md
            self.server.cards.append(json.loads(raw)["content"])
            return self.answer(dict(errors=[], warnings=[]))
        if path.endswith("/preupload/main"):
            files = [f["path"] for f in json.loads(raw)["files"]]
            plain = dict(uploadMode="regular", shouldIgnore=False)
            return self.answer({"files": [dict(path=f, **plain) for f in files]})
        for line in map(json.loads, raw.splitlines()):
            if line["key"] == "file":
                content = base64.b64decode(line["value"]["content"])
                self.server.files[line["value"]["path"]] = content
            if line["key"] == "header":
                self.server.messages.append(line["value"]["summary"])
        address = f"{base}/{NAME}/commit/{SHA}"
        self.answer(dict(commitUrl=address, commitOid=SHA, success=True))

    def do_GET(self):
        "What is there, and each file."
        path, files = urlsplit(self.path).path, self.server.files
        self.server.seen.append(path)
        if path == f"/api/models/{NAME}/revision/main":
            names = [dict(rfilename=f) for f in files]
            return self.answer(dict(id=NAME, sha=SHA, siblings=names))
        if path == f"/api/models/{NAME}/tree/{SHA}":
            each = [dict(path=f, size=len(v), oid=SHA) for f, v in files.items()]
            return self.answer([dict(type="file", **v) for v in each])
        name = path.removeprefix(f"/{NAME}/resolve/{SHA}/")
        if name not in files:
            return self.send_error(404)
        tag = hashlib.sha1(files[name]).hexdigest()
        self.answer(files[name], ETag=f'"{tag}"', X_Repo_Commit=SHA)

    do_HEAD = do_GET


@pytest.fixture
def hub():
    "A hub on this machine, and what has been sent to it."
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.files, server.made, server.messages, server.seen = {}, [], [], []
    server.cards = []
    Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


PUSH_AND_LOAD = f"""
import sys
import torch
from gud_nb.sampler import ImageNoise
from gud_nb.saved import from_pretrained
model = from_pretrained(sys.argv[1])
print(model.push_to_hub({NAME!r}, token="hf_x", private=True))
again = from_pretrained({NAME!r})
a, b = (m.sample(2, generator=ImageNoise(0)) for m in (model, again))
assert torch.equal(a, b) and again.about == model.about
"""


def test_push_and_load_through_the_client(hub, tmp_path):
    small_model().save_pretrained(tmp_path / "model")
    own = dict(HF_ENDPOINT=f"http://127.0.0.1:{hub.server_port}", HF_HUB_OFFLINE="0")
    own |= dict(HF_HOME=str(tmp_path / "home"), HF_HUB_DISABLE_XET="1")
    own |= dict(HF_HUB_DISABLE_PROGRESS_BARS="1", NO_PROXY="127.0.0.1")
    own |= dict(PYTHONPATH=os.pathsep.join(sys.path))
    command = [sys.executable, "-c", PUSH_AND_LOAD, str(tmp_path / "model")]
    how = dict(env=os.environ | own, capture_output=True, text=True, timeout=120)
    run = subprocess.run(command, **how)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip().endswith(f"/{NAME}/commit/{SHA}")
    assert set(hub.files) == {"README.md", "config.json", "model.safetensors"}
    assert hub.made[0]["name"] == "digits"
    assert "private" in hub.made[0].values()
    assert hub.messages == ["A model of gud_nb"]
    assert f"/{NAME}/resolve/{SHA}/model.safetensors" in hub.seen
    assert hub.cards[0] == hub.files["README.md"].decode()


def pretend(monkeypatch, folder):
    "Put a folder in the place of the hub."
    said = []

    def create_repo(self, repo_id, **how):
        said.append(how)
        return RepoUrl(f"https://huggingface.co/{repo_id}")

    def upload_folder(self, *, repo_id, folder_path, **how):
        said.append(how)
        Path(folder_path).rename(folder)
        Path(folder_path).mkdir()  # which the caller removes
        return f"https://huggingface.co/{repo_id}/commit/1"

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    return said


def test_a_card_of_ones_own_and_half_the_size(monkeypatch, tmp_path):
    model, where = small_model(), tmp_path / "hub"
    said = pretend(monkeypatch, where)
    model.push_to_hub(NAME, "# mine\n", torch.float16, create_pr=True)
    assert said[1] == dict(commit_message="A model of gud_nb", create_pr=True)
    assert (where / "README.md").read_text("utf-8") == "# mine\n"
    a, b = (
        m.sample(2, generator=ImageNoise(0)) for m in (model, from_pretrained(where))
    )
    assert_close(a, b, rtol=0, atol=0.05)


def test_no_repository_is_made_for_a_model_that_cannot_be_saved(monkeypatch, tmp_path):
    model = small_model()
    said = pretend(monkeypatch, tmp_path / "hub")
    model.about = {"bad": object()}
    with pytest.raises(ValueError):
        model.push_to_hub(NAME)
    assert said == []


def test_front_matter_is_what_the_hub_reads():
    metrics = {"FID": 8.4, "bits per dimension": 3.76}
    text = model_card(small_model(), NAME, "mit", metrics, text="## Limits\n\nSmall.")
    card = ModelCard(text)
    data = card.data
    assert (data.library_name, data.license) == ("gud_nb", "mit")
    assert data.tags == ["diffusion"]
    assert data.metrics == list(metrics)
    assert {r.metric_type: r.metric_value for r in data.eval_results} == metrics
    assert {r.dataset_name for r in data.eval_results} == {"digits"}
    assert f'from_pretrained("{NAME}")' in card.text
    assert "## Limits" in card.text
    assert "| steps | 0 |" in card.text


def test_a_card_without_metrics_or_license_is_yaml():
    text = model_card(small_model(), NAME)
    front = yaml.safe_load(text.split("---\n")[1])
    assert set(front) == {"library_name", "tags", "pipeline_tag"}
