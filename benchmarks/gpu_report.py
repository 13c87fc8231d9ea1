"""The GPU suite's tables, and what is wrong in its report."""

from __future__ import annotations

from harness import print_table
from op_harness import show as show_ops
from op_harness import show_ceilings

JOB = ("sentences", "important_share", "variants", "real_tokens", "real_tokens_per_second", "share_of_matrix")


def faults(report: dict) -> list[str]:
    """One line for each section that failed, and for each complaint of the others."""
    found = []
    for name, section in report["sections"].items():
        found += [f"{name} failed: {section['failed']}"] if "failed" in section else []
        found += [f"{name}: {complaint}" for complaint in section.get("wrong", [])]
    return found


def show(report: dict) -> None:
    """The whole report as tables."""
    machine, all_sections = report["machine"], report["sections"]
    where = f"{machine.get('gpu', machine['cpu'])}, torch {machine['torch']}, triton {machine['triton']}"
    print(f"{where}, driver {machine.get('driver')}, commit {machine['commit']}")
    if report["rehearsal"]:
        print(report["note"])
    _show_sections(all_sections)
    limits = all_sections.get("ceilings", {}).get("measured")
    if limits:
        print(show_ceilings(limits))
    jobs = {name: one for name, one in all_sections.items() if "certificate" in one}
    _show_jobs(jobs)
    _show_certificates(jobs)
    _show_stages({name: one["profile"] for name, one in jobs.items() if one["profile"]})
    _show_padded({name: one for name, one in all_sections.items() if "same_masks" in one})
    rows = all_sections.get("ops", {}).get("rows")
    if limits and rows:
        show_ops(rows, limits)


def _show_sections(all_sections: dict) -> None:
    rows = [(name, _outcome(one), one.get("section_seconds")) for name, one in all_sections.items()]
    print_table("sections", ("section", "outcome", "seconds"), rows)


def _outcome(section: dict) -> str:
    if "failed" in section:
        return "FAILED: " + section["failed"][:80]
    if "skipped" in section:
        return "skipped: " + section["skipped"]
    if section.get("wrong"):
        return "WRONG: " + section["wrong"][0][:80]
    return _golden(section["files"]) if "files" in section else section.get("closing_line", "done")


def _golden(files: dict) -> str:
    compared = [one for one in files.values() if "sentences" in one]
    same, total = (sum(one[key] for one in compared) for key in ("same_masks", "sentences"))
    left_out = [name for name, one in files.items() if "skipped" in one]
    return f"{same} of {total} masks as in the golden files" + (f", without {', '.join(left_out)}" if left_out else "")


def _show_jobs(jobs: dict) -> None:
    columns = ("job", "sentences", "important", "variants", "real tokens", "tokens/s", "of matrix", "MB")
    rows = []
    for name, one in jobs.items():
        peak = max((mb for mb in one["peak_mb"] if mb is not None), default=None)
        rows.append((name, *(one.get(key) for key in JOB), peak))
    caption = "real tokens: of the rule's variants; of matrix: useful operations over the measured fp16 rate"
    print_table("whole jobs", columns, rows, caption)


def _show_certificates(jobs: dict) -> None:
    columns = ("job", "decisions", "first level", "its eps", "float32's eps", "share at float32", "at float64",
               "audited", "flips")  # fmt: skip
    rows = []
    for name, one in jobs.items():
        certificate, shares = one["certificate"], one["rechecked_share_by_level"]
        eps = certificate.get("eps", {})
        first = next(iter(eps), None)
        bounds = first, eps.get(first), eps.get("float32"), shares.get("float32"), shares.get("float64")
        rows.append((name, certificate.get("decisions"), *bounds,
                     *(certificate.get(key) for key in ("audited", "flips"))))  # fmt: skip
    caption = "share: of the decisions, taken again at that precision; eps in log-odds"
    print_table("certificates", columns, rows, caption)


def _show_stages(profiles: dict) -> None:
    for name, one in profiles.items():
        if "failed" in one:
            print(f"no profile of {name}: {one['failed']}")
    profiles = {name: one for name, one in profiles.items() if "failed" not in one}
    stages = sorted({stage for one in profiles.values() for stage in one["seconds_by_stage"]})
    if not stages:
        return
    rows = [
        (name, *(one["seconds_by_stage"].get(stage) for stage in stages), one["gap_seconds"], one["span_seconds"])
        for name, one in profiles.items()
    ]
    print_table("seconds by stage, under the profiler", ("job", *stages, "gaps", "all"), rows)


def _show_padded(arms: dict) -> None:
    columns = ("arm", "precision", "batch", "sentences", "of", "tokens/s", "fastmask's", "fastmask x", "same masks",
               "unexplained")  # fmt: skip
    keys = ("precision", "batch", "sentences", "of_sentences", "real_tokens_per_second",
            "fastmask_real_tokens_per_second", "times_padded", "same_masks", "unexplained")  # fmt: skip
    caption = "fastmask x: greedy's real tokens/s over the arm's; only where masks agree and no test is red"
    print_table("padded batches", columns, [(name, *(one.get(key) for key in keys)) for name, one in arms.items()],
                caption)  # fmt: skip
    for name, one in arms.items():
        if reason := one.get("no_ratio_because"):
            print(f"{name}: no ratio, {reason}")
