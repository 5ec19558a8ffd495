"""Trains a recurrent puzzle solver from a recipe.

accelerate launch examples/train.py --config examples/configs/quickstart.yaml [--field value ...]
"""

import os
from contextlib import nullcontext
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from huggingface_hub.errors import StrictDataclassError
from huggingface_hub.utils import validate_repo_id
from tqdm import tqdm

from air_hf import AIRConfig, AIRForPuzzleSolving, variant_config
from air_hf.data import PuzzleSet, PuzzleStream, load_published, load_puzzles
from air_hf.evaluation import EvaluationResult, evaluate_model
from air_hf.hub import EVALUATION, training_facts
from air_hf.hub.publishing import BackgroundPublisher
from air_hf.runs import (
    EXIT_STATUS,
    Interruption,
    RunFolder,
    RunRecords,
    check_resumption,
    check_same_step,
    is_lost_process,
    let_collectives_end,
    load_checkpoint,
    new_run_id,
    process_handlers,
    read_curves,
    run_facts,
    save_checkpoint,
    start_tracker,
)
from air_hf.training import NonFiniteError, Trainer, TrainingArguments, attention_for, measure_memory, parse_arguments


def load_data(args: TrainingArguments) -> tuple[PuzzleSet, PuzzleSet]:
    """Train and test puzzles, sampled as the recipe asks."""
    if args.dataset:
        train_set = load_published(args.dataset, args.dataset_config, "train", args.dataset_revision, args.puzzle)
    else:
        train_set = load_puzzles(args.train_data, args.puzzle, split="train")
    if args.test_data:
        test_set = load_puzzles(args.test_data, train_set.puzzle, split="test")
    else:
        test_set = load_published(args.dataset, args.dataset_config, "test", args.dataset_revision, train_set.puzzle)
    if args.train_limit:
        train_set = train_set.sample(args.train_limit, args.data_seed)
    if args.eval_limit:
        test_set = test_set.sample(args.eval_limit, args.data_seed)
    return train_set, test_set


def make_accelerator(args: TrainingArguments, config: AIRConfig) -> Accelerator:
    """Device, precision and processes; CPU processes share the cores."""
    trackers = {} if args.report_to == "none" else {"log_with": args.report_to, "project_dir": args.output_dir}
    accelerator = Accelerator(
        mixed_precision=args.mixed_precision, kwargs_handlers=process_handlers(config), **trackers
    )
    if args.batch_size % (accelerator.num_processes * args.accumulation_steps):
        raise ValueError(
            f"batch_size ({args.batch_size}) is not a multiple of {accelerator.num_processes} processes × "
            f"accumulation_steps ({args.accumulation_steps})"
        )
    if args.report_to != "none" and not accelerator.log_with:  # Accelerate only warns
        raise ImportError(f"report_to is {args.report_to!r}, which is not installed")
    # `accelerate launch` leaves a CPU process one thread unless told otherwise.
    torch.set_num_threads(args.num_threads or max(1, (os.cpu_count() or 1) // accelerator.num_processes))
    return accelerator


def make_trainer(
    args: TrainingArguments, config: AIRConfig, accelerator: Accelerator, checkpoint: Path | None
) -> Trainer:
    """A fresh model in training, or the run whose checkpoint is given."""
    set_seed(args.seed)
    model = AIRForPuzzleSolving(config)
    model.set_attn_implementation(attention_for(args.attention, accelerator.device))
    trainer = Trainer(model, args, accelerator)
    if checkpoint:
        load_checkpoint(trainer, checkpoint)
    return trainer


def evaluate(trainer: Trainer, test_set: PuzzleSet) -> EvaluationResult:
    """Scores the EMA weights, or the raw ones where EMA is off; all processes share the work."""
    ema, args = trainer.ema, trainer.args
    with nullcontext() if ema is None else ema.applied_to(trainer.model):
        return evaluate_model(
            trainer.model,
            test_set,
            args.eval_batch_size,
            step=trainer.step,
            ema=args.ema_decay,
            accelerator=trainer.accelerator,
        )


def train(
    trainer: Trainer,
    run: RunFolder,
    stream: PuzzleStream,
    test_set: PuzzleSet,
    facts: dict,
    before: dict,
    interruption: Interruption,
) -> EvaluationResult | None:
    """The loop: a step, a line of metrics now and then, a checkpoint where one is due, then an evaluation.

    A run is saved before it is evaluated, so that nothing is lost if that fails, and again with its scores; one that
    was stopped between the two goes on with the evaluation.
    """
    args, accelerator = trainer.args, trainer.accelerator
    bar = tqdm(total=args.max_steps, initial=trainer.step, unit="step", disable=not accelerator.is_main_process)
    records, evaluation, evaluations = RunRecords(run.output, accelerator, before), None, 0
    publisher = None
    if args.push_to_hub and accelerator.is_main_process:
        publisher = BackgroundPublisher(args.push_to_hub, args.hub_private_repo, bar.write)

    def save(scores: EvaluationResult | None = None) -> None:
        so_far = {"minutes": records.clock.minutes(), "unlogged": records.unlogged(), "curves": read_curves(run.output)}
        so_far["finished"] = done and scores is not None
        save_checkpoint(trainer, run.place(trainer.step), scores, facts | so_far)
        if accelerator.is_main_process:
            run.adopt(trainer.step)
        accelerator.wait_for_everyone()

    over = args.max_minutes is not None and before.get("minutes", 0.0) >= args.max_minutes
    done, interrupted = trainer.step >= args.max_steps or over, False
    evaluated = not before or (run.place(trainer.step) / EVALUATION).is_file()
    evaluation_due = not evaluated and (done or is_evaluation_step(args, trainer.step))
    while True:
        if evaluation_due:
            with records.clock.stopped():
                try:
                    evaluation = evaluate(trainer, test_set)
                except Exception as error:
                    if interruption.signal is None:  # Ctrl-C ends a compiler at work, too, which then fails
                        raise
                    bar.write(f"the evaluation was broken off: {type(error).__name__}: {error}")
                    interrupted = True
                    break
                records.write_evaluation(trainer.step, evaluation)
                if accelerator.is_main_process:
                    bar.write(
                        f"step {trainer.step}: exact {evaluation.exact_accuracy:.1%}, "
                        f"cells {evaluation.cell_accuracy:.1%}, valid {evaluation.valid_rate:.1%}"
                    )
                save(evaluation)
                evaluations += 1
                if publisher and not done and args.push_every and not evaluations % args.push_every:
                    publisher.push(run.checkpoint)
        if done or interrupted:
            break
        batch = stream.batch(trainer.step, accelerator.process_index, accelerator.num_processes)
        records.add(trainer.train_step(batch))
        bar.update()
        done = trainer.step >= args.max_steps
        if done or trainer.step % args.log_every == 0:
            line = records.write_metrics(trainer.step)
            bar.set_postfix_str(
                f"loss {line['lm_loss']:.3f}, exact {line['exact_accuracy']:.1%}, segments {line['steps']:.1f}, "
                f"{line['puzzles_per_second']:.0f} puzzles/s"  # every slot counts at every segment
            )
            if args.max_minutes is not None:  # every process must agree to stop
                over = torch.tensor(float(line["minutes"] >= args.max_minutes), device=accelerator.device)
                done = done or bool(accelerator.reduce(over, reduction="sum") > 0)
        interrupted = not done and interruption.requested(accelerator)
        evaluation_due = done or is_evaluation_step(args, trainer.step)
        if evaluation_due or interrupted or (args.save_every and trainer.step % args.save_every == 0):
            with records.clock.stopped():
                save()
        evaluation_due = evaluation_due and not interrupted
    bar.close()
    if interrupted:
        signal = interruption.signal.name if interruption.signal else "a signal to another process"
        raise Interrupted(f"saved step {trainer.step} after {signal}")
    if publisher:
        publisher.finish(run.checkpoint)
    return evaluation


def is_evaluation_step(args: TrainingArguments, step: int) -> bool:
    return bool(args.eval_every) and step % args.eval_every == 0


class Interrupted(Exception):
    """The run was told to stop, and saved itself."""


def main() -> None:
    args, model_fields = parse_arguments(description=__doc__.splitlines()[0])
    try:
        if args.push_to_hub:
            validate_repo_id(args.push_to_hub)  # a typing error shall not show after hours
        train_set, test_set = load_data(args)
        puzzle = train_set.puzzle
        from_data = {"vocab_size": puzzle.vocab_size, "seq_len": puzzle.num_cells, "puzzle": puzzle.name}
        config = variant_config(args.variant, **from_data, **model_fields)
        accelerator = make_accelerator(args, config)
        run = RunFolder(args.output_dir, args.keep_checkpoints)
        checkpoint = run.find_checkpoint(args.resume_from, accelerator.print)
        trainer = make_trainer(args, config, accelerator, checkpoint)
        args = trainer.args
        check_same_step(accelerator, trainer.step)
        before = training_facts(checkpoint) if checkpoint and run.owns(checkpoint) else {}
        if trainer.step >= args.max_steps and not before:
            raise ValueError(f"{checkpoint} has run all of {args.max_steps} steps; nothing is left for another run")
        facts = run_facts(args, train_set, test_set, accelerator)
        for note in check_resumption(facts, checkpoint) if checkpoint else []:
            accelerator.print(f"note: {note}")
        stream = PuzzleStream(train_set, args.batch_size, args.seed, args.augment, args.images_per_puzzle)
        memory = measure_memory(
            trainer, stream.batch(trainer.step, accelerator.process_index, accelerator.num_processes)
        )
        facts["tracker_run"] = before.get("tracker_run") or new_run_id()
        if accelerator.is_main_process:
            run.open(trainer.step)
        if args.report_to != "none":
            recipe = {name: value for name, value in facts["arguments"].items() if value is not None}
            start_tracker(accelerator, args.report_to, facts["tracker_run"], trainer.step, recipe | model_fields)
    # DataError and CheckpointError are ValueErrors; an attention backend may need a package that is not there.
    except (StrictDataclassError, ValueError, ImportError, OSError) as error:
        raise SystemExit(f"train.py: error: {error}") from error
    flops = config.estimate_flops(args.batch_size, with_gradient=True)
    accelerator.print(
        f"{args.variant} with {model_fields or 'no other fields'}\n"
        f"{len(train_set):,} {puzzle.name} puzzles of {train_set.source}\n"
        f"{trainer.model.num_parameters():,} parameters, {flops / 1e9:.1f} GFLOP a step, {accelerator.device}, "
        f"{accelerator.num_processes} processes, precision {accelerator.mixed_precision}, "
        f"attention {config._attn_implementation}, compile {'on' if trainer.compiled else 'off'}\n{memory}"
    )
    try:
        with Interruption() as interruption:
            evaluation = train(trainer, run, stream, test_set, facts, before, interruption)
    except Interrupted as reason:
        accelerator.print(f"train.py: {reason}; go on with --resume_from latest")
        raise SystemExit(EXIT_STATUS) from None
    except (NonFiniteError, OSError) as error:
        raise SystemExit(f"train.py: error: {error}") from error
    except RuntimeError as error:
        if not is_lost_process(error):
            raise
        raise SystemExit(
            f"train.py: error: process {accelerator.process_index} of {accelerator.num_processes} no longer reaches "
            f"the others ({str(error).splitlines()[0]}); go on with --resume_from latest"
        ) from error
    finally:
        let_collectives_end(accelerator)
    scores = "nothing was left to train" if evaluation is None else evaluation.table()
    accelerator.print(f"\n{scores}\n\ncheckpoint: {run.checkpoint}")
    accelerator.end_training()


if __name__ == "__main__":
    main()
