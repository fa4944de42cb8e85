"""What `al demo` says at its end."""

from typing import Any

from al_dagster.cli.output import print_facts, print_table, say


def show_outcome(outcome: dict[str, Any]) -> None:
    """Print the figures of the demonstration, and where to look further."""
    dataset, seconds = outcome["dataset"], outcome["seconds_by_stage"]
    splits = ", ".join(
        f"{split} {dataset['images'][split]} images with {dataset['objects'][split]} objects"
        for split in dataset["images"]
    )
    rows = [
        ("files", f"{outcome['files']}, of which {outcome['quarantined']} quarantined"),
        ("objects", outcome["objects"]),
        ("label precision", f"{outcome['label_precision']:.3f} (parts, against the ground truth at IoU 0.5)"),
        ("label recall", f"{outcome['label_recall']:.3f}"),
        ("dataset", f"parts {dataset['version']}: {splits}"),
        (
            "mAP50",
            f"{outcome['map50']:.3f} on {outcome['test_images']} test images "
            f"({outcome['map50_truth']:.3f} against the ground truth); YOLO11n from scratch on the CPU",
        ),
        ("reused", f"{outcome['reused']['units']} rows, model {'yes' if outcome['reused']['model'] else 'no'}"),
        ("seconds", outcome["seconds"]),
    ]
    print_facts("The demonstration", dict(rows))
    by_class = [{"class": name, **figures} for name, figures in outcome["label_figures"].items()]
    print_table("Labels by class", by_class, {name: name for name in ("class", "precision", "recall", "parts")})
    stages = [{"stage": name, "seconds": value} for name, value in seconds.items() if value >= 0.05]
    print_table("Seconds by stage", stages, {name: name for name in ("stage", "seconds")})
    say("Look further:")
    say("  al ui                              the graph, the contact sheets, lineage")
    say("  al objects list --project parts    the labelled objects")
    say("  al lineage parts                   from the dataset back to its files, on to its model")
