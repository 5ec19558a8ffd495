"""Measurements as a table for people."""

from typing import Any


def table(results: dict[str, dict[str, Any]]) -> str:
    """Lines of [`measure`]'s results by case."""
    return "\n".join(line for name, result in results.items() for line in _lines(name, result))


def _lines(name: str, result: dict[str, Any]) -> list[str]:
    machine, model, training = (result[part] for part in ("machine", "model", "training"))
    where, ms = training["where_ms"], training["ms"]["median"]
    parts = ", ".join(f"{group} {took / where['step']:.0%}" for group, took in where.items() if group != "step")
    compiled = f"{training['compilations']} graphs compiled in {training['compile_seconds']:.1f} s"
    return [
        f"{name}: {model['puzzle']}, width {model['hidden_size']}, {model['layers']} layers, {model['mixer']}, "
        f"{model['parameters']:,} parameters, batch {model['batch_size']}",
        f"  {machine['device']}, {machine['threads']} threads, {machine['dtype']}: a square product "
        f"{training['peak_gflops']:,.0f} GFLOP/s, copying {machine['copy_gb_per_second']:.1f} GB/s",
        f"  {'':19}{'ms, median (5 % to 95 %)':>30}{'puzzles/s':>14}{'of the peak':>13}",
        _line("training step", training),
        _line("evaluation segment", result["evaluation"]),
        _line("solving", result["solving"]),
        f"  {'data':19}{'':30}{result['data']['puzzles_per_second']:>14,.0f}",
        f"  {'data, augmented':19}{'':30}{result['augmented_data']['puzzles_per_second']:>14,.0f}",
        f"  a training step{'' if machine['device'] == 'CPU' else ', on the host'}: {parts}",
        f"  its products alone take {training['products_alone_ms'] / ms:.0%} of it; "
        f"{compiled if training['compiled'] else 'not compiled'}; memory at most {result['peak_memory_mib']:,.0f} MiB",
        *(_beside(part, found) for part, found in result.get("beside_published", {}).items()),
    ]


def _line(name: str, part: dict[str, Any]) -> str:
    ms = part["ms"]
    times = f"{ms['median']:.1f} ({ms['low']:.1f} to {ms['high']:.1f})"
    share = f"{part['share_of_peak']:.0%}" if "share_of_peak" in part else ""
    return f"  {name:19}{times:>30}{part['puzzles_per_second']:>14,.0f}{share:>13}"


def _beside(part: str, found: dict[str, Any]) -> str:
    ours, published = (found[whose]["median"] for whose in ("ms", "published_ms"))
    times = f"{ours:.1f} ms, the published code in turn with it {published:.1f} ms"
    return f"  {part}: {times}, {published / ours:.2f} times as long"
