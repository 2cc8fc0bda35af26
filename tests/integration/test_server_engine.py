"""vLLM's real server on a tiny model: the same answers as in process, adapters loaded while it runs, faults found."""

import importlib.util
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import httpx
import pytest

from align.config.base import Sampling
from align.config.rollouts import Engine, Server
from align.errors import ConfigError, ServiceError, StageError
from align.pipeline.receipts import current, stage_folder
from align.pipeline.stage import Ref
from align.sync import TOLERANCE
from rollouts import server_process
from rollouts.adapters import CONFIG, FOLDER, WEIGHTS
from rollouts.engine import Request
from rollouts.engines import open_generator
from rollouts.sync import check_sync
from tests.loop import align, kill_at, make_loop
from tests.lora import trained
from tests.tiny import make_tiny_model
from tests.unit.test_rollouts_server import gone, pids

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
]
REQUESTS = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in (5, 1, 70, 3, 9, 33)]
SAMPLING = Sampling(max_tokens=24, logprobs=True)
MODULES = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OPENING = {"dtype": "float32", "max_tokens_total": 100, "threads": 1}


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> list[Path]:
    """A base model and three rounds of LoRA on it."""
    folder = tmp_path_factory.mktemp("rounds")
    found = [make_tiny_model(folder / "policy_0")]
    for number in (1, 2, 3):
        found.append(trained(found[-1], folder / f"policy_{number}", seed=number, modules=MODULES, rank=8))
    return found


@pytest.fixture(scope="module")
def kept(chain):
    """One server for this module, as for the rounds of one run, begun with the base model."""
    with server_process.kept_server():
        with opened(chain[0]):
            pass
        yield server_process.kept_home()


@pytest.fixture
def alone(monkeypatch):
    """Whatever server this module keeps, the test begins one of its own, and it ends with the test."""
    monkeypatch.delenv(server_process.HOME, raising=False)


def opened(checkpoint: Path, ancestors=(), engine: Engine | str = "server", **changes):
    return open_generator(engine, checkpoint, **{**OPENING, "ancestors": ancestors, **changes})


def test_the_same_answers_for_the_same_seeds_as_in_process(chain, kept):
    with opened(chain[0], engine="vllm") as generator:
        expected = generator.generate(REQUESTS, SAMPLING, samples=3, seed=4)
    with opened(chain[0]) as generator:
        found = generator.generate(REQUESTS, SAMPLING, samples=3, seed=4)
        assert generator.generate(REQUESTS[::-1], SAMPLING, samples=3, seed=4)[::-1] == found
        plain = generator.generate(REQUESTS[:1], Sampling(max_tokens=24), samples=2, seed=4)
    assert [[(c.token_ids, c.finish) for c in several] for several in found] == [
        [(c.token_ids, c.finish) for c in several] for several in expected
    ]
    logprobs = [[p for several in answers for c in several for p in c.logprobs] for answers in (found, expected)]
    assert logprobs[0] == pytest.approx(logprobs[1], abs=1e-4)
    assert [c.token_ids for c in plain[0]] == [c.token_ids for c in found[0][:2]] and plain[0][0].logprobs is None
    assert len({tuple(c.token_ids) for several in found for c in several}) == 18


def test_a_new_round_loads_its_adapter_into_the_running_server(chain, kept, capfd):
    for number in (1, 2, 3):
        before = pids(kept)
        with opened(chain[number], chain[:number][::-1]) as generator:
            agreement = check_sync(generator, chain[number], REQUESTS, dtype="float32")
        assert agreement.tokens > 40 and agreement.mean < TOLERANCE["float32"] / 10
        assert pids(kept) == before, "no restart"
    assert "loaded 3 adapter(s)" in capfd.readouterr().err


def test_a_stale_adapter_is_found(chain, kept, tmp_path):
    """The new round's weights are merged, but what the server is given is the adapter of the round before."""
    planted = tmp_path / "policy"
    for name in (path.name for path in chain[2].iterdir() if path.is_file()):
        (planted).mkdir(exist_ok=True)
        (planted / name).write_bytes((chain[2] / name).read_bytes())
    (planted / FOLDER).mkdir()
    for name in (CONFIG, WEIGHTS):
        (planted / FOLDER / name).write_bytes((chain[1] / FOLDER / name).read_bytes())
    with (
        opened(planted, [chain[1], chain[0]]) as generator,
        pytest.raises(StageError, match=r"log-probabilities of the same .* tokens differ") as error,
    ):
        check_sync(generator, planted, REQUESTS, dtype="float32")
    assert "allowed are 0.0001 and 0.001" in str(error.value)


def test_the_base_model_in_the_policys_place_is_found(chain, kept):
    with opened(chain[0]) as generator, pytest.raises(StageError, match="it has other weights"):
        check_sync(generator, chain[1], REQUESTS, dtype="float32")


def test_only_who_has_the_key_gets_in_and_nobody_sees_it(chain, kept):
    with opened(chain[0]):
        server = server_process.running(kept)
    body = {"model": "policy", "prompt": [5], "max_tokens": 1}
    for path in ("/v1/completions", "/invocations", "/inference/v1/generate", "/v1/load_lora_adapter", "/tokenize"):
        assert httpx.post(f"{server.url}{path}", json=body).status_code == 401, path
    assert httpx.get(f"{server.url}/metrics").status_code == 401
    assert httpx.get(f"{server.url}/health").status_code == 200
    headers = {"Authorization": f"Bearer {server.key}"}
    assert httpx.post(f"{server.url}/v1/completions", json=body, headers=headers).status_code == 200
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    assert "api_server" in listed and server.key not in listed
    assert server.key not in (kept / server_process.LOG).read_text()


def test_a_server_that_runs_already(chain, kept, monkeypatch, tmp_path):
    """It is used as it is: adapters are loaded into it and taken out again, and it is never restarted."""
    with opened(chain[0]) as generator:
        expected = generator.generate(REQUESTS, SAMPLING, samples=2, seed=1)
    server, before = server_process.running(kept), pids(kept)
    running = Engine(type="server", server=Server(url=server.url, api_key_env="THE_KEY"))
    with pytest.raises(ConfigError, match="does not accept our key; put it into the environment variable THE_KEY"):
        opened(chain[0], engine=running).__enter__()
    monkeypatch.setenv("THE_KEY", server.key)
    with opened(chain[0], engine=running) as generator:
        assert generator.generate(REQUESTS, SAMPLING, samples=2, seed=1) == expected
    with opened(chain[2], [chain[1], chain[0]], engine=running) as generator:
        check_sync(generator, chain[2], REQUESTS, dtype="float32")
    assert [path.name for path in chain[2].parent.iterdir() if path.name.startswith(".")] == []
    with (
        opened(chain[2], engine=running) as generator,
        pytest.raises(StageError, match="does not sample from the policy"),
    ):
        check_sync(generator, chain[2], REQUESTS, dtype="float32")
    copy = shutil.copytree(chain[1], tmp_path / "copy")
    with opened(copy, [shutil.copytree(chain[0], tmp_path / "base")], engine=running) as generator:
        check_sync(generator, copy, REQUESTS, dtype="float32")
    with pytest.raises(
        ConfigError, match=r"prompt and answer may take 500 tokens, but the server at .* has room for 128"
    ):
        opened(chain[0], engine=running, max_tokens_total=500).__enter__()
    named = Engine(type="server", server=Server(url=server.url, api_key_env="THE_KEY", model="other"))
    with pytest.raises(ConfigError, match="serves policy, and not 'other'"):
        opened(chain[0], engine=named).__enter__()
    assert pids(kept) == before


@pytest.mark.full
def test_weights_that_were_all_trained_restart_the_server_and_it_says_so(alone, chain, tmp_path, capfd):
    full = make_tiny_model(tmp_path / "full", seed=7)
    with server_process.kept_server():
        home = server_process.kept_home()
        with opened(chain[0]):
            before = pids(home)
        with opened(full, [chain[0]]) as generator:
            check_sync(generator, full, REQUESTS, dtype="float32")
        after = pids(home)
    assert before != after and gone(*before, *after, within=1)
    assert "starts again: the new checkpoint is not the server's model with adapters: all its weights were trained" in (
        capfd.readouterr().err
    )


@pytest.mark.full
def test_adapters_that_outgrow_the_server_restart_it(alone, chain, capfd):
    engine = Engine(type="server", server=Server(max_lora_rank=16))
    with server_process.kept_server():
        home = server_process.kept_home()
        seen = []
        for number in (0, 1, 2, 3):
            with opened(chain[number], chain[:number][::-1], engine=engine) as generator:
                check_sync(generator, chain[number], REQUESTS, dtype="float32")
            seen.append(pids(home))
    assert seen[0] == seen[1] == seen[2] != seen[3]
    assert "starts again: the adapters' ranks add up to 24, over max_lora_rank (16)" in capfd.readouterr().err


@pytest.mark.full
@pytest.mark.parametrize("part", ["front end", "engine"])
def test_a_server_that_is_killed_is_started_again_and_gives_the_same_answers(alone, chain, capfd, part):
    with server_process.kept_server(), opened(chain[0]) as generator:
        home = server_process.kept_home()
        expected = generator.generate(REQUESTS, SAMPLING, samples=2, seed=1)
        keeper, server = pids(home)
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        (engine,) = [pid for pid in children if "EngineCore" in Path(f"/proc/{pid}/cmdline").read_text()]
        os.kill(server if part == "front end" else int(engine), signal.SIGKILL)
        assert generator.generate(REQUESTS, SAMPLING, samples=2, seed=1) == expected
        assert gone(keeper, server, int(engine), within=1)
    assert "starts again, for it ended" in capfd.readouterr().err


@pytest.mark.full
def test_a_server_that_cannot_start_says_why(tmp_path):
    broken = make_tiny_model(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ServiceError, match="vLLM's server ended while it started; its last lines are") as error:
        opened(broken).__enter__()
    assert "safetensors" in str(error.value)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_one_server_serves_all_rounds_of_a_run(alone, tmp_path):
    """Round by round an adapter more, and nothing of the server is left when the run was killed or has ended."""
    method = {
        "type": "transformers",
        "max_tokens": 12,
        "prompts": 16,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "samples": 2,
    }
    changes = {
        "sft": None, "annotate": None, "dpo": None, "reward": {"functions": [{"path": "score.py:score"}]},
        "rloo": {**method, "epochs": 2, "lora": {"r": 4}}, "rollouts": {"type": "server", "shard": 8},
    }  # fmt: skip
    recipe = make_loop(tmp_path, tmp_path / "no-server", rounds=2, **changes)
    run = tmp_path / "runs" / "loop"
    assert kill_at(recipe, "1/policy: start", "loop/round_001/policy/*.partial/prompts.parquet")
    until = time.monotonic() + 60
    while (left := _servers_of(run)) and time.monotonic() < until:
        time.sleep(0.1)
    assert left == []
    align("run", recipe, cwd=tmp_path)
    assert _servers_of(run) == []
    said = {}
    for number in (0, 1, 2):
        receipt = current(run, Ref(number, "evaluation"))
        folder = stage_folder(run, receipt.ref) / receipt.key
        said[number] = (folder / "logs" / "stage.log").read_text()
        assert "sync check: engine and policy agree about" in said[number]
    assert "rollouts server: serves" in said[0] and "rollouts server: serves" in said[1]
    assert "rollouts server: loaded 1 adapter(s)" in said[2], "it began with the first round's policy after the kill"


def _servers_of(run: Path) -> list[str]:
    listed = subprocess.run(["ps", "-ww", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if "api_server" in line and str(run) in line]
