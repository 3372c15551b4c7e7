"""Logs a b4r run to Weights & Biases while it goes on: python3 -c <this> RUN_DIR PROJECT NAME.

Reads config.json from stdin, which stays open as long as the run does, and metrics.jsonl and results.json from the
run directory. The last line on stdout is a JSON object that says what was done."""

import json
import os
import signal
import sys
import threading


def say(**what):
    print(json.dumps(what), flush=True)


def lines(path, start, head):
    """Whole lines of `path` from byte `start`, where they end, and its first line; all of them where that is another."""
    try:
        with open(path, "rb") as file:
            first = file.readline()
            if not first.endswith(b"\n"):
                return [], 0 if head else start, head
            start = start if first == head else 0
            file.seek(start)
            text = file.read()
    except FileNotFoundError:
        return [], start, head
    whole = text[: text.rfind(b"\n") + 1]
    return [json.loads(line) for line in whole.splitlines()], start + len(whole), first


def log(run, line, logged, before):
    metrics = {f"valid/{key}": value for key, value in line["valid"].items()}
    metrics.update({"train/train_loss": line["train_loss"], "train/learning_rate": line["learning_rate"]})
    metrics.update({"train/tokens": line["tokens"], "epoch": line["epoch"], "seconds": line["seconds"]})
    # An evaluation outside the plan is taken back when a run is prolonged: its step may come again.
    step = before + line["step"]
    if step > logged:
        run.log(metrics, step=step)
        return step
    return logged


def summarize(run, results):
    for key, value in results["test"].items():
        run.summary[f"eval/{key}"] = value
    for baseline in results["baselines"]:
        for key, value in baseline["test"].items():
            run.summary[f"eval_{baseline['name']}/{key}"] = value
    for key in ("best_epoch", "epochs", "steps", "parameters", "train_seconds", "tokens_per_second"):
        run.summary[key] = results[key]


def start(wandb, folder, project, name, config):
    id_file = os.path.join(folder, "wandb.id")
    run_id = None
    if os.path.exists(id_file):
        with open(id_file) as file:
            run_id = file.read().strip()
    settings = wandb.Settings(silent=False, console="off", x_disable_stats=False)
    run = wandb.init(project=project, name=name, id=run_id, resume="allow", dir=folder, config=config, settings=settings)
    with open(id_file, "w") as file:
        file.write(run.id)
    return run


def main():
    folder, project, name = sys.argv[1:]
    # Ctrl-C is for the run, which then closes stdin.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        import wandb
    except ImportError:
        say(state="missing", python=sys.executable)
        return
    config = json.loads(sys.stdin.readline())
    try:
        run = start(wandb, folder, project, name, config)
    except BaseException as error:
        say(state="refused", why=str(error) or type(error).__name__)
        return
    over = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), over.set()), daemon=True).start()
    read, head, logged, before = 0, b"", run.step - 1 if run.resumed else -1, 0
    while True:
        # Asked first, so that what the run wrote last is still read.
        ended = over.wait(1.0)
        found, read, first = lines(os.path.join(folder, "metrics.jsonl"), read, head)
        if head and first != head:
            # The run began again (lr_fallback): its steps go on from those logged, since they may only rise.
            before = logged
        head = first
        for line in found:
            logged = log(run, line, logged, before)
        if ended:
            break
    results = os.path.join(folder, "results.json")
    finished = os.path.exists(results)
    if finished:
        with open(results) as file:
            summarize(run, json.load(file))
    offline = run.settings.mode in ("offline", "dryrun")
    where = os.path.dirname(run.dir) if offline else run.url
    run.finish(exit_code=0 if finished else 1)
    state = "offline" if offline else "disabled" if run.settings.mode == "disabled" else "logged"
    say(state=state, where=where, project=project)


main()
