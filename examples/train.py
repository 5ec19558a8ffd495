"""Trains a recurrent puzzle solver from a recipe.

accelerate launch examples/train.py --config examples/configs/quickstart.yaml [--field value ...]

These are the steps of `air-hf train`, to be copied: put in your own puzzles, model or loop where they differ.
"""

from air_hf.runs import Run, exit_statuses, load_data, make_accelerator, make_config, make_model, parse_recipe


def main() -> None:
    recipe, model_fields = parse_recipe(description=__doc__.splitlines()[0])
    with exit_statuses("train.py"):
        # Puzzles, checked row by row: `train.puzzles` has questions and answers as arrays, and the rules.
        train, test = load_data(recipe)
        # An AIRConfig: the variant's or that of `init_from`, the fields that were set, and the data's sizes.
        recipe, config = make_config(recipe, model_fields, train.puzzles)
        # Device, precision and processes, as `accelerate launch` says.
        accelerator = make_accelerator(recipe, config)
        # An AIRForPuzzleSolving, with the weights that the seed draws or that `init_from` has.
        model = make_model(recipe, config, accelerator)
        # Optimiser, EMA and slots; the run's folder; and where it goes on, if it was begun before.
        run = Run(recipe, model, train, test, accelerator)
        accelerator.print(run.describe())
        # Steps, records, checkpoints, evaluations and pushes. Until it ends, `run.learner` is the model in training:
        #     for step in range(run.step, recipe.max_steps):
        #         run.learner.train_step(run.stream.batch(step))
        scores = run.train()
        accelerator.print(f"\n{scores.table() if scores else 'nothing was left to train'}")
        accelerator.print(f"\ncheckpoint: {run.folder.checkpoint}")


if __name__ == "__main__":
    main()
