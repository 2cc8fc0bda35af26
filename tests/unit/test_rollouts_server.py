"""The server engine without vLLM: adapters as one, hand-overs, the HTTP client, the keeper, the sync check's arithmetic."""

import asyncio
import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from align.config.base import Sampling
from align.errors import ConfigError, ServiceError, StageError
from align.sync import Agreement, require_agreement, require_nearest
from align.types import Prompt, prompt_id
from rollouts import server_process
from rollouts.adapters import CONFIG, FOLDER, adapter_id, obstacle, one_adapter
from rollouts.engine import Request, open_generator
from rollouts.handover import Handover, adapters_until, handover, model_print
from rollouts.server_client import Client
from rollouts.sync import check_sync, token_logprobs
from tests.tiny import make_tiny_model

ROOT = Path(__file__).parents[2]


def trained(parent: Path, out: Path, *, seed: int, modules: list[str], rank: int = 4) -> Path:
    """A checkpoint as training under LoRA publishes it: the parent with a random adapter merged, the adapter beside."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32)
    config = LoraConfig(
        r=rank, lora_alpha=3 * rank, target_modules=modules, task_type="CAUSAL_LM", init_lora_weights=False
    )
    tuned = get_peft_model(model, config)
    tuned.save_pretrained(out / FOLDER)
    tuned.merge_and_unload().save_pretrained(out)
    AutoTokenizer.from_pretrained(parent).save_pretrained(out)
    return out


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> list[Path]:
    """A base model, two rounds of LoRA on it, and a model whose weights were all trained."""
    folder = tmp_path_factory.mktemp("chain")
    base = make_tiny_model(folder / "base")
    first = trained(base, folder / "first", seed=1, modules=["q_proj", "down_proj"])
    second = trained(first, folder / "second", seed=2, modules=["q_proj", "o_proj"], rank=2)
    return [base, first, second, make_tiny_model(folder / "full", seed=9)]


def logits(model, ids=(5, 60, 200, 17)):
    import torch

    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits


def test_the_sum_of_adapters_is_what_both_rounds_trained(chain, tmp_path):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base, first, second, _ = chain
    both = one_adapter([first / FOLDER, second / FOLDER], tmp_path / "sum")
    summed = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), both)
    merged = AutoModelForCausalLM.from_pretrained(second)
    alone = AutoModelForCausalLM.from_pretrained(first)
    torch.testing.assert_close(logits(summed), logits(merged), rtol=0, atol=1e-5)
    assert (logits(alone) - logits(merged)).abs().max() > 0.01, "the second round changed something"
    config = json.loads((both / CONFIG).read_text())
    assert (config["r"], config["lora_alpha"], config["target_modules"]) == (6, 6, ["down_proj", "o_proj", "q_proj"])


def test_an_adapter_that_is_alone_stays_where_it_is(chain, tmp_path):
    assert one_adapter([chain[1] / FOLDER], tmp_path / "sum") == chain[1] / FOLDER
    assert not (tmp_path / "sum").exists()
    assert adapter_id([chain[1] / FOLDER]) != adapter_id([chain[2] / FOLDER])


def test_adapters_that_cannot_be_added_up(chain, tmp_path):
    folders = [chain[1] / FOLDER, chain[2] / FOLDER]
    assert obstacle(folders, 8) is None
    assert obstacle(folders, 4) == "the adapters' ranks add up to 6, over max_lora_rank (4)"
    odd = tmp_path / "odd"
    odd.mkdir()
    config = json.loads((folders[0] / CONFIG).read_text())
    (odd / CONFIG).write_text(json.dumps({**config, "use_dora": True}))
    assert obstacle([odd], 8) == "an adapter has use_dora True"


def wanted(model: Path, **changes):
    return {"model": model_print(model), "tokens": 100, "dtype": "float32", "threads": 1, "max_lora_rank": 8, **changes}


def test_how_the_next_checkpoint_reaches_a_running_server(chain):
    base, first, second, full = chain
    serves = wanted(base, tokens=128)
    assert handover(serves, wanted(base), base, []) == Handover([])
    assert handover(serves, wanted(first), first, [base]) == Handover([first / FOLDER])
    assert handover(serves, wanted(second), second, [first, base]) == Handover([first / FOLDER, second / FOLDER])
    assert handover(wanted(first), wanted(second), second, [first, base]) == Handover([second / FOLDER])
    assert "all its weights were trained" in handover(serves, wanted(full), full, [base]).restart
    assert "all its weights were trained" in handover(serves, wanted(second), second, []).restart
    assert "all its weights were trained" in handover(serves, wanted(second), second, [full]).restart
    assert (
        "ranks add up to 6"
        in handover(serves | {"max_lora_rank": 4}, wanted(second, max_lora_rank=4), second, [first, base]).restart
    )
    assert handover(serves, wanted(base, tokens=129), base, []).restart.startswith("it has room for 128 tokens")
    assert (
        handover(serves, wanted(base, dtype="bfloat16"), base, []).restart
        == "its dtype is float32, and bfloat16 is asked for"
    )


def test_another_model_at_the_same_path_is_another_model(tmp_path):
    folder = make_tiny_model(tmp_path / "m")
    before = model_print(folder)
    assert model_print(folder) == before
    os.utime(folder / "model.safetensors", (1, 1))
    assert model_print(folder) != before


def test_a_server_that_shows_no_folder_gets_all_adapters_there_are(chain):
    base, first, second, full = chain
    assert adapters_until(None, second, [first, base]) == ([first / FOLDER, second / FOLDER], base)
    assert adapters_until(None, second, []) == ([], second)
    assert adapters_until(None, full, [base]) == ([], full)


class Fake(BaseHTTPRequestHandler):
    """Answers as vLLM does; fails as often as `failures` says."""

    seen: Counter
    failures: list[int]
    lock = threading.Lock()
    now = most = 0

    def do_GET(self):
        self._send(200, {"data": [{"id": "m", "root": "/nowhere", "parent": None, "max_model_len": 64}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        kind = type(self)
        with kind.lock:
            kind.seen[self.path] += 1
            kind.now += 1
            kind.most = max(kind.most, kind.now)
            code = kind.failures.pop() if kind.failures else 200
        time.sleep(0.01)
        with kind.lock:
            kind.now -= 1
        if self.headers["authorization"] != "Bearer secret":
            code = 401
        choice = {"token_ids": [body.get("seed")], "finish_reason": "stop", "logprobs": None}
        self._send(code, {"choices": [choice]} if code == 200 else {"error": {"message": "too much of it"}})

    def _send(self, code, body):
        payload = json.dumps(body).encode()
        self.send_response(code)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def fake():
    kind = type("One", (Fake,), {"seen": Counter(), "failures": [], "lock": threading.Lock()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    kind.url = f"http://127.0.0.1:{server.server_port}"
    yield kind
    server.shutdown()
    server.server_close()


def client(fake, key="secret", **changes):
    return Client(fake.url, key, **{"concurrency": 8, "timeout": 5, "own": True, "key_name": "THE_KEY", **changes})


def test_many_requests_in_order_and_never_more_at_once_than_allowed(fake):
    found = client(fake).complete([{"seed": n} for n in range(60)])
    assert [choice["token_ids"] for choice in found] == [[n] for n in range(60)]
    assert 1 < fake.most <= 8


def test_works_inside_a_running_event_loop(fake):
    async def in_a_notebook():
        return client(fake).complete([{"seed": 3}])

    assert asyncio.run(in_a_notebook())[0]["token_ids"] == [3]


def test_a_busy_server_is_asked_again(fake):
    fake.failures[:] = [503, 429]
    assert client(fake).complete([{"seed": 1}])[0]["token_ids"] == [1]
    assert fake.seen["/v1/completions"] == 3


def test_a_refusal_is_said_in_the_servers_words(fake):
    fake.failures[:] = [400]
    with pytest.raises(StageError, match=r"refuses /v1/completions \(HTTP 400\): too much of it"):
        client(fake).complete([{"seed": 1}])
    assert fake.seen["/v1/completions"] == 1


def test_a_wrong_key_names_the_variable_and_not_the_key(fake):
    with pytest.raises(
        ConfigError, match="does not accept our key; put it into the environment variable THE_KEY"
    ) as error:
        client(fake, key="hush-hush").complete([{"seed": 1}])
    assert "hush" not in str(error.value)


def test_a_server_that_is_gone(fake, monkeypatch):
    monkeypatch.setattr("rollouts.server_client.FIRST_PAUSE", 0.01)
    gone = Client("http://127.0.0.1:9", None, concurrency=2, timeout=1, own=True)
    with pytest.raises(ServiceError, match=r"cannot be reached .* 4 times in a row"):
        gone.complete([{"seed": 1}])
    told = Client(
        "http://127.0.0.1:9", None, concurrency=2, timeout=1, own=True, diagnose=lambda: StageError("it died")
    )
    with pytest.raises(StageError, match="it died"):
        told.complete([{"seed": 1}])


# The keeper, with a program that has a child of its own in place of vLLM.

PROGRAM = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print("child", child.pid, flush=True)
"""
WAITS = PROGRAM + "time.sleep(600)"


def begin(home: Path, program: str = WAITS) -> server_process.Server:
    return server_process.start(home, [sys.executable, "-c", program], {}, {"model": "m"})


def child_of(home: Path) -> int:
    until = time.monotonic() + 10
    while time.monotonic() < until:
        words = (home / server_process.LOG).read_text().split()
        if "child" in words:
            return int(words[words.index("child") + 1])
        time.sleep(0.02)
    raise AssertionError((home / server_process.LOG).read_text())


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def gone(*pids: int, within: float = 20) -> bool:
    until = time.monotonic() + within
    while any(lives(pid) for pid in pids) and time.monotonic() < until:
        time.sleep(0.05)
    return not any(lives(pid) for pid in pids)


def pids(home: Path) -> list[int]:
    return [int(word) for word in (home / server_process.KEEPER).read_text().split()]


def test_a_server_is_found_again_and_ends_with_all_its_processes():
    with server_process.new_home() as home:
        assert server_process.running(home) is None
        server = begin(home)
        processes = [*pids(home), child_of(home)]
        assert server_process.running(home) == server
        assert len(processes) == 3 and all(map(lives, processes))
        assert (
            oct((home / server_process.NOTE).stat().st_mode)[-3:]
            == "600"
            == oct((home / server_process.LOG).stat().st_mode)[-3:]
        )
    assert gone(*processes, within=1) and not home.exists()


def test_no_process_shows_the_key_and_nothing_prints_it():
    with server_process.new_home() as home:
        server = begin(home)
        child_of(home)
        listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
        assert "server_process" in listed and server.key not in listed
        assert server.key not in repr(server) and len(server.key) >= 32
        (home / server_process.LOG).write_text(f"vLLM printed {server.key}\n")
        assert server_process.last_lines(home) == "its last lines are\n  vLLM printed …"


def test_one_that_ends_by_itself_leaves_nothing_and_says_why():
    with server_process.new_home() as home:
        begin(home, PROGRAM + "sys.exit('no such model')")
        processes = [*pids(home), child_of(home)]
        assert gone(*processes)
        assert not server_process.alive(home)
        assert "no such model" in server_process.last_lines(home)


def test_one_that_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(server_process, "POLITE_SECONDS", 0.3)
    deaf = "import signal, time; signal.signal(15, lambda *_: None); print('deaf', flush=True); time.sleep(600)"
    child = subprocess.Popen([sys.executable, "-c", deaf], start_new_session=True, stdout=subprocess.PIPE)
    assert child.stdout.readline() == b"deaf\n"
    server_process._end_group(child)
    assert child.returncode == -signal.SIGKILL


def test_a_killed_keeper_takes_the_server_with_it():
    with server_process.new_home() as home:
        begin(home)
        keeper, server = pids(home)
        os.kill(keeper, signal.SIGKILL)
        assert gone(keeper, server)


def test_a_killed_owner_takes_the_server_with_it(tmp_path):
    program = """
import time
from pathlib import Path
from rollouts import server_process
from tests.unit.test_rollouts_server import begin, child_of, pids
with server_process.kept_server():
    import os
    home = Path(os.environ[server_process.HOME])
    begin(home)
    print(home, *pids(home), child_of(home), flush=True)
    time.sleep(600)
"""
    owner = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    home, *processes = owner.stdout.readline().split()
    owner.kill()
    owner.wait()
    assert len(processes) == 3 and gone(*map(int, processes))
    assert not Path(home).exists()


# The sync check's arithmetic.


def test_agreement_within_the_tolerance():
    found = require_agreement([[-1.0, -2.0], [-3.0]], [[-1.00005, -2.0], [-3.0001]], tolerance=1e-4)
    assert found == Agreement(pytest.approx(1e-4), pytest.approx(5e-5), 3)
    assert require_agreement([[]], [[]], tolerance=1e-4) == Agreement(0.0, 0.0, 0)


@pytest.mark.parametrize(
    "said", [[-1.5, -2.0], [-1.0, math.nan], [math.nan, -2.0], [-1.0, -math.inf], [-1.0005, -2.0005]]
)
def test_what_is_no_agreement(said):
    with pytest.raises(
        StageError, match="the engine does not sample from the policy: log-probabilities of the same 2 tokens"
    ):
        require_agreement([said], [[-1.0, -2.0]], tolerance=1e-4)


def test_numbers_of_a_nucleus_may_be_larger_by_what_it_leaves_out():
    own = [[-1.0, -2.0, -3.0]]
    said = [[-1.0 + 0.1, -2.0, -3.0 - 1e-5]]
    assert require_agreement(said, own, tolerance=1e-4, top_p=0.9).largest < 2e-5
    for wrong in ([[-1.0 + 0.11, -2.0, -3.0]], [[-1.0, -2.1, -3.0]]):
        with pytest.raises(StageError):
            require_agreement(wrong, own, tolerance=1e-4, top_p=0.9)


def test_an_engine_that_is_nearer_to_other_weights():
    own, rival = [[-1.0] * 60, [-2.0] * 40], [[-1.001] * 60, [-2.001] * 40]
    require_nearest(own, own, rival, name="the parent")
    require_nearest(rival, own, own, name="the same numbers")
    half = [[-1.001, -1.0] * 30, [-2.0, -2.001] * 20]
    require_nearest(half, own, rival, name="the parent")
    with pytest.raises(StageError, match=r"samples from the parent and not from the policy: .* for 100 of 100 tokens"):
        require_nearest(rival, own, rival, name="the parent")
    few = [numbers[:10] for numbers in rival[:1]]
    require_nearest(few, [own[0][:10]], few, name="too few to be sure of")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_that_differ_by_less_than_the_tolerance_are_told_apart(chain, tmp_path, dtype):
    """A stale engine after a round that changed a two-hundredth of what the fixture's rounds do."""
    import shutil

    from safetensors.torch import load_file, save_file

    base, first, *_ = chain
    policy = shutil.copytree(first, tmp_path / "policy", ignore=shutil.ignore_patterns(FOLDER))
    old, new = (load_file(folder / "model.safetensors") for folder in (base, first))
    mixed = {name: old[name] + (new[name] - old[name]) / (200 if dtype == "float32" else 5) for name in new}
    save_file(mixed, policy / "model.safetensors", metadata={"format": "pt"})
    requests = [Request(f"p{n}", [10 + (n * i) % 240 for i in range(n)]) for n in range(3, 19)]
    how = {"dtype": dtype, "max_tokens_total": 100, "threads": 1}
    with open_generator("transformers", policy, **how) as generator:
        healthy = check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0, ancestors=[base])
    with open_generator("transformers", base, **how) as generator:
        stale = check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0)
        with pytest.raises(StageError, match=r"samples from .*base and not from the policy"):
            check_sync(generator, policy, requests, dtype=dtype, tolerance=1.0, ancestors=[base])
    assert healthy.tokens > 100 and stale.mean < {"float32": 1e-2, "bfloat16": 0.05}[dtype]


def test_the_trainers_log_probabilities_are_those_of_the_softmax(chain):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(chain[0])
    prompt, answer = [5, 60], [200, 17]
    whole = logits(model).log_softmax(-1)[0]
    expected = [float(whole[1, 200]), float(whole[2, 17])]
    assert token_logprobs(model, prompt, answer) == pytest.approx(expected, abs=1e-6)
    assert torch.is_grad_enabled()


def test_rollouts_of_other_weights_stop_before_the_first_shard(chain, tmp_path, monkeypatch, capfd):
    from rollouts import sample

    messages = [{"role": "user", "content": "Where is my order?"}]
    prompts = [Prompt(prompt_id(messages), messages, "train", "here")]
    order = {
        "sampling": Sampling(max_tokens=8), "samples": 2, "engine": "transformers", "dtype": "float32",
        "max_prompt_tokens": 200, "shard": 2, "seed": 7, "threads": 1,
    }  # fmt: skip
    sample.sample_candidates(prompts, chain[1], "first", **order, out=tmp_path / "right")
    assert "sync check: engine and policy agree about" in capfd.readouterr().err
    real = sample.open_generator
    monkeypatch.setattr(sample, "open_generator", lambda engine, checkpoint, **how: real(engine, chain[0], **how))
    with pytest.raises(StageError, match="the engine does not sample from the policy") as error:
        sample.sample_candidates(prompts, chain[1], "first", **order, out=tmp_path / "wrong")
    assert error.value.where == str(chain[1])
    assert list((tmp_path / "wrong").rglob("*.parquet")) == []
