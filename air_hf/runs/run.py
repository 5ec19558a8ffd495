"""One run of training: resume, step, record, save, evaluate, publish."""

import sys
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from air_hf.evaluation import EvaluationResult, evaluate_model
from air_hf.hub import EVALUATION
from air_hf.hub.publishing import BackgroundPublisher
from air_hf.modeling import AIRForPuzzleSolving
from air_hf.run_recipe import RunRecipe
from air_hf.runs.checkpoint import load_checkpoint, save_checkpoint
from air_hf.runs.data import Source, make_stream
from air_hf.runs.facts import check_resumption, read_progress, run_facts
from air_hf.runs.folder import RunFolder
from air_hf.runs.interruption import Interrupted, Interruption
from air_hf.runs.processes import any_process, check_same_step, let_collectives_end, naming_lost_processes
from air_hf.runs.records import RunRecords, read_curves
from air_hf.runs.trackers import start_tracker
from air_hf.training import Learner, NonFiniteError, estimate_memory

_LOOKED_AT = 64  # puzzles, for what is said about a data set


class Run:
    """A model that is trained as a recipe says, in a folder of its own.

    Making one reads the checkpoint that the recipe's `resume_from` names, if any, and writes nothing.

    Args:
        recipe ([`RunRecipe`]): how.
        model ([`AIRForPuzzleSolving`]): what; its weights are replaced where the run goes on.
        train, test ([`Source`]): the puzzles it learns from, and those it is scored on.
        accelerator (`Accelerator`): device, precision and processes, see [`make_accelerator`].

    Raises:
        ValueError: the run cannot go on from that checkpoint, needs more memory than it may, or its folder holds
            another run.

    Attributes:
        learner ([`Learner`]): the model in training.
        folder ([`RunFolder`]): where it is kept.
        told_to_stop (`bool`): whether a process had a signal, as of the last step.
        minutes_are_over (`bool`): whether `max_minutes` are, as of the last step.
    """

    def __init__(
        self, recipe: RunRecipe, model: AIRForPuzzleSolving, train: Source, test: Source, accelerator: Accelerator
    ):
        self.accelerator, self.train_source, self.test_source = accelerator, train, test
        self.learner = Learner(model, recipe, accelerator)
        self.recipe = self.learner.recipe
        self.facts = run_facts(self.recipe, train, test, accelerator)
        self.folder = RunFolder(recipe.output_dir, recipe.keep_checkpoints)
        self.stream = make_stream(train.puzzles, recipe)
        self.memory = estimate_memory(self.learner)
        self._resume()
        self.told_to_stop = False
        self.minutes_are_over = (
            recipe.max_minutes is not None and self._before.get("minutes", 0.0) >= recipe.max_minutes
        )
        self.evaluation: EvaluationResult | None = None
        self._evaluations = 0

    def _resume(self) -> None:
        """Goes on from a checkpoint, if there is one: with its records where it is this folder's own."""
        self._before: dict[str, Any] = {}
        checkpoint = self.folder.find_checkpoint(self.recipe.resume_from, self.accelerator.print)
        if checkpoint:
            load_checkpoint(self.learner, checkpoint)
            if self.folder.owns(checkpoint):
                self._before = read_progress(checkpoint)
        check_same_step(self.accelerator, self.step)
        if checkpoint:
            if self.step >= self.recipe.max_steps and not self._before:
                raise ValueError(
                    f"{checkpoint} has run all of {self.recipe.max_steps} steps; nothing is left for another run"
                )
            for note in check_resumption(self.facts, checkpoint):
                self.accelerator.print(f"note: {note}")
        # What it began with may have trained on meanwhile.
        self.facts |= {name: self._before[name] for name in ("init_from", "tracker_run") if self._before.get(name)}

    @property
    def step(self) -> int:
        return self.learner.step

    @property
    def is_over(self) -> bool:
        return self.step >= self.recipe.max_steps or self.minutes_are_over

    def describe(self) -> str:
        """Lines for people: what is trained on what, and how."""
        config, puzzles = self.learner.model.config, self.train_source.puzzles
        flops = config.estimate_flops(self.recipe.batch_size, with_gradient=True)
        return (
            f"{self.recipe.variant} of {config.num_hidden_layers} layers, {config.hidden_size} wide\n"
            f"{len(puzzles):,} {puzzles.puzzle.name} puzzles of {puzzles.source}\n"
            f"{self.learner.model.num_parameters():,} parameters, {flops / 1e9:.1f} GFLOP a step, "
            f"{self.accelerator.device}, processes {self.accelerator.num_processes}, "
            f"precision {self.accelerator.mixed_precision}, attention {config._attn_implementation}, "
            f"compile {'on' if self.learner.compiled else 'off'}\n{self.memory}"
            f"{self._warn_of_images()}{self._warn_of_shared_puzzles()}"
        )

    def _warn_of_images(self) -> str:
        """A line where random symmetries would contradict the answers, as far as the first puzzles show."""
        puzzles = self.train_source.puzzles
        some = puzzles.questions[:_LOOKED_AT]
        several = int(puzzles.puzzle.has_several_answers(some).sum())
        if not (self.recipe.augment and several):
            return ""
        return (
            f"\nnote: {several} of the first {len(some)} puzzles have several right answers, of which one is marked; "
            "random symmetries turn it into another, and teach both: --augment false does not"
        )

    def _warn_of_shared_puzzles(self) -> str:
        """A line where puzzles are learned that are tested, e.g. of two files that one seed drew."""
        tested = self.test_source.puzzles
        shared = tested.count_in(self.train_source.puzzles)
        return f"\nnote: {shared:,} of the {len(tested):,} test puzzles are training puzzles, too" if shared else ""

    def train(self) -> EvaluationResult | None:
        """Trains to the end; the last scores, None if a run that had ended is only looked at.

        A run is saved before it is evaluated, so that nothing is lost if that fails, and again with its scores; one
        that was stopped between the two goes on with the evaluation.

        Raises:
            Interrupted: a signal told the run to stop; it is saved.
            NonFiniteError: a gradient is not finite.
            OSError: the folder cannot be written, or another process is lost.
        """
        try:
            with Interruption() as self.interruption, naming_lost_processes(self.accelerator), self._open():
                if self._lacks_evaluation():
                    self.evaluate()
                while not self.is_over:
                    self.take_step()
                    is_due = self.is_over or _every(self.recipe.eval_every, self.step)
                    stops = self.told_to_stop and not self.is_over
                    if is_due or stops or _every(self.recipe.save_every, self.step):
                        self.save()
                    if stops:
                        self._stop()
                    if is_due:
                        self.evaluate()
                        self._publish_now_and_then()
                self._publish_last()
            self.accelerator.end_training()
        except (Interrupted, NonFiniteError):  # of which every process knows
            self.accelerator.end_training()
            raise
        finally:
            self.folder.close()
            let_collectives_end(self.accelerator)
        return self.evaluation

    def _open(self):
        """Makes the run's folder this process's, and what is written to while it trains; the progress bar's context."""
        recipe, is_main = self.recipe, self.accelerator.is_main_process
        if is_main:
            self.folder.open(self.step)
        if recipe.report_to != "none":
            labels = {name: value for name, value in self.facts["arguments"].items() if value is not None}
            start_tracker(self.accelerator, recipe.report_to, self.facts["tracker_run"], self.step, labels)
        self.records = RunRecords(self.folder.output, self.accelerator, self._before)
        pause = 0.1 if sys.stderr.isatty() else 30  # seconds; in a file every drawing of the bar stays
        self.bar = tqdm(total=recipe.max_steps, initial=self.step, unit="step", mininterval=pause, disable=not is_main)
        self.publisher = None
        if recipe.push_to_hub and is_main:
            self.publisher = BackgroundPublisher(
                recipe.push_to_hub, recipe.hub_private_repo, self.bar.write, revision=recipe.hub_revision,
                timeout=60 * recipe.push_timeout, card=recipe.card_options,
            )  # fmt: skip
            self.publisher.check()
        return self.bar

    def _lacks_evaluation(self) -> bool:
        """Whether the run goes on from a checkpoint whose evaluation is due and was not finished."""
        is_due = self.is_over or _every(self.recipe.eval_every, self.step)
        return bool(self._before) and is_due and not (self.folder.place(self.step) / EVALUATION).is_file()

    def take_step(self) -> None:
        """One step of training, and a line of metrics where one is due; all processes agree on whether to end."""
        place = (self.accelerator.process_index, self.accelerator.num_processes)
        self.records.add(self.learner.train_step(self.stream.batch(self.step, *place)))
        self.bar.update()
        end = self.recipe.max_minutes
        late = end is not None and self.records.clock.minutes() >= end
        told = self.interruption.signal is not None
        self.told_to_stop, self.minutes_are_over = any_process(self.accelerator, told, late)
        if self.is_over or _every(self.recipe.log_every, self.step):
            line = self.records.write_metrics(self.step)
            self.bar.set_postfix_str(
                f"loss {line['lm_loss']:.3f}, exact {line['exact_accuracy']:.1%}, segments {line['steps']:.1f}, "
                f"{line['puzzles_per_second']:.0f} puzzles/s",  # every slot counts at every segment
                refresh=False,
            )

    def save(self, scores: EvaluationResult | None = None) -> None:
        """Writes the checkpoint of this step, which becomes the run's last one; every process must call it."""
        with self.records.clock.stopped():
            progress = {
                "minutes": self.records.clock.minutes(),
                "unlogged": self.records.unlogged(),
                "curves": read_curves(self.folder.output),
                "finished": self.is_over and scores is not None,
            }
            save_checkpoint(self.learner, self.folder.place(self.step), scores, self.facts | progress)
            if self.accelerator.is_main_process:
                self.folder.adopt(self.step)
            self.accelerator.wait_for_everyone()

    def evaluate(self) -> None:
        """Scores the EMA weights, or the raw ones where EMA is off, and saves with the scores."""
        with self.records.clock.stopped():
            try:
                with self.learner.evaluating() as model:
                    self.evaluation = evaluate_model(
                        model,
                        self.test_source.puzzles,
                        self.recipe.eval_batch_size,
                        step=self.step,
                        ema=self.recipe.ema_decay,
                        accelerator=self.accelerator,
                        origin=self.test_source.origin(),
                        before_batch=self._stop_if_told,
                    )
            except Interrupted:
                raise
            except Exception as error:
                if self.interruption.signal is None:  # Ctrl-C ends a compiler at work, too, which then fails
                    raise
                self.bar.write(f"the evaluation was broken off: {type(error).__name__}: {error}")
                self._stop()
            scores = self.evaluation
            self.records.write_evaluation(self.step, scores)
            if self.accelerator.is_main_process:
                valid = "" if scores.valid_rate is None else f", valid {scores.valid_rate:.1%}"
                self.bar.write(
                    f"step {self.step}: exact {scores.exact_accuracy:.1%}, cells {scores.cell_accuracy:.1%}{valid}"
                )
        self.save(scores)
        self._evaluations += 1

    def _stop_if_told(self) -> None:
        if any_process(self.accelerator, self.interruption.signal is not None)[0]:
            self._stop()

    def _stop(self) -> None:
        """Ends a run that is saved, whatever a push does."""
        if self.publisher:
            self.publisher.abandon()
        raise Interrupted(f"saved step {self.step} after {self.interruption}")

    def _publish_now_and_then(self) -> None:
        if self.publisher and not self.is_over and _every(self.recipe.push_every, self._evaluations):
            self.publisher.push(self.folder.checkpoint, step=self.step)

    def _publish_last(self) -> None:
        if self.publisher:
            with self.interruption.calling(self.publisher.abandon):
                self.publisher.finish(self.folder.checkpoint)
            if self.interruption.signal:
                self._stop()


def _every(steps: int, step: int) -> bool:
    """Whether something is due that happens so often; never if that is 0."""
    return bool(steps) and step % steps == 0
